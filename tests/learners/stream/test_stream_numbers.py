"""Each formula of the stream preset against a plain version of it, in float64."""

from collections import Counter

import numpy as np
import pytest
import torch

from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.gates import SearchedGate
from autoemb_pipeline.learners.stream.kalman import Beliefs, BothSides, KalmanConfig, learn
from autoemb_pipeline.learners.stream.link import Link, dense_inputs
from autoemb_pipeline.newton import OnlineNewton
from autoemb_pipeline.prequential.references import Logistic
from autoemb_pipeline.records import Labels, LearnerInputs
from tests.learners.stream.running import config, everything, steps, trainer
from tests.streams import synthetic_stream

BLOCKS = Blocks(dims=(2, 3, 6))


def beliefs(rng: np.random.Generator, rows: int) -> Beliefs:
    return Beliefs(
        means=rng.normal(size=(rows, 6)),
        variances=rng.uniform(0.1, 0.9, size=(rows, 3)),
        bias=rng.normal(size=rows),
        bias_variance=rng.uniform(0.1, 0.5, size=rows),
        largest=np.ones(3),
        held=np.ones((rows, 3), dtype=bool),
    )


def test_use_is_the_chance_that_a_dimension_is_used():
    weights = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(BLOCKS.use_of(weights), [[1.0, 0.5, 0.2], [1.0, 1.0, 1.0]])
    slopes = np.array([[1.0, 10.0, 100.0]])
    np.testing.assert_allclose(BLOCKS.weights_gradient(slopes), [[1.0, 11.0, 111.0]])


def test_nested_product_is_the_expected_product_of_drawn_prefixes():
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(1, 6)), rng.normal(size=(1, 6))
    alpha, beta = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.2, 0.7]])
    expected = sum(
        alpha[0, n] * beta[0, m] * (p[0, : min(d, e)] @ q[0, : min(d, e)])
        for n, d in enumerate(BLOCKS.dims)
        for m, e in enumerate(BLOCKS.dims)
    )
    assert (BLOCKS.use_of(alpha) * BLOCKS.use_of(beta) * BLOCKS.sums(p * q)).sum() == pytest.approx(expected)


def test_separate_spaces_meet_their_own_alone():
    separate = Blocks.of_spaces((2, 3, 6), nested=False)
    rng = np.random.default_rng(7)
    p, q = rng.normal(size=(1, 11)), rng.normal(size=(1, 11))
    alpha, beta = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.2, 0.7]])
    expected = sum(alpha[0, n] * beta[0, n] * (p[0, s] @ q[0, s]) for n, s in enumerate([slice(0, 2), slice(2, 5), slice(5, 11)]))
    assert (separate.use_of(alpha) * separate.use_of(beta) * separate.sums(p * q)).sum() == pytest.approx(expected)
    np.testing.assert_array_equal(separate.weights_gradient(alpha), alpha)


def test_kalman_step_equals_its_formulas():
    rng = np.random.default_rng(1)
    users, items = beliefs(rng, 2), beliefs(rng, 2)
    p, q = users.means[1].copy(), items.means[0].copy()
    v, w, vb, wb = (x.copy() for x in (users.variances[1], items.variances[0], users.bias_variance[1], items.bias_variance[0]))
    gates, error, h, rank, drift = np.array([[0.9, 0.5, 0.3]]), np.array([0.4]), np.array([0.2]), 2.0, 0.01
    v, w = np.minimum(v + drift, 1.0), np.minimum(w + drift, 1.0)
    parts = [slice(0, 2), slice(2, 3), slice(3, 6)]
    g = gates[0]
    innovation = 1 / 0.2 + vb + wb + sum(g[j] ** 2 * (v[j] * q[s] @ q[s] + w[j] * p[s] @ p[s]) for j, s in enumerate(parts))
    untouched = users.means[0].copy()
    pair, ones = BothSides(users, items), np.ones((1, 1))
    of = KalmanConfig(blocks=BLOCKS, rank=rank, drift=drift)
    learn(of, pair, np.array([[1], [2]]), np.concatenate([gates, ones], axis=1), error, h)
    for j, s in enumerate(parts):
        np.testing.assert_allclose(users.means[1, s], p[s] + v[j] * g[j] * q[s] * -0.4 / (0.2 * innovation))
        np.testing.assert_allclose(items.means[0, s], q[s] + w[j] * g[j] * p[s] * -0.4 / (0.2 * innovation))
        width = min(s.stop - s.start, rank)
        assert users.variances[1, j] == pytest.approx(v[j] - v[j] ** 2 * g[j] ** 2 * q[s] @ q[s] / innovation / width)
        assert items.variances[0, j] == pytest.approx(w[j] - w[j] ** 2 * g[j] ** 2 * p[s] @ p[s] / innovation / width)
    assert users.bias_variance[1] == pytest.approx(vb - vb**2 / innovation)
    np.testing.assert_array_equal(users.means[0], untouched)


def test_an_unused_block_stays_as_it_is():
    rng = np.random.default_rng(8)
    users, items = beliefs(rng, 2), beliefs(rng, 2)
    pair = BothSides(users, items)
    before = [(side.means[:, 3:].copy(), side.variances[:, 2].copy()) for side in (users, items)]
    gates = np.array([[0.9, 0.5, 0.0, 1.0]] * 2)
    of = KalmanConfig(blocks=BLOCKS, rank=2.0, drift=0.01)
    learn(of, pair, np.array([[0, 1], [2, 3]]), gates, np.array([0.4, -0.2]), np.array([0.2, 0.2]))
    for side, (means, variances) in zip((users, items), before, strict=True):
        np.testing.assert_array_equal(side.means[:, 3:], means)
        np.testing.assert_array_equal(side.variances[:, 2], variances)


def test_many_occurrences_in_one_part_do_not_overshoot():
    """500 equal observations in one part move the score towards the label, not past it, and leave variances positive."""
    rng = np.random.default_rng(2)
    users, items = beliefs(rng, 1), beliefs(rng, 500)
    items.means[:] = items.means[0]
    before = float(users.means[0] @ items.means[0] + users.bias[0])
    learn(
        KalmanConfig(blocks=BLOCKS, rank=2.0, drift=0.0), BothSides(users, items), np.stack([np.zeros(500, dtype=np.int64), np.arange(1, 501)]),
        np.ones((500, 4)), np.full(500, 0.5), np.full(500, 0.25),
    )  # fmt: skip
    after = float(users.means[0] @ items.means[0] + users.bias[0])
    assert before - 1.5 * 0.5 / 0.25 < after < before
    assert (users.variances > 0).all()
    assert (items.variances > 0).all()
    assert (users.bias_variance > 0).all()


def test_newton_part_alone_is_the_logistic_reference():
    rng = np.random.default_rng(3)
    newton = OnlineNewton(np.zeros((1, 16)), np.full(16, 10.0))
    reference = Logistic("binary", 16)
    for _ in range(4):
        x, y = rng.normal(size=(500, 16)), (rng.random(500) < 0.5).astype(float)
        p = 1.0 / (1.0 + np.exp(-(x[:, :1] + newton.scores(x))))
        inputs = LearnerInputs(user_ids=[], item_ids=[], features=x, users=None, items=None, global_loss=1.0)
        np.testing.assert_allclose(p[:, 0], reference.predict(inputs), rtol=1e-12)
        newton.step(x, p, y[:, None])
        reference.update(inputs, reference.predict(inputs), Labels(binary=y, classes=np.zeros(500, dtype=np.int64)))


def test_softmax_newton_uses_the_exact_gradient_and_hessian():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 3))
    newton = OnlineNewton(np.zeros((5, 3)), np.ones(3))
    scores = newton.scores(x) + rng.normal(size=(30, 5))
    p = Link(task="rating").predict(scores)
    wanted = np.eye(5)[rng.integers(0, 5, 30)]

    def loss(w):
        shifted = torch.as_tensor(scores) + torch.as_tensor(x) @ w.reshape(5, 3).T
        return -(torch.as_tensor(wanted) * torch.log_softmax(shifted, dim=1)).sum()

    zero = torch.zeros(15, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, zero).numpy()
    gradient = torch.autograd.functional.jacobian(loss, zero).numpy()
    newton.step(x, p, wanted)
    np.testing.assert_allclose(newton.weights.ravel(), -np.linalg.solve(hessian + np.eye(15), gradient), rtol=1e-9)


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_error_and_curvature_are_the_derivatives_in_the_score(task):
    link = Link(task=task)
    rng = np.random.default_rng(5)
    offsets = rng.normal(size=(6, len(link.levels)))
    labels = Labels(binary=rng.integers(0, 2, 6).astype(float), classes=rng.integers(0, 5, 6))
    wanted = link.targets(labels)

    def loss(s):
        p = link.predict(offsets + np.outer(s, link.levels))
        return (
            -(np.log(p[:, 0]) * wanted[:, 0] + np.log(1 - p[:, 0]) * (1 - wanted[:, 0]))
            if task == "binary"
            else -np.log((p * wanted).sum(axis=1))
        )

    s, step = rng.normal(size=6), 1e-4
    p = link.predict(offsets + np.outer(s, link.levels))
    np.testing.assert_allclose(link.error(p, wanted), (loss(s + step) - loss(s - step)) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(link.curvature(p), (loss(s + step) - 2 * loss(s) + loss(s - step)) / step**2, rtol=1e-4)


def test_dense_inputs_hold_every_product_once():
    x = np.random.default_rng(6).normal(size=(4, 16))
    z = dense_inputs(x, quadratic=True)
    assert z.shape == (4, 107)
    np.testing.assert_array_equal(z[:, :16], x)
    for i in range(13):
        for j in range(i, 13):
            assert (np.abs(z[:, 16:] - (x[:, i] * x[:, j])[:, None]).max(axis=0) < 1e-12).sum() == 1


STREAM = synthetic_stream(160, seed=5)


def test_waves_give_what_one_by_one_gives(monkeypatch):
    """The parts of size 1, but every interaction a part of its own."""
    of = config(context="event")
    waves = steps(trainer(of)[0], STREAM, 40)
    monkeypatch.setattr("autoemb_pipeline.trainer.micro_batches", lambda users, *_, **__: [np.array([k]) for k in range(len(users))])
    np.testing.assert_allclose(steps(trainer(of)[0], STREAM, 40), waves, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validation": "trace"},
        {"method": "darts"},
        {"task": "rating"},
        {"micro_batch": 9},
        {"nested": False},
        {"memory_budget": 1500, "admission": 2.0},
    ],
    ids=str,
)
def test_a_restored_run_goes_on_to_the_same_bits(options):
    of = config(**options)
    straight, rows = trainer(of)
    whole = steps(straight, STREAM, 40)
    first, store = trainer(of)
    steps(first, STREAM[:80], 40)
    tensors, payload = first.tensors(), first.payload()
    second = type(first)(of, store)
    second.restore(tensors, payload)
    np.testing.assert_array_equal(steps(second, STREAM, 40, first=80), whole[80:])
    mine, theirs = everything(second, store, of), everything(straight, rows, of)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_block_is_stored_only_for_ids_that_used_it():
    of = config("count-thresholds")
    by, store = trainer(of)
    steps(by, STREAM, 40)
    for side, ids in (("user", [r.user_id for r in STREAM]), ("item", [r.item_id for r in STREAM])):
        counts = Counter(ids)
        for block, least in ((1, 1), (2, 4), (3, 10)):  # used from the interaction after the threshold's 3 or 9
            expected = sorted(i for i, n in counts.items() if n >= least)
            assert [i for i, _ in store.items(f"embedding.{side}.{block}")] == expected


def test_a_large_cost_drives_ids_to_small_spaces():
    cheap, _ = trainer(config(cost=5.0, amortised=0.0, controller_rate=0.05))
    steps(cheap, STREAM, 20)
    free, _ = trainer(config(cost=0.0, controller_rate=0.05))
    steps(free, STREAM, 20)
    assert dims_after(cheap) < 4.0
    assert dims_after(free) > 5.0


def dims_after(by) -> float:
    gate = by._learner._components.gate
    assert isinstance(gate, SearchedGate)
    alpha, beta = gate.weights
    return float(((alpha + beta) / 2 @ np.array([2.0, 4.0, 8.0])).mean())
