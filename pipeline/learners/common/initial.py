"""Initial parameters of layers: a function of a seed and a name alone, by NumPy."""

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from autoemb_pipeline.records import FloatArray

_MANTISSA = np.uint64((1 << 53) - 1)


def seed_of(seed: int, name: str) -> int:
    """A generator's seed, 63 bits, that depends on (seed, name) only: no other layer moves it."""
    digest = hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class UniformGenerator:
    """The uniform numbers that `torch.rand` gives in float64 from a CPU generator of the same seed, so that both are one stream of bits.

    Mersenne Twister, seeded with the low 32 bits; two words to a number, the first its high half, of which the low 53 bits count.

    Args:
        seed: any number of 64 bits.
    """

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)

    def draw(self, *shape: int) -> FloatArray:
        """[*shape] in [0, 1)."""
        words = self._words.randint(0, 1 << 32, size=(math.prod(shape), 2), dtype=np.uint32).astype(np.uint64)
        whole = (words[:, 0] << np.uint64(32) | words[:, 1]) & _MANTISSA
        return np.asarray(whole.reshape(shape) * 2.0**-53, dtype=np.float64)


def seeded_generator(seed: int, name: str) -> UniformGenerator:
    """The generator of `seed_of`."""
    return UniformGenerator(seed_of(seed, name))


def glorot_uniform(generator: UniformGenerator, inputs: int, outputs: int) -> FloatArray:
    """Glorot and Bengio's (2010) initial weights for tanh layers: [inputs, outputs], variance 2 / (inputs + outputs)."""
    return (2.0 * generator.draw(inputs, outputs) - 1.0) * math.sqrt(6.0 / (inputs + outputs))


def mlp_weights(sizes: Sequence[int], generator: UniformGenerator) -> list[FloatArray]:
    """Of each layer [inputs, outputs]: Glorot's for the hidden layers, zeros for the output's, so that the first outputs are equal.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        generator: of the hidden layers' weights.
    """
    *hidden, output = pairwise(sizes)
    return [*(glorot_uniform(generator, *layer) for layer in hidden), np.zeros(output)]
