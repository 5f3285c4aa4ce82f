"""The search for dimensions: nothing is lost by waiting, bytes follow what was asked for, and small ids hold little."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.kernels import ABSENT, HELD, Interactions, Memory, Operations, Predicted, State, in_panel, no_memory, operations, run
from autoemb_pipeline.learners.stream.search import Named
from tests.kernels.worlds import BATCH, searched_world
from tests.learners.stream.running import SEARCHING, config, levels, replayed, search_of, steps, trainer
from tests.streams import synthetic_stream, taste_stream

LATE = 9
"""Interaction at which the waiting user gets its row."""


def one_user(
    *, waits: bool, partners_hold: bool = True, seed: int = 0, biases: bool = False
) -> tuple[Interactions, State, Predicted, Memory]:
    """A user meets ten items, each once. It has its row from the start, or waits until the last of them.

    biases: whether they learn. They do so from the whole score, so they and the curvature of what is remembered differ with the row.
    """
    events, state, model, out, _ = searched_world(seed=seed)
    count = LATE + 1
    slots = (events.slots[0][:1].copy(), np.arange(count))
    rows = tuple(np.tile(own, (2, 1))[: count + 5].copy() for own in state.rows)
    for own in rows:
        own[:, model.ends[-1]] = 0.0
        if not biases:
            own[:, -1] = 0.0
    rows[1][:] += np.random.default_rng(seed).normal(size=rows[1].shape) * 0.01 * (np.arange(rows[1].shape[1]) < model.ends[-1])
    held = tuple(np.full((len(own), len(model.ends)), ABSENT, dtype=np.int8) for own in rows)
    held[1][:] = HELD if partners_hold else ABSENT
    contexts = tuple(np.tile(own, (2, 1))[: count + 5].copy() for own in state.contexts)
    choices = np.zeros((2, count), dtype=np.int64)
    choices[0, LATE if waits else 0 :] = len(model.ends)
    choices[1] = len(model.ends) if partners_hold or not waits else 0
    events = Interactions(
        local=np.stack([np.zeros(count, dtype=np.int64), np.arange(count)]),
        slots=slots,
        times=events.times[:count].copy(),
        binary=events.binary[:count].copy(),
        classes=events.classes[:count].copy(),
        uses=np.ones((2, count, len(model.ends))),
        choices=choices,
        foreseen=np.zeros((2, count), dtype=np.int8),
    )
    out = Predicted(
        *(part[:, :count].copy() if name == "levels" else part[:count].copy() for name, part in zip(out._fields, out, strict=True))
    )
    state, memory = State(rows, held, contexts, state.totals), no_memory(events, 1)
    ordered = operations(events.times, "event")[0]
    upto = Operations(ordered.kinds[:-1].copy(), ordered.events[:-1].copy())  # the last one is predicted alone
    run(upto, events, state, model, out, memory)
    return events, state, out, memory


@pytest.mark.parametrize("seed", range(5))
def test_a_row_got_late_is_the_row_held_from_the_start(seed: int) -> None:
    """Its partners held rows, which learn by it alone, and biases are fixed: equal in every bit, the partners' rows too."""
    early, late = (one_user(waits=waits, seed=seed) for waits in (False, True))
    user = early[0].slots[0][0]
    np.testing.assert_array_equal(late[1].rows[0][user], early[1].rows[0][user])
    np.testing.assert_array_equal(late[1].rows[1], early[1].rows[1])
    np.testing.assert_array_equal(late[2].probabilities[LATE], early[2].probabilities[LATE])
    np.testing.assert_array_equal(late[2].levels[:, LATE], [3, 3])
    assert (late[2].probabilities[1:LATE] != early[2].probabilities[1:LATE]).any()  # until then it was predicted without
    assert late[3].forgotten[0][0] == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_partner_without_a_row_is_used_as_it_was_made_and_never_learns(seed: int) -> None:
    """What the late row learns from partners that are as they were made is the same; they would have learnt, and did not."""
    early, late = (one_user(waits=waits, partners_hold=False, seed=seed) for waits in (False, True))
    user, blocks = early[0].slots[0][0], slice(0, 40)
    np.testing.assert_array_equal(late[1].rows[0][user], early[1].rows[0][user])
    fresh = one_user(waits=True, partners_hold=False, seed=seed)[1]
    np.testing.assert_array_equal(late[1].rows[1][:, blocks], fresh.rows[1][:, blocks])
    assert (late[1].rows[1][:LATE, blocks] != early[1].rows[1][:LATE, blocks]).any()
    assert not late[1].held[1].any()
    assert late[3].own_shared[:LATE].all()


def test_where_biases_learn_a_late_row_is_near_the_early_one() -> None:
    """Biases learn from the score without products meanwhile; so the row is another, by some 4% of what it has learnt."""
    apart = []
    for seed in range(20):
        early, late = (one_user(waits=waits, seed=seed, biases=True) for waits in (False, True))
        user = early[0].slots[0][0]
        fresh = np.tile(searched_world(seed=seed)[1].rows[0], (2, 1))[user, :40]
        mine, theirs = late[1].rows[0][user, :40], early[1].rows[0][user, :40]
        apart.append(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs - fresh))
    assert min(apart) > 0.0
    assert np.median(apart) < 0.1
    assert max(apart) < 0.3


@pytest.mark.parametrize("mode", ["event", "strict", "batch"])
def test_labels_of_this_mini_batch_are_replayed_only_where_its_regime_has_learnt_them(mode: str) -> None:
    events, state, model, out, memory = searched_world(seed=3)
    events.choices[:], events.foreseen[:] = 0, 0
    events.choices[0, BATCH // 2 :] = 3
    for held in state.held:
        held[:] = ABSENT
    other, seen, theirs = copy.deepcopy((state, out, memory))
    ordered, _ = operations(events.times, mode)
    run(ordered, events, state, model, out, memory)
    flipped = events._replace(binary=1.0 - events.binary)
    run(ordered, flipped, other, model, seen, theirs)
    moved = (out.prefixes != seen.prefixes).any(axis=(1, 2))
    assert moved.any() == (mode != "batch")


DEAR = taste_stream(1500, seed=11)


@pytest.fixture(scope="module")
def searched() -> Any:
    """Runs over one stream by options; each is made once."""
    known: dict[str, Any] = {}

    def of(**options: Any) -> Any:
        if str(options) not in known:
            by, store = trainer(config(**options))
            known[str(options)] = (by, store, steps(by, DEAR, 50))
        return known[str(options)]

    return of


def test_a_small_tolerance_holds_everything_and_a_large_one_little(searched: Any) -> None:
    held = []
    for tolerance in (1e-9, 3.0, 100.0):
        _, store, _ = searched(panel=0.3, tolerance=tolerance)
        held.append(np.concatenate([list(side.values()) for side in levels(store)]))
    assert (held[0] == 3).all()
    assert held[2].mean() < held[1].mean() < held[0].mean()
    assert (held[2] == 3).mean() < 0.4  # the panel


def test_the_panel_holds_every_block_whatever_the_price(searched: Any) -> None:
    _, store, _ = searched(panel=0.3, tolerance=100.0)
    for side in levels(store):
        panel = in_panel(Named.of(tuple(side), 0).numbers, 0.3)
        assert 0.1 < panel.mean() < 0.5
        assert {level for (_, level), own in zip(side.items(), panel, strict=True) if own} == {3}
    _, store, _ = searched(panel=0.0, tolerance=100.0)
    # nobody knows what blocks are worth; the first is got by who can remember no more
    assert {level for side in levels(store) for level in side.values()} <= {0, 1}


def test_the_panel_grows_while_the_loss_given_up_is_not_known_and_takes_no_more_than_a_part_of_the_bytes() -> None:
    by, _ = trainer(config(panel=0.01, tolerance=1e-6))
    before, grown = 0.0, False
    for start in range(0, len(DEAR), 50):
        steps(by, DEAR[: start + 50], 50, first=start)
        search = search_of(by)
        whole = sum(side.ids * int(side.by_level[-1]) for side in search.holdings)
        if search.panel > 0.01:
            grown = True
        if search.panel != before and before:
            assert search.panel == pytest.approx(1.02 * before)
            assert search.panel * whole < 0.05 * search.bytes
            assert by._method.report()["unresolved"]
        before = search.panel
    assert grown
    again, _ = trainer(config(panel=0.01, tolerance=1e-6))
    again.restore(by.tensors(), by.payload())
    assert search_of(again).panel == before


def test_dimensions_rise_with_popularity(searched: Any) -> None:
    _, store, _ = searched(panel=0.3, tolerance=1.0)
    for side, own in zip(("user", "item"), levels(store), strict=True):
        counts = {identifier: record[0][0] for identifier, record in store.records(side)}
        panel = in_panel(Named.of(tuple(own), 0).numbers, 0.3)
        free = sorted((counts[i], level) for (i, level), apart in zip(own.items(), panel, strict=True) if not apart)
        rare, common, popular = (part.mean() for part in np.array_split(np.array([level for _, level in free]), 3))
        assert rare <= common <= popular, side
        assert rare + 0.5 < popular, side


def test_autoemb_and_sam_differ_by_what_their_controllers_validate_on(searched: Any) -> None:
    """The first mini-batch is predicted alike, rows learn alike; SAM's losses are those after the label was learnt, so lower."""
    first = DEAR[:50]
    made = {}
    for method in ("autoemb", "sam"):
        by, store = trainer(config(method, **{**SEARCHING, "panel": 0.9}))
        predicted = steps(by, first, 50)
        sums = np.stack([controller._evidence.sums for controller in search_of(by).controllers])
        made[method] = (predicted, dict(store.records("user")), sums.sum(axis=(0, 2, 3)))
    np.testing.assert_array_equal(made["autoemb"][0], made["sam"][0])
    for identifier, record in made["autoemb"][1].items():
        np.testing.assert_array_equal(record[1], made["sam"][1][identifier][1])
    assert made["sam"][2][0] > made["autoemb"][2][0]  # what blocks have saved
    plain, sam = searched(**SEARCHING)[2], searched(method="sam", **SEARCHING)[2]
    assert (plain != sam).any()


def test_the_loss_given_up_grows_with_the_tolerance(searched: Any) -> None:
    given_up = []
    for tolerance in (1e-9, 3.0, 100.0):
        report = searched(panel=0.3, tolerance=tolerance)[0]._method.report()
        given_up.append(report["loss_given_up"])
        if report["loss_given_up_low"] is not None:  # as long as blocks have saved nothing there is no interval
            assert report["loss_given_up_low"] <= report["loss_given_up"] <= report["loss_given_up_high"]
    assert 0.0 <= given_up[0] < 1e-6 < given_up[1] < given_up[2]


def test_shares_of_ids_per_space_are_reported(searched: Any) -> None:
    by, store, _ = searched(**SEARCHING)
    report = by._method.report()
    for side, own in zip(("user", "item"), levels(store), strict=True):
        expected = np.bincount(list(own.values()), minlength=4).tolist()
        assert report[f"{side}_ids_of_space"] == dict(zip(("0", "2", "4", "8"), expected, strict=True))


@given(
    seed=st.integers(0, 1000),
    spare=st.integers(0, 3000),
    panel=st.sampled_from([0.05, 0.3]),
    size=st.sampled_from([20, 50]),
    tastes=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_memory_budget_that_can_be_kept_is_never_exceeded(*, seed: int, spare: int, panel: float, size: int, tastes: bool) -> None:
    """spare: bytes above what its ids take without any block and without remembering."""
    stream = (taste_stream if tastes else synthetic_stream)(300, seed=seed, users=30, items=40)
    free, _ = trainer(config(panel=0.0, tolerance=1e9))
    steps(free, stream, size)
    least = sum(side.ids * side.base + side._id_bytes for side in search_of(free).holdings)
    by, _ = trainer(config(memory_budget=least + spare, panel=panel))
    for start in range(0, len(stream), size):
        steps(by, stream[: start + size], size, first=start)
        assert by._method.report()["embedding_bytes"] <= least + spare


def test_a_memory_budget_is_spent_where_more_bytes_would_help(searched: Any) -> None:
    by, _, _ = searched(panel=0.3, memory_budget=7500)
    assert searched(panel=0.3)[0]._method.report()["embedding_bytes"] > 7500
    assert 0.95 * 7500 <= by._method.report()["embedding_bytes"] <= 7500


def test_a_search_learns_late_what_ids_remember() -> None:
    """Else restarts and honesty would be tested on nothing."""
    by, _ = trainer(config(**SEARCHING))
    found = [(steps(by, DEAR[: start + 50], 50, first=start), replayed(by))[1] for start in range(0, 500, 50)]
    assert sum(found) > 100
