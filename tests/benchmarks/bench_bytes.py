"""Error against bytes: AutoEmb under budgets, and what else the same bytes buy, in the same 16 bits.

    python -m tests.benchmarks bytes ml-latest-small ml-100k --seeds 3 [--budgets .05 .1 .2 .4] [--log FILE.jsonl]

Baselines of a budget, a share of what FSE-146 in float32 would keep for the same ids:

- FSE-d: the largest dimension for all that fits.
- count thresholds by hindsight: block j of AutoEmb's spaces is held from the id's n_j-th event on. Of a grid of (n_1, n_2), each with the
  smallest n_3 that fits, the one with the least error on the last 30% of the first seed, that is on what is reported. No event is
  remembered: a block begins to learn with its n_j-th event.
- plain hashing: the ids of a side share the rows of as many buckets as fit, split between the sides as their ids are; an id's bucket is
  drawn uniformly. Buckets need no index and no ids, so none is counted. Context features stay per id, as everywhere.

Reported: mean squared error of the last 30%, bytes kept at the end as a share of the fixed, and AutoEmb less each baseline, in 1e-4, averaged
over seeds, with a 95% interval over users.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.experiments.statistics import clustered_interval
from autoemb_pipeline.kernels import HELD, round_rows
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.learners.stream import learner as stream_learner
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.factory import blocks_of, side_plans
from autoemb_pipeline.learners.stream.gates import FixedGate
from autoemb_pipeline.learners.stream.holdings import FIXED_WIDTH, INDEX_ENTRY_BYTES, id_bytes
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.rows import stored_bytes
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.benchmarks.bench_search import LAST, batches, columns
from tests.benchmarks.commands import tell

BUDGETS = (0.05, 0.1, 0.2, 0.4)
NEVER = 1 << 40
FIRST = (1, 2, 4, 8, 16, 32)
RATIOS = (1, 4, 16, 64)
LEAST_USED = 0.9
"""Thresholds that leave more of a budget unused are not tried."""
HASHED = (16, 128)
Stream = tuple[Sequence[str], Sequence[str], np.ndarray, np.ndarray]
Adapt = Callable[[Trainer], None]


@dataclass(frozen=True)
class Ids:
    """A stream's ids at its end: of both sides how often each occurs, and bytes of all ids as text."""

    counts: tuple[np.ndarray, np.ndarray]
    text: int

    @classmethod
    def of(cls, stream: Stream) -> "Ids":
        known = [np.unique(np.array(side), return_counts=True) for side in stream[:2]]
        return cls(counts=(known[0][1], known[1][1]), text=sum(len(i.encode()) for ids, _ in known for i in ids.tolist()))

    @property
    def number(self) -> int:
        return sum(map(len, self.counts))

    @property
    def fixed(self) -> int:
        return self.number * (INDEX_ENTRY_BYTES + 4 * (FIXED_WIDTH + 3)) + self.text

    def bytes(self, config: StreamConfig, starts: Sequence[int]) -> int:
        """Were block j held by the ids with at least starts[j] events."""
        total = self.text
        for counts, plan in zip(self.counts, side_plans(config), strict=True):
            base, blocks = id_bytes(plan)
            total += base * len(counts) + sum(size * int((counts >= n).sum()) for size, n in zip(blocks, starts, strict=True))
        return total


def train(stream: Stream, config: StreamConfig, adapt: Adapt | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Losses of the last 30%, and the last mini-batch's metrics. adapt: changes the trainer before it begins."""
    of = TrainerConfig(learner=config, context=ContextConfig(spaces=len(config.dims)), prequential=PrequentialConfig())
    trainer = Trainer(of, MemoryRowStore(trainer_tables(of)))
    if adapt is not None:
        adapt(trainer)
    losses, metrics = [], {}
    for batch in batches(stream):
        result = trainer.step(batch)
        losses.append(result.scores["method"][0])
        metrics = dict(result.metrics)
    every = np.concatenate(losses)
    return every[int(LAST * len(every)) :], metrics


def configured(method: str, seed: int, **settings: Any) -> StreamConfig:
    config = from_preset("stream", method=method, seed=seed, **settings)
    assert isinstance(config, StreamConfig)
    return config


def from_event(starts: Sequence[int], config: StreamConfig) -> Adapt:
    """Block j is used, and so held, from an id's starts[j]-th event on."""
    ends = np.array(starts)

    def adapt(trainer: Trainer) -> None:
        learner = trainer._method._learner
        gate = FixedGate(lambda counts: (counts[..., None] + 1 >= ends).astype(np.float64))
        learner._components = replace(learner._components, gate=gate)

    assert len(blocks_of(config).dims) == len(starts)
    return adapt


class Buckets:
    """Takes the place of the kernel that learns: the rows of ids in one bucket are one row.

    A mini-batch's operations are performed in runs in which no bucket has two ids; before each run the ids' rows are those of their buckets,
    behind it the other way round. Rounded to 16 bits as the product's rows are, once a mini-batch.
    """

    def __init__(self, config: StreamConfig, numbers: tuple[int, int], ids: tuple[int, int], seed: int) -> None:
        drawn = np.random.default_rng([seed, 16])
        self.bucket_of = [drawn.integers(n, size=count) for n, count in zip(numbers, ids, strict=True)]  # by the store's slot
        self.rows = [np.full((n, config.dims[0] + 3), np.nan, dtype=np.float32) for n in numbers]
        self.held = [np.full((n, 1), HELD, dtype=np.int8) for n in numbers]
        self.end = np.array([config.dims[0]], dtype=np.int64)
        self.steps = 0

    def run(self, operations: Any, interactions: Any, state: Any, model: Any, out: Any, memory: Any) -> None:
        slots = np.stack([own[local] for own, local in zip(interactions.slots, interactions.local, strict=True)])
        buckets = np.stack([of[own] for of, own in zip(self.bucket_of, slots, strict=True)])
        for first, end in self._runs(operations.events, slots, buckets):
            part = np.unique(operations.events[first:end])
            self._copy_in(state.rows, slots[:, part], buckets[:, part])
            KERNEL(type(operations)(operations.kinds[first:end], operations.events[first:end]), interactions, state, model, out, memory)
            for rows, table, own, bucket in zip(state.rows, self.rows, slots[:, part], buckets[:, part], strict=True):
                table[bucket] = rows[own]
        self.steps += 1
        for f, table in enumerate(self.rows):
            used = np.unique(buckets[f])
            keys = used.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(2 * self.steps + f)
            round_rows(table, self.held[f], used, np.zeros(1, dtype=np.int64), self.end, keys)

    def _runs(self, events: np.ndarray, slots: np.ndarray, buckets: np.ndarray) -> Iterator[tuple[int, int]]:
        first, taken = 0, ({}, {})
        for k, i in enumerate(events.tolist()):
            if any(taken[f].get(buckets[f, i], slots[f, i]) != slots[f, i] for f in range(2)):
                yield first, k
                first, taken = k, ({}, {})
            for f in range(2):
                taken[f][buckets[f, i]] = slots[f, i]
        yield first, len(events)

    def _copy_in(self, rows: Sequence[np.ndarray], slots: np.ndarray, buckets: np.ndarray) -> None:
        for own, table, slot, bucket in zip(rows, self.rows, slots, buckets, strict=True):
            new = np.isnan(table[bucket, 0])
            table[bucket[new]] = own[slot[new]]
            own[slot] = table[bucket]


KERNEL = stream_learner.run


def hashed(stream: Stream, ids: Ids, width: int, budget: int, seed: int) -> tuple[np.ndarray, float]:
    """Losses of FSE-width over buckets, and the bytes these take."""
    size = sum(map(np.sum, stored_bytes(side_plans(configured("fse", seed, dims=(width,)))[0].spec())))
    total = int(budget // size)
    users = max(1, round(total * len(ids.counts[0]) / ids.number))
    config = configured("fse", seed, dims=(width,), row_precision="float32")
    buckets = Buckets(config, (users, max(1, total - users)), (len(ids.counts[0]), len(ids.counts[1])), seed)
    stream_learner.run = buckets.run
    try:
        return train(stream, config)[0], float(size * total)
    finally:
        stream_learner.run = KERNEL


def largest_fixed(ids: Ids, budget: int) -> int:
    """The largest d of FSE-d within the bytes; 0 for none."""
    return max((d for d in range(1, FIXED_WIDTH + 1) if ids.bytes(configured("fse", 0, dims=(d,)), (1,)) <= budget), default=0)


def thresholds(ids: Ids, config: StreamConfig, budget: int) -> list[tuple[int, ...]]:
    """The grid: (n_1, n_2) and the smallest n_3 that fits, as far as the budget is used."""
    counts = np.unique(np.concatenate([*ids.counts, [1]]))
    found = set()
    for first, ratio in product(FIRST, (*RATIOS, NEVER)):
        second = first * ratio
        fitting = [n for n in (*counts[counts >= second].tolist(), NEVER) if ids.bytes(config, (first, second, n)) <= budget]
        if fitting and ids.bytes(config, (first, second, fitting[0])) >= LEAST_USED * budget:
            found.add((first, second, fitting[0]))
    return sorted(found)


class Comparison:
    """Losses of every contender at one budget, seed by seed."""

    def __init__(self, name: str, share: float, log: Path | None) -> None:
        self.name, self.share, self.log = name, share, log
        self.losses: dict[str, list[np.ndarray]] = {}

    def add(self, contender: str, seed: int, losses: np.ndarray, share: float, **more: Any) -> None:
        self.losses.setdefault(contender, []).append(losses)
        known = {"stream": self.name, "budget": self.share, "run": contender, "seed": seed}
        line = json.dumps({**known, "last": round(float(losses.mean()), 6), "share": round(share, 4), **more})
        tell(line)
        if self.log:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def report(self, users: np.ndarray) -> None:
        own = self.losses["autoemb"]
        for contender, losses in self.losses.items():
            if contender != "autoemb":
                values = np.concatenate([a - b for a, b in zip(own, losses, strict=True)])
                interval = clustered_interval(values, np.tile(users, len(own)))
                low, high = 1e4 * interval.low, 1e4 * interval.high
                tell(f"{self.name} {self.share:.0%}: autoemb - {contender}: {1e4 * interval.estimate:+.1f} [{low:+.1f}, {high:+.1f}] 1e-4")


def compare(name: str, stream: Stream, share: float, seeds: int, log: Path | None) -> None:
    """One budget of one stream."""
    ids = Ids.of(stream)
    budget, result = int(share * ids.fixed), Comparison(name, share, log)
    kept = share_of(ids)
    width, spaces = largest_fixed(ids, budget), configured("count-thresholds", 0)
    grid = thresholds(ids, spaces, budget)
    best: tuple[int, ...] | None = None
    if grid:
        errors = {starts: train(stream, spaces, from_event(starts, spaces))[0].mean() for starts in grid}
        best = min(grid, key=lambda starts: errors[starts])
        tell(f"{name} {share:.0%}: tried {', '.join(f'{starts}: {error:.5f}' for starts, error in errors.items())}")
    for seed in range(seeds):
        losses, metrics = train(stream, configured("autoemb", seed, memory_budget=budget))
        result.add("autoemb", seed, losses, kept(metrics))
        if width:
            result.add("fse-d", seed, *told(kept, train(stream, configured("fse", seed, dims=(width,)))), d=width)
        if best is not None:
            config = configured("count-thresholds", seed)
            result.add("thresholds", seed, *told(kept, train(stream, config, from_event(best, config))), starts=best)
        for hashed_width in HASHED:
            losses, used = hashed(stream, ids, hashed_width, budget, seed)
            result.add(f"hashed fse-{hashed_width}", seed, losses, used / ids.fixed)
    users = np.array(stream[0][int(LAST * len(stream[0])) :])
    result.report(users)


def share_of(ids: Ids) -> Callable[[Mapping[str, Any]], float]:
    return lambda metrics: float(metrics["embedding_bytes"]) / ids.fixed


def told(kept: Callable[[Mapping[str, Any]], float], trained: tuple[np.ndarray, dict[str, Any]]) -> tuple[np.ndarray, float]:
    return trained[0], kept(trained[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", nargs="*", default=["ml-latest-small"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    for name in options.streams:
        stream = columns(name, 11)
        for share in options.budgets:
            compare(name, stream, share, options.seeds, options.log)


if __name__ == "__main__":
    main()
