"""The references: Newton's step against its definition, and the published figures on real data."""

from pathlib import Path

import numpy as np
import pytest

from autoemb_pipeline.context.tracker import ContextConfig, ContextTracker, context_tables
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.prequential.metrics import losses_and_hits
from autoemb_pipeline.prequential.references import Logistic, RunningMean, sigmoid
from autoemb_pipeline.records import Labels, LearnerInputs, SideContext
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.streams import movielens_stream, ratings_of, synthetic_stream


def inputs_of(features: np.ndarray, classes: np.ndarray | None = None, held_out: np.ndarray | None = None) -> LearnerInputs:
    size = len(features)
    features = np.pad(features, ((0, 0), (0, 16 - features.shape[1])))  # further features that are always 0
    blank = SideContext(
        count=np.zeros(size), previous_weights=np.zeros((size, 3)), previous_loss=np.zeros(size), fading_loss=np.zeros(size)
    )
    ids = ["x"] * size
    return LearnerInputs(
        user_ids=ids,
        item_ids=ids,
        features=features,
        users=blank,
        items=blank,
        global_loss=0.2,
        class_probabilities=classes,
        held_out=held_out,
    )


def test_first_newton_step_by_hand() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(500, 4)), (rng.random(500) > 0.4).astype(float)
    logistic, inputs = Logistic("binary"), inputs_of(x)
    p = logistic.predict(inputs)
    np.testing.assert_allclose(p, sigmoid(x[:, 0]))
    logistic.update(inputs, p, Labels(binary=y, classes=np.zeros(500, dtype=np.int64)))
    hessian = 10 * np.eye(4) + sum(p[i] * (1 - p[i]) * np.outer(x[i], x[i]) for i in range(500))
    w = -np.linalg.solve(hessian, sum((p[i] - y[i]) * x[i] for i in range(500)))
    np.testing.assert_allclose(logistic.predict(inputs), sigmoid(x[:, 0] + x @ w))


def test_small_batches_step_once_per_500_events() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(500, 4)), (rng.random(500) > 0.4).astype(float)
    whole, parts = Logistic("binary"), Logistic("binary")
    whole.update(inputs_of(x), whole.predict(inputs_of(x)), Labels(binary=y, classes=np.zeros(500, dtype=np.int64)))
    for k in range(0, 500, 100):
        part = inputs_of(x[k : k + 100])
        parts.update(part, parts.predict(part), Labels(binary=y[k : k + 100], classes=np.zeros(100, dtype=np.int64)))
    np.testing.assert_allclose(parts.predict(inputs_of(x)), whole.predict(inputs_of(x)))


def test_softmax_gradient_and_curvature_against_differences() -> None:
    rng = np.random.default_rng(3)
    x, classes = rng.normal(size=(500, 3)), rng.integers(0, 5, 500)
    prior = rng.dirichlet(np.ones(5), 500)
    logistic, inputs = Logistic("rating"), inputs_of(x, prior)
    p = logistic.predict(inputs)
    np.testing.assert_allclose(p, prior)

    def loss(w: np.ndarray) -> float:
        scores = np.log(prior) + x @ w.reshape(5, 3).T
        return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(500), classes]).sum())

    step = 1e-4
    axes = np.eye(15) * step
    gradient = np.array([(loss(a) - loss(-a)) / (2 * step) for a in axes])
    hessian = np.array([[(loss(a + b) - loss(a - b) - loss(b - a) + loss(-a - b)) / (4 * step**2) for a in axes] for b in axes])
    logistic.update(inputs, p, Labels(binary=np.zeros(500), classes=classes))
    expected = -np.linalg.solve(hessian + 10 * np.eye(15), gradient)
    scores = np.log(prior) + x @ expected.reshape(5, 3).T
    np.testing.assert_allclose(logistic.predict(inputs), np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), rtol=1e-4)


def test_held_out_labels_do_not_move_the_weights() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(600, 4)), (rng.random(600) > 0.4).astype(float)
    held = rng.random(600) < 0.1
    inputs, results = inputs_of(x, held_out=held), []
    for labels in (y, np.where(held, 1 - y, y)):
        logistic = Logistic("binary")
        logistic.update(inputs, logistic.predict(inputs), Labels(binary=labels, classes=np.zeros(600, dtype=np.int64)))
        results.append(logistic.predict(inputs))
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], sigmoid(x[:, 0]))


def test_restored_logistic_goes_on_to_the_same_bits() -> None:
    stream = synthetic_stream(1600, seed=1)
    config = ContextConfig()
    context = ContextTracker(config, MemoryRowStore(context_tables(config)))
    whole, resumed = Logistic("binary"), Logistic("binary")
    for k in range(0, 1600, 200):
        batch = stream[k : k + 200]
        labels = labels_of(ratings_of(batch))
        inputs = context.observe(batch, labels)
        state = resumed.state()
        resumed = Logistic("binary")
        resumed.load_state(state)
        p, q = whole.predict(inputs), resumed.predict(inputs)
        np.testing.assert_array_equal(p, q)
        whole.update(inputs, p, labels)
        resumed.update(inputs, q, labels)
        context.record(np.zeros(len(batch)), None, None)


def test_checkpoints_keep_their_names_and_shapes() -> None:
    shapes = {name: array.shape for name, array in Logistic("rating").state().items()}
    assert shapes == {"weights": (80,), "hessian": (80, 80), "gradient": (80,), "events": (1,)}


def test_rating_task_needs_class_probabilities() -> None:
    for model in (RunningMean("rating"), Logistic("rating")):
        with pytest.raises(ValueError, match="class probabilities"):
            model.predict(inputs_of(np.zeros((2, 4))))


# docs/results.md, "References"; all interactions and the last 30%.
PUBLISHED = {
    "event": ((0.1961, 0.1840), (0.1852, 0.1693)),
    "strict": ((0.1963, 0.1841), (0.1860, 0.1700)),
    "batch": ((0.2154, 0.2122), (0.2132, 0.2080)),
}


@pytest.mark.parametrize("mode", ["event", "strict", "batch"])
def test_published_figures_on_ml_latest_small(ml_latest_small: Path, mode: str) -> None:
    stream = movielens_stream(ml_latest_small)
    config = ContextConfig(mode=mode)
    context = ContextTracker(config, MemoryRowStore(context_tables(config)))
    models, losses = (RunningMean("binary"), Logistic("binary")), ([], [])
    for k in range(0, len(stream), 500):
        batch = stream[k : k + 500]
        labels = labels_of(ratings_of(batch))
        inputs = context.observe(batch, labels)
        predicted = [m.predict(inputs) for m in models]
        for own, p in zip(losses, predicted, strict=True):
            own.append(losses_and_hits(p, labels, "binary")[0])
        models[1].update(inputs, predicted[1], labels)
        context.record(losses[0][-1], None, None)
    for own, (all_of_it, last) in zip(losses, PUBLISHED[mode], strict=True):
        series = np.concatenate(own)
        assert series.mean() == pytest.approx(all_of_it, abs=2e-4)
        assert series[int(0.7 * len(series)) :].mean() == pytest.approx(last, abs=2e-4)
