"""What blocks are worth, which are chosen and what is learnt of them, against plain numpy over the paper's 38 inputs in full."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline import kernels
from autoemb_pipeline.kernels import Costs, Evidence, Expectation, Measured, Seen
from autoemb_pipeline.kernels.layout import COUNT, LAST_TIME
from autoemb_pipeline.kernels.worth import AHEAD, BITS, GROUPS, ROOM, SHRUNK_BELOW, UNTRAINED, USUAL_ENTRY
from tests.kernels import twins

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
SPACES, SLOTS, MEMORY, ROWS = 3, 12, 160, 60


def popularity(counts: np.ndarray) -> np.ndarray:
    """[B, 33] bits and logarithm."""
    return np.concatenate([counts[:, None] >= twins.THRESHOLDS, np.log(np.maximum(counts, 1))[:, None] / math.log(65536)], axis=1)


def inputs_of(seen: Seen) -> np.ndarray:
    """[B, 32 + S] with every bit spelt out."""
    return np.concatenate([seen.counts[:, None] >= twins.THRESHOLDS, seen.rest], axis=1)


def seen_of(rng: np.random.Generator, rows: int = ROWS) -> Seen:
    counts = np.floor(np.exp(rng.uniform(0, 12, rows))) - 1
    rest = np.concatenate([popularity(counts)[:, -1:], rng.uniform(size=(rows, SPACES + 2)), np.ones((rows, 1))], axis=1)
    return Seen(counts, (counts[:, None] >= twins.THRESHOLDS).sum(axis=1), rest)


def expectation_of(rng: np.random.Generator) -> Expectation:
    return Expectation(rng.normal(size=(SPACES, BITS + SPACES + 4)), rng.uniform(0, 2, size=(SPACES, len(GROUPS) + 1)))


def worth_of(inputs: np.ndarray, counts: np.ndarray, controller: Expectation) -> np.ndarray:
    group = np.searchsorted(GROUPS, counts, side="right")
    return np.maximum(inputs @ controller.weights.T, 0.0) * controller.kappa.T[group]


def best(worth: np.ndarray, future: np.ndarray, costs: np.ndarray) -> np.ndarray:
    total = np.concatenate([np.zeros((len(worth), 1)), np.cumsum(worth, axis=1)], axis=1) * future[:, None]
    return np.argmax(total - costs, axis=1)


def measured_of(rng: np.random.Generator, by_level: np.ndarray, count: int = SLOTS) -> Measured:
    levels = rng.integers(0, SPACES + 1, count)
    return Measured(levels, by_level[levels] + rng.choice([0, 12, 100, 130, 158], count), rng.random(count) < 0.8)


@pytest.mark.parametrize("run_loss", [np.nan, 0.2])
def test_what_a_controller_sees(run_loss: float) -> None:
    rng = np.random.default_rng(3)
    context, first = np.concatenate([rng.uniform(0, 60, (9, 4)), rng.uniform(size=(9, 10))], axis=1), kernels.weights_at(0)
    context[:, COUNT] = rng.integers(0, 300, 9)
    context[2:5, 2:4] = np.nan
    totals = np.array([3.0, 1.0, run_loss, 0, 0, 0, 0, 0])
    slots, local = rng.choice(9, size=5, replace=False), rng.integers(0, 5, ROWS)
    counts = context[slots[local], COUNT] + kernels.earlier_in_batch(local)
    seen = Seen(counts, np.empty(ROWS, dtype=np.int64), np.empty((ROWS, SPACES + 4)))
    kernels.see(local, slots, context, totals, first, seen)
    wanted, popular = twins.controller_inputs(slots[local], context, totals, first, SPACES)
    np.testing.assert_array_equal(counts, popular)
    np.testing.assert_allclose(inputs_of(seen), np.append(wanted, np.ones((ROWS, 1)), axis=1), **CLOSE)
    np.testing.assert_array_equal(seen.passed, wanted[:, :BITS].sum(axis=1))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    by_level = np.cumsum([0, *rng.integers(5, 300, SPACES)])
    records, local = measured_of(rng, by_level), rng.integers(0, SLOTS, ROWS)
    seen, controller = seen_of(rng), expectation_of(rng)
    costs = Costs(by_level, math.exp(rng.uniform(-8, 8)), MEMORY, 0.2)
    numbers = rng.uniform(-(3**0.5), 3**0.5, size=(SLOTS, 4)).astype(np.float32)
    worth, choices, foreseen = np.empty((ROWS, SPACES)), np.empty(ROWS, dtype=np.int64), np.empty(ROWS, dtype=np.int8)
    kernels.choose(local, records, numbers, seen, controller, costs, worth, choices, foreseen)
    np.testing.assert_allclose(worth, worth_of(inputs_of(seen), seen.counts, controller), **CLOSE)

    held, remembered = records.levels[local], (records.sizes - by_level[records.levels])[local]
    paid = costs.price * np.tile(by_level.astype(float), (ROWS, 1))
    paid[:, 0] += costs.price * np.minimum(remembered + USUAL_ENTRY, MEMORY)
    paid[np.arange(SPACES + 1) <= held[:, None]] *= SHRUNK_BELOW
    later = AHEAD * (1 + seen.counts)
    ahead = np.concatenate([popularity(later), seen.rest[:, 1:]], axis=1)
    soon = best(worth_of(ahead, later, controller), 1 + later, paid)
    full = remembered > MEMORY - ROOM
    now = best(worth, 1 + seen.counts, paid)
    now = np.where((held == 0) & full, np.maximum(now, 1), now)
    panel = 0.5 * (numbers[:, 0].astype(float) / 3**0.5 + 1) < costs.panel
    wanted = np.where(panel[local], SPACES, np.maximum(now, held))
    np.testing.assert_array_equal(choices, wanted)
    np.testing.assert_array_equal(foreseen, (soon > wanted) & ~full)
    np.testing.assert_array_equal(kernels.in_panel(numbers, costs.panel), panel)

    most = np.zeros(SLOTS, dtype=np.int64)
    np.maximum.at(most, local, choices)
    remembers = records.sizes > by_level[records.levels]
    given_blocks = np.flatnonzero(remembers & (most > records.levels))
    np.testing.assert_array_equal(kernels.promoted(local, choices, records, by_level), given_blocks)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_blocks_that_are_not_worth_their_price_are_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    by_level = np.cumsum([0, *rng.integers(5, 300, SPACES)])
    seen, controller = seen_of(rng, SLOTS), expectation_of(rng)
    slots, held = rng.permutation(SLOTS), rng.integers(0, SPACES + 1, SLOTS)
    context = rng.uniform(0, 100, size=(SLOTS, 8))
    context[slots, COUNT] = seen.counts
    clock, price, left = np.array([0.0, 120.0]), math.exp(rng.uniform(-8, 8)), np.empty(SLOTS, dtype=np.int64)
    kernels.judge(slots, context, held, seen, controller, Costs(by_level, price, MEMORY, 0.0), clock, left)
    future = np.minimum(1 + seen.counts, 120 / np.maximum(120 - context[slots, LAST_TIME], 1))
    paid = np.tile(SHRUNK_BELOW * price * by_level, (SLOTS, 1))
    paid = np.where(np.arange(SPACES + 1) <= held[:, None], paid, np.inf)
    np.testing.assert_array_equal(left, best(worth_of(inputs_of(seen), seen.counts, controller), future, paid))


@given(seed=st.integers(0, 10_000), fade=st.floats(0.0, 1.0), prior=st.floats(0.01, 50))
@settings(max_examples=30, deadline=None)
def test_what_a_controller_learns(seed: int, fade: float, prior: float) -> None:
    rng = np.random.default_rng(seed)
    width, groups, clusters = BITS + SPACES + 4, len(GROUPS) + 1, 5
    ridge, known = rng.uniform(1, 50, size=width), rng.normal(size=(SPACES, 20, width))
    precision = np.swapaxes(known, 1, 2) @ known + np.diag(ridge)
    evidence = Evidence(
        ridge, precision, rng.normal(size=(SPACES, width)), rng.uniform(size=(2, SPACES, groups)), rng.uniform(size=(2, clusters))
    )
    before = Evidence(*(part.copy() for part in evidence))
    seen, level = seen_of(rng), rng.integers(0, SPACES + 1, ROWS)
    losses, expected, cluster = rng.uniform(size=(ROWS, SPACES + 1)), rng.uniform(size=(ROWS, SPACES)), rng.integers(0, clusters, ROWS)
    controller = expectation_of(rng)
    kernels.learn(seen, level, losses, expected, cluster, fade, prior, evidence, controller)
    inputs, saved = inputs_of(seen), losses[:, :-1] - losses[:, 1:]
    group = np.searchsorted(GROUPS, seen.counts, side="right")
    sums, by_cluster = fade * before.sums, fade * before.clusters
    for j in range(SPACES):
        rows = level > j
        wanted, moment = twins.ridge_observe(inputs[rows], expected[rows, j], fade, ridge, before.precision[j], before.moments[j])
        np.testing.assert_allclose(np.tril(evidence.precision[j]), np.tril(wanted), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(evidence.moments[j], moment, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(controller.weights[j], np.linalg.solve(wanted, moment), rtol=1e-6, atol=1e-9)
        for k, values in enumerate((saved[rows, j], expected[rows, j])):
            sums[k, j] += np.bincount(group[rows], values, groups)
            by_cluster[k] += np.bincount(cluster[rows], values, clusters)
    np.testing.assert_allclose(evidence.sums, sums, **CLOSE)
    np.testing.assert_allclose(evidence.clusters, by_cluster, **CLOSE)
    block = (sums[0].sum(axis=1) + prior) / (sums[1].sum(axis=1) + prior)
    kappa = np.maximum((sums[0] + prior * block[:, None]) / (sums[1] + prior), 0.0)
    np.testing.assert_allclose(controller.kappa, kappa, **CLOSE)


def test_a_controller_that_sees_nothing_returns_to_its_prior() -> None:
    rng = np.random.default_rng(0)
    width = BITS + SPACES + 4
    ridge = rng.uniform(1, 50, size=width)
    evidence = Evidence(
        ridge, np.tile(9 * np.eye(width), (SPACES, 1, 1)), np.ones((SPACES, width)), np.ones((2, SPACES, 4)), np.ones((2, 3))
    )
    controller, nothing = expectation_of(rng), np.zeros(ROWS, dtype=np.int64)
    for _ in range(500):
        kernels.learn(seen_of(rng), nothing, np.ones((ROWS, 4)), np.ones((ROWS, 3)), nothing, 0.9, 1.0, evidence, controller)
    np.testing.assert_allclose(np.diagonal(evidence.precision, axis1=1, axis2=2), np.tile(ridge, (SPACES, 1)))
    np.testing.assert_allclose(controller.weights, 0.0, atol=1e-12)
    np.testing.assert_allclose(controller.kappa, 1.0)


def test_the_loss_given_up() -> None:
    rng = np.random.default_rng(1)
    worths, levels = (rng.uniform(size=(ROWS, SPACES)), rng.uniform(size=(ROWS, SPACES))), rng.integers(0, SPACES + 1, (2, ROWS))
    total = []
    for i in range(ROWS):
        level = levels[:, i].min()
        users, items = (own[i, level:].sum() for own in worths)
        lacks = levels[:, i] == level
        total.append(min(users, items) if lacks.all() else users + UNTRAINED * items if lacks[0] else items + UNTRAINED * users)
    assert kernels.given_up(worths, levels) == pytest.approx(np.mean(total), rel=1e-12)
