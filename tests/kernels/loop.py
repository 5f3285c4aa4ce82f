"""The stream preset over the kernels alone: columns in memory, a slab that holds every id, no Kafka, no store, no torch.

What the trainer does around the kernels, in the fewest lines: the end-to-end test compares its figures with the product's, the benchmark
times its parts.
"""

import csv
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoemb_pipeline.kernels import (
    CONTEXT_FEATURES,
    FIXED_INPUTS,
    HELD,
    QUADRATIC_FEATURES,
    Interactions,
    Model,
    Predicted,
    State,
    adam,
    backward,
    blank_context,
    blank_totals,
    controller_inputs,
    features_of,
    forward,
    mixture_slopes,
    newton_descend,
    newton_observe,
    operations,
    parameter_count,
    predict_references,
    remember,
    remember_run,
    run,
    uses_of,
    weights_at,
)
from autoemb_pipeline.learners.common.initial import seeded_generator
from autoemb_pipeline.learners.search.controller import Controller
from autoemb_pipeline.rows import hashed_uniform

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
    hidden: tuple[int, ...] = (64,)
    rate: float = 1e-3
    start: float = 4.0
    cost: float = 3e-6
    rank: float = 8.0
    std: float | None = None  # of both sides' new rows; None: the product's
    use: tuple[float, ...] = ()  # of every block where nothing is searched; empty: ones


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
        )
        self.precision = np.diag(np.tile(ridge, len(levels)))
        self.gradient = np.zeros_like(weights)
        self.state = State(
            rows=tuple(self._rows(names, *side) for names, side in zip(columns.names, SIDES, strict=True)),
            held=tuple(np.full((len(names), self.spaces), HELD, dtype=np.int8) for names in columns.names),
            contexts=tuple(blank_context(f, len(names), self.spaces, self.classes) for f, names in enumerate(columns.names)),
            totals=blank_totals(),
        )
        self.reference = np.zeros((len(levels), CONTEXT_FEATURES))
        self.reference_precision = np.diag(np.full(self.reference.size, 10.0))
        self.reference_gradient = np.zeros_like(self.reference)
        self.reference_events = 0
        self.sizes = (FIXED_INPUTS + self.spaces, *s.hidden, self.spaces)
        self.networks = [self._network(name) for name in ("user_controller", "item_controller")] if s.searched else []
        self.moments = [np.zeros((2, len(n)), dtype=np.float32) for n in self.networks]
        self.steps = 0
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

    def _network(self, name: str) -> np.ndarray:
        """The product's own initial parameters, so that figures can be compared."""
        made = Controller(self.spaces, self.settings.hidden, seeded_generator(self.settings.seed, name), start=self.settings.start)
        vector = np.concatenate([tensor.detach().numpy().ravel() for tensor in made.parameters()]).astype(np.float32)
        assert len(vector) == parameter_count(self.sizes)
        return vector

    def _timed(self, part: str, since: float) -> float:
        now = time.thread_time()
        self.seconds[part] += now - since
        return now

    def step(self, first: int, last: int) -> None:
        clock = time.thread_time()
        events, out, count, carried = self._open(first, last)
        clock = self._timed("prepare", clock)
        counts, alphas, tapes = self._gate(events, count)
        clock = self._timed("controllers", clock)
        ordered, waiting = operations(events.times, self.settings.mode, carried)
        run(ordered, events, self.state, self.model, out)
        clock = self._timed("events", clock)
        new = slice(carried, count)
        which = np.arange(carried, count)
        labels = (events.binary, events.classes)
        newton_observe(out.inputs, which, out.probabilities, *labels, self.precision, self.gradient)
        slopes = np.empty((len(alphas), count, self.spaces), dtype=np.float32)
        if self.networks:
            charge = self.settings.cost * np.array(self.settings.dims, dtype=float)
            mixture_slopes(events, self.model, out, alphas, counts, charge, 1.0, 0.0, self.settings.nested, slopes)
        newton_descend(self.model.weights, self.precision, self.gradient)
        clock = self._timed("newton", clock)
        self._learn_networks(tapes, alphas[:, new], slopes[:, new])
        clock = self._timed("controllers", clock)
        self._references(out, events, new, which)
        clock = self._timed("references", clock)
        losses = self._score(out, events)
        self.losses.append(losses[new])
        for f in range(len(events.slots)):
            kept = alphas[f].astype(np.float64) if self.networks else np.zeros((count, 0))
            remember(events.local[f], events.slots[f], losses, kept, which, weights_at(f), self.state.contexts[f])
        remember_run(losses, which, self.state.totals)
        self._timed("remember", clock)
        self.carried = (waiting + first - carried, events, out, waiting) if len(waiting) else None

    def _open(self, first: int, last: int) -> tuple[Interactions, Predicted, int, int]:
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
        )
        outputs = len(self.model.levels)
        out = Predicted(
            inputs=np.zeros((count, self.model.weights.shape[1])),
            products=np.zeros((count, self.pairs, self.spaces)),
            base=np.zeros((count, outputs)),
            probabilities=np.zeros((count, outputs)),
            classes=np.zeros((count, self.classes)),
        )
        if self.settings.use:
            events.uses[:] = self.settings.use
        if self.carried:
            _, before, left, waiting = self.carried
            events.uses[:, :carried] = before.uses[:, waiting]
            for now, then in zip(out, left, strict=True):
                now[:carried] = then[waiting]
        self._carried_count = carried
        return events, out, count, carried

    def _gate(self, events: Interactions, count: int) -> tuple:
        fields, new = len(events.slots), slice(self._carried_count, count)
        counts = np.zeros((fields, count))
        alphas = np.zeros((fields, count, self.spaces), dtype=np.float32)
        tapes = []
        for f, network in enumerate(self.networks):
            seen = np.zeros((count - self._carried_count, self.sizes[0]), dtype=np.float32)
            own = events.local[f][new].copy()
            controller_inputs(own, events.slots[f], self.state.contexts[f], self.state.totals, weights_at(f), counts[f][new], seen)
            weights, tape = forward(network, self.sizes, seen)
            alphas[f, new] = weights
            uses_of(weights, self.settings.nested, events.uses[f][new])
            tapes.append(tape)
        return counts, alphas, tapes

    def _learn_networks(self, tapes: list, alphas: np.ndarray, slopes: np.ndarray) -> None:
        self.steps += 1
        for f, network in enumerate(self.networks):
            gradient = backward(network, self.sizes, tapes[f], alphas[f], slopes[f])
            adam(network, self.moments[f], gradient, self.steps, self.settings.rate)

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
