"""docs/architecture.md, Honesty: event i's prediction may use labels of events before i, as far as its context mode allows, and nothing else.

A label is flipped (first, middle, last of a mini-batch): earlier and own predictions (in `batch`: of the whole mini-batch) stay bit-identical,
and some later one changes. Run over every method and mode; for the references as for the learner.
"""

from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.learners.config import METHODS
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.honesty import may_know
from tests.run.conftest import trainer_config
from tests.streams import synthetic_stream

SIZE, BATCHES = 40, 4
MODES = ("batch", "event", "strict")
STREAM = synthetic_stream(SIZE * BATCHES, seed=11, ties=4)


def predictions(config: TrainerConfig, stream: list[Interaction]) -> dict[str, np.ndarray]:
    """Model -> one row of probabilities per event."""
    trainer = Trainer(config, MemoryRowStore(trainer_tables(config)))
    parts: dict[str, list[np.ndarray]] = {"method": [], "running_mean": [], "logistic": []}
    for step in range(BATCHES):
        records = stream[step * SIZE : (step + 1) * SIZE]
        result = trainer.step(MiniBatch.of(step=step + 1, records=records, next_offsets={0: (step + 1) * SIZE}))
        assert result.predictions is not None
        parts["method"].append(result.predictions.probabilities.reshape(SIZE, -1))
        for name in ("running_mean", "logistic"):
            parts[name].append(result.references[name].reshape(SIZE, -1))
    return {name: np.concatenate(rows) for name, rows in parts.items()}


@pytest.mark.parametrize("flipped", [SIZE, SIZE + SIZE // 2, 2 * SIZE - 1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", ["paper", "residual"])
def test_a_flipped_label_is_seen_by_later_events_only(
    preset: str, method: str, task: str, mode: str, flipped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoemb_pipeline.prequential.references.NEWTON_EVERY", SIZE)  # else its weights would rest in so short a stream
    config = trainer_config(method, task=task, context=mode, preset=preset)
    other = list(STREAM)
    other[flipped] = STREAM[flipped]._replace(rating=1.0 if STREAM[flipped].rating > 3.5 else 5.0)
    before, after = predictions(config, STREAM), predictions(config, other)
    for model, rows in before.items():
        changed = np.flatnonzero((rows != after[model]).any(axis=1))
        assert all(may_know(STREAM, mode, flipped, event, size=SIZE) for event in changed), (model, changed)
        assert len(changed), model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["darts", "autoemb"])
@pytest.mark.parametrize("options", [{"validation": "replay"}, {"validation": "holdout", "holdout_fraction": 0.3}, {"xi": 1.0}], ids=str)
def test_every_validation_source_is_honest(options: dict[str, Any], method: str, mode: str) -> None:
    config = trainer_config(method, context=mode, **options)
    before = predictions(config, STREAM)["method"]
    seen_later = 0
    for flipped in range(SIZE, 2 * SIZE, 7):
        other = list(STREAM)
        other[flipped] = STREAM[flipped]._replace(rating=1.0 if STREAM[flipped].rating > 3.5 else 5.0)
        changed = np.flatnonzero((before != predictions(config, other)["method"]).any(axis=1))
        assert all(may_know(STREAM, mode, flipped, event, size=SIZE) for event in changed), changed
        seen_later += len(changed)
    assert seen_later


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_no_prediction_depends_on_later_ids_but_through_batch_statistics(method: str, mode: str) -> None:
    config = trainer_config(method, context=mode, normalisation="layer")
    cut = 2 * SIZE + 10
    other = STREAM[:cut] + [r._replace(user_id=f"new-{r.user_id}", item_id=f"new-{r.item_id}") for r in STREAM[cut:]]
    before, after = predictions(config, STREAM), predictions(config, other)
    for model, rows in before.items():
        np.testing.assert_allclose(rows[:cut], after[model][:cut], rtol=1e-5, atol=1e-7, err_msg=model)
