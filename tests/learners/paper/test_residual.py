"""Preset `residual`: a network added to the logistic regression's logit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.errors import CheckpointError, ConfigurationError
from autoemb_pipeline.learners.config import METHODS
from autoemb_pipeline.learners.paper.network import pairs
from autoemb_pipeline.learners.paper.residual import logits_of
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, trainer_tables
from tests.learners.paper.batches import batch_of, learner_of, small_config, step
from tests.run.conftest import trainer_config
from tests.streams import synthetic_stream

SIZE, BATCHES = 60, 4
STREAM = synthetic_stream(SIZE * BATCHES, seed=5, ties=4)


def trained(monkeypatch, **options):
    """(prediction, logistic reference's) of every mini-batch of a short stream in which that takes steps."""
    monkeypatch.setattr("autoemb_pipeline.prequential.references.NEWTON_EVERY", SIZE)
    config = trainer_config(preset="residual", precision="float64", **options)
    trainer = Trainer(config, MemoryRowStore(trainer_tables(config)))
    out = []
    for number in range(BATCHES):
        records = STREAM[number * SIZE : (number + 1) * SIZE]
        result = trainer.step(MiniBatch.of(step=number + 1, records=records, next_offsets={0: (number + 1) * SIZE}))
        out.append((result.predictions.probabilities, result.references["logistic"]))
    return out


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("context", ["batch", "event", "strict"])
@pytest.mark.parametrize("method", METHODS)
def test_it_begins_as_the_logistic_reference_and_then_leaves_it(method, context, task, monkeypatch):
    steps = trained(monkeypatch, method=method, context=context, task=task, dense_rate=0.05)
    np.testing.assert_allclose(*steps[0], rtol=1e-9)
    assert all(np.abs(predicted - known).max() > 1e-3 for predicted, known in steps[1:])


@pytest.mark.parametrize("options", [{}, {"validation": "holdout"}], ids=str)
@pytest.mark.parametrize("task", ["binary", "rating"])
def test_what_its_network_does_not_learn_the_reference_does_not_know(task, options, monkeypatch):
    steps = trained(monkeypatch, method="autoemb", task=task, dense_rate=0.0, **options)
    for predicted, known in steps:
        np.testing.assert_allclose(predicted, known, rtol=1e-9)
    assert not np.allclose(steps[-1][1], steps[0][1], rtol=1e-3)


@pytest.mark.parametrize("method", ["fse", "autoemb"])
def test_context_is_an_input_of_the_network_and_can_be_left_out(method):
    def moved(**options):
        config = small_config(preset="residual", method=method, dense_rate=0.02, **options)
        learner, _ = learner_of(config)
        for seed in range(4):
            step(learner, config, seed)
        inputs, _ = batch_of(9)
        learner.load_state_dict({**learner.state_dict(), "logistic/weights": np.zeros(16)})
        x = np.zeros_like(inputs.features)
        x[:, 13] = 1.0
        plain = learner.predict(replace(inputs, features=x)).probabilities
        x[:, [2, 5]] = 2.0  # not x0, which is in the regression's logit
        return np.abs(learner.predict(replace(inputs, features=x)).probabilities - plain).max()

    assert moved() > 1e-4
    assert moved(context_inputs=False) == 0.0


def test_pairs_are_all_products_of_two_features():
    x = torch.arange(1.0, 7.0).reshape(2, 3)
    assert pairs(x, 2).tolist() == [[1.0, 2.0, 2.0, 4.0], [16.0, 20.0, 20.0, 25.0]]
    assert pairs(x, 0).shape == (2, 0)


def test_the_regression_is_in_the_checkpoint():
    learner, _ = learner_of(small_config(preset="residual"))
    for seed in range(2):
        inputs, labels = batch_of(seed, size=400)
        learner.predict(inputs)
        learner.update(labels)
    state = learner.state_dict()
    assert np.abs(state["logistic/weights"]).max() > 0.01
    with pytest.raises(CheckpointError, match="logistic/hessian"):
        learner.load_state_dict({name: array for name, array in state.items() if name != "logistic/hessian"})


def test_logits_are_those_of_the_probabilities_and_finite():
    p = np.array([0.0, 0.2, 0.5, 1.0])
    logits = logits_of(p)
    assert logits.shape == (4, 1)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 0])), p, atol=1e-11)
    classes = np.array([[0.0, 0.25, 0.75]])
    odds = np.exp(logits_of(classes))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), classes, atol=1e-11)


def test_it_cannot_read_again_what_its_context_holds():
    with pytest.raises(ConfigurationError, match="preset residual cannot read the offline stage again"):
        replace(trainer_config(preset="residual"), offline=OfflineStage(count=100), offline_epochs=2)
