"""What the stream has told so far of every user and item: the controllers' inputs and the context features x0..x15.

Per id one row, the first part of its record in the row store, changed there by the compiled kernels (`autoemb_pipeline.kernels`), whose
docstring has its columns. Which labels a feature may know is the context mode's: `batch` those of earlier mini-batches, `event` also those
of earlier events of the same batch, `strict` as `event`, but only labels with an earlier timestamp. Counts and times hold no label and are
always fresh. Previous loss and previous weights are of earlier mini-batches in every mode (docs/architecture.md, Honesty). Late
interactions in `strict`: what was learnt before cannot be unlearnt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.context.expiry import Expiry, Forget
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kernels import (
    PREDICT,
    Interactions,
    Model,
    Operations,
    Predicted,
    State,
    blank_context,
    blank_totals,
    earlier_in_batch,
    observe,
    operations,
    remember,
    remember_run,
    weights_at,
)
from autoemb_pipeline.kernels.layout import COUNT, FADING_LOSS, PREVIOUS_LOSS, RUN_LOSS
from autoemb_pipeline.open_batch import SIDES, Columns, OpenBatch, Records, columns_of
from autoemb_pipeline.records import (
    CONTEXT_FEATURES,
    RATING_CLASSES,
    ContextMode,
    FloatArray,
    Labels,
    LearnerInputs,
    SideContext,
)
from autoemb_pipeline.rows import Lent, RecordSpec, Rows, RowStore, TableSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextConfig:
    """How the context is kept.

    Attributes:
        mode: labels that context features may know: of earlier mini-batches; also of earlier events; only with earlier timestamps.
        spaces: number of embedding spaces N (length of the previous weights).
        with_classes: keep class counts per id, for the rating task's Dirichlet reference.
        ttl_days: users and items without an event for more days, of event time, are removed with all that is kept of them. Default:
            nobody is.
    """

    mode: ContextMode = "event"
    spaces: int = 3
    with_classes: bool = False
    ttl_days: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no context can be kept for."""
        if self.mode not in ("batch", "event", "strict"):
            raise ConfigurationError(f"unknown context mode {self.mode!r}", remedy="use --context batch, event or strict")
        if self.spaces < 1:
            raise ConfigurationError(f"{self.spaces} embedding spaces", remedy="give at least one dimension with --dims")
        if self.ttl_days is not None and not 0.0 < self.ttl_days < np.inf:
            raise ConfigurationError(f"a time to live of {self.ttl_days} days", remedy="give --ttl-days above 0, or none")

    @property
    def class_width(self) -> int:
        """Columns for class counts."""
        return RATING_CLASSES if self.with_classes else 0


def context_tables(config: ContextConfig) -> tuple[RecordSpec, ...]:
    """The record tables a `ContextTracker` needs in its store, one per side; a learner may add parts behind the context's."""
    return tuple(RecordSpec(name=side, parts=(_part(field, config),)) for field, side in enumerate(SIDES))


def _part(field: int, config: ContextConfig) -> TableSpec:
    initial = partial(_blank, field=field, config=config)
    return TableSpec(name="context", width=initial(("",)).shape[1], dtype="f8", initial=initial)


def _blank(ids: Sequence[str], *, field: int, config: ContextConfig) -> Rows:
    return blank_context(field, len(ids), config.spaces, config.class_width)


class _Waiting(NamedTuple):
    """An interaction whose label may not be known yet."""

    timestamp: int
    user_id: str
    item_id: str
    binary: float
    klass: int

    @property
    def ids(self) -> tuple[str, str]:
        """User and item."""
        return self.user_id, self.item_id


class ContextTracker:
    """Turns mini-batches into what learners take and remembers what came of them.

    For every mini-batch call `observe`, or `open` and let a learner run the operations; then, when its predictions are recorded and
    scored, `record`; and when the learner has done with it, `expire`.

    Args:
        config: how.
        store: holds `context_tables`.
        others: the store's tables that a learner has besides, of users those that end in ``.user``, of items in ``.item``.
    """

    def __init__(self, config: ContextConfig, store: RowStore, others: Sequence[str] = ()) -> None:
        self._config = config
        self._store = store
        tables = [(side, *(name for name in others if name.endswith(f".{side}"))) for side in SIDES]
        self._expiry = None if config.ttl_days is None else Expiry(config.ttl_days, store, (tables[0], tables[1]))
        self._latest = -np.inf
        self._totals = blank_totals()
        self._waiting: list[_Waiting] = []
        self._open: OpenBatch | None = None

    def open(self, records: Records, labels: Labels, held_out: NDArray[np.bool_] | None = None) -> OpenBatch:
        """Lends the records of a mini-batch's ids, and orders what is to be predicted and learnt. Counts and learns nothing yet.

        Args:
            records: B interactions in merged order.
            labels: their targets; no feature of an event knows its own label or a later one.
            held_out: [B] True where the label must enter no statistic.
        """
        columns = columns_of(records, labels)
        newest = int(columns.times.max()) if len(columns.times) else 0
        due = np.array([k for k, w in enumerate(self._waiting) if w.timestamp < newest], dtype=np.int64)
        interactions, ids = _with_waiting(columns, [self._waiting[k] for k in due])
        ordered, waiting = operations(interactions.times, self._config.mode, len(due))
        if held_out is not None:
            ordered, waiting = _without(held_out, len(due), ordered, waiting)
        lent = self._lend(ids)
        opened = OpenBatch(
            interactions=interactions._replace(slots=(lent[0].slots, lent[1].slots)),
            carried=len(due),
            operations=ordered,
            due=due,
            waiting=waiting,
            waits=(frozenset(w.user_id for w in self._waiting), frozenset(w.item_id for w in self._waiting)),
            ids=ids,
            new=(len(columns.ids[0]), len(columns.ids[1])),
            lent=lent,
            totals=self._totals,
            inputs=self._inputs(columns, lent, held_out),
        )
        self._open = opened
        return opened

    def extend(self, opened: OpenBatch, further: tuple[Sequence[str], Sequence[str]]) -> OpenBatch:
        """The same mini-batch with the records of further ids lent, behind those of its own. further: of both sides, distinct and new."""
        if not any(further):
            return opened
        ids = ((*opened.ids[0], *further[0]), (*opened.ids[1], *further[1]))
        lent = self._lend(ids)
        interactions = opened.interactions._replace(slots=(lent[0].slots, lent[1].slots))
        self._open = replace(opened, ids=ids, lent=lent, interactions=interactions)
        return self._open

    def observe(self, records: Records, labels: Labels, held_out: NDArray[np.bool_] | None = None) -> LearnerInputs:
        """Inputs for predicting `records`; counts them, and learns their labels as the mode allows. Arguments as of `open`."""
        opened = self.open(records, labels, held_out)
        count = len(opened.interactions.times)
        out = Predicted(
            inputs=np.zeros((count, CONTEXT_FEATURES)),
            products=np.zeros((0, 0, 0)),
            base=np.zeros((0, 0)),
            probabilities=np.zeros((0, 0)),
            classes=np.zeros((count, self._config.class_width)),
            prefixes=np.zeros((0, 0, 0)),
            levels=np.zeros((2, 0), dtype=np.int64),
        )
        observe(opened.operations, opened.interactions, State(_NO_ROWS, _NOTHING_HELD, opened.contexts, self._totals), _NO_MODEL, out)
        classes = out.classes[opened.carried :] if self._config.with_classes else None
        return replace(opened.inputs, features=out.inputs[opened.carried :], class_probabilities=classes)

    def record(
        self,
        losses: FloatArray,
        user_weights: FloatArray | None,
        item_weights: FloatArray | None,
        held_out: NDArray[np.bool_] | None = None,
    ) -> None:
        """Stores what the controllers see next time: losses [B] and weights [B, N] of the mini-batch at hand; keeps its records."""
        opened = self._open
        if opened is None:
            raise RuntimeError("record() without observe()")
        counted = np.arange(len(losses)) if held_out is None else np.flatnonzero(~held_out)
        for field, weights in enumerate((user_weights, item_weights)):
            known = np.zeros((len(losses), 0)) if weights is None else np.ascontiguousarray(weights, dtype=np.float64)
            local = np.ascontiguousarray(opened.interactions.local[field, opened.carried :])
            remember(local, opened.lent[field].slots, losses, known, counted, weights_at(field), opened.contexts[field])
            self._store.keep(SIDES[field], opened.lent[field])
            if self._expiry is not None:
                self._drop_unknown(field, opened)
        remember_run(losses, counted, self._totals)
        due = set(opened.due.tolist())
        rest = [w for k, w in enumerate(self._waiting) if k not in due]
        self._waiting = rest + [_waiting_at(opened, int(i)) for i in opened.waiting]
        self._latest = float(opened.interactions.times.max()) / 1000.0 if len(opened.interactions.times) else -np.inf
        self._open = None

    def _drop_unknown(self, field: int, opened: OpenBatch) -> None:
        """Of ids that were remembered by others and removed since, a record was made to learn with: it is not kept."""
        lent = opened.lent[field]
        unknown = np.flatnonzero(lent.slabs[0][lent.slots[opened.new[field] :], COUNT] == 0.0) + opened.new[field]
        if len(unknown):
            self._store.remove(SIDES[field], [lent.ids[k] for k in unknown.tolist()])

    def expire(self, forget: Forget) -> None:
        """After a mini-batch: removes some of the ids that are due, where there is a time to live."""
        if self._expiry is not None:
            users, items = (frozenset(w.ids[field] for w in self._waiting) for field in range(2))
            self._expiry.visit(self._latest, (users, items), forget)

    def report(self) -> Mapping[str, object]:
        """Fields of the metrics topic that only the context knows."""
        return {} if self._expiry is None else self._expiry.report()

    def peek(self, records: Records) -> LearnerInputs:
        """Inputs for training on interactions that were observed before: what is known now of their ids. Changes nothing.

        Features and class probabilities would hold the interactions' own labels: the features are NaN, so that whatever uses them shows.
        """
        nothing = np.zeros(len(records))
        columns = columns_of(records, Labels(binary=nothing, classes=nothing.astype(np.int64)))
        known = self._inputs(columns, self._lend(columns.ids), None)
        users, items = (
            replace(side, count=side.count - earlier_in_batch(local))
            for side, local in zip((known.users, known.items), columns.local, strict=True)
        )
        return replace(known, users=users, items=items, reread=True)

    def state(self) -> Mapping[str, object]:
        """All that is not in the store, as JSON-able values (floats survive the round trip bit for bit)."""
        totals = self._totals.tolist()
        totals[RUN_LOSS] = None if np.isnan(totals[RUN_LOSS]) else totals[RUN_LOSS]
        expiry = {} if self._expiry is None else {"expiry": self._expiry.state()}
        return {"totals": totals, "waiting": [list(w) for w in self._waiting], **expiry}

    def load_state(self, state: Mapping[str, object]) -> None:
        """Restores what `state` returned."""
        saved: dict[str, Any] = dict(state)
        self._totals = np.array([np.nan if value is None else value for value in saved["totals"]], dtype=np.float64)
        self._waiting = [_Waiting(*w) for w in saved["waiting"]]
        if self._expiry is not None:
            self._expiry.load_state(saved["expiry"])

    def _lend(self, ids: Sequence[Sequence[str]]) -> tuple[Lent, Lent]:
        return self._store.lend(SIDES[0], ids[0]), self._store.lend(SIDES[1], ids[1])

    def _inputs(self, columns: Columns, lent: tuple[Lent, Lent], held_out: NDArray[np.bool_] | None) -> LearnerInputs:
        users, items = (self._side(field, lent[field], columns.local[field]) for field in range(2))
        user_ids, item_ids = (
            list(map(ids.__getitem__, local.tolist())) for ids, local in zip(columns.ids, columns.local, strict=True)
        )  # fmt: skip
        return LearnerInputs(
            user_ids=user_ids,
            item_ids=item_ids,
            features=np.full((len(columns.times), CONTEXT_FEATURES), np.nan),
            users=users,
            items=items,
            global_loss=float(self._totals[RUN_LOSS]),
            held_out=held_out,
        )

    def _side(self, field: int, lent: Lent, local: NDArray[np.int64]) -> SideContext:
        rows, first = lent.slabs[0][lent.slots[local]], weights_at(field)
        return SideContext(
            count=rows[:, COUNT] + earlier_in_batch(local),
            previous_weights=rows[:, first : first + self._config.spaces],
            previous_loss=rows[:, PREVIOUS_LOSS],
            fading_loss=rows[:, FADING_LOSS],
        )


# What `observe` of the kernels asks for and does not read.
_NO_ROWS = (np.zeros((0, 0), dtype=np.float32),) * 2
_NOTHING_HELD = (np.zeros((0, 0), dtype=np.int8),) * 2
_NO_MODEL = Model(
    np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, 0)), 0.0, 0
)  # fmt: skip


def _with_waiting(columns: Columns, waiting: Sequence[_Waiting]) -> tuple[Interactions, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The interactions that waited, then those of the mini-batch, and both sides' distinct ids; slots and uses are still empty."""
    if not waiting:  # as ever but in `strict`
        return _interactions(columns.local, columns.times.copy(), columns.labels), columns.ids
    ids, local = [], []
    for field in range(2):
        positions = {identifier: k for k, identifier in enumerate(columns.ids[field])}
        carried = [positions.setdefault(w.ids[field], len(positions)) for w in waiting]
        ids.append(tuple(positions))
        local.append(np.concatenate([np.array(carried, dtype=np.int64), columns.local[field]]))
    labels = Labels(
        binary=np.concatenate([np.array([w.binary for w in waiting], dtype=np.float64), columns.labels.binary]),
        classes=np.concatenate([np.array([w.klass for w in waiting], dtype=np.int64), columns.labels.classes]),
    )
    times = np.concatenate([np.array([w.timestamp for w in waiting], dtype=np.int64), columns.times])
    return _interactions(np.stack(local), times, labels), (ids[0], ids[1])


def _interactions(local: NDArray[np.int64], times: NDArray[np.int64], labels: Labels) -> Interactions:
    """As the kernels take them; slots, and what is the learner's, are still empty."""
    nowhere = np.zeros(0, dtype=np.int64)
    uses, choices, foreseen = np.zeros((2, 0, 0)), np.zeros((2, 0), dtype=np.int64), np.zeros((2, 0), dtype=np.int8)
    return Interactions(local, (nowhere, nowhere), times, labels.binary, labels.classes, uses, choices, foreseen)


def _without(
    held_out: NDArray[np.bool_], carried: int, ordered: Operations, waiting: NDArray[np.int64]
) -> tuple[Operations, NDArray[np.int64]]:
    """The same without learning what is held out."""
    hidden = np.concatenate([np.zeros(carried, dtype=np.bool_), held_out])
    kept = (ordered.kinds == PREDICT) | ~hidden[ordered.events]
    return Operations(ordered.kinds[kept], ordered.events[kept]), waiting[~hidden[waiting]]


def _waiting_at(opened: OpenBatch, i: int) -> _Waiting:
    table = opened.interactions
    users, items = (opened.ids[field][table.local[field, i]] for field in range(2))
    return _Waiting(int(table.times[i]), users, items, float(table.binary[i]), int(table.classes[i]))
