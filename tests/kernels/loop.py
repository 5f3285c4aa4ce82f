"""The stream preset over the kernels alone: columns in memory, a slab that holds every id, no Kafka, no store, no torch.

What the trainer does around the kernels, in the fewest lines: the end-to-end test compares its figures with the product's, the benchmark
times its parts. Which blocks ids hold is the product's own `Search`, over these slabs.
"""

import csv
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from autoemb_pipeline.kernels import (
    CONTEXT_FEATURES,
    HELD,
    QUADRATIC_FEATURES,
    Interactions,
    Memory,
    Model,
    Predicted,
    State,
    blank_context,
    blank_totals,
    earlier_in_batch,
    features_of,
    newton_descend,
    newton_observe,
    no_memory,
    operations,
    predict_references,
    remember,
    remember_run,
    round_rows,
    run,
    weights_at,
)
from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.factory import side_plans
from autoemb_pipeline.learners.stream.holdings import Holdings
from autoemb_pipeline.learners.stream.rows import REMEMBERED_BYTES
from autoemb_pipeline.learners.stream.search import Named, Search
from autoemb_pipeline.rows import Lent, hashed_uniform

SIDES = (("embedding.user", 0.06, 1.0, 0.027), ("embedding.item", 0.023, 0.2, 0.005))
REFERENCE_EVERY = 500


@dataclass
class Columns:
    ids: list[np.ndarray]  # F of [B] numbers from 0
    names: list[list[str]]
    times: np.ndarray
    ratings: np.ndarray


def read_ratings(path: Path, limit: int | None = None) -> Columns:
    with path.open(newline="") as file:
        rows = sorted(list(csv.reader(file))[1:], key=lambda r: int(r[3]))[:limit]
    ids, names = [], []
    for column in (0, 1):
        positions: dict[str, int] = {}
        ids.append(np.array([positions.setdefault(r[column], len(positions)) for r in rows], dtype=np.int64))
        names.append(list(positions))
    times = np.array([1000 * int(r[3]) for r in rows], dtype=np.int64)
    return Columns(ids=ids, names=names, times=times, ratings=np.array([float(r[2]) for r in rows]))


@dataclass
class Settings:
    dims: tuple[int, ...] = (2, 16, 128)
    searched: bool = True
    nested: bool = True
    task: str = "binary"
    mode: str = "event"
    batch: int = 500
    seed: int = 0
    dtype: type = np.float32
    rounded: bool = True  # rows to 16 bits
    rank: float = 16.0
    std: float | None = None  # of both sides' new rows; None: the product's
    use: tuple[float, ...] = ()  # of every block where nothing is searched; empty: ones


class Slabs:
    """One record per id of both sides; all that a search asks of a store."""

    def __init__(self, names: Sequence[list[str]], state: State) -> None:
        self.names = [np.array(own, dtype=object) for own in names]
        self.slots = [{name: k for k, name in enumerate(own)} for own in names]
        remembered = [np.zeros((len(own), REMEMBERED_BYTES), dtype=np.int8) for own in names]
        self.parts = list(zip(state.contexts, state.rows, state.held, remembered, strict=True))

    def of(self, field: int, slots: np.ndarray) -> Lent:
        return Lent(self.parts[field], slots, self.names[field][slots].tolist(), own=True)

    def lend(self, table: str, ids: Sequence[str]) -> Lent:
        field = ("user", "item").index(table)
        return self.of(field, np.array([self.slots[field][i] for i in ids], dtype=np.int64))

    def keep(self, table: str, lent: Lent) -> None:
        """Changed in place."""


class Loop:
    """One run; `step` takes the mini-batches in turn."""

    def __init__(self, settings: Settings, columns: Columns) -> None:
        s = self.settings = settings
        self.columns, fields = columns, len(columns.ids)
        self.spaces, self.pairs = len(s.dims), fields * (fields - 1) // 2
        self.ends = np.array(s.dims if s.nested else np.cumsum(s.dims), dtype=np.int64)
        self.classes = 5 if s.task == "rating" else 0
        levels = np.linspace(-1.0, 1.0, 5) if self.classes else np.ones(1)
        quadratic = 0 if self.classes else 1
        dense = CONTEXT_FEATURES + quadratic * QUADRATIC_FEATURES
        ridge = np.full(dense + self.pairs * self.spaces, 30.0)
        ridge[:CONTEXT_FEATURES] = 10.0
        weights = np.zeros((len(levels), len(ridge)))
        weights[:, dense:] = levels[:, None]
        sizes = np.diff(self.ends, prepend=0).astype(float)
        self.model = Model(
            weights=weights,
            levels=levels,
            ends=self.ends,
            directions=np.append(np.minimum(sizes, s.rank), 1.0),
            largest=np.repeat([[side[2]] for side in SIDES], self.spaces, axis=1),
            drift=1e-6,
            quadratic=quadratic,
            searched=int(s.searched),
        )
        self.precision = np.diag(np.tile(ridge, len(levels)))
        self.gradient = np.zeros_like(weights)
        self.state = State(
            rows=tuple(self._rows(names, *side) for names, side in zip(columns.names, SIDES, strict=True)),
            held=tuple(np.full((len(names), self.spaces), 0 if s.searched else HELD, dtype=np.int8) for names in columns.names),
            contexts=tuple(blank_context(f, len(names), self.spaces, self.classes) for f, names in enumerate(columns.names)),
            totals=blank_totals(),
        )
        self.reference = np.zeros((len(levels), CONTEXT_FEATURES))
        self.reference_precision = np.diag(np.full(self.reference.size, 10.0))
        self.reference_gradient = np.zeros_like(self.reference)
        self.reference_events = 0
        self.slabs = Slabs(columns.names, self.state)
        self.search = self._search() if s.searched else None
        self.keys = [Named.of(names, s.seed).keys for names in columns.names]
        self.seconds: Counter[str] = Counter()
        self.carried: tuple | None = None
        self.losses: list[np.ndarray] = []
        self.references: dict[str, list[np.ndarray]] = {"running_mean": [], "logistic": []}
        self.binary = (columns.ratings > 3.5).astype(np.float64)
        self.labels = np.clip(np.ceil(columns.ratings), 1, 5).astype(np.int64) - 1

    def _rows(self, names: list[str], table: str, std: float, variance: float, bias_variance: float) -> np.ndarray:
        width, std = int(self.ends[-1]), self.settings.std or std
        rows = np.zeros((len(names), width + self.spaces + 2), dtype=self.settings.dtype)
        start = 0
        for j, end in enumerate(self.ends.tolist()):
            rows[:, start:end] = hashed_uniform(names, seed=self.settings.seed, table=f"{table}.{j + 1}", width=end - start, std=std)
            start = end
        rows[:, width + 1 : -1], rows[:, -1] = variance, bias_variance
        return rows

    def _search(self) -> Search:
        s = self.settings
        whole = s.dtype is np.float64
        stds = {} if s.std is None else {"user_std": s.std, "item_std": s.std}
        config = StreamConfig(
            task=s.task,
            dims=s.dims,
            seed=s.seed,
            rank=s.rank,
            precision="float64" if whole else "float32",
            row_precision="int16" if s.rounded and not whole else "float32",
            **stds,
        )
        plans = side_plans(config)
        holdings = (Holdings(plans[0], self.slabs), Holdings(plans[1], self.slabs))
        return Search(config, plans, holdings, self.slabs, len(self.model.levels))

    def _timed(self, part: str, since: float) -> float:
        now = time.thread_time()
        self.seconds[part] += now - since
        return now

    def step(self, first: int, last: int) -> None:
        clock = time.thread_time()
        events, out, carried = self._open(first, last)
        count = len(events.times)
        clock = self._timed("prepare", clock)
        events, memory, opened, before = self._choose(events, carried)
        clock = self._timed("controllers", clock)
        ordered, waiting = operations(events.times, self.settings.mode, carried)
        run(ordered, events, self.state, self.model, out, memory)
        clock = self._timed("events", clock)
        new, which = slice(carried, count), np.arange(carried, count)
        newton_observe(out.inputs, which, out.probabilities, events.binary, events.classes, self.precision, self.gradient)
        newton_descend(self.model.weights, self.precision, self.gradient)
        clock = self._timed("newton", clock)
        self._settle(events, memory, opened, before)
        clock = self._timed("settle", clock)
        if self.search is not None:
            self.search.learn(opened, events, out)
        clock = self._timed("controllers", clock)
        self._references(out, events, new, which)
        clock = self._timed("references", clock)
        losses = self._score(out, events)
        self.losses.append(losses[new])
        for f in range(len(events.slots)):
            chosen = np.arange(1, self.spaces + 1) if self.search is not None else np.zeros(0)
            kept = (out.levels[f][:, None] == chosen).astype(np.float64)
            remember(events.local[f], events.slots[f], losses, kept, which, weights_at(f), self.state.contexts[f])
        remember_run(losses, which, self.state.totals)
        clock = self._timed("remember", clock)
        if self.search is not None:
            self.search.sweep(self.state.totals)
        self._timed("controllers", clock)
        self.carried = (waiting + first - carried, events, out, waiting) if len(waiting) else None

    def _choose(self, events: Interactions, carried: int) -> tuple[Interactions, Memory, SimpleNamespace | None, list]:
        """What the ids shall hold, and what of their past they learn."""
        if self.search is None:
            return events, no_memory(events, len(self.model.levels)), None, []
        fields, new = range(2), slice(carried, None)
        lent = tuple(self.slabs.of(f, events.slots[f]) for f in fields)
        counts = [
            self.state.contexts[f][events.slots[f][events.local[f, new]], COUNT] + earlier_in_batch(events.local[f, new].copy())
            for f in fields
        ]
        opened = SimpleNamespace(
            interactions=events,
            carried=carried,
            inputs=SimpleNamespace(users=SimpleNamespace(count=counts[0]), items=SimpleNamespace(count=counts[1])),
            ids=tuple(tuple(side.ids) for side in lent),
            new=tuple(len(side.ids) for side in lent),
            lent=lent,
            totals=self.state.totals,
        )
        further = self.search.choose(opened, [Named.of(own, self.settings.seed) for own in opened.ids])
        slots = tuple(np.concatenate([events.slots[f], self.slabs.lend(("user", "item")[f], further[f]).slots]) for f in fields)
        opened.lent = tuple(self.slabs.of(f, slots[f]) for f in fields)
        opened.ids = tuple(tuple(side.ids) for side in opened.lent)
        before = [side.measure(own) for side, own in zip(self.search.holdings, opened.lent, strict=True)]
        events = events._replace(slots=slots, choices=self.search.choices, foreseen=self.search.foreseen)
        opened.interactions = events
        return events, self.search.memory(opened, events), opened, before

    def _settle(self, events: Interactions, memory: Memory, opened: SimpleNamespace | None, before: list) -> None:
        firsts = np.concatenate([[0], self.ends[:-1]])
        if self.search is not None:
            self.search.keep(opened, memory)
        for f, slots in enumerate(events.slots):
            if self.settings.rounded and self.settings.dtype is np.float32:
                keys = (self.keys[f][slots] + self.state.contexts[f][slots, COUNT].astype(np.uint64)).astype(np.uint64)
                round_rows(self.state.rows[f], self.state.held[f], slots, firsts, self.ends, keys)
            if self.search is not None:
                self.search.holdings[f].account(opened.lent[f], before[f])

    def _open(self, first: int, last: int) -> tuple[Interactions, Predicted, int]:
        carried = len(self.carried[0]) if self.carried else 0
        rows = np.concatenate([self.carried[0], np.arange(first, last)]) if self.carried else np.arange(first, last)
        count = len(rows)
        slots, local = zip(*(np.unique(ids[rows], return_inverse=True) for ids in self.columns.ids), strict=True)
        events = Interactions(
            local=np.stack(local),
            slots=tuple(slots),
            times=self.columns.times[rows],
            binary=self.binary[rows],
            classes=self.labels[rows],
            uses=np.ones((len(slots), count, self.spaces)),
            choices=np.zeros((len(slots), count), dtype=np.int64),
            foreseen=np.zeros((len(slots), count), dtype=np.int8),
        )
        outputs = len(self.model.levels)
        out = Predicted(
            inputs=np.zeros((count, self.model.weights.shape[1])),
            products=np.zeros((count, self.pairs, self.spaces)),
            base=np.zeros((count, outputs)),
            probabilities=np.zeros((count, outputs)),
            classes=np.zeros((count, self.classes)),
            prefixes=np.zeros((count, self.spaces + 1, outputs)),
            levels=np.zeros((len(slots), count), dtype=np.int64),
        )
        if self.settings.use:
            events.uses[:] = self.settings.use
        if self.carried:
            _, before, left, waiting = self.carried
            events.uses[:, :carried] = before.uses[:, waiting]
            out.base[:carried] = left.base[waiting]
        return events, out, carried

    def _references(self, out: Predicted, events: Interactions, new: slice, which: np.ndarray) -> None:
        mean, logistic = np.empty_like(out.base), np.empty_like(out.base)
        predict_references(out.inputs, out.classes, self.reference, mean, logistic)
        labels = (events.binary, events.classes)
        newton_observe(features_of(out.inputs), which, logistic, *labels, self.reference_precision, self.reference_gradient)
        self.reference_events += len(which)
        if self.reference_events >= REFERENCE_EVERY:
            newton_descend(self.reference, self.reference_precision, self.reference_gradient)
            self.reference_events = 0
        for name, predicted in (("running_mean", mean), ("logistic", logistic)):
            self.references[name].append(self._score(out._replace(probabilities=predicted), events)[new])

    def _score(self, out: Predicted, events: Interactions) -> np.ndarray:
        if not self.classes:
            return np.square(out.probabilities[:, 0] - events.binary)
        own = out.probabilities[np.arange(len(events.classes)), events.classes]
        return -np.log(np.maximum(own, np.finfo(np.float64).tiny))


def whole(settings: Settings, columns: Columns) -> Loop:
    """A run over all the columns."""
    loop = Loop(settings, columns)
    for first in range(0, len(columns.times), settings.batch):
        loop.step(first, min(first + settings.batch, len(columns.times)))
    return loop


def figures(parts: list[np.ndarray]) -> tuple[float, float]:
    """Mean loss of all, and of the last 30%."""
    every = np.concatenate(parts)
    return float(every.mean()), float(every[int(0.7 * len(every)) :].mean())
