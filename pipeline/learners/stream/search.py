"""Which blocks every id holds: chosen by validation, paid by the byte, and nothing lost by waiting.

An id gets the space n of dimensions d_n where Σ_{j ≤ n} worth_j(x) · (1 + count) - price · bytes_n is largest; n = 0 is no row at all.
worth is what the controllers expect block j to save per interaction, and 1 + count how many interactions an id with this count can
expect, as popularity is long-tailed. While a larger space is likely within a few times its present count, an id remembers its
interactions; when it gets the blocks, these learn them once, by ordinary Kalman steps of both rows.

A part of the ids, chosen by a hash, holds every block from the first interaction on: a panel, without which nobody would know what
blocks are worth to ids that have none.

Shape legend: B new interactions, E all of the mini-batch, n distinct ids, N blocks, K controller inputs; 2 sides.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.kernels import FIXED_INPUTS, Interactions, Memory, Predicted, controller_inputs, no_memory, validate, weights_at
from autoemb_pipeline.kernels.layout import COUNT, LAST_TIME
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.common.packing import read, restored
from autoemb_pipeline.learners.search.inputs import POPULARITY_INPUTS, popularity
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.controllers import CLUSTERS, Controller
from autoemb_pipeline.learners.stream.holdings import Holdings
from autoemb_pipeline.learners.stream.memory import Entry, Limits, append, as_columns, entries, forget, used_bytes
from autoemb_pipeline.learners.stream.price import Price
from autoemb_pipeline.learners.stream.rows import CONTEXT, REMEMBERED, REMEMBERED_BYTES, SidePlan, take
from autoemb_pipeline.open_batch import SIDES, OpenBatch
from autoemb_pipeline.records import FloatArray
from autoemb_pipeline.rows import Lent, RowStore, hashed_uniform

AHEAD = 4.0
"""Times the present count: how far ahead an id waits for a larger space."""
SHRUNK_BELOW = 0.5
"""A block that is held is taken when it is worth less than this part of its price."""
UNTRAINED = 0.75
"""Part of what a partner's blocks save that is lost with an interaction that they do not learn."""
LONGEST_SWEEP, STEEPER = 64, 0.01
"""Rounds of a sweep that a budget asks for, and by how much each raises the price."""
RESERVED = 0.03
"""Part of a budget that is left for new ids and for what they remember."""
ROOM = 48
"""Bytes left for remembering below which an id counts as one that can remember no more."""
USUAL_ENTRY = 12
"""Bytes of a remembered interaction."""
Z95 = 1.96
Integers = NDArray[np.int64]
Held = NDArray[np.bool_]


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
        self.controllers = tuple(Controller(self._spaces, FIXED_INPUTS + self._spaces) for _ in SIDES)
        self.price = Price(config.tolerance, config.memory_budget)
        self._inputs: list[FloatArray] = []
        self._worth: list[FloatArray] = []
        self._entries: list[tuple[Integers, list[list[Entry]]]] = []
        self._numbers: Sequence[NDArray[np.float32]] = ()
        self._clock = np.full(2, np.nan)  # s: the stream's first event time, and its latest
        self._removed = np.zeros(2, dtype=np.int64)  # blocks taken back from each side's ids
        self._held: list[Integers] = []
        self._used: list[Integers] = []
        self.choices: Integers = np.zeros((2, 0), dtype=np.int64)
        self.foreseen: NDArray[np.int8] = np.zeros((2, 0), dtype=np.int8)

    def choose(self, opened: OpenBatch, numbers: Sequence[NDArray[np.float32]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Decides what the ids of the new interactions shall hold. numbers: of both sides `id_numbers`.

        Returns:
            For each side further ids whose records must be lent: partners that promoted ids of the other side remember.
        """
        carried, counts = opened.carried, opened.counts
        times = opened.interactions.times[carried:] / 1000.0
        self._clock = np.array([np.fmin(self._clock[0], times.min()), np.fmax(self._clock[1], times.max())])
        total = len(opened.interactions.times)
        self.choices, self.foreseen = np.zeros((2, total), dtype=np.int64), np.zeros((2, total), dtype=np.int8)
        self._inputs, self._worth, self._entries = [], [], []
        self._numbers = numbers
        self._held = [side.levels(lent) for side, lent in zip(self.holdings, opened.lent, strict=True)]
        self._used = [used_bytes(lent.slabs[REMEMBERED], lent.slots) for lent in opened.lent]
        for field in range(2):
            local = opened.interactions.local[field, carried:]
            inputs = self._seen(opened.lent[field], local, opened.totals, field)
            worth = self.controllers[field].worth(inputs, counts[field])
            target, foreseen = self._targets(opened, field, local, inputs, worth)
            self.choices[field, carried:], self.foreseen[field, carried:] = target, foreseen
            self._inputs.append(inputs)
            self._worth.append(worth)
        if self.price.budget:
            self._afford(opened)
        for field in range(2):
            self._entries.append(self._promoted(opened, field))
        return self._partners(opened)

    def _seen(self, lent: Lent, local: Integers, totals: FloatArray, field: int) -> FloatArray:
        """[B, K + 1] the controllers' inputs and a constant."""
        inputs = np.ones((len(local), FIXED_INPUTS + self._spaces + 1))
        seen = np.zeros((len(local), FIXED_INPUTS + self._spaces), dtype=np.float32)
        controller_inputs(
            np.ascontiguousarray(local), lent.slots, lent.slabs[CONTEXT], totals, weights_at(field), np.zeros(len(local)), seen
        )
        inputs[:, :-1] = seen
        return inputs

    def _targets(
        self, opened: OpenBatch, field: int, local: Integers, inputs: FloatArray, worth: FloatArray
    ) -> tuple[Integers, NDArray[np.int8]]:
        """[B] blocks, and whether more are likely soon."""
        holdings, counts = self.holdings[field], opened.counts[field]
        held, remembered = self._held[field][local], self._used[field][local]
        price = self.price.value
        costs = price * np.broadcast_to(holdings.by_level.astype(np.float64), (len(local), self._spaces + 1)).copy()
        costs[:, 0] += price * np.minimum(remembered + USUAL_ENTRY, REMEMBERED_BYTES)
        costs[np.arange(self._spaces + 1) <= held[:, None]] *= SHRUNK_BELOW
        now = _best(worth, 1.0 + counts, costs)
        later = AHEAD * (1.0 + counts)
        ahead = inputs.copy()
        ahead[:, :POPULARITY_INPUTS] = popularity(later)
        soon = _best(self.controllers[field].worth(ahead, later), 1.0 + later, costs)
        full = remembered > REMEMBERED_BYTES - ROOM
        now = np.where((held == 0) & full, np.maximum(now, 1), now)
        panel = self._in_panel(self._numbers[field])[local]
        target = np.where(panel, self._spaces, np.maximum(now, held))
        return target, ((soon > target) & ~full).astype(np.int8)

    def _in_panel(self, numbers: NDArray[np.float32]) -> Held:
        """[n] from `id_numbers`."""
        return np.asarray(0.5 * (numbers[:, 0] / 3.0**0.5 + 1.0) < self._config.panel)

    def _afford(self, opened: OpenBatch) -> None:
        """Takes back what the budget has no room for: in the order of the interactions, the user before the item."""
        room = self._config.memory_budget * (1.0 - RESERVED) - self.bytes
        level = [held.copy() for held in self._held]
        local = opened.interactions.local
        more = [self.choices[field] > level[field][local[field]] for field in range(2)]
        for i in np.flatnonzero(more[0] | more[1]).tolist():
            for field in range(2):
                k, by_level = local[field, i], self.holdings[field].by_level
                cost = by_level[self.choices[field, i]] - by_level[level[field][k]]
                if cost > 0 and cost <= room:
                    room, level[field][k] = room - cost, self.choices[field, i]
                self.choices[field, i] = min(self.choices[field, i], level[field][k])

    def _promoted(self, opened: OpenBatch, field: int) -> tuple[Integers, list[list[Entry]]]:
        """Ids that will get blocks and remember something, and what."""
        lent, local = opened.lent[field], opened.interactions.local[field]
        most = np.zeros(len(lent.slots), dtype=np.int64)
        np.maximum.at(most, local, self.choices[field])
        promoted = np.flatnonzero((self._used[field] > 0) & (most > self._held[field]))
        part = lent.slabs[REMEMBERED]
        return promoted, [entries(part, slot, self._outputs) for slot in lent.slots[promoted].tolist()]

    def _partners(self, opened: OpenBatch) -> tuple[tuple[str, ...], tuple[str, ...]]:
        further = []
        for field in range(2):
            here = set(opened.ids[field])
            named = {entry.partner: None for own in self._entries[1 - field][1] for entry in own if entry.partner not in here}
            further.append(tuple(named))
        return further[0], further[1]

    def memory(self, opened: OpenBatch, interactions: Interactions) -> Memory:
        """What the kernel needs of the past to give blocks; all partners are lent by now."""
        memory = no_memory(interactions, self._outputs)
        columns = []
        for field in range(2):
            promoted, remembered = self._entries[field]
            positions = {identifier: k for k, identifier in enumerate(opened.ids[1 - field])} if remembered else {}
            columns.append(as_columns(remembered, promoted, len(opened.ids[field]), positions, self._outputs))
        starts, partners, offsets, labels, shared = zip(*columns, strict=True)
        return memory._replace(starts=starts, partners=partners, offsets=offsets, labels=labels, shared=shared)

    def keep(self, opened: OpenBatch, memory: Memory) -> None:
        """Packs what the mini-batch left to remember into the records."""
        interactions = opened.interactions
        labels = interactions.classes if self._outputs > 1 else interactions.binary.astype(np.int64)
        touched = [np.flatnonzero((memory.heads[field] >= 0) | (memory.forgotten[field] != 0)) for field in range(2)]
        changed = [some_of(lent, rows) for lent, rows in zip(opened.lent, touched, strict=True)]
        before = [side.measure(lent) for side, lent in zip(self.holdings, changed, strict=True)]
        limits = self._limits()
        for field in range(2):
            lent = opened.lent[field]
            forget(lent.slabs[REMEMBERED], lent.slots[memory.forgotten[field] != 0])
            limits = append(opened.lent, REMEMBERED, field, memory, interactions.local, labels, opened.ids, limits)
        for field in range(2):
            self.holdings[field].account(changed[field], before[field])

    def _limits(self) -> Limits | None:
        """What the budget, if there is one, lets be remembered: everything while it is half empty."""
        budget = self.price.budget
        if not budget:
            return None
        likely = self.foreseen if 2 * self.bytes > budget else np.ones_like(self.foreseen)
        return Limits(max(int(budget * (1.0 - RESERVED)) - self.bytes, 0), likely)

    def learn(self, opened: OpenBatch, interactions: Interactions, out: Predicted) -> None:
        """The controllers learn from the mini-batch's losses, and the price moves."""
        new, total = slice(opened.carried, None), out.levels.shape[1]
        losses, expected = np.empty((total, self._spaces + 1)), np.empty((total, self._spaces))
        validate(interactions, out, losses, expected)
        level = out.levels[:, new].min(axis=0)
        lacking = np.arange(self._spaces)[None, :] >= level[:, None]
        saved = (losses[:, :-1] - losses[:, 1:])[new]
        known = np.where(lacking, np.nan, expected[new])
        clusters = self._clusters(opened)
        for field, controller in enumerate(self.controllers):
            controller.learn(self._inputs[field], opened.counts[field], known, saved, clusters)
        self.price.move(self._given_up(out.levels[:, new], level), self.bytes)

    def _clusters(self, opened: OpenBatch) -> Integers:
        own = np.ascontiguousarray(self._numbers[0][:, 1]).view(np.int32).astype(np.int64) % CLUSTERS
        known: Integers = own[opened.interactions.local[0, opened.carried :]]
        return known

    def _given_up(self, levels: Integers, level: Integers) -> float:
        """Mean over the interactions of what the blocks that the pair lacked would have saved, now and by their learning."""
        lost = []
        for worth in self._worth:
            remaining = np.concatenate([np.cumsum(worth[:, ::-1], axis=1)[:, ::-1], np.zeros((len(worth), 1))], axis=1)
            lost.append(remaining[np.arange(len(level)), level])
        lacks = levels == level
        one = np.where(lacks[0], lost[0] + UNTRAINED * lost[1], lost[1] + UNTRAINED * lost[0])
        return float(np.where(lacks.all(axis=0), np.minimum(lost[0], lost[1]), one).mean())

    def sweep(self, totals: FloatArray) -> None:
        """Takes blocks that are not worth their price any more from some ids of each side; under a budget until it is kept."""
        self._visit(totals, self.price.value)
        rounds = 0
        while self.price.budget and self.bytes > self.price.budget and rounds < LONGEST_SWEEP:
            rounds += 1
            self.price.raise_by(STEEPER)
            self._visit(totals, self.price.value * 2.0**rounds)

    @property
    def bytes(self) -> int:
        """Kept for embeddings by both sides."""
        return sum(side.bytes for side in self.holdings)

    def _future(self, lent: Lent, counts: FloatArray) -> FloatArray:
        """[n] interactions that ids can expect: as many as they had, but one not seen for a part s of the stream's time at most 1/s."""
        first, latest = self._clock
        idle = np.maximum(latest - lent.slabs[CONTEXT][lent.slots, LAST_TIME], 1.0)
        future: FloatArray = np.minimum(1.0 + counts, max(latest - first, 1.0) / idle)
        return future

    def _visit(self, totals: FloatArray, price: float) -> None:
        """Judges the next ids of both sides; the panel keeps its blocks unless a budget is exceeded."""
        for field, (plan, holdings) in enumerate(zip(self._plans, self.holdings, strict=True)):
            visited = holdings.next_visited()
            if not visited:
                continue
            lent = self._store.lend(plan.name, visited)
            inputs = self._seen(lent, np.arange(len(visited)), totals, field)
            counts, held = lent.slabs[CONTEXT][lent.slots, COUNT], holdings.levels(lent)
            worth = self.controllers[field].worth(inputs, counts)
            costs = SHRUNK_BELOW * price * np.broadcast_to(holdings.by_level.astype(np.float64), (len(held), self._spaces + 1))
            left = _best(worth, self._future(lent, counts), np.where(np.arange(self._spaces + 1) <= held[:, None], costs, np.inf))
            exceeded = bool(self.price.budget) and self.bytes > self.price.budget
            panel = self._in_panel(id_numbers(visited, self._config.seed))
            left = np.where(panel & (not exceeded), held, left)
            remembers = used_bytes(lent.slabs[REMEMBERED], lent.slots) > 0
            poor = np.flatnonzero((left < held) | (remembers & (held == 0) & exceeded))
            if not len(poor):
                continue
            lent = some_of(lent, poor)
            before = holdings.measure(lent)
            take(plan, lent, left[poor])
            self._removed[field] += int((before[0] - left[poor]).sum())
            if exceeded:
                forget(lent.slabs[REMEMBERED], lent.slots)
            self._store.keep(plan.name, lent)
            holdings.account(lent, before)

    def report(self) -> dict[str, object]:
        """Fields of the metrics topic: the loss given up with its 95% interval, the price, and the number of ids in every space."""
        given_up = self.price.given_up
        error = max(controller.uncertainty() for controller in self.controllers)
        half = None if given_up is None or not np.isfinite(error) else Z95 * error * abs(given_up)
        low, high = (None, None) if given_up is None or half is None else (given_up - half, given_up + half)
        widths = (0, *self._config.dims)
        return {
            "loss_given_up": given_up,
            "loss_given_up_low": low,
            "loss_given_up_high": high,
            "unresolved": None if given_up is None else half is None or half > self._config.tolerance,
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
            "search/price": np.array([self.price.value, self.price.level, given_up]),
            "search/clock": self._clock.copy(),
            "search/removed": self._removed.copy(),
        }

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        for side, controller in zip(SIDES, self.controllers, strict=True):
            controller.load_state_dict(f"controllers/{side}", state)
        value, level, given_up = read(state, "search/price").tolist()
        self._clock = restored(state, "search/clock", self._clock)
        # Checkpoints of earlier versions did not count.
        self._removed = restored({"search/removed": np.zeros_like(self._removed), **state}, "search/removed", self._removed)
        self.price = replace(self.price, value=value, level=level, given_up=None if np.isnan(given_up) else given_up)


def _best(worth: FloatArray, future: FloatArray, costs: FloatArray) -> Integers:
    """[B] the number of blocks with the largest surplus; the fewest of equals. worth: [B, N]; future: [B]; costs: [B, N + 1]."""
    total = np.concatenate([np.zeros((len(worth), 1)), np.cumsum(worth, axis=1)], axis=1) * future[:, None]
    best: Integers = np.argmax(total - costs, axis=1)
    return best


def id_numbers(ids: Sequence[str], seed: int) -> NDArray[np.float32]:
    """[n, 4] uniform numbers of the ids: for the panel, the cluster, and (two) for rounding."""
    return hashed_uniform(ids, seed=seed, table="search", width=4, std=1.0)


def some_of(lent: Lent, rows: Integers) -> Lent:
    """Some of the lent records."""
    return Lent(lent.slabs, lent.slots[rows], [lent.ids[k] for k in rows.tolist()], lent.own)
