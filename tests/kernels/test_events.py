"""The event-order kernel against its twin, and against what today's learner predicts."""

import copy
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.kernels import (
    ABSENT,
    BORROWED,
    HELD,
    LEARN,
    LEARN_ROWS,
    LEARN_STATISTICS,
    PREDICT,
    Memory,
    Operations,
    State,
    no_memory,
    observe,
    operations,
    run,
)
from tests.kernels.twins import Twin
from tests.kernels.worlds import BATCH, searched_world, world

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def copied(parts):
    return copy.deepcopy(parts)


def shuffled(seed: int) -> Operations:
    """Each interaction predicted in turn, its label learnt in parts somewhere later, some never, some rows learnt twice."""
    rng = np.random.default_rng(seed)
    timed = [(float(i), PREDICT, i) for i in range(BATCH)]
    for i in range(BATCH):
        later = i + rng.choice([0.1, 0.5, rng.uniform(0, BATCH)])
        if rng.random() < 0.7:
            timed.append((later, LEARN, i))
        else:
            timed += [(later, LEARN_STATISTICS, i), (i + rng.uniform(0, 9), LEARN_ROWS, i), (i + rng.uniform(0, 9), LEARN_ROWS, i)]
    timed.sort()
    return Operations(np.array([t[1] for t in timed], dtype=np.int8), np.array([t[2] for t in timed]))


def equal(found, wanted) -> None:
    """found, wanted: what was left in (state, out)."""
    (state, out), (other, expected) = found, wanted
    for name, got, want in zip(out._fields, out, expected, strict=True):
        np.testing.assert_allclose(got, want, err_msg=name, **CLOSE)
    for name in ("rows", "contexts", "held"):
        for got, want in zip(getattr(state, name), getattr(other, name), strict=True):
            np.testing.assert_allclose(got, want, err_msg=name, **CLOSE)
    np.testing.assert_allclose(state.totals, other.totals, **CLOSE)


def agree(
    ordered: Operations, *, fields: int, task: str, seed: int, extra: int = 0, everything_held: bool = True, revisited: int = 0
) -> None:
    events, state, model, out = world(fields, task, seed, extra, everything_held=everything_held)
    model = model._replace(revisited=revisited)
    other, wanted, memory = copied(state), copied(out), no_memory(events, len(model.levels))
    run(ordered, events, state, model, out, memory)
    Twin(events, other, model, wanted, copied(memory)).run(ordered)
    equal((state, out), (other, wanted))
    assert not np.array_equal(state.rows[0], world(fields, task, seed)[1].rows[0])


def chains(memory: Memory) -> list[list[list[int]]]:
    """As `Twin.noted`."""
    found = []
    for heads, following in zip(memory.heads, memory.following, strict=True):
        found.append([])
        for head in heads.tolist():
            chain = [head]
            while chain[-1] >= 0:
                chain.append(int(following[chain[-1]]))
            found[-1].append(chain[:-1])
    return found


@pytest.mark.parametrize("mode", ["event", "strict", "batch"])
@pytest.mark.parametrize("task", ["binary", "rating"])
def test_two_fields_equal_the_twin_in_every_mode(mode, task):
    ordered, _ = operations(world()[0].times, mode)
    agree(ordered, fields=2, task=task, seed=1)


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("fields", [2, 3])
def test_late_and_remembered_labels_absent_and_borrowed_blocks_equal_the_twin(fields, task):
    for seed in range(3):
        agree(shuffled(seed), fields=fields, task=task, seed=seed, extra=2, everything_held=False)


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_prefixes_after_learning_equal_the_twin(task):
    agree(operations(world()[0].times, "event")[0], fields=2, task=task, seed=6, revisited=1)


@given(
    seed=st.integers(0, 10_000),
    mode=st.sampled_from(["event", "strict", "batch"]),
    task=st.sampled_from(["binary", "rating"]),
    revisited=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_blocks_given_interactions_replayed_and_remembered_equal_the_twin(seed, mode, task, revisited):
    events, state, model, out, memory = searched_world(task, seed, revisited=revisited)
    other, wanted, theirs = copied(state), copied(out), copied(memory)
    ordered, _ = operations(events.times, mode)
    run(ordered, events, state, model, out, memory)
    twin = Twin(events, other, model, wanted, theirs)
    twin.run(ordered)
    equal((state, out), (other, wanted))
    assert chains(memory) == twin.noted
    for name in ("own_offsets", "own_shared", "forgotten"):
        np.testing.assert_allclose(np.stack(getattr(memory, name)), np.stack(getattr(theirs, name)), err_msg=name, **CLOSE)
    for held in state.held:
        assert set(np.unique(held)) <= {ABSENT, HELD}  # nothing stays borrowed


def test_worlds_of_the_search_have_everything_that_a_search_does():
    """Otherwise the twin would be compared on nothing."""
    seen = Counter()
    for seed in range(5):
        events, state, model, out, memory = searched_world(seed=seed)
        before = copied(state)
        run(operations(events.times, "event")[0], events, state, model, out, memory)
        seen["given"] += sum(int((a != b).sum()) for a, b in zip(state.held, before.held, strict=True))
        seen["remembered"] += sum(len(chain) for own in chains(memory) for chain in own)
        seen["shared"] += int(memory.own_shared.sum())
        seen["forgotten"] += int(sum(f.sum() for f in memory.forgotten))
    assert min(seen[name] for name in ("given", "remembered", "shared", "forgotten")) > 0, seen


def test_three_fields_equal_the_twin_in_event_order():
    agree(operations(world(3)[0].times, "event")[0], fields=3, task="binary", seed=4)


def test_third_field_without_use_leaves_two_fields_alone():
    events, state, model, out = world(3)
    events.uses[2] = 0.0
    for row in (state.rows[2],):
        row[:, model.ends[-1]], row[:, -1] = 0.0, 0.0  # neither a bias
    two_weights = np.delete(model.weights, np.s_[107 + 3 :], axis=1)
    pair = State(state.rows[:2], state.held[:2], state.contexts[:2], state.totals)
    pair = copied(pair)
    ordered, _ = operations(events.times, "event")
    fewer = events._replace(
        local=events.local[:2].copy(),
        slots=events.slots[:2],
        uses=events.uses[:2].copy(),
        choices=events.choices[:2].copy(),
        foreseen=events.foreseen[:2].copy(),
    )
    small = out._replace(
        inputs=np.zeros((BATCH, 110)),
        products=np.zeros((BATCH, 1, 3)),
        base=out.base.copy(),
        probabilities=out.base.copy(),
        prefixes=out.prefixes.copy(),
        levels=out.levels[:2].copy(),
    )
    run(ordered, events, state, model, out, no_memory(events, len(model.levels)))
    two = model._replace(weights=two_weights, largest=model.largest[:2].copy())
    run(ordered, fewer, pair, two, small, no_memory(fewer, 1))
    np.testing.assert_allclose(out.probabilities, small.probabilities, rtol=1e-12)


def test_borrowed_blocks_stay():
    events, state, model, out = world()
    state.held[1][:] = BORROWED
    before = copied(state.rows)
    run(operations(events.times, "event")[0], events, state, model, out, no_memory(events, 1))
    spread = model.ends[-1]
    np.testing.assert_array_equal(state.rows[1][:, :spread], before[1][:, :spread])
    assert (state.rows[1][events.slots[1], spread] != before[1][events.slots[1], spread]).any()
    assert (state.rows[0][:, :spread] != before[0][:, :spread]).any()


def test_context_alone_gives_the_same_features_and_statistics():
    events, state, model, out = world(task="rating")
    other, seen = copied(state), copied(out)
    ordered, _ = operations(events.times, "strict")
    run(ordered, events, state, model, out, no_memory(events, len(model.levels)))
    observe(ordered, events, other, model, seen)
    np.testing.assert_array_equal(out.inputs[:, :16], seen.inputs[:, :16])
    np.testing.assert_array_equal(out.classes, seen.classes)
    for a, b in zip(state.contexts, other.contexts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_prediction_depends_on_its_own_label_or_a_later_one():
    for mode in ("event", "strict", "batch"):
        events, state, model, out = world(seed=2)
        other, seen = copied(state), copied(out)
        ordered, _ = operations(events.times, mode)
        flipped = events._replace(binary=events.binary.copy())
        flipped.binary[20:] = 1 - flipped.binary[20:]
        run(ordered, events, state, model, out, no_memory(events, len(model.levels)))
        run(ordered, flipped, other, model, seen, no_memory(events, 1))
        last = BATCH if mode == "batch" else 21
        np.testing.assert_array_equal(out.probabilities[:last], seen.probabilities[:last])
        if mode == "event":
            assert (out.probabilities[last:] != seen.probabilities[last:]).any()


@pytest.mark.parametrize("mode", ["event", "strict", "batch"])
def test_no_prediction_depends_on_later_labels_where_blocks_are_given_and_interactions_replayed(mode):
    for seed in range(5):
        events, state, model, out, memory = searched_world(seed=seed)
        other, seen, theirs = copied(state), copied(out), copied(memory)
        ordered, _ = operations(events.times, mode)
        flipped = events._replace(binary=events.binary.copy())
        flipped.binary[20:] = 1 - flipped.binary[20:]
        run(ordered, events, state, model, out, memory)
        run(ordered, flipped, other, model, seen, theirs)
        last = BATCH if mode == "batch" else 21
        np.testing.assert_array_equal(out.prefixes[:last], seen.prefixes[:last])
        assert (state.rows[0] != other.rows[0]).any()


def test_interactions_of_no_batch_slot_are_untouched():
    events, state, model, out = world()
    before = copied(state)
    run(operations(events.times, "event")[0], events, state, model, out, no_memory(events, 1))
    for f in range(2):
        others = np.setdiff1d(np.arange(9), events.slots[f])
        np.testing.assert_array_equal(state.rows[f][others], before.rows[f][others])
        np.testing.assert_array_equal(state.contexts[f][others], before.contexts[f][others])


@pytest.mark.parametrize("carried", [0, 1, 7])
def test_strict_order_is_that_of_waiting_labels(carried):
    rng = np.random.default_rng(carried)
    for _ in range(30):
        times = np.concatenate([np.sort(rng.integers(0, 6, size=carried)), rng.integers(0, 12, size=25)])
        ordered, waiting = operations(times, "strict", carried)
        left, expected = list(range(carried)), []
        for i in range(carried, len(times)):
            expected += [(LEARN, k) for k in left if times[k] < times[i]]
            left = [k for k in left if times[k] >= times[i]] + [i]
            expected.append((PREDICT, i))
        assert list(zip(ordered.kinds.tolist(), ordered.events.tolist(), strict=True)) == expected
        assert waiting.tolist() == left


def test_event_and_batch_orders():
    times = np.arange(3)
    event, batch = operations(times, "event")[0], operations(times, "batch")[0]
    assert event.events.tolist() == [0, 0, 1, 1, 2, 2]
    assert event.kinds.tolist() == [PREDICT, LEARN] * 3
    assert batch.events.tolist() == [0, 1, 2, 0, 1, 2]
    assert all(a <= b for a, b in pairwise(batch.kinds.tolist()))
