"""--memory-budget: the bound holds at every mini-batch, what is reported is what is held, small ids give way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.learners.stream.rows import HOLDS
from tests.learners.stream.running import config, steps, trainer
from tests.streams import synthetic_stream

STREAM = synthetic_stream(400, seed=3, users=60, items=80)


def held(store) -> dict[str, list[str]]:
    records = {side: list(store.records(side)) for side in ("user", "item")}
    return {f"{side}.{b + 1}": [i for i, row in found if row[HOLDS][b]] for side, found in records.items() for b in range(3)}


def true_bytes(tables, of: LearnerConfig) -> int:
    """Counted from the store alone: floats of 4 bytes, an entry of 16 bytes and the id per row."""
    block = {"1": 2 + 1 + 2 + 2, "2": 2 + 1 + 2, "3": 4 + 1 + 2}
    return sum(4 * block[name[-1]] + 16 + len(i) for name, ids in tables.items() for i in ids)


@settings(max_examples=12, deadline=None)
@given(budget=st.integers(0, 20_000), admission=st.sampled_from([0.0, 2.0, 20.0]), half_life=st.sampled_from([0.5, 100.0]))
def test_the_bound_holds_at_every_step_and_bytes_are_what_is_held(budget, admission, half_life):
    of = config(memory_budget=budget + 1, admission=admission, half_life=half_life)
    by, store = trainer(of)
    for start in range(0, len(STREAM), 40):
        by.step(MiniBatch.of(step=start // 40 + 1, records=STREAM[start : start + 40], next_offsets={0: start}))
        tables = held(store)
        counted = by._method._learner._components.budget.bytes
        assert counted == true_bytes(tables, of.learner) <= budget + 1
        later = {name: ids for name, ids in tables.items() if name[-1] != "1"}
        assert true_bytes(later, of.learner) <= 0.9 * (budget + 1)
        for side in ("user", "item"):
            assert set(tables[f"{side}.3"]) <= set(tables[f"{side}.2"]) <= set(tables[f"{side}.1"])


def test_without_room_ids_are_predicted_from_their_context():
    by, _ = trainer(config(memory_budget=1))
    alone, _ = trainer(config("context-only", user_bias_variance=0.0, item_bias_variance=0.0))
    np.testing.assert_allclose(steps(by, STREAM[:40], 40), steps(alone, STREAM[:40], 40), atol=0.2)
    assert by._method._learner._components.budget.bytes == 0


def test_a_large_budget_changes_nothing_once_everything_is_admitted():
    free, bound = (trainer(config(memory_budget=b, admission=0.0))[0] for b in (0, 1 << 30))
    np.testing.assert_array_equal(steps(free, STREAM, 40), steps(bound, STREAM, 40))


def test_popular_ids_hold_more_than_rare_ones():
    of = config(memory_budget=12_000, admission=3.0)
    by, store = trainer(of)
    steps(by, STREAM, 40)
    tables = held(store)
    counts = {f"u{k}": sum(r.user_id == f"u{k}" for r in STREAM) for k in range(60)}
    large = [counts[i] for i in tables["user.3"]]
    small = [c for i, c in counts.items() if i not in tables["user.3"]]
    assert large
    assert np.mean(large) > np.mean(small)


def test_stale_ids_are_evicted_when_the_budget_is_nearly_full():
    of = config(memory_budget=4000, admission=0.5, half_life=0.5)
    by, store = trainer(of)
    steps(by, STREAM, 40)
    budget = by._method._learner._components.budget
    assert budget.evicted > 0
    assert budget.bytes == true_bytes(held(store), of.learner)


def test_the_clock_hands_survive_a_restart_whatever_the_ids_are(monkeypatch):
    monkeypatch.setattr("autoemb_pipeline.learners.stream.budget.SWEPT_AT_ONCE", 4)
    stream = [r._replace(user_id=f"{r.user_id}\0{k % 300}", item_id=f"\0{r.item_id}") for k, r in enumerate(STREAM)]
    of = config(memory_budget=8000, admission=0.0, half_life=0.5)
    straight, _ = trainer(of)
    whole = steps(straight, stream, 40)
    first, store = trainer(of)
    steps(first, stream[:280], 40)
    assert any("\0" in hand for hand in first._method._learner._components.budget._cursor.values())
    second = type(first)(of, store)
    second.restore(first.tensors(), first.payload())
    np.testing.assert_array_equal(steps(second, stream, 40, first=280), whole[280:])


@pytest.mark.parametrize("option", [{"memory_budget": -1}, {"admission": -1.0}, {"half_life": 0.0}])
def test_options_that_cannot_be_used_are_refused(option):
    with pytest.raises(Exception, match=next(iter(option))):
        config(**option)
