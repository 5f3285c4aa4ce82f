"""Newton steps, references, controllers and what the context keeps, each against its twin in float64."""

import numpy as np
import pytest

from autoemb_pipeline import kernels
from tests.kernels import twins
from tests.kernels.worlds import BATCH, searched_world, world

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("count", [3, 8, 29])
def test_newton_step(outputs, count):
    rng = np.random.default_rng(outputs + count)
    inputs, width = rng.normal(size=(BATCH, 19)), 19
    p = twins.softmax(rng.normal(size=(BATCH, 5))) if outputs > 1 else rng.uniform(0.05, 0.95, size=(BATCH, 1))
    binary, classes = rng.integers(0, 2, BATCH).astype(float), rng.integers(0, 5, BATCH)
    which = rng.choice(BATCH, size=count, replace=False)
    precision, gradient = np.eye(outputs * width) * 3, rng.normal(size=(outputs, width))
    expected, slope = precision.copy(), gradient.copy()
    kernels.newton_observe(inputs, which, p, binary, classes, precision, gradient)
    twins.newton_observe(inputs, which, p, binary, classes, expected, slope)
    np.testing.assert_allclose(precision, expected, **CLOSE)
    np.testing.assert_allclose(gradient, slope, **CLOSE)
    weights = rng.normal(size=(outputs, width))
    wanted = weights - np.linalg.solve(expected, slope.ravel()).reshape(outputs, width)
    kernels.newton_descend(weights, precision, gradient)
    np.testing.assert_allclose(weights, wanted, **CLOSE)
    assert not gradient.any()


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_references(task):
    events, state, model, out = world(task=task)
    kernels.run(kernels.operations(events.times, "event")[0], events, state, model, out, kernels.no_memory(events, len(model.levels)))
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(len(model.levels), 16)) * 0.3
    mean, logistic = np.empty_like(out.base), np.empty_like(out.base)
    kernels.predict_references(out.inputs, out.classes, weights, mean, logistic)
    scores = out.inputs[:, :16] @ weights.T
    if task == "binary":
        np.testing.assert_allclose(mean, twins.sigmoid(out.inputs[:, :1]), **CLOSE)
        np.testing.assert_allclose(logistic, twins.sigmoid(out.inputs[:, :1] + scores), **CLOSE)
    else:
        np.testing.assert_allclose(mean, out.classes, **CLOSE)
        np.testing.assert_allclose(logistic, twins.softmax(np.log(out.classes) + scores), **CLOSE)
    np.testing.assert_array_equal(kernels.features_of(out.inputs), out.inputs[:, :16])


@pytest.mark.parametrize("run_loss", [np.nan, 0.2])
def test_what_controllers_see_next_time(run_loss):
    rng = np.random.default_rng(3)
    context, first = np.concatenate([rng.uniform(0, 60, (9, 4)), rng.uniform(size=(9, 10))], axis=1), kernels.weights_at(0)
    context[:, 0] = rng.integers(0, 300, 9)
    context[2:5, 2:4] = np.nan
    totals = np.array([3.0, 1.0, run_loss, 0, 0, 0, 0, 0])
    slots, local = rng.choice(9, size=5, replace=False), rng.integers(0, 5, BATCH)
    losses, which = rng.uniform(size=BATCH), np.flatnonzero(rng.random(BATCH) < 0.4)
    weights, other, mean = rng.uniform(size=(BATCH, 3)), context.copy(), losses[which].mean()
    kernels.remember(local, slots, losses, weights, which, first, context)
    twins.remember(slots[local], losses, weights, which, first, other)
    np.testing.assert_allclose(context, other, **CLOSE)
    kernels.remember_run(losses, which, totals)
    assert totals[2] == pytest.approx(mean if np.isnan(run_loss) else 0.99 * run_loss + 0.01 * mean, rel=1e-12)


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("nested", [True, False])
def test_slopes_of_the_mixture(task, nested):
    events, state, model, out = world(3, task)
    kernels.run(kernels.operations(events.times, "event")[0], events, state, model, out, kernels.no_memory(events, len(model.levels)))
    rng = np.random.default_rng(1)
    weights = twins.softmax(rng.normal(size=(3, BATCH, 3)))
    found = np.empty_like(weights)
    kernels.mixture_slopes(events, model, out, weights, nested, found)
    twin = twins.Twin(events, state, model, out, kernels.no_memory(events, len(model.levels)))
    wanted = np.eye(5)[events.classes] if task == "rating" else events.binary[:, None]
    slope = (out.probabilities - wanted) @ model.levels
    np.testing.assert_allclose(found, twins.mixture_slopes(slope, out.products, twin.gains, events.uses, nested), **CLOSE)


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_losses_of_prefixes(task):
    events, state, model, out, memory = searched_world(task)
    kernels.run(kernels.operations(events.times, "event")[0], events, state, model, out, memory)
    losses, expected = np.empty((BATCH, 4)), np.empty((BATCH, 3))
    kernels.validate(events, out, losses, expected)
    of_labels, of_model = twins.validate(out.prefixes, events.binary, events.classes)
    np.testing.assert_allclose(losses, of_labels, **CLOSE)
    np.testing.assert_allclose(expected, of_model, **CLOSE)
    assert expected.max() > 1e-3


def test_expected_savings_are_those_of_labels_that_the_last_prefix_draws():
    """E[loss_(N-1) - loss_N] over labels from p_N: what `validate` says of the last block without any label."""
    events, state, model, out, memory = searched_world("rating")
    kernels.run(kernels.operations(events.times, "event")[0], events, state, model, out, memory)
    losses, expected, mean = np.empty((BATCH, 4)), np.empty((BATCH, 3)), np.zeros(BATCH)
    for klass in range(5):
        kernels.validate(events._replace(classes=np.full(BATCH, klass)), out, losses, expected)
        mean += out.prefixes[:, 3, klass] * (losses[:, 2] - losses[:, 3])
    np.testing.assert_allclose(expected[:, 2], mean, rtol=1e-9, atol=1e-12)


def test_an_optimiser_moves_nothing_without_gradient():
    own, before = np.arange(4.0), np.arange(4.0)
    kernels.adam(own, np.zeros((2, 4)), np.zeros(4), 1, 0.1)
    kernels.adagrad(own, np.zeros(4), np.zeros(4), 0.1)
    np.testing.assert_array_equal(own, before)
