"""Which blocks every id holds: chosen by validation, paid by the byte, and nothing lost by waiting.

An id gets the space n of dimensions d_n where Σ_{j ≤ n} worth_j(x) · (1 + count) - price · bytes_n is largest; n = 0 is no row at all.
worth is what the controllers expect block j to save per interaction, and 1 + count how many interactions an id with this count can
expect, as popularity is long-tailed. While a larger space is likely within a few times its present count, an id remembers its
interactions; when it gets the blocks, these learn them once, by ordinary Kalman steps of both rows.

A part of the ids, chosen by a hash, holds every block from the first interaction on: a panel, without which nobody would know what
blocks are worth to ids that have none. It grows while the loss given up is not known to within the tolerance, and its blocks are less than
5% of the bytes.

Shape legend: B new interactions, E all of the mini-batch, n distinct ids, N blocks, K controller inputs; 2 sides.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import (
    Costs,
    Interactions,
    Measured,
    Memory,
    Predicted,
    Seen,
    choose,
    given_up,
    in_panel,
    judge,
    no_memory,
    promoted,
    see,
    validate,
    weights_at,
)
from autoemb_pipeline.kernels.layout import COUNT, LEARNT
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import read, restored
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.controllers import CLUSTERS, Controller
from autoemb_pipeline.learners.stream.holdings import Holdings
from autoemb_pipeline.learners.stream.memory import Remembered, append, as_columns, forget, recall
from autoemb_pipeline.learners.stream.price import Price
from autoemb_pipeline.learners.stream.rows import CONTEXT, REMEMBERED, REMEMBERED_BYTES, SidePlan, take
from autoemb_pipeline.open_batch import SIDES, OpenBatch
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import JoinedTexts, Lent, RowStore, hashed_uniform_of, joined_texts

TURN, VISITED_IN_TURN = 2000, 256
"""After so many learnt labels so many ids of each side are judged."""
VISITED_IN_ROUND = 64
LONGEST_SWEEP, STEEPER = 64, 0.01
"""Rounds of a sweep that a budget asks for, and by how much each raises the price."""
RESERVED = 0.03
"""Part of a budget that is left for new ids and for what they remember."""
PANEL_GROWTH, PANEL_OF_BYTES = 1.02, 0.05
"""By how much the panel grows after a mini-batch, and what part of the bytes it may take."""
UNBOUNDED = np.iinfo(np.int64).max
Z95 = 1.96
Integers = NDArray[np.int64]
Held = NDArray[np.bool_]


class Named(NamedTuple):
    """n distinct ids of a side: their texts, and [n, 4] uniform numbers, for the panel, the cluster, and (two) for rounding."""

    texts: JoinedTexts
    numbers: NDArray[np.float32]

    @classmethod
    def of(cls, ids: Sequence[str], seed: int) -> Self:
        """Hashes the ids."""
        texts = joined_texts(ids)
        return cls(texts, hashed_uniform_of(texts, seed=seed, table="search", width=4, std=1.0))

    @property
    def keys(self) -> NDArray[np.uint64]:
        """[n] what decides how rows are rounded."""
        return np.ascontiguousarray(self.numbers[:, 2:]).view(np.uint64)[:, 0]


class Search:
    """The choices of both sides.

    Args:
        config: spaces, price, panel, method.
        plans: both sides' rows.
        holdings: both sides' bytes.
        store: holds the records.
        outputs: C logits of a prediction.
    """

    def __init__(
        self, config: StreamConfig, plans: tuple[SidePlan, SidePlan], holdings: tuple[Holdings, Holdings], store: RowStore, outputs: int
    ) -> None:
        self._config, self._plans, self._store, self._outputs = config, plans, store, outputs
        self._spaces = len(config.dims)
        self.holdings = holdings
        self.controllers = tuple(Controller(self._spaces) for _ in SIDES)
        self.price = Price(config.tolerance, config.memory_budget)
        self.panel = config.panel
        self._seen: list[Seen] = []
        self._worth: list[FloatArray] = []
        self._recalled: list[tuple[Integers, Remembered]] = []  # positions of promoted ids, and what they remember
        self._named: Sequence[Named] = ()
        self._clock = np.full(2, np.nan)  # s: the stream's first event time, and its latest
        self._before: list[Measured] = []
        self._learnt = 0  # labels before the mini-batch
        self._room = UNBOUNDED  # bytes that may be remembered of a mini-batch
        self._removed = np.zeros(2, dtype=np.int64)  # blocks taken back from each side's ids
        self.choices: Integers = np.zeros((2, 0), dtype=np.int64)
        self.foreseen: NDArray[np.int8] = np.zeros((2, 0), dtype=np.int8)

    def choose(self, opened: OpenBatch, named: Sequence[Named]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Decides what the ids of the new interactions shall hold. named: both sides' ids.

        Returns:
            For each side further ids whose records must be lent: partners that promoted ids of the other side remember.
        """
        carried = opened.carried
        times = opened.interactions.times[carried:] / 1000.0
        self._learnt = int(opened.totals[LEARNT])
        self._clock = np.array([np.fmin(self._clock[0], times.min()), np.fmax(self._clock[1], times.max())])
        total = len(opened.interactions.times)
        self.choices, self.foreseen = np.zeros((2, total), dtype=np.int64), np.zeros((2, total), dtype=np.int8)
        self._seen, self._worth, self._named = [], [], named
        self._before = [side.measure(lent) for side, lent in zip(self.holdings, opened.lent, strict=True)]
        for field, counts in enumerate((opened.inputs.users.count, opened.inputs.items.count)):
            local, before, controller = opened.interactions.local[field, carried:], self._before[field], self.controllers[field]
            seen = self._look(opened.lent[field], local, counts, opened.totals, field)
            worth = np.empty((len(local), self._spaces))
            own, foreseen = self.choices[field, carried:], self.foreseen[field, carried:]
            choose(local, before, named[field].numbers, seen, controller.says, self._costs(field, self.price.value), worth, own, foreseen)
            self._seen.append(seen)
            self._worth.append(worth)
        if self.price.budget:
            self._afford(opened)
        self._recalled = [self._promoted(opened, field) for field in range(2)]
        return self._partners(opened)

    def _look(self, lent: Lent, local: Integers, counts: FloatArray, totals: FloatArray, field: int) -> Seen:
        """What the side's controller sees of ids [B] at these positions."""
        seen = Seen(counts, np.empty(len(local), dtype=np.int64), np.empty((len(local), self._spaces + 4)))
        see(local, lent.slots, lent.slabs[CONTEXT], totals, weights_at(field), seen)
        return seen

    def _costs(self, field: int, price: float) -> Costs:
        return Costs(self.holdings[field].by_level, price, REMEMBERED_BYTES, self.panel)

    def _afford(self, opened: OpenBatch) -> None:
        """Takes back what the budget has no room for: in the order of the interactions, the user before the item."""
        room = max(int(self.price.budget * (1.0 - RESERVED)) - self.bytes, 0)
        level = [before.levels.copy() for before in self._before]
        local = opened.interactions.local
        more = [self.choices[field] > level[field][local[field]] for field in range(2)]
        for i in np.flatnonzero(more[0] | more[1]).tolist():
            for field in range(2):
                k, by_level = local[field, i], self.holdings[field].by_level
                cost = by_level[self.choices[field, i]] - by_level[level[field][k]]
                if cost > 0 and cost <= room:
                    room, level[field][k] = room - cost, self.choices[field, i]
                self.choices[field, i] = min(self.choices[field, i], level[field][k])
        self._room = room

    def _promoted(self, opened: OpenBatch, field: int) -> tuple[Integers, Remembered]:
        lent, by_level = opened.lent[field], self.holdings[field].by_level
        which = promoted(opened.interactions.local[field], self.choices[field], self._before[field], by_level)
        return which, recall(lent.slabs[REMEMBERED], lent.slots[which], self._outputs)

    def _partners(self, opened: OpenBatch) -> tuple[tuple[str, ...], tuple[str, ...]]:
        further: list[tuple[str, ...]] = []
        for field in range(2):
            partners = dict.fromkeys(self._recalled[1 - field][1].partners)
            if partners:
                here = frozenset(opened.ids[field])
                partners = {partner: None for partner in partners if partner not in here}
            further.append(tuple(partners))
        return further[0], further[1]

    def memory(self, opened: OpenBatch, interactions: Interactions) -> Memory:
        """What the kernel needs of the past to give blocks; all partners are lent by now."""
        memory = no_memory(interactions, self._outputs)
        columns = []
        for field, (which, remembered) in enumerate(self._recalled):
            ids = opened.ids[1 - field] if remembered.partners else ()
            positions = {identifier: k for k, identifier in enumerate(ids)}
            columns.append(as_columns(remembered, which, len(opened.ids[field]), positions))
        starts, partners, offsets, labels, shared = zip(*columns, strict=True)
        return memory._replace(starts=starts, partners=partners, offsets=offsets, labels=labels, shared=shared)

    def keep(self, opened: OpenBatch, memory: Memory) -> None:
        """Packs what the mini-batch left to remember into the records; before its blocks are accounted."""
        interactions = opened.interactions
        labels = interactions.classes if self._outputs > 1 else interactions.binary.astype(np.int64)
        scarce = bool(self.price.budget) and 2 * self.bytes > self.price.budget
        likely, room = self.foreseen if scarce else np.ones_like(self.foreseen), self._room
        for field, lent in enumerate(opened.lent):
            forget(lent.slabs[REMEMBERED], lent.slots[memory.forgotten[field] != 0])
            part, partners = lent.slabs[REMEMBERED], self._named[1 - field].texts
            room = append(lent.slots, part, field, memory, interactions.local, labels, partners, likely[field], room)

    def learn(self, opened: OpenBatch, interactions: Interactions, out: Predicted) -> None:
        """The controllers learn from the mini-batch's losses, and the price moves."""
        new, total = slice(opened.carried, None), out.levels.shape[1]
        losses, expected = np.empty((total, self._spaces + 1)), np.empty((total, self._spaces))
        validate(interactions, out, losses, expected)
        levels = np.ascontiguousarray(out.levels[:, new])
        level, clusters = levels.min(axis=0), self._clusters(opened)
        for seen, controller in zip(self._seen, self.controllers, strict=True):
            controller.learn(seen, level, losses[new], expected[new], clusters)
        self.price.move(given_up((self._worth[0], self._worth[1]), levels), self.bytes)
        whole = sum(side.ids * int(side.by_level[-1]) for side in self.holdings)
        if self._half_interval() > self._config.tolerance and PANEL_GROWTH * self.panel * whole < PANEL_OF_BYTES * self.bytes:
            self.panel *= PANEL_GROWTH

    def _half_interval(self) -> float:
        """Half of the 95% interval of the loss given up; infinite before anything is known of it."""
        error = max(controller.uncertainty() for controller in self.controllers)
        if self.price.given_up is None or not np.isfinite(error):
            return float("inf")
        return Z95 * error * abs(self.price.given_up)

    def _clusters(self, opened: OpenBatch) -> Integers:
        own = np.ascontiguousarray(self._named[0].numbers[:, 1]).view(np.int32).astype(np.int64) % CLUSTERS
        known: Integers = own[opened.interactions.local[0, opened.carried :]]
        return known

    def sweep(self, totals: FloatArray) -> None:
        """Takes blocks that are not worth their price any more from some ids of each side; under a budget until it is kept.

        Their turn comes with every so many labels learnt, whatever the size of mini-batches.
        """
        turns = int(totals[LEARNT]) // TURN - self._learnt // TURN
        if turns:
            self._visit(totals, self.price.value, turns * VISITED_IN_TURN)
        rounds = 0
        while self.price.budget and self.bytes > self.price.budget and rounds < LONGEST_SWEEP:
            rounds += 1
            self.price.raise_by(STEEPER)
            self._visit(totals, self.price.value * 2.0**rounds, VISITED_IN_ROUND)

    @property
    def bytes(self) -> int:
        """Kept for embeddings by both sides."""
        return sum(side.bytes for side in self.holdings)

    def _visit(self, totals: FloatArray, price: float, count: int) -> None:
        """Judges the next ids of both sides; the panel keeps its blocks unless a budget is exceeded."""
        for field, (plan, holdings) in enumerate(zip(self._plans, self.holdings, strict=True)):
            visited = holdings.next_visited(count)
            if not visited:
                continue
            lent = self._store.lend(plan.name, visited)
            before = holdings.measure(lent)
            seen = self._look(lent, np.arange(len(visited)), lent.slabs[CONTEXT][lent.slots, COUNT], totals, field)
            held, left = before.levels, np.empty(len(visited), dtype=np.int64)
            costs, says = self._costs(field, price), self.controllers[field].says
            judge(lent.slots, lent.slabs[CONTEXT], held, seen, says, costs, self._clock, left)
            exceeded = bool(self.price.budget) and self.bytes > self.price.budget
            panel = in_panel(Named.of(visited, self._config.seed).numbers, self.panel)
            left = np.where(panel & (not exceeded), held, left)
            remembers = holdings.remembered(before) > 0
            poor = np.flatnonzero((left < held) | (remembers & (held == 0) & exceeded))
            if not len(poor):
                continue
            lent = some_of(lent, poor)
            before = holdings.measure(lent)
            take(plan, lent, left[poor])
            self._removed[field] += int((before.levels - left[poor]).sum())
            if exceeded:
                forget(lent.slabs[REMEMBERED], lent.slots)
            self._store.keep(plan.name, lent)
            holdings.account(lent, before)

    def report(self) -> dict[str, object]:
        """Fields of the metrics topic: the loss given up with its 95% interval, the price, and the number of ids in every space."""
        given_up = self.price.given_up
        half = self._half_interval()
        low, high = (None, None) if given_up is None or not np.isfinite(half) else (given_up - half, given_up + half)
        widths = (0, *self._config.dims)
        return {
            "loss_given_up": given_up,
            "loss_given_up_low": low,
            "loss_given_up_high": high,
            "unresolved": None if given_up is None else half > self._config.tolerance,
            "price_per_byte": self.price.value,
            "memory_budget": self._config.memory_budget or None,
            **{f"{side}_removed_blocks": removed for side, removed in zip(SIDES, self._removed.tolist(), strict=True)},
            **{
                f"{side}_ids_of_space": dict(zip(map(str, widths), holdings.holders.tolist(), strict=True))
                for side, holdings in zip(SIDES, self.holdings, strict=True)
            },
        }

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Controllers, price and clock; copies."""
        arrays: dict[str, NDArray[Any]] = {}
        for side, controller in zip(SIDES, self.controllers, strict=True):
            arrays |= controller.state_dict(f"controllers/{side}")
        given_up = np.nan if self.price.given_up is None else self.price.given_up
        return {
            **arrays,
            "search/price": np.array([self.price.value, self.price.level, given_up, self.panel]),
            "search/clock": self._clock.copy(),
            "search/removed": self._removed.copy(),
        }

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        for side, controller in zip(SIDES, self.controllers, strict=True):
            controller.load_state_dict(f"controllers/{side}", state)
        value, level, given_up, self.panel = read(state, "search/price").tolist()
        self._clock = restored(state, "search/clock", self._clock)
        self._removed = restored(state, "search/removed", self._removed)
        self.price = replace(self.price, value=value, level=level, given_up=None if np.isnan(given_up) else given_up)


def some_of(lent: Lent, rows: Integers) -> Lent:
    """Some of the lent records."""
    return Lent(lent.slabs, lent.slots[rows], [lent.ids[k] for k in rows.tolist()], lent.own)
