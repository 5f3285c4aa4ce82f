"""Synthetic interactions with a known truth, deterministic down to each record. The word synthetic is in every name made here.

The model: user u and item i have factors of rank 32 and biases; the logit of "u likes i" is ``b_u + b_i + sum_k s_k U_uk V_ik`` with
standard normal U and V, ``sum_k s_k^2 = interaction_sd^2``, spectrum flat or s_k^2 proportional to 1/k. The label is a Bernoulli draw of
its sigmoid p. A rating is made of it so that both tasks have something to learn: liked gives 5 with probability p, else 4; not liked
gives 3 minus two coin flips of 1 - p each (3, 2 or 1). Liked is rating > 3.5.

Users come in sessions, as in MovieLens: a user drawn from a Zipf law opens one, its length is geometric, items are drawn from a Zipf law
and follow one another by seconds; sessions overlap. A pair may recur; each time its label is drawn anew.

Randomness is counter-based (Philox) and uses uniform numbers only, whose stream numpy keeps over versions.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.producers.datasets.progress import Report, silent
from autoemb_pipeline.producers.datasets.sorted_dataset import ROW_GROUP, Part, SortedDataset
from autoemb_pipeline.producers.datasets.sorting import made_once, part_of

GENERATOR_VERSION: Final = 1
_SESSIONS_PER_CHUNK: Final = 4096
_PART_ROWS: Final = 16 * ROW_GROUP
_DAY_MS: Final = 86_400_000
_LONGEST_SESSION: Final = 1000
_SHORTEST_GAP_MS: Final = 1000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class _Stream(IntEnum):
    """One independent random stream per purpose, so that e.g. another number of users does not move the session times."""

    USER_FACTORS = 1
    ITEM_FACTORS = 2
    USER_BIASES = 3
    ITEM_BIASES = 4
    USER_ORDER = 5
    ITEM_ORDER = 6
    SESSIONS = 7
    EVENTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Parameters of a synthetic dataset; equal parameters give equal data.

    Attributes:
        preset: prefix of the name; contains "synthetic".
        users, items: numbers of ids; popular or not is unrelated to the id.
        interactions: length of the dataset.
        seed: 0 or more.
        rank: of the interaction term.
        spectrum: ``flat``, or ``harmonic``: variance of factor k proportional to 1/k.
        user_exponent, item_exponent: Zipf laws, P(rank r) proportional to r^-exponent.
        interaction_sd, bias_sd: standard deviations of the logit's interaction term and of each bias.
        session_length: mean number of interactions in a session.
        gap_seconds: mean time between interactions of a session, beyond the shortest of one second.
        days: about how long the stream is in event time.
        start_ms: event time at which it begins; 2015-01-01 UTC.
    """

    preset: str = "synthetic"
    users: int = 1_000
    items: int = 500
    interactions: int = 100_000
    seed: int = 0
    rank: int = 32
    spectrum: Literal["flat", "harmonic"] = "flat"
    user_exponent: float = 0.8
    item_exponent: float = 1.0
    interaction_sd: float = 2.2
    bias_sd: float = 0.6
    session_length: float = 40.0
    gap_seconds: float = 14.0
    days: float = 365.0
    start_ms: int = 1_420_070_400_000

    def __post_init__(self) -> None:
        """Refuses parameters that describe no dataset."""
        wrong = {
            "preset": "synthetic" not in self.preset,
            "users": self.users < 1,
            "items": self.items < 1,
            "interactions": self.interactions < 1,
            "seed": not 0 <= self.seed < 1 << 64,
            "rank": self.rank < 1,
            "spectrum": self.spectrum not in {"flat", "harmonic"},
            "user_exponent": not 0 <= self.user_exponent < math.inf,
            "item_exponent": not 0 <= self.item_exponent < math.inf,
            "interaction_sd": not 0 <= self.interaction_sd < math.inf,
            "bias_sd": not 0 <= self.bias_sd < math.inf,
            "session_length": not 1 < self.session_length <= _LONGEST_SESSION,
            "gap_seconds": not 0 < self.gap_seconds < math.inf,
            "days": not 0 < self.days < math.inf,
            "start_ms": self.start_ms < 1,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise ConfigurationError(
                    f"synthetic dataset: {name} = {getattr(self, name)!r}",
                    why="out of range",
                    remedy="see `autoemb-pipeline replay --help`; e.g. --dataset synthetic:interactions=100000,seed=1",
                )

    @classmethod
    def parse(cls, spec: str) -> Self:
        """A preset's name, optionally with parameters: ``synthetic``, ``synthetic-a:interactions=2000000,seed=3``.

        Raises:
            ConfigurationError: unknown preset or parameter, or a value that is no number.
        """
        preset, _, text = spec.partition(":")
        if preset not in PRESETS:
            raise ConfigurationError(f"no synthetic preset {preset!r}", why="unknown name", remedy=f"use one of {', '.join(PRESETS)}")
        kinds = {field.name: field.type for field in fields(cls) if field.name != "preset"}
        values: dict[str, int | float | str] = {}
        for assignment in filter(None, text.split(",")):
            key, _, value = (s.strip() for s in assignment.partition("="))
            try:
                values[key] = value if key == "spectrum" else (float if kinds[key] is float else int)(value.replace("_", ""))
            except (KeyError, ValueError) as error:
                raise ConfigurationError(
                    f"synthetic dataset: {assignment!r}",
                    why=f"not a number for {key}" if key in kinds else f"no such parameter; there are {', '.join(kinds)}",
                    remedy=f"e.g. {preset}:interactions=100000,seed=1",
                ) from error
        return cls(**{**PRESETS[preset], **values, "preset": preset})  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str:
        """32 hex digits of all parameters and the generator's version."""
        text = json.dumps({**asdict(self), "generator": GENERATOR_VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The dataset's name: preset, length, seed and a digest of the rest, so that two different datasets never share a name."""
        return f"{self.preset}-n{self.interactions}-seed{self.seed}-{self.fingerprint[:8]}"


PRESETS: Final[dict[str, dict[str, int | str]]] = {
    "synthetic": {},
    "synthetic-a": {"users": 20_000, "items": 5_000, "interactions": 1_000_000, "spectrum": "flat"},
    "synthetic-b": {"users": 100_000, "items": 20_000, "interactions": 1_000_000, "spectrum": "harmonic"},
}


class Chunk(NamedTuple):
    """Consecutive interactions: user and item indexes (id - 1), event times in ms, ratings, and P(liked)."""

    users: Ints
    items: Ints
    timestamps: Ints
    ratings: Floats
    probabilities: Floats


class SyntheticModel:
    """The truth behind a synthetic dataset, and its stream.

    Args:
        config: the parameters.
    """

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        c = config
        k = np.arange(1, c.rank + 1, dtype=np.float64)
        variance = np.ones(c.rank) if c.spectrum == "flat" else 1.0 / k
        scale = c.interaction_sd * np.sqrt(variance / variance.sum())
        self._user_factors = self._normal(_Stream.USER_FACTORS, c.users * c.rank).reshape(c.users, c.rank) * scale
        self._item_factors = self._normal(_Stream.ITEM_FACTORS, c.items * c.rank).reshape(c.items, c.rank)
        self._user_biases = self._normal(_Stream.USER_BIASES, c.users) * c.bias_sd
        self._item_biases = self._normal(_Stream.ITEM_BIASES, c.items) * c.bias_sd

    def probabilities(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> Floats:
        """The true P(liked) of pairs of ids of this dataset: [n]."""
        return self._probabilities(np.array([int(u) - 1 for u in user_ids]), np.array([int(i) - 1 for i in item_ids]))

    def stream(self) -> Iterator[Chunk]:
        """The dataset's interactions in event-time order, in chunks of bounded size."""
        left = self.config.interactions
        for users, times in self._sessions():
            chunk = self._events(users[:left], times[:left], first=self.config.interactions - left)
            left -= len(chunk.users)
            yield chunk
            if left == 0:
                return

    def _random(self, stream: _Stream, chunk: int = 0) -> np.random.Generator:
        key = np.array([self.config.seed, stream], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, chunk], dtype=np.uint64)))

    def _normal(self, stream: _Stream, n: int) -> Floats:
        # Box-Muller: numpy promises the stream of uniform numbers over versions, not that of its own normal ones
        u = self._random(stream).random((2, n))
        return np.asarray(np.sqrt(-2.0 * np.log1p(-u[0])) * np.cos(2.0 * np.pi * u[1]))

    def _probabilities(self, users: Ints, items: Ints) -> Floats:
        interaction = np.einsum("nk,nk->n", self._user_factors[users], self._item_factors[items])
        logit = interaction + self._user_biases[users] + self._item_biases[items]
        return np.asarray(1.0 / (1.0 + np.exp(-logit)))

    def _sessions(self) -> Iterator[tuple[Ints, Ints]]:
        """(user, time) of every interaction in order of time, endlessly.

        Sessions begin in order, so what lies before the newest session's beginning is complete; the rest waits for the next round.
        """
        c = self.config
        cumulative, order = self._zipf(c.users, c.user_exponent), np.argsort(self._random(_Stream.USER_ORDER).random(c.users))
        pause_ms = c.days * _DAY_MS / (c.interactions / c.session_length)
        clock = float(c.start_ms)
        waiting_users, waiting_times = np.empty(0, np.int64), np.empty(0, np.int64)
        chunk = 0
        while True:
            random = self._random(_Stream.SESSIONS, chunk)
            u = random.random((3, _SESSIONS_PER_CHUNK))
            begins = clock + np.cumsum(-np.log1p(-u[0]) * pause_ms)
            clock = float(begins[-1])
            visitors = order[np.searchsorted(cumulative, u[1])]
            lengths = np.minimum(1 + np.floor(np.log1p(-u[2]) / math.log1p(-1.0 / c.session_length)), _LONGEST_SESSION).astype(np.int64)
            gaps = _SHORTEST_GAP_MS + np.floor(-np.log1p(-random.random(int(lengths.sum()))) * c.gap_seconds * 1000).astype(np.int64)
            elapsed = np.cumsum(gaps)
            before = np.repeat(np.concatenate(([0], elapsed[np.cumsum(lengths)[:-1] - 1])), lengths)
            times = np.concatenate((waiting_times, np.repeat(begins.astype(np.int64), lengths) + elapsed - before))
            users = np.concatenate((waiting_users, np.repeat(visitors, lengths)))
            by_time = np.argsort(times, kind="stable")
            users, times = users[by_time], times[by_time]
            ready = int(np.searchsorted(times, int(clock)))
            waiting_users, waiting_times = users[ready:], times[ready:]
            yield users[:ready], times[:ready]
            chunk += 1

    def _events(self, users: Ints, times: Ints, *, first: int) -> Chunk:
        c = self.config
        # the position in the dataset is the counter: five numbers an interaction, far from the next chunk's
        u = self._random(_Stream.EVENTS, first).random((5, len(users)))
        cumulative, order = self._zipf(c.items, c.item_exponent), np.argsort(self._random(_Stream.ITEM_ORDER).random(c.items))
        items = order[np.searchsorted(cumulative, u[0])]
        p = self._probabilities(users, items)
        liked = u[1] < p
        dislikes = (u[3] < 1 - p).astype(np.float64) + (u[4] < 1 - p)
        return Chunk(users, items, times, np.where(liked, np.where(u[2] < p, 5.0, 4.0), 3.0 - dislikes), p)

    @staticmethod
    def _zipf(n: int, exponent: float) -> Floats:
        weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
        cumulative = np.cumsum(weights)
        cumulative /= cumulative[-1]
        return cumulative


def generate(config: SyntheticConfig, *, cache_dir: Path, report: Report = silent) -> SortedDataset:
    """The synthetic dataset, from the cache or made now, in bounded memory.

    Raises:
        DatasetError: no room in the cache.
    """
    target = cache_dir / "synthetic" / config.fingerprint

    def write(folder: Path) -> tuple[Part, ...]:
        return tuple(_write_parts(config, folder, report))

    return made_once(target, name=config.name, fingerprint=config.fingerprint, write=write)


def _write_parts(config: SyntheticConfig, folder: Path, report: Report) -> Iterator[Part]:
    frames: list[pl.DataFrame] = []
    done = written = number = 0
    for chunk in SyntheticModel(config).stream():
        frames.append(
            pl.DataFrame(
                {
                    "user_id": pl.Series(chunk.users + 1).cast(pl.String),
                    "item_id": pl.Series(chunk.items + 1).cast(pl.String),
                    "rating": chunk.ratings,
                    "timestamp": chunk.timestamps,
                }
            )
        )
        done += len(chunk.users)
        report("generate", done, config.interactions)
        if done - written >= _PART_ROWS or done == config.interactions:
            file = f"part-{number:05}.parquet"
            pl.concat(frames).write_parquet(folder / file, compression="lz4", row_group_size=ROW_GROUP)
            yield part_of(folder, file, done - written)
            frames, written, number = [], done, number + 1
