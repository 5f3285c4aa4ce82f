"""Initial parameters: numpy's stream of uniform numbers is torch's."""

import numpy as np
import pytest
import torch

from autoemb_pipeline.learners.common.initial import UniformGenerator, glorot_uniform, mlp_weights, seed_of, seeded_generator


@pytest.mark.parametrize("seed", [0, 5, (1 << 40) + 17, (1 << 63) - 1, seed_of(3, "item_controller")])
def test_draws_are_torch_rands_bit_for_bit(seed: int) -> None:
    own, torchs = UniformGenerator(seed), torch.Generator().manual_seed(seed)
    for shape in ((700, 3), (1,), (0, 4), (5,)):
        expected = torch.rand(*shape, generator=torchs, dtype=torch.float64).numpy()
        np.testing.assert_array_equal(own.draw(*shape), expected)


def test_weights_depend_on_seed_and_name_and_the_output_begins_at_zero() -> None:
    first, second = (mlp_weights((6, 5, 3), seeded_generator(0, name)) for name in ("a", "b"))
    assert [weight.shape for weight in first] == [(6, 5), (5, 3)]
    assert not np.array_equal(first[0], second[0])
    assert not first[1].any()
    np.testing.assert_array_equal(first[0], glorot_uniform(seeded_generator(0, "a"), 6, 5))
    assert np.abs(first[0]).max() <= np.sqrt(6 / 11)
