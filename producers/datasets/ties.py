"""What orders interactions of one timestamp: their place in the files, or a seeded hash of user and item.

Files are often sorted by item or user. Where times are days, as in the Netflix Prize data, file order would then feed a model all of a
day's ratings of one movie after another: an order that no service has seen. The hash mixes them, the same way on every machine.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.producers.formats.layouts import TieKind

Words = NDArray[np.uint64]
_LARGEST_SEED: Final = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ties:
    """The order within one timestamp.

    Attributes:
        kind: ``file``: by file and line; ``hash``: by a hash of user and item, then by file and line.
        seed: of the hash.
    """

    kind: TieKind
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses other kinds and seeds beyond 64 bits."""
        if self.kind not in {"file", "hash"} or not 0 <= self.seed <= _LARGEST_SEED or (self.kind == "file" and self.seed):
            raise ConfigurationError(f"ties {self}", why="there is no such order", remedy="give --ties file, hash or hash:SEED")

    @classmethod
    def parse(cls, text: str) -> "Ties":
        """``file``, ``hash`` or ``hash:SEED``.

        Raises:
            ConfigurationError: anything else.
        """
        kind, colon, seed = text.partition(":")
        if kind not in {"file", "hash"} or (colon and not seed.isdecimal()):
            raise ConfigurationError(f"ties {text!r}", why="there is no such order", remedy="give --ties file, hash or hash:SEED")
        return cls(kind=kind, seed=int(seed or 0))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}" if self.seed else self.kind


def tie_keys(users: pl.Series, items: pl.Series, seed: int) -> pl.Series:
    """[E] u64, alike for alike pairs of ids and otherwise unrelated to them; equal on every machine and in every version."""
    of_items = _hashes(items, seed, b"item")
    # turned by half a word: an item with the text of a user is not its mirror image
    mixed = mix(_hashes(users, seed, b"user") ^ (of_items << np.uint64(32) | of_items >> np.uint64(32)))
    return pl.Series("tie", mixed)


def mix(words: Words) -> Words:
    """Every bit of the result depends on every bit of the word: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _hashes(ids: pl.Series, seed: int, side: bytes) -> Words:
    distinct = ids.unique()
    key = seed.to_bytes(8, "little")
    words = [int.from_bytes(blake2b(i.encode(), digest_size=8, key=key, person=side).digest(), "little") for i in distinct]
    return ids.replace_strict(distinct, pl.Series(words, dtype=pl.UInt64), return_dtype=pl.UInt64).to_numpy().copy()
