"""What a prediction of the stream preset may know: labels of earlier events as far as the context mode allows, and no later id."""

from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.records import Interaction
from tests.honesty import may_know
from tests.learners.stream.running import EVERY_METHOD, MODES, SEARCHING, config, replayed, steps, trainer
from tests.streams import synthetic_stream, taste_stream

SIZE, BATCHES = 40, 4
STREAM = synthetic_stream(SIZE * BATCHES, seed=11, ties=4)
TASTES = taste_stream(SIZE * (BATCHES + 1), seed=11, users=20, items=30, ties=4)


def check_honest(mode: str, stream: list[Interaction] = STREAM, first: int = SIZE, **options: Any) -> None:
    """Labels of one mini-batch are flipped, one at a time. first: where it begins."""
    of = config(context=mode, **options)
    before = steps(trainer(of)[0], stream, SIZE).reshape(len(stream), -1)
    for flipped in (first, first + SIZE // 2, first + SIZE - 1):
        other = list(stream)
        other[flipped] = stream[flipped]._replace(rating=1.0 if stream[flipped].rating > 3.5 else 5.0)
        after = steps(trainer(of)[0], other, SIZE).reshape(len(stream), -1)
        changed = np.flatnonzero((before != after).any(axis=1))
        assert len(changed)
        assert all(may_know(stream, mode, flipped, event, size=SIZE) for event in changed), changed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_flipped_label_is_seen_by_later_events_only(method: str, task: str, mode: str) -> None:
    check_honest(mode, method=method, task=task)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        {"method": "darts", "nested": False},
        {"row_precision": "float32"},
        {"tolerance": 100.0},
        {"memory_budget": 1500},
        {"panel": 0.0},
    ],
    ids=str,
)
def test_every_option_is_honest(options: dict[str, Any], mode: str) -> None:
    check_honest(mode, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"method": "sam"}, {"task": "rating"}, {"memory_budget": 9000}], ids=str)
def test_labels_of_a_mini_batch_that_promotes_are_seen_by_later_events_only(options: dict[str, Any], mode: str) -> None:
    """Promoted ids learn labels of earlier mini-batches, and in `event` and `strict` of this one, before they are predicted."""
    options = {**SEARCHING, **options}
    by, _ = trainer(config(context=mode, **options))
    for first in (0, SIZE, 2 * SIZE):
        steps(by, TASTES[: first + SIZE], SIZE, first=first)
        if first:
            assert replayed(by), first
            check_honest(mode, TASTES, first, **options)


@pytest.mark.parametrize("options", [{}, {"method": "darts", "nested": False}, {"method": "sam"}, {"tolerance": 100.0}], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_no_prediction_depends_on_later_ids(mode: str, options: dict[str, Any]) -> None:
    of = config(context=mode, **{**({"panel": 0.3} if "nested" not in options else {}), **options})
    cut = SIZE + 17
    others = [r._replace(user_id=f"other{k % 5}", item_id=f"another{k % 3}") for k, r in enumerate(TASTES[cut:])]
    before, after = (steps(trainer(of)[0], stream, SIZE) for stream in (TASTES, TASTES[:cut] + others))
    np.testing.assert_array_equal(before[:cut], after[:cut])
    assert (before[cut:] != after[cut:]).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("panel", [0.05, 0.3])
@pytest.mark.parametrize("budget", [1200, 2000, 2800])
def test_under_a_memory_budget_no_prediction_depends_on_later_ids_either(budget: int, panel: float, mode: str) -> None:
    """New ids that want blocks, so that they would take earlier ones' room if they came first."""
    of = config(context=mode, memory_budget=budget, panel=panel)
    before = steps(trainer(of)[0], TASTES, SIZE)
    for cut in (7, SIZE + 1, SIZE + 17, 3 * SIZE + 30):
        for side in ("user_id", "item_id"):
            others = [r._replace(**{side: f"a new id that is longer {k}"}) for k, r in enumerate(TASTES[cut:])]
            after = steps(trainer(of)[0], TASTES[:cut] + others, SIZE)
            np.testing.assert_array_equal(before[:cut], after[:cut])
            assert (before[cut:] != after[cut:]).any()


def test_fresh_rows_make_a_difference() -> None:
    """Otherwise the order of operations would be tested on nothing."""
    event, late = (steps(trainer(config(context=mode))[0], STREAM, SIZE) for mode in ("event", "batch"))
    assert np.abs(event - late)[SIZE:].max() > 1e-3
