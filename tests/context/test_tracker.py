"""The context against a naive reading of docs/architecture.md, Honesty."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.context.tracker import ContextConfig, ContextTracker, context_tables
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.prequential.references import sigmoid
from autoemb_pipeline.records import Interaction, LearnerInputs
from autoemb_pipeline.rows import Lent
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.streams import ratings_of, synthetic_stream

MODES = ("batch", "event", "strict")


def tracker(mode: str, *, classes: bool = False) -> ContextTracker:
    config = ContextConfig(mode=mode, with_classes=classes)
    return ContextTracker(config, MemoryRowStore(context_tables(config)))


def run(
    stream: list[Interaction], bounds: list[int], mode: str, *, classes: bool = False, held_out: set[int] = frozenset()
) -> list[LearnerInputs]:
    context, inputs = tracker(mode, classes=classes), []
    for start, end in zip([0, *bounds], [*bounds, len(stream)], strict=True):
        if start == end:
            continue
        batch = stream[start:end]
        mask = np.array([i in held_out for i in range(start, end)])
        inputs.append(context.observe(batch, labels_of(ratings_of(batch)), mask if held_out else None))
        context.record(np.linspace(0.0, 1.0, len(batch)), None, None, mask if held_out else None)
    return inputs


def features(inputs: list[LearnerInputs]) -> np.ndarray:
    return np.concatenate([i.features for i in inputs])


def known_before(stream: list[Interaction], bounds: list[int], mode: str, i: int) -> list[int]:
    """Events whose labels event i may know, by the words of docs/architecture.md."""
    start = max([b for b in [0, *bounds] if b <= i])
    if mode == "batch":
        return list(range(start))
    if mode == "event":
        return list(range(i))
    return [j for j in range(i) if stream[j].timestamp < stream[i].timestamp]


splits = st.lists(st.integers(1, 119), max_size=6, unique=True).map(sorted)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), bounds=splits)
def test_running_mean_knows_exactly_the_allowed_labels(mode: str, seed: int, bounds: list[int]) -> None:
    stream = synthetic_stream(120, seed=seed)
    y = labels_of(ratings_of(stream)).binary
    x0 = features(run(stream, bounds, mode))[:, 0]
    for i in range(0, 120, 7):
        known = known_before(stream, bounds, mode, i)
        residual_sum, learnt, positives, total, good = 0.0, 0, {}, 0, 0.0
        for j in known:
            g = (0.5 + good) / (1 + total)
            c, s = positives.get(stream[j].item_id, (0, 0.0))
            if stream[j].user_id == stream[i].user_id:
                residual_sum += y[j] - (s + 3 * g) / (c + 3)
                learnt += 1
            positives[stream[j].item_id] = (c + 1, s + y[j])
            total, good = total + 1, good + y[j]
        g = (0.5 + good) / (1 + total)
        c, s = positives.get(stream[i].item_id, (0, 0.0))
        mean = np.clip((s + 3 * g) / (c + 3) + residual_sum / (learnt + 8), 0.02, 0.98)
        assert sigmoid(x0[i : i + 1])[0] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("mode", ["event", "strict"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), bounds=splits)
def test_features_do_not_depend_on_batch_boundaries(mode: str, seed: int, bounds: list[int]) -> None:
    stream = synthetic_stream(120, seed=seed)
    np.testing.assert_array_equal(features(run(stream, bounds, mode)), features(run(stream, [], mode)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flipped", [40, 55, 79])  # first, middle and last of the second batch
def test_a_label_changes_only_what_may_know_it(mode: str, flipped: int) -> None:
    stream = synthetic_stream(120, seed=3)
    other = list(stream)
    other[flipped] = stream[flipped]._replace(rating=1.0 if stream[flipped].rating > 3.5 else 5.0)
    bounds = [40, 80]
    before, after = features(run(stream, bounds, mode)), features(run(other, bounds, mode))
    changed = np.flatnonzero((before != after).any(axis=1))
    assert len(changed)
    assert all(flipped in known_before(stream, bounds, mode, i) for i in changed)


def test_labels_that_wait_cost_nothing_until_they_are_due() -> None:
    """Datasets with dates only have tens of thousands of ratings of one timestamp."""
    asked: list[int] = []

    class Counting(MemoryRowStore):
        def lend(self, table: str, ids: Sequence[str]) -> Lent:
            asked.append(len(ids))
            return super().lend(table, ids)

    config = ContextConfig(mode="strict")
    context = ContextTracker(config, Counting(context_tables(config)))
    for day in (1, 2):
        for k in range(5):
            batch = [Interaction(f"{day}-{k}-{n}", "item", 4.0, day) for n in range(10)]
            inputs = context.observe(batch, labels_of(ratings_of(batch)))
            context.record(np.zeros(10), None, None)
            assert (inputs.features[:, 1] != 0).any() == (day == 2)  # the item's mean knows all of day 1, nothing of the same day
    assert asked == [10, 1] * 5 + [60, 1] + [10, 1] * 4


@pytest.mark.parametrize("mode", MODES)
def test_counts_and_times_are_fresh_in_every_mode(mode: str) -> None:
    stream = synthetic_stream(120, seed=4)
    inputs = run(stream, [50], mode)
    counts = np.concatenate([i.users.count for i in inputs])
    expected = [sum(s.user_id == r.user_id for s in stream[:i]) for i, r in enumerate(stream)]
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_allclose(features(inputs)[:, 3], np.log1p(expected) / 5)
    item_counts = np.concatenate([i.items.count for i in inputs])
    np.testing.assert_array_equal(item_counts, [sum(s.item_id == r.item_id for s in stream[:i]) for i, r in enumerate(stream)])
    np.testing.assert_array_equal(features(inputs)[:, 14], np.array(expected) == 0)


def test_times_are_seconds_since_the_users_last_event() -> None:
    stream = [
        Interaction("u", "a", 4.0, 10_000),
        Interaction("u", "b", 4.0, 13_000),
        Interaction("u", "c", 4.0, 12_000),  # late: no negative gap
        Interaction("u", "d", 4.0, 14_000),  # since the latest one, not since the late one
    ]
    gaps = features(run(stream, [1], "batch"))[:, 8]
    np.testing.assert_allclose(gaps, [2.0, np.log1p(3.0) / 10, 0.0, np.log1p(1.0) / 10])


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 5))
def test_restored_context_goes_on_to_the_same_bits(mode: str, cut: int) -> None:
    stream = synthetic_stream(120, seed=9, ties=7)
    config = ContextConfig(mode=mode, with_classes=True)
    store = MemoryRowStore(context_tables(config))
    context = ContextTracker(config, store)
    whole = run(stream, list(range(20, 120, 20)), mode, classes=True)
    for step in range(6):
        if step == cut:
            state = json.loads(json.dumps(context.state()))
            context = ContextTracker(config, store)
            context.load_state(state)
        batch = stream[step * 20 : step * 20 + 20]
        inputs = context.observe(batch, labels_of(ratings_of(batch)))
        context.record(np.linspace(0.0, 1.0, 20), None, None)
        np.testing.assert_array_equal(inputs.features, whole[step].features)
        np.testing.assert_array_equal(inputs.class_probabilities, whole[step].class_probabilities)
        np.testing.assert_array_equal(inputs.users.fading_loss, whole[step].users.fading_loss)
        assert inputs.global_loss == whole[step].global_loss or step == 0


def test_previous_loss_is_the_mean_and_previous_weights_the_last_of_the_last_earlier_batch() -> None:
    context = tracker("event")
    batch = [Interaction("u", "a", 4.0, 1), Interaction("v", "a", 4.0, 2), Interaction("u", "b", 4.0, 3)]
    first = context.observe(batch, labels_of(ratings_of(batch)))
    assert np.isnan(first.users.previous_loss).all()
    assert np.isnan(first.global_loss)
    np.testing.assert_allclose(first.users.previous_weights, 1 / 3)
    weights = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]])
    context.record(np.array([0.2, 0.9, 0.4]), weights, weights)
    second = context.observe([Interaction("u", "a", 4.0, 4)], labels_of(ratings_of([Interaction("u", "a", 4.0, 4)])))
    assert second.users.previous_loss[0] == pytest.approx(0.3)
    assert second.items.previous_loss[0] == pytest.approx(0.55)
    np.testing.assert_array_equal(second.users.previous_weights[0], weights[2])
    np.testing.assert_array_equal(second.items.previous_weights[0], weights[1])
    assert second.global_loss == pytest.approx(0.5)
    context.record(np.array([0.8]), weights[:1], weights[:1])
    third = context.observe([Interaction("u", "z", 4.0, 5)], labels_of(ratings_of([Interaction("u", "z", 4.0, 5)])))
    assert third.users.previous_loss[0] == pytest.approx(0.8)
    assert third.users.fading_loss[0] == pytest.approx(0.9 * 0.3 + 0.1 * 0.8)


@pytest.mark.parametrize("mode", MODES)
def test_a_held_out_label_enters_no_statistic(mode: str) -> None:
    stream = synthetic_stream(120, seed=5)
    flipped = [r._replace(rating=5.0 - r.rating + 0.5) if i in {10, 59, 60} else r for i, r in enumerate(stream)]
    held = {10, 59, 60}
    np.testing.assert_array_equal(
        features(run(stream, [40, 80], mode, held_out=held)), features(run(flipped, [40, 80], mode, held_out=held))
    )


def test_class_probabilities_are_distributions_that_start_at_the_prior() -> None:
    stream = synthetic_stream(120, seed=6)
    probabilities = np.concatenate([i.class_probabilities for i in run(stream, [60], "event", classes=True)])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_allclose(probabilities[0], 0.2)
    assert (probabilities > 0).all()


def test_unusable_configurations_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        ContextConfig(mode="future")
    with pytest.raises(ConfigurationError):
        ContextConfig(spaces=0)


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_peek_changes_nothing_and_knows_no_label(mode: str, classes: bool) -> None:
    stream = synthetic_stream(80, seed=5)
    flipped = [r._replace(rating=5.5 - r.rating) for r in stream]
    again = [stream[3], *stream[:40], Interaction("new", "new", 4.0, 0)]
    peeks = []
    for labelled in (stream, flipped):
        context = tracker(mode, classes=classes)
        for batch in (labelled[:50], labelled[50:]):
            context.observe(batch, labels_of(ratings_of(batch)))
            context.record(np.linspace(0.0, 1.0, len(batch)), None, None)
        state = context.state()
        inputs = context.peek(again)
        assert context.state() == state
        assert context.peek(again).users.count.tolist() == inputs.users.count.tolist()  # not counted
        peeks.append(inputs)
    one, other = peeks
    assert one.reread
    assert one.class_probabilities is None
    assert np.isnan(one.features).all()
    assert one.users.count.tolist() == [float(sum(r.user_id == a.user_id for r in stream)) for a in again]
    assert one.items.count.tolist() == [float(sum(r.item_id == a.item_id for r in stream)) for a in again]
    assert one.global_loss == other.global_loss
    for side in ("users", "items"):
        for name in ("count", "previous_weights", "previous_loss", "fading_loss"):
            np.testing.assert_array_equal(getattr(getattr(one, side), name), getattr(getattr(other, side), name))
    assert np.isnan(one.users.previous_loss[-1])
    assert not np.isnan(one.users.previous_loss[:-1]).any()
