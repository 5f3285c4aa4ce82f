"""What the stream has told so far of every user and item: the controllers' inputs and the context features x0..x15.

Per id one row in a RowStore; per batch one gather, one pass in merged order, one scatter. Which labels a feature may know is the
context mode's: `batch` those of earlier mini-batches, `event` also those of earlier events of the same batch, `strict` as `event`, but
only labels with an earlier timestamp. Counts and times hold no label and are always fresh. Previous loss and previous weights are of
earlier mini-batches in every mode (docs/architecture.md, Honesty). Late interactions in `strict`: what was learnt
before cannot be unlearnt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.context.label_statistics import ITEM_LABEL_WIDTH, USER_LABEL_WIDTH, Globals, features_of, learn
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.records import (
    CONTEXT_FEATURES,
    RATING_CLASSES,
    ContextMode,
    FloatArray,
    Interaction,
    Labels,
    LearnerInputs,
    SideContext,
)
from autoemb_pipeline.rows import Rows, RowStore, TableSpec

USER_TABLE = "context.user"
ITEM_TABLE = "context.item"

# Fixed columns of both sides' rows; the label statistics of `label_statistics` follow, then weights, then class counts.
COUNT, LAST_TIME, PREVIOUS_LOSS, FADING_LOSS = range(4)
LABELS_AT = 4
ID_FADING = 0.9
GLOBAL_FADING = 0.99
DIRICHLET_USER, DIRICHLET_ITEM = 8.0, 3.0

Pending = tuple[int, str, str, float, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextConfig:
    """How the context is kept.

    Attributes:
        mode: labels that context features may know: of earlier mini-batches; also of earlier events; only with earlier timestamps.
        spaces: number of embedding spaces N (length of the previous weights).
        with_classes: keep class counts per id, for the rating task's Dirichlet reference.
    """

    mode: ContextMode = "event"
    spaces: int = 3
    with_classes: bool = False

    def __post_init__(self) -> None:
        """Refuses what no context can be kept for."""
        if self.mode not in ("batch", "event", "strict"):
            raise ConfigurationError(f"unknown context mode {self.mode!r}", remedy="use --context batch, event or strict")
        if self.spaces < 1:
            raise ConfigurationError(f"{self.spaces} embedding spaces", remedy="give at least one dimension with --dims")

    @property
    def class_width(self) -> int:
        """Columns for class counts."""
        return RATING_CLASSES if self.with_classes else 0


def context_tables(config: ContextConfig) -> tuple[TableSpec, ...]:
    """The two tables a `ContextTracker` needs in its store."""
    return (_table(USER_TABLE, USER_LABEL_WIDTH, config), _table(ITEM_TABLE, ITEM_LABEL_WIDTH, config))


def _table(name: str, label_width: int, config: ContextConfig) -> TableSpec:
    blank = np.zeros(LABELS_AT + label_width + config.spaces + config.class_width)
    blank[[LAST_TIME, PREVIOUS_LOSS, FADING_LOSS]] = np.nan
    blank[LABELS_AT + label_width : LABELS_AT + label_width + config.spaces] = 1.0 / config.spaces
    return TableSpec(name=name, width=len(blank), dtype="f8", initial=lambda ids: np.tile(blank, (len(ids), 1)))


@dataclass(frozen=True, slots=True)
class _Side:
    """One side's rows of the batch at hand: `rows[index[i]]` is the row of interaction i."""

    ids: list[str]
    index: NDArray[np.int64]
    rows: list[list[float]]
    positions: dict[str, int]


class ContextTracker:
    """Turns mini-batches into learner inputs and remembers what came of them.

    For every batch call `observe`, then, when its predictions are recorded and scored, `record`.
    """

    def __init__(self, config: ContextConfig, store: RowStore) -> None:
        self._config = config
        self._store = store
        self._globals = Globals()
        self._class_counts = [0.0] * RATING_CLASSES
        self._global_loss = float("nan")
        self._pending: list[Pending] = []
        self._earliest = inf  # timestamp among the pending
        self._open: tuple[_Side, _Side] | None = None

    def observe(self, records: Sequence[Interaction], labels: Labels, held_out: NDArray[np.bool_] | None = None) -> LearnerInputs:
        """Inputs for predicting `records`; counts them, and learns their labels as the mode allows.

        Args:
            records: B interactions in merged order.
            labels: their targets; no feature of an event knows its own label or a later one.
            held_out: [B] True where the label must enter no statistic.
        """
        newest = max((r.timestamp for r in records), default=0)
        waiting = [p for p in self._pending if p[0] < newest]  # the rest will not be learnt in this mini-batch
        users = self._gather(USER_TABLE, [r.user_id for r in records], [p[1] for p in waiting])
        items = self._gather(ITEM_TABLE, [r.item_id for r in records], [p[2] for p in waiting])
        features, classes = self._pass(records, labels, held_out, users, items)
        inputs = LearnerInputs(
            user_ids=[r.user_id for r in records],
            item_ids=[r.item_id for r in records],
            features=features,
            users=_with_earlier_in_batch(self._side_context(users, USER_LABEL_WIDTH), users.index),
            items=_with_earlier_in_batch(self._side_context(items, ITEM_LABEL_WIDTH), items.index),
            global_loss=self._global_loss,
            class_probabilities=classes,
            held_out=held_out,
        )
        self._count(users, records)
        self._count(items, records)
        self._open = (users, items)
        return inputs

    def record(
        self,
        losses: FloatArray,
        user_weights: FloatArray | None,
        item_weights: FloatArray | None,
        held_out: NDArray[np.bool_] | None = None,
    ) -> None:
        """Stores what the controllers see next time: losses [B] and weights [B, N] of the observed batch, and writes its rows back."""
        if self._open is None:
            raise RuntimeError("record() without observe()")
        counted = np.ones(len(losses), dtype=bool) if held_out is None else ~held_out
        for table, side, weights, width in zip(
            (USER_TABLE, ITEM_TABLE), self._open, (user_weights, item_weights), (USER_LABEL_WIDTH, ITEM_LABEL_WIDTH), strict=True
        ):
            rows = np.array(side.rows, dtype=np.float64).reshape(len(side.ids), -1)
            self._remember(rows, side.index, losses, weights, counted, LABELS_AT + width)
            self._store.scatter(table, side.ids, rows)
        if counted.any():
            mean = float(losses[counted].mean())
            self._global_loss = mean if np.isnan(self._global_loss) else GLOBAL_FADING * self._global_loss + (1 - GLOBAL_FADING) * mean
        self._open = None

    def peek(self, records: Sequence[Interaction]) -> LearnerInputs:
        """Inputs for training on interactions that were observed before: what is known now of their ids. Changes nothing.

        Features and class probabilities would hold the interactions' own labels: the features are NaN, so that whatever uses them shows.
        """
        users = self._gather(USER_TABLE, [r.user_id for r in records], [])
        items = self._gather(ITEM_TABLE, [r.item_id for r in records], [])
        return LearnerInputs(
            user_ids=[r.user_id for r in records],
            item_ids=[r.item_id for r in records],
            features=np.full((len(records), CONTEXT_FEATURES), np.nan),
            users=self._side_context(users, USER_LABEL_WIDTH),
            items=self._side_context(items, ITEM_LABEL_WIDTH),
            global_loss=self._global_loss,
            reread=True,
        )

    def state(self) -> Mapping[str, object]:
        """All that is not in the store, as JSON-able values (floats survive the round trip bit for bit)."""
        loss = self._global_loss
        return {
            "globals": [self._globals.count, self._globals.positives],
            "class_counts": list(self._class_counts),
            "global_loss": None if np.isnan(loss) else loss,
            "pending": [list(p) for p in self._pending],
        }

    def load_state(self, state: Mapping[str, object]) -> None:
        """Restores what `state` returned."""
        saved: dict[str, Any] = dict(state)
        count, positives = saved["globals"]
        self._globals = Globals(count=count, positives=positives)
        self._class_counts = list(saved["class_counts"])
        self._global_loss = float("nan") if saved["global_loss"] is None else saved["global_loss"]
        self._pending = [(t, user, item, label, klass) for t, user, item, label, klass in saved["pending"]]
        self._earliest = min((p[0] for p in self._pending), default=inf)

    def _gather(self, table: str, ids: list[str], extra: list[str]) -> _Side:
        positions: dict[str, int] = {}
        index = np.fromiter((positions.setdefault(i, len(positions)) for i in ids), dtype=np.int64, count=len(ids))
        for i in extra:
            positions.setdefault(i, len(positions))
        unique = list(positions)
        rows = self._store.gather(table, unique)
        return _Side(unique, index, rows.tolist(), positions)

    def _pass(
        self, records: Sequence[Interaction], labels: Labels, held_out: NDArray[np.bool_] | None, users: _Side, items: _Side
    ) -> tuple[FloatArray, FloatArray | None]:
        """One pass in merged order: [B, F] features, and [B, C] class probabilities for the rating task."""
        event = self._config.mode == "event"
        features: list[list[float]] = []
        classes: list[list[float]] = []
        seen: dict[str, list[float]] = {}  # fresh (count, last time) of ids that occurred earlier in this batch
        for i, record in enumerate(records):
            user, item = users.rows[users.index[i]], items.rows[items.index[i]]
            if self._pending:
                self._learn_before(record.timestamp, users, items)
            user_seen = seen.setdefault("u" + record.user_id, user[:2])
            item_seen = seen.setdefault("i" + record.item_id, item[:2])
            features.append(features_of(user, item, user_seen, item_seen, record.timestamp, self._globals))
            if self._config.with_classes:
                classes.append(self._dirichlet(user, item))
            user_seen[COUNT] += 1.0
            item_seen[COUNT] += 1.0
            user_seen[LAST_TIME] = item_seen[LAST_TIME] = record.timestamp / 1000.0
            if held_out is not None and held_out[i]:
                continue
            if event:
                self._learn(user, item, float(labels.binary[i]), int(labels.classes[i]))
            else:
                self._earliest = min(self._earliest, record.timestamp)
                self._pending.append((record.timestamp, record.user_id, record.item_id, float(labels.binary[i]), int(labels.classes[i])))
        if self._config.mode == "batch":
            self._learn_before(None, users, items)
        array = np.array(features, dtype=np.float64).reshape(len(records), CONTEXT_FEATURES)
        return array, (np.array(classes, dtype=np.float64).reshape(len(records), -1) if self._config.with_classes else None)

    def _learn_before(self, timestamp: int | None, users: _Side, items: _Side) -> None:
        """Learns the waiting labels whose timestamp is earlier (all, if None; none in batch mode until the batch has ended)."""
        if timestamp is not None and (self._config.mode == "batch" or timestamp <= self._earliest):
            return
        ready = [p for p in self._pending if timestamp is None or p[0] < timestamp]
        if not ready:
            return
        for _, user_id, item_id, label, klass in ready:
            self._learn(users.rows[users.positions[user_id]], items.rows[items.positions[item_id]], label, klass)
        self._pending = [p for p in self._pending if timestamp is not None and p[0] >= timestamp]
        self._earliest = min((p[0] for p in self._pending), default=inf)

    def _learn(self, user: list[float], item: list[float], label: float, klass: int) -> None:
        learn(user, item, label, self._globals)
        if self._config.with_classes:
            user[klass - RATING_CLASSES] += 1.0
            item[klass - RATING_CLASSES] += 1.0
            self._class_counts[klass] += 1.0

    def _dirichlet(self, user: list[float], item: list[float]) -> list[float]:
        """Class distribution p ∝ p_u · p_i / p with Dirichlet pseudo-counts 8 (user) and 3 (item), both centred on the prior."""
        total = sum(self._class_counts) + RATING_CLASSES
        prior = [(c + 1.0) / total for c in self._class_counts]
        u, v = user[-RATING_CLASSES:], item[-RATING_CLASSES:]
        nu, nv = sum(u) + DIRICHLET_USER, sum(v) + DIRICHLET_ITEM
        joint = [(a + DIRICHLET_USER * p) / nu * (b + DIRICHLET_ITEM * p) / nv / p for a, b, p in zip(u, v, prior, strict=True)]
        norm = sum(joint)
        return [j / norm for j in joint]

    def _side_context(self, side: _Side, label_width: int) -> SideContext:
        rows = np.array(side.rows, dtype=np.float64).reshape(len(side.ids), -1)[side.index]
        weights_at = LABELS_AT + label_width
        return SideContext(
            count=rows[:, COUNT],
            previous_weights=rows[:, weights_at : weights_at + self._config.spaces],
            previous_loss=rows[:, PREVIOUS_LOSS],
            fading_loss=rows[:, FADING_LOSS],
        )

    @staticmethod
    def _count(side: _Side, records: Sequence[Interaction]) -> None:
        for position, record in zip(side.index.tolist(), records, strict=True):
            row = side.rows[position]
            row[COUNT] += 1.0
            row[LAST_TIME] = record.timestamp / 1000.0

    def _remember(
        self,
        rows: Rows,
        index: NDArray[np.int64],
        losses: FloatArray,
        weights: FloatArray | None,
        counted: NDArray[np.bool_],
        weights_at: int,
    ) -> None:
        index, losses = index[counted], losses[counted]
        if len(index) == 0:
            return
        touched, inverse, occurrences = np.unique(index, return_inverse=True, return_counts=True)
        mean = np.bincount(inverse, weights=losses) / occurrences
        previous = rows[touched, FADING_LOSS]
        rows[touched, PREVIOUS_LOSS] = mean
        rows[touched, FADING_LOSS] = np.where(np.isnan(previous), mean, ID_FADING * previous + (1 - ID_FADING) * mean)
        if weights is not None:
            last = np.zeros(len(touched), dtype=np.int64)
            last[inverse] = np.arange(len(index))  # later occurrences overwrite earlier ones
            rows[touched, weights_at : weights_at + self._config.spaces] = weights[counted][last]


def _with_earlier_in_batch(context: SideContext, index: NDArray[np.int64]) -> SideContext:
    return replace(context, count=context.count + _earlier_in_batch(index))


def _earlier_in_batch(index: NDArray[np.int64]) -> FloatArray:
    """[B] how often the same id stood earlier in the batch."""
    order = np.argsort(index, kind="stable")
    grouped = index[order]
    starts = np.concatenate(([True], grouped[1:] != grouped[:-1])) if len(index) else np.zeros(0, dtype=bool)
    positions = np.arange(len(index))
    first = np.maximum.accumulate(np.where(starts, positions, 0))
    earlier = np.empty(len(index), dtype=np.float64)
    earlier[order] = positions - first
    return earlier
