"""What a block is worth, learnt from losses, and the price that answers to what was asked for."""

import math

import numpy as np
import pytest

from autoemb_pipeline.kernels import Costs, Measured, Seen, choose
from autoemb_pipeline.kernels.worth import GROUPS
from autoemb_pipeline.learners.stream.controllers import Controller
from autoemb_pipeline.learners.stream.price import LARGEST, RATE, SMALLEST, Price

BLOCKS = 2
TRUE = np.array([[0.02, 0.0, 0.01, 0.0, 0.003, 0.005], [0.0, 0.004, 0.0, 0.002, 0.0, 0.001]])


def seen(rng: np.random.Generator, counts: np.ndarray) -> Seen:
    """What ids with these counts show, the rest at random; no popularity bit, so that savings are linear in the rest."""
    rest = np.append(rng.uniform(size=(len(counts), BLOCKS + 3)), np.ones((len(counts), 1)), axis=1)
    return Seen(counts, np.zeros(len(counts), dtype=np.int64), rest)


def losses_of(saved: np.ndarray) -> np.ndarray:
    """[B, N + 1] of prefixes that save so much."""
    return 1.0 - np.append(np.zeros((len(saved), 1)), np.cumsum(saved, axis=1), axis=1)


def worth_by(controller: Controller, shown: Seen) -> np.ndarray:
    """[B, N] loss that each block is expected to save, as the choice of blocks finds it."""
    count, spaces = len(shown.counts), len(controller.says.weights)
    nobody = np.zeros(count, dtype=np.int64)
    records, free = Measured(nobody, nobody, np.ones(count, dtype=np.bool_)), Costs(np.zeros(spaces + 1, dtype=np.int64), 0.0, 160, 0.0)
    worth, choices, foreseen = np.empty((count, spaces)), np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int8)
    numbers = np.zeros((count, 4), dtype=np.float32)
    choose(np.arange(count), records, numbers, shown, controller.says, free, worth, choices, foreseen)
    return worth


def taught(kappa: float, steps: int = 400, noise: float = 0.05, *, level: int = BLOCKS, prior: float = 0.5) -> tuple[Controller, Seen]:
    """A controller that saw savings of kappa times what was expected, with noise; and what to ask it with."""
    rng = np.random.default_rng(0)
    made = Controller(BLOCKS, prior)
    for _ in range(steps):
        shown = seen(rng, rng.integers(0, 40, size=50).astype(float))
        expected = shown.rest @ TRUE.T
        saved = kappa * expected + noise * rng.normal(size=expected.shape)
        made.learn(shown, np.full(50, level), losses_of(saved), expected, rng.integers(0, 32, size=50))
    return made, shown._replace(counts=np.full(50, 20.0))


def test_worth_is_what_was_expected_corrected_by_what_was_saved() -> None:
    for kappa in (0.5, 1.5):
        made, shown = taught(kappa, noise=0.01)
        np.testing.assert_allclose(worth_by(made, shown), kappa * shown.rest @ TRUE.T, rtol=0.4, atol=5e-4)
    assert worth_by(taught(1.5)[0], shown).sum() > 2 * worth_by(taught(0.5)[0], shown).sum()


def test_each_popularity_group_has_a_correction_of_its_own() -> None:
    rng, made = np.random.default_rng(1), Controller(1, 0.01)
    counts = np.repeat([0.0, 2.0, 8.0, 64.0], 100)
    rest = np.append(rng.uniform(size=(400, 4)), np.ones((400, 1)), axis=1)
    shown, expected = Seen(counts, np.zeros(400, dtype=np.int64), rest), np.full((400, 1), 0.01)
    saved = expected * np.searchsorted(GROUPS, counts, side="right")[:, None]
    for _ in range(50):
        made.learn(shown, np.ones(400, dtype=np.int64), losses_of(saved), expected, np.zeros(400, dtype=np.int64))
    worth = worth_by(made, shown)[:, 0].reshape(4, 100).mean(axis=1)
    np.testing.assert_allclose(worth, [0.0, 0.01, 0.02, 0.03], atol=2e-3)


def test_a_block_that_no_pair_has_is_worth_nothing_yet() -> None:
    made, shown = taught(1.0, level=1)
    worth = worth_by(made, shown)
    assert worth[:, 0].min() > 0.0
    assert not worth[:, 1].any()


def test_a_block_that_does_harm_is_worth_nothing() -> None:
    made, shown = taught(-1.0, prior=1e-3)
    assert worth_by(made, shown).max() < 1e-3
    assert math.isinf(made.uncertainty())


def test_uncertainty_falls_with_evidence() -> None:
    assert math.isinf(Controller(BLOCKS).uncertainty())
    few, many, loud = taught(1.0, steps=10)[0], taught(1.0, steps=200)[0], taught(1.0, steps=200, noise=0.2)[0]
    assert 0.0 < many.uncertainty() < few.uncertainty()
    assert many.uncertainty() < loud.uncertainty()


def test_state_is_all_there_is() -> None:
    made, shown = taught(1.4, steps=5)
    other = Controller(BLOCKS, 0.5)
    other.load_state_dict("x", made.state_dict("x"))
    np.testing.assert_array_equal(worth_by(made, shown), worth_by(other, shown))
    expected = shown.rest @ TRUE.T
    for controller in (made, other):
        controller.learn(shown, np.full(50, BLOCKS), losses_of(expected), expected, np.zeros(50, dtype=np.int64))
    np.testing.assert_array_equal(worth_by(made, shown), worth_by(other, shown))


@pytest.mark.parametrize(("lost", "up"), [(0.0, True), (5e-4, False)])
def test_the_price_rises_while_less_is_given_up_than_may_be(*, lost: float, up: bool) -> None:
    price = Price(tolerance=1e-4, budget=0, value=1e-6)
    for _ in range(20):
        before = price.value
        price.move(lost, 1e9)
        assert (price.value > before) == up
        assert abs(math.log(price.value / before)) <= RATE + 1e-12
    for _ in range(1000):
        price.move(lost, 1e9)
    assert price.value == pytest.approx((LARGEST if up else SMALLEST) * 1e-4)


def test_under_a_budget_the_price_follows_the_bytes() -> None:
    """The fuller, the dearer, long before it is full; and dearer every time while it stays nearly full."""
    values = []
    for used in (10, 500, 900, 990):
        price = Price(tolerance=1e-4, budget=1000)
        price.move(1.0, used)
        values.append(price.value)
    assert values == sorted(values)
    before = price.value
    price.move(1.0, 990)
    assert price.value > before
    for _ in range(200):
        price.move(1.0, 10)
    assert price.value == pytest.approx(SMALLEST * 1e-4 / 0.99)


def test_the_loss_given_up_fades() -> None:
    price = Price(tolerance=1e-4, budget=0)
    assert price.given_up is None
    price.move(2.0, 0)
    assert price.given_up == 2.0
    price.move(1.0, 0)
    assert price.given_up == pytest.approx(1.97)
