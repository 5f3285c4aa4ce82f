"""A time to live: ids whose last event lies too far back are removed, over the store in memory and over RocksDB alike."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.context import expiry
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kernels import blank_context
from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.learners.stream.rows import CONTEXT
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.records import Interaction, OfflineStage
from autoemb_pipeline.rows import AnySpec, Lent, RowStore
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.learners.stream.running import EVERY_METHOD, SEARCHING, config, everything, search_of, steps
from tests.learners.stream.test_holdings import holdings_of, kept
from tests.state.conftest import make, tmp_path
from tests.streams import passing_stream

TTL = 60.0  # s
DAYS = {"ttl_days": TTL / 86_400.0}
STREAM = passing_stream(800, seed=5, late=37)
SIZE = 40
BEFORE = 200
Make = Callable[[Sequence[AnySpec]], RowStore]
OPTIONS = [
    {},
    SEARCHING,
    {"method": "sam", "row_precision": "float32", **SEARCHING},
    {"method": "darts"},
    {"method": "fse", "context": "batch"},
    {"context": "strict", "task": "rating", **SEARCHING},
    {"memory_budget": 3000, "panel": 0.3},
]
PAPER = [{"method": method} for method in ("fse", "sam", "autoemb")] + [
    {"method": "autoemb", "preset": "paper"},
    {"method": "autoemb", "preset": "residual"},
]


def paper_config(*, preset: str = "paper-layernorm", method: str) -> TrainerConfig:
    small = from_preset(preset, method=method, dims=(2, 4), hidden=(6,), controller_hidden=(5,))
    like = config(**DAYS)
    return TrainerConfig(learner=small, context=type(like.context)(spaces=2, **DAYS), prequential=like.prequential)


def ids_in(store: RowStore, table: str) -> set[str]:
    return {i for i, _ in store.records(table)}


def last_events(stream: Sequence[Interaction]) -> tuple[dict[str, float], dict[str, float], float]:
    """By the words of the option: each id's latest event time, of both sides, and the stream's; s."""
    last: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for record in stream:
        for own, i in zip(last, (record.user_id, record.item_id), strict=True):
            own[i] = max(own.get(i, -np.inf), record.timestamp / 1000)
    return *last, max(record.timestamp / 1000 for record in stream)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_ids_that_are_due_go_and_no_others(make: Make, options: dict[str, Any]) -> None:
    of = config(**DAYS, **options)
    store = make(trainer_tables(of))
    by = Trainer(of, store)
    met: tuple[set[str], set[str]] = (set(), set())
    for end in range(SIZE, len(STREAM) + 1, SIZE):
        steps(by, STREAM[:end], SIZE, first=end - SIZE)
        *lasts, latest = last_events(STREAM[:end])
        for side, last in zip(SIDES, lasts, strict=True):
            gone = last.keys() - ids_in(store, side)
            assert all(last[i] < latest - TTL for i in gone)
            assert store.count(side) == len(ids_in(store, side))
            waiting = {i for w in by._method.context._waiting for i in w.ids}
            overdue = {i for i in ids_in(store, side) if last[i] < latest - TTL}
            assert overdue <= waiting, "so few ids are all visited at once"
            met[SIDES.index(side)].update(gone)
    report = by._method.report()
    for side, gone in zip(SIDES, met, strict=True):
        assert len(gone) > 60
        assert report[f"{side}_removed_ids"] > len(gone), "some came back and were removed again"


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bytes_are_those_of_the_ids_that_are_left(options: dict[str, Any]) -> None:
    of = config(**DAYS, **options)
    store = MemoryRowStore(trainer_tables(of))
    by, tables = Trainer(of, store), {spec.name: spec for spec in trainer_tables(of)}
    for end in range(SIZE, len(STREAM) + 1, SIZE):
        steps(by, STREAM[:end], SIZE, first=end - SIZE)
        for side, holdings in zip(SIDES, holdings_of(by), strict=True):
            assert (holdings.ids, holdings.bytes, holdings.context_bytes) == kept(store, tables[side])
            assert all(record[CONTEXT][COUNT] > 0 for _, record in store.records(side))


def test_a_partner_that_was_removed_is_remembered_and_not_kept() -> None:
    """Else the tests above would hold of a search that never learns with an id that is no more."""
    of = config(**DAYS, **SEARCHING)
    store = MemoryRowStore(trainer_tables(of))
    by, lost = Trainer(of, store), 0
    for end in range(SIZE, len(STREAM) + 1, SIZE):
        before = ids_in(store, "user"), ids_in(store, "item")
        steps(by, STREAM[:end], SIZE, first=end - SIZE)
        here = {r.user_id for r in STREAM[end - SIZE : end]}, {r.item_id for r in STREAM[end - SIZE : end]}
        for field in range(2):
            named = set(search_of(by)._recalled[1 - field][1].partners)
            lost += len(named - before[field] - here[field])
    assert lost > 5


@pytest.mark.parametrize("options", PAPER, ids=str)
def test_the_papers_rows_go_too(make: Make, options: dict[str, Any]) -> None:
    of = paper_config(**options)
    store, stream = make(trainer_tables(of)), passing_stream(320, seed=5)
    by = Trainer(of, store)
    steps(by, stream, SIZE)
    *lasts, latest = last_events(stream)
    for side, last in zip(SIDES, lasts, strict=True):
        alive = {i for i, seconds in last.items() if seconds >= latest - TTL}
        assert ids_in(store, side) == ids_in(store, f"embedding.{side}") == alive
        assert len(alive) < len(last) - 10
        assert by._method.report()[f"{side}_removed_ids"] >= len(last) - len(alive)


@pytest.mark.parametrize("options", [*OPTIONS, *({"paper": own} for own in PAPER)], ids=str)
def test_every_store_gives_the_same_bits(make: Make, options: dict[str, Any]) -> None:
    of = paper_config(**options["paper"]) if "paper" in options else config(**DAYS, **options)
    stream = STREAM[:320]
    one, other = MemoryRowStore(trainer_tables(of)), make(trainer_tables(of))
    first, second = Trainer(of, one), Trainer(of, other)
    np.testing.assert_array_equal(steps(first, stream, SIZE), steps(second, stream, SIZE))
    assert first.payload() == second.payload()
    mine, theirs = everything(first, one, of), everything(second, other, of)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def with_tail(by: Trainer, stream: list[Interaction], tail: Sequence[tuple[str, str, float]]) -> None:
    """Trains further interactions, (user, item, seconds after the first ones' last), each a mini-batch of its own; the stream gets them."""
    for user, item, seconds in tail:
        time = stream[BEFORE - 1].timestamp + round(1000 * seconds)
        stream.append(Interaction(user, item, 5.0, time, "passing", len(stream)))
        steps(by, stream, 1, first=len(stream) - 1)


def trained(**options: Any) -> tuple[Trainer, MemoryRowStore, list[Interaction]]:
    of, stream = config(**DAYS, **options), passing_stream(BEFORE, seed=6)
    store = MemoryRowStore(trainer_tables(of))
    by = Trainer(of, store)
    steps(by, stream, BEFORE)
    return by, store, stream


@pytest.mark.parametrize("options", [{}, {"method": "fse"}, {"method": "darts"}], ids=str)
def test_who_comes_back_is_new(options: dict[str, Any]) -> None:
    by, store, stream = trained(**options)
    with_tail(by, stream, [("back", "any", 0.0), ("u", "i", TTL), ("u", "i", TTL + 1)])
    assert "back" not in ids_in(store, "user")
    assert {"u", "any"} & ids_in(store, "user") == {"u"}
    lent = store.lend("user", ["back"])
    np.testing.assert_array_equal(lent.slabs[0][lent.slots], blank_context(0, 1, 3, 0))
    never = store.lend("user", ["never"])
    for back, new in zip(lent.slabs[2:], never.slabs[2:], strict=True):
        np.testing.assert_array_equal(back[lent.slots], new[never.slots])
    with_tail(by, stream, [("back", "i", TTL + 2)])
    (context,) = [record[CONTEXT] for i, record in store.records("user") if i == "back"]
    assert context[COUNT] == 1


def test_an_event_exactly_as_old_as_the_time_to_live_is_not_too_old() -> None:
    by, store, stream = trained()
    with_tail(by, stream, [("edge", "i", 0.0), ("u", "i", TTL)])
    assert "edge" in ids_in(store, "user")
    with_tail(by, stream, [("u", "i", TTL + 0.001)])
    assert "edge" not in ids_in(store, "user")


def test_late_interactions_are_trained_and_neither_take_the_clock_back_nor_an_id() -> None:
    by, store, stream = trained()
    before = by.examples
    with_tail(by, stream, [("alive", "i", 0.0), ("alive", "i", -2 * TTL), ("only late", "i", -2 * TTL), ("alive", "i", -1.0)])
    assert by.examples == before + 4
    assert "alive" in ids_in(store, "user"), "a late interaction does not make its id's last one older"
    assert "only late" not in ids_in(store, "user"), "removed at its turn, here with the mini-batch that trained it"
    with_tail(by, stream, [("other", "j", -2 * TTL)])
    assert "alive" in ids_in(store, "user"), "the latest event time counts"


def test_ids_that_wait_for_their_labels_stay() -> None:
    """In `strict` a late mini-batch leaves interactions waiting whose time is long over."""
    by, store, stream = trained(context="strict")
    end = stream[-1].timestamp / 1000
    with_tail(by, stream, [("waits", "w", -5 * TTL)])
    assert ("waits", end - 5 * TTL) in [(w.user_id, w.timestamp / 1000) for w in by._method.context._waiting]
    assert "waits" in ids_in(store, "user")
    with_tail(by, stream, [("u", "i", 0.0), ("u", "i", 1.0)])
    assert "waits" not in ids_in(store, "user")


class Counting(MemoryRowStore):
    """Counts the ids lent."""

    def __init__(self, specs: Sequence[AnySpec]) -> None:
        super().__init__(specs)
        self.lent: list[int] = []

    def lend(self, table: str, ids: Sequence[str]) -> Lent:
        self.lent.append(len(ids))
        return super().lend(table, ids)


def test_the_cost_of_a_step_follows_the_mini_batch_not_the_table() -> None:
    most = []
    for known in (500, 4000):
        of = config("fse", ttl_days=1.0)
        store = Counting(trainer_tables(of))
        by = Trainer(of, store)
        many = [Interaction(f"u{k}", f"i{k}", 5.0, 1_000_000_000_000 + k, "many", k) for k in range(known)]
        steps(by, many, known)
        store.lent.clear()
        with_tail(by, many, [("u1", "i1", float(k)) for k in range(10)])
        most.append(max(store.lent))
    assert most == [expiry.VISITED_AT_LEAST] * 2


def test_however_fast_ids_come_those_that_are_due_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event a new user: of those kept at most half are overdue, though no visit sees them all."""
    monkeypatch.setattr(expiry, "VISITED_AT_LEAST", 1)
    of = config("fse", ttl_days=100 / 86_400)
    store = MemoryRowStore(trainer_tables(of))
    stream = [Interaction(f"{k * 7919 % 5000}", "i", 5.0, 1_000_000_000_000 + 1000 * k, "new", k) for k in range(3000)]
    by, kept_users = Trainer(of, store), []
    for end in range(20, len(stream) + 1, 20):
        steps(by, stream[:end], 20, first=end - 20)
        kept_users.append(store.count("user"))
    assert 100 <= min(kept_users[10:]) <= max(kept_users[10:]) <= 2 * 100
    assert by._method.report()["user_removed_ids"] == 3000 - store.count("user")


def test_blocks_taken_back_are_counted_and_restored() -> None:
    of, stream = config(memory_budget=5000, panel=0.3), passing_stream(800, seed=5, every=20)
    store = MemoryRowStore(trainer_tables(of))
    by = Trainer(of, store)
    before = dict.fromkeys(SIDES, 0)
    taken = 0
    for end in range(SIZE, len(stream) + 1, SIZE):
        search = search_of(by)
        held = [int((h.holders * np.arange(4)).sum()) for h in search.holdings]
        steps(by, stream[:end], SIZE, first=end - SIZE)
        report = by._method.report()
        for field, side in enumerate(SIDES):
            fewer = report[f"{side}_removed_blocks"] - before[side]
            given = int((search.holdings[field].holders * np.arange(4)).sum()) - held[field] + fewer
            assert fewer >= 0 <= given, "what is held is what was given less what was taken"
            before[side] = report[f"{side}_removed_blocks"]
    taken = sum(before.values())
    assert taken > 20
    again = Trainer(of, store)
    again.restore(by.tensors(), by.payload())
    assert {side: again._method.report()[f"{side}_removed_blocks"] for side in SIDES} == before


def test_without_a_time_to_live_nothing_is_removed_or_said() -> None:
    of = config()
    store = MemoryRowStore(trainer_tables(of))
    by = Trainer(of, store)
    steps(by, STREAM, SIZE)
    users, items, _ = last_events(STREAM)
    assert (ids_in(store, "user"), ids_in(store, "item")) == (set(users), set(items))
    assert "user_removed_ids" not in by._method.report()
    assert "expiry" not in by.payload()["context"]


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_to_live_that_is_none_is_refused(days: float) -> None:
    with pytest.raises(ConfigurationError, match="time to live"):
        config(ttl_days=days)


def test_what_would_bring_removed_ids_back_is_refused() -> None:
    like = paper_config(method="fse")
    with pytest.raises(ConfigurationError, match="epochs"):
        TrainerConfig(
            learner=like.learner, context=like.context, prequential=like.prequential, offline=OfflineStage(count=9), offline_epochs=2
        )
    with pytest.raises(ConfigurationError, match="darts"):
        paper_config(method="darts")
    assert {"darts", "autoemb"} < set(EVERY_METHOD)
    config("darts", **DAYS)


__all__ = ["Path", "make", "tmp_path"]
