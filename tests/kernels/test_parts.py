"""Newton steps, references, controllers and what the context keeps, each against its twin in float64."""

import numpy as np
import pytest
import torch

from autoemb_pipeline.kernels import (
    adagrad,
    adam,
    backward,
    controller_inputs,
    features_of,
    forward,
    mixture_slopes,
    newton_descend,
    newton_observe,
    operations,
    parameter_count,
    predict_references,
    remember,
    remember_run,
    run,
    uses_of,
    weights_at,
)
from autoemb_pipeline.learners.common.dense import DenseParameters
from autoemb_pipeline.learners.common.initial import seeded_generator
from autoemb_pipeline.learners.common.optimisers import make_optimiser
from autoemb_pipeline.learners.search.controller import Controller
from tests.kernels import twins
from tests.kernels.worlds import BATCH, world

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
    newton_observe(inputs, which, p, binary, classes, precision, gradient)
    twins.newton_observe(inputs, which, p, binary, classes, expected, slope)
    np.testing.assert_allclose(precision, expected, **CLOSE)
    np.testing.assert_allclose(gradient, slope, **CLOSE)
    weights = rng.normal(size=(outputs, width))
    wanted = weights - np.linalg.solve(expected, slope.ravel()).reshape(outputs, width)
    newton_descend(weights, precision, gradient)
    np.testing.assert_allclose(weights, wanted, **CLOSE)
    assert not gradient.any()


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_references(task):
    events, state, model, out = world(task=task)
    run(operations(events.times, "event")[0], events, state, model, out)
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(len(model.levels), 16)) * 0.3
    mean, logistic = np.empty_like(out.base), np.empty_like(out.base)
    predict_references(out.inputs, out.classes, weights, mean, logistic)
    scores = out.inputs[:, :16] @ weights.T
    if task == "binary":
        np.testing.assert_allclose(mean, twins.sigmoid(out.inputs[:, :1]), **CLOSE)
        np.testing.assert_allclose(logistic, twins.sigmoid(out.inputs[:, :1] + scores), **CLOSE)
    else:
        np.testing.assert_allclose(mean, out.classes, **CLOSE)
        np.testing.assert_allclose(logistic, twins.softmax(np.log(out.classes) + scores), **CLOSE)
    np.testing.assert_array_equal(features_of(out.inputs), out.inputs[:, :16])


@pytest.mark.parametrize("run_loss", [np.nan, 0.2])
def test_controller_inputs_and_what_they_see_next_time(run_loss):
    rng = np.random.default_rng(3)
    context, first = np.concatenate([rng.uniform(0, 60, (9, 4)), rng.uniform(size=(9, 10))], axis=1), weights_at(0)
    context[:, 0] = rng.integers(0, 300, 9)
    context[2:5, 2:4] = np.nan
    totals = np.array([3.0, 1.0, run_loss, 0, 0, 0, 0, 0])
    slots, local = rng.choice(9, size=5, replace=False), rng.integers(0, 5, BATCH)
    counts, found = np.zeros(BATCH), np.zeros((BATCH, 38))
    controller_inputs(local, slots, context, totals, first, counts, found)
    wanted, popularity = twins.controller_inputs(slots[local], context, totals, first, 3)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    np.testing.assert_array_equal(counts, popularity)

    losses, which = rng.uniform(size=BATCH), np.flatnonzero(rng.random(BATCH) < 0.4)
    weights, other, mean = rng.uniform(size=(BATCH, 3)), context.copy(), losses[which].mean()
    remember(local, slots, losses, weights, which, first, context)
    twins.remember(slots[local], losses, weights, which, first, other)
    np.testing.assert_allclose(context, other, **CLOSE)
    remember_run(losses, which, totals)
    assert totals[2] == pytest.approx(mean if np.isnan(run_loss) else 0.99 * run_loss + 0.01 * mean, rel=1e-12)


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("nested", [True, False])
def test_slopes_of_the_mixture(task, nested):
    events, state, model, out = world(3, task)
    run(operations(events.times, "event")[0], events, state, model, out)
    rng = np.random.default_rng(1)
    weights = twins.softmax(rng.normal(size=(3, BATCH, 3)))
    counts, costs = rng.integers(0, 30, size=(3, BATCH)).astype(float), np.array([1e-3, 2e-2, 0.1])
    found = np.empty_like(weights)
    mixture_slopes(events, model, out, weights, counts, costs, 0.7, 0.01, nested, found)
    twin = twins.Twin(events, state, model, out)
    wanted = np.eye(5)[events.classes] if task == "rating" else events.binary[:, None]
    slope = (out.probabilities - wanted) @ model.levels
    expected = twins.mixture_slopes(slope, out.products, twin.gains, events.uses, weights, counts, costs, 0.7, 0.01, nested)
    np.testing.assert_allclose(found, expected, **CLOSE)
    uses = np.empty_like(weights[0])
    uses_of(weights[0], nested, uses)
    np.testing.assert_allclose(uses, weights[0][:, ::-1].cumsum(axis=1)[:, ::-1] if nested else weights[0], **CLOSE)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 5)])
@pytest.mark.parametrize("optimiser", ["adam", "adagrad"])
def test_controllers_are_those_of_the_product(activation, hidden, optimiser):
    """Torch's autograd and the product's optimisers are the twin."""
    rng = np.random.default_rng(len(hidden))
    made = Controller(3, hidden, seeded_generator(0, "c"), activation=activation)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.from_numpy(rng.normal(size=value.shape) * 0.3))
    own = np.concatenate([v.detach().numpy().ravel() for v in made.parameters()])
    parameters = DenseParameters("c", made, make_optimiser(optimiser, 1e-2), dtype=torch.float64, device=torch.device("cpu"))
    sizes = (38, *hidden, 3)
    state = np.zeros((2, parameter_count(sizes)))
    for step in range(1, 4):
        inputs, slopes = rng.normal(size=(BATCH, 38)), rng.normal(size=(BATCH, 3))
        slopes[:, 1] *= step > 1  # nothing exactly zero later
        weights, taken = forward(own, sizes, inputs, activation)
        expected = parameters.call(parameters.values, torch.from_numpy(inputs))
        np.testing.assert_allclose(weights, expected.detach().numpy(), **CLOSE)
        gradients = torch.autograd.grad((expected * torch.from_numpy(slopes)).sum(), list(parameters.values.values()))
        gradient = backward(own, sizes, taken, weights, slopes, activation)
        np.testing.assert_allclose(gradient, np.concatenate([g.numpy().ravel() for g in gradients]), **CLOSE)
        parameters.apply(gradients)
        if optimiser == "adam":
            adam(own, state, gradient, step, 1e-2)
        else:
            adagrad(own, state[0], gradient, 1e-2)
        found = np.concatenate([v.detach().numpy().ravel() for v in parameters.values.values()])
        np.testing.assert_allclose(own, found, rtol=1e-9, atol=1e-12)


def test_an_optimiser_moves_nothing_without_gradient():
    own, before = np.arange(4.0), np.arange(4.0)
    adam(own, np.zeros((2, 4)), np.zeros(4), 1, 0.1)
    adagrad(own, np.zeros(4), np.zeros(4), 0.1)
    np.testing.assert_array_equal(own, before)
