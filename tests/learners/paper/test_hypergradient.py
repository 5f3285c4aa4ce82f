"""Eq. 9 by numbers: the whole unrolled step rebuilt in plain NumPy and torch, central differences, in float64."""

import numpy as np
import pytest
import torch

from autoemb_pipeline.learners.common.losses import interaction_losses
from autoemb_pipeline.learners.paper.forward import gradients
from autoemb_pipeline.learners.paper.hypergradient import Hypergradient
from autoemb_pipeline.learners.paper.network import NetworkInputs
from autoemb_pipeline.learners.paper.strategies import descend
from tests.learners.paper.batches import batch_of, model_of, small_config

STEP = 3e-6


class Unrolled:
    """L_val(W_t + ξ (U(W_{t−1}, Θ) − W_t), Θ) as a function of the numbers in Θ, with U the update of the inner batch.

    Uses the network and the controllers as functions, and nothing of the learner's own bookkeeping: rows are dictionaries by id.
    """

    def __init__(self, config, inner, validation, xi):
        self.config, self.xi = config, xi
        self.model, _ = model_of(config)
        for seed in (10, 11):
            inputs, labels = batch_of(seed)
            forward = self.model.forward(self.model.encode(inputs))
            descend(self.model, forward, self.model.targets(labels))
        self._randomise_theta(inner, validation)
        inner_inputs, inner_labels = inner
        self.inner = self.model.encode(inner_inputs)
        self.inner_targets = self.model.targets(inner_labels)
        self.hypergradient = Hypergradient(model=self.model, xi=xi, unroll=config.unroll, preconditioner=config.preconditioner)
        forward = self.model.forward(self.inner)
        self.before = forward.point
        self.dense_state = dict(self.model.recommender.dense.state)
        self.hypergradient.remember(forward, self.inner_targets)
        descend(self.model, forward, self.inner_targets)
        validation_inputs, validation_labels = validation
        self.validation = self.model.encode(validation_inputs)
        self.targets = self.model.targets(validation_labels)
        self.after = self.model.recommender.gather(self.validation)
        self.ids = [(self.inner.user_ids, self.inner.item_ids), (self.validation.user_ids, self.validation.item_ids)]

    def _randomise_theta(self, inner, validation):
        generator = torch.Generator().manual_seed(3)
        if self.config.method == "autoemb":
            group = self.model.selector.parameters
            group.values = {
                k: (0.5 * torch.randn(v.shape, generator=generator, dtype=torch.float64)).requires_grad_() for k, v in group.values.items()
            }
            return
        for inputs in (inner[0], validation[0]):
            theta = self.model.selector.gather(self.model.encode(inputs))
            self.model.selector.apply([(theta, [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in theta.leaves])])

    def theta(self):
        """Θ as one dictionary of arrays."""
        if self.config.method == "autoemb":
            return {k: v.detach().clone() for k, v in self.model.selector.parameters.values.items()}
        out = {}
        for batch in (self.inner, self.validation):
            theta = self.model.selector.gather(batch)
            for side, rows in zip("ui", theta.rows, strict=True):
                out |= {f"{side}:{i}": row.detach().clone() for i, row in zip(rows.ids, rows.values, strict=True)}
        return out

    def weights(self, theta, batch):
        if self.config.method == "autoemb":
            return self.model.selector.parameters.call(theta, batch.user_inputs, batch.item_inputs)
        sides = (("u", batch.user_ids, batch.user_index), ("i", batch.item_ids, batch.item_index))
        return tuple(torch.softmax(torch.stack([theta[f"{s}:{ids[k]}"] for k in index.tolist()]), dim=1) for s, ids, index in sides)

    def loss(self, dense, users, items, batch, theta, targets):
        alpha, beta = self.weights(theta, batch)
        inputs = NetworkInputs(
            user_rows=users[batch.user_index],
            item_rows=items[batch.item_index],
            user_weights=alpha,
            item_weights=beta,
            features=batch.features,
        )
        return interaction_losses(self.model.recommender.dense.call(dense, inputs), targets).mean()

    def updated(self, theta):
        """U(W_{t−1}, Θ): NumPy optimiser steps from first-order gradients."""
        leaves = [v.detach().clone().requires_grad_() for v in self.before.leaves]
        dense = dict(zip(self.before.dense, leaves[:-2], strict=True))
        loss = self.loss(dense, leaves[-2], leaves[-1], self.inner, theta, self.inner_targets)
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        number = self.model.recommender.dense.steps
        states = [*self.dense_state.values(), self.before.users.state, self.before.items.state]
        kinds = [self.config.dense_optimiser] * len(self.dense_state) + [self.config.row_optimiser] * 2
        rates = [self.config.dense_rate] * len(self.dense_state) + [self.config.row_rate] * 2
        return [
            torch.as_tensor(numpy_step(kind, v.detach().numpy(), g.numpy(), [s.numpy() for s in state], rate, number))
            for kind, v, g, state, rate in zip(kinds, leaves, found, states, rates, strict=True)
        ]

    def __call__(self, theta):
        new = self.updated(theta)
        now = dict(self.after.dense)
        dense = {k: now[k].detach() + self.xi * (v - now[k].detach()) for k, v in zip(self.before.dense, new[:-2], strict=True)}
        sides = []
        for side, rows, gathered in zip((0, 1), new[-2:], (self.after.users, self.after.items), strict=True):
            values = gathered.values.detach().clone()
            for position, identifier in enumerate(self.ids[1][side]):
                if identifier in self.ids[0][side]:
                    values[position] += self.xi * (rows[self.ids[0][side].index(identifier)] - values[position])
            sides.append(values)
        with torch.no_grad():
            return float(self.loss(dense, *sides, self.validation, theta, self.targets))

    def slopes(self, found, directions=12):
        """Central differences along random directions of all of Θ at once, and the found gradient's slopes along the same."""
        start = self.theta()
        generator = torch.Generator().manual_seed(4)
        measured, claimed = [], []
        for _ in range(directions):
            way = {k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in start.items()}
            up, down = (self({k: v + sign * STEP * way[k] for k, v in start.items()}) for sign in (1, -1))
            measured.append((up - down) / (2 * STEP))
            claimed.append(float(sum((way[k] * found[k]).sum() for k in way)))
        return {"slopes": torch.tensor(claimed)}, {"slopes": torch.tensor(measured)}

    def found(self):
        """The learner's hypergradient under the same names."""
        forward = self.model.forward(self.validation)
        out = {k: torch.zeros_like(v) for k, v in self.theta().items()}
        for theta, terms in self.hypergradient.gradients(forward, self.targets):
            if self.config.method == "autoemb":
                for name, gradient in zip(out, terms, strict=True):
                    out[name] += gradient
            else:
                for side, rows, gradient in zip("ui", theta.rows, terms, strict=True):
                    for identifier, row in zip(rows.ids, gradient, strict=True):
                        out[f"{side}:{identifier}"] += row
        return out


def numpy_step(kind, value, gradient, state, rate, number):
    if kind == "sgd":
        return value - rate * gradient
    if kind == "adagrad":
        return value - rate * gradient / (np.sqrt(state[0] + gradient**2) + 1e-10)
    first, second = 0.9 * state[0] + 0.1 * gradient, 0.999 * state[1] + 0.001 * gradient**2
    return value - rate * (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)


def flat(named):
    return torch.cat([v.reshape(-1) for v in named.values()])


def relative_error(found, wanted):
    return float((flat(found) - flat(wanted)).norm() / flat(wanted).norm())


def unrolled(method="autoemb", rows="adagrad", dense="adam", xi=1.0, **changes):
    config = small_config(
        method=method,
        row_optimiser=rows,
        dense_optimiser=dense,
        row_rate=0.3 if rows == "sgd" else 0.1,
        dense_rate=0.5 if dense == "sgd" else 0.05,
        initial_accumulator=1e-4,
        xi=xi,
        controller_hidden=(4,),
        hidden=(5,),
        **changes,
    )
    return Unrolled(config, batch_of(20), batch_of(21), xi)


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize(("rows", "dense"), [("sgd", "sgd"), ("adagrad", "adam"), ("adam", "adagrad")])
@pytest.mark.parametrize("method", ["autoemb", "darts"])
def test_exact_hypergradient_is_the_slope_of_the_whole_unrolled_step(method, rows, dense, task):
    problem = unrolled(method, rows, dense, task=task)
    assert relative_error(*problem.slopes(problem.found())) < 1e-6


@pytest.mark.parametrize("normalisation", ["batch", "none"])
def test_exact_hypergradient_with_other_normalisations_and_fractions_of_the_step(normalisation):
    problem = unrolled(xi=0.6, normalisation=normalisation, shared_maps=True)
    assert relative_error(*problem.slopes(problem.found())) < 1e-6


def test_the_second_order_term_is_a_real_part_of_it():
    problem = unrolled(rows="sgd", dense="sgd")
    total = problem.found()
    problem.hypergradient.xi = 0.0
    assert relative_error(problem.found(), total) > 1e-3


@pytest.mark.parametrize("preconditioner", ["exact", "detached", "sgd"])
@pytest.mark.parametrize("method", ["autoemb", "darts"])
def test_finite_difference_agrees_with_exact(method, preconditioner):
    problem = unrolled(method, preconditioner=preconditioner)
    exact = problem.found()
    problem.hypergradient.xi = 0.0
    first = problem.found()
    problem.hypergradient.xi, problem.hypergradient.unroll = 1.0, "finite-difference"
    finite = problem.found()
    second = {k: exact[k] - first[k] for k in exact}
    assert relative_error({k: finite[k] - first[k] for k in exact}, second) < 1e-2


def test_preconditioners_give_different_second_order_terms():
    problem = unrolled()
    found = {}
    for mode in ("exact", "detached", "sgd"):
        problem.hypergradient.preconditioner = mode
        found[mode] = problem.found()
    assert relative_error(found["detached"], found["exact"]) > 1e-6
    assert relative_error(found["sgd"], found["exact"]) > 1e-6


def test_all_preconditioners_agree_for_sgd():
    problem = unrolled(rows="sgd", dense="sgd")
    exact = problem.found()
    for mode in ("detached", "sgd"):
        problem.hypergradient.preconditioner = mode
        assert relative_error(problem.found(), exact) < 1e-14


def test_the_hypergradient_goes_to_first_order_as_xi_goes_to_zero():
    problem = unrolled()
    problem.hypergradient.xi = 0.0
    first = problem.found()
    errors = []
    for xi in (1e-2, 1e-4, 1e-6):
        problem.hypergradient.xi = xi
        errors.append(relative_error(problem.found(), first))
    assert errors[2] < 1e-5
    assert errors[0] / errors[1] == pytest.approx(100, rel=1e-2)
    assert errors[1] / errors[2] == pytest.approx(100, rel=1e-2)


def test_first_order_is_the_plain_gradient():
    problem = unrolled(xi=0.0)
    forward = problem.model.forward(problem.validation)
    plain = gradients(problem.model.loss(forward.logits, problem.targets), list(forward.theta.leaves))
    found = problem.hypergradient.gradients(forward, problem.targets)
    assert len(found) == 1
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], plain, strict=True))


def test_disjoint_batches_still_meet_in_the_dense_layers():
    config = small_config(method="autoemb", xi=1.0, controller_hidden=(4,), hidden=(5,), initial_accumulator=1e-4)
    inputs, labels = batch_of(21)
    others = type(inputs)(
        user_ids=[f"other{u}" for u in inputs.user_ids],
        item_ids=[f"other{i}" for i in inputs.item_ids],
        features=inputs.features,
        users=inputs.users,
        items=inputs.items,
        global_loss=inputs.global_loss,
    )
    problem = Unrolled(config, batch_of(20), (others, labels), 1.0)
    assert relative_error(*problem.slopes(problem.found())) < 1e-6
