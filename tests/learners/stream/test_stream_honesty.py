"""What a prediction of the stream preset may know: labels of earlier events as far as the context mode allows, and no later id."""

from typing import Any

import numpy as np
import pytest

from tests.honesty import may_know
from tests.learners.stream.running import EVERY_METHOD, MODES, config, steps, trainer
from tests.streams import synthetic_stream

SIZE, BATCHES = 40, 4
STREAM = synthetic_stream(SIZE * BATCHES, seed=11, ties=4)


def check_honest(mode: str, **options: Any) -> None:
    of = config(context=mode, **options)
    before = steps(trainer(of)[0], STREAM, SIZE).reshape(len(STREAM), -1)
    for flipped in (SIZE, SIZE + SIZE // 2, 2 * SIZE - 1):
        other = list(STREAM)
        other[flipped] = STREAM[flipped]._replace(rating=1.0 if STREAM[flipped].rating > 3.5 else 5.0)
        after = steps(trainer(of)[0], other, SIZE).reshape(len(STREAM), -1)
        changed = np.flatnonzero((before != after).any(axis=1))
        assert len(changed)
        assert all(may_know(STREAM, mode, flipped, event, size=SIZE) for event in changed), changed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_flipped_label_is_seen_by_later_events_only(method: str, task: str, mode: str) -> None:
    check_honest(mode, method=method, task=task)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        {"nested": False},
        {"validation": "trace"},
        {"cost": 0.1},
        {"memory_budget": 1500, "admission": 2.0},
    ],
    ids=str,
)
def test_every_option_is_honest(options: dict[str, Any], mode: str) -> None:
    check_honest(mode, **options)


@pytest.mark.parametrize("options", [{}, {"nested": False}, {"validation": "trace"}, {"cost": 0.1}], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_no_prediction_depends_on_later_ids(mode: str, options: dict[str, Any]) -> None:
    of = config(context=mode, **options)
    cut = SIZE + 17
    others = [r._replace(user_id=f"other{k % 5}", item_id=f"another{k % 3}") for k, r in enumerate(STREAM[cut:])]
    before, after = (steps(trainer(of)[0], stream, SIZE) for stream in (STREAM, STREAM[:cut] + others))
    np.testing.assert_array_equal(before[:cut], after[:cut])
    assert (before[cut:] != after[cut:]).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("admission", [0.0, 2.0])
@pytest.mark.parametrize("budget", [400, 1500, 4000])
def test_under_a_memory_budget_no_prediction_depends_on_later_ids_either(budget: int, admission: float, mode: str) -> None:
    """New ids that want a block each, so that they would take earlier ones' room if they came first."""
    of = config(context=mode, memory_budget=budget, admission=admission, half_life=2.0)
    before = steps(trainer(of)[0], STREAM, SIZE)
    for cut in (7, SIZE + 1, SIZE + 17, 3 * SIZE + 30):
        for side in ("user_id", "item_id"):
            others = [r._replace(**{side: f"a new id that is longer {k}"}) for k, r in enumerate(STREAM[cut:])]
            after = steps(trainer(of)[0], STREAM[:cut] + others, SIZE)
            np.testing.assert_allclose(before[:cut], after[:cut], rtol=0, atol=1e-12)
            assert (before[cut:] != after[cut:]).any()


def test_fresh_rows_make_a_difference() -> None:
    """Otherwise the order of operations would be tested on nothing."""
    event, late = (steps(trainer(config(context=mode))[0], STREAM, SIZE) for mode in ("event", "batch"))
    assert np.abs(event - late)[SIZE:].max() > 1e-3
