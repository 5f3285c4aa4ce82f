"""What a block is worth, learnt from losses, and the price that answers to what was asked for."""

import math

import numpy as np
import pytest

from autoemb_pipeline.learners.stream.controllers import GROUPS, Controller
from autoemb_pipeline.learners.stream.price import LARGEST, RATE, SMALLEST, Price

BLOCKS, INPUTS = 2, 3
TRUE = np.array([[0.02, 0.0, 0.01, 0.005], [0.0, 0.004, 0.0, 0.001]])


def taught(
    kappa: float, steps: int = 400, noise: float = 0.05, *, lacking: bool = False, prior: float = 0.5
) -> tuple[Controller, np.ndarray]:
    """A controller that saw savings of kappa times what was expected, with noise; and inputs to ask it with."""
    rng = np.random.default_rng(0)
    made = Controller(BLOCKS, INPUTS, prior)
    for _ in range(steps):
        inputs = np.append(rng.uniform(size=(50, INPUTS)), np.ones((50, 1)), axis=1)
        expected = inputs @ TRUE.T
        saved = kappa * expected + noise * rng.normal(size=expected.shape)
        if lacking:
            expected[:, 1] = np.nan
        made.learn(inputs, rng.integers(0, 40, size=50).astype(float), expected, saved, rng.integers(0, 32, size=50))
    return made, inputs


def test_worth_is_what_was_expected_corrected_by_what_was_saved() -> None:
    for kappa in (0.5, 1.5):
        made, inputs = taught(kappa, noise=0.01)
        counts = np.full(len(inputs), 20.0)
        np.testing.assert_allclose(made.worth(inputs, counts), kappa * inputs @ TRUE.T, rtol=0.4, atol=5e-4)
    assert taught(1.5)[0].worth(inputs, counts).sum() > 2 * taught(0.5)[0].worth(inputs, counts).sum()


def test_each_popularity_group_has_a_correction_of_its_own() -> None:
    rng, made = np.random.default_rng(1), Controller(1, INPUTS, 0.01)
    inputs = np.append(rng.uniform(size=(400, INPUTS)), np.ones((400, 1)), axis=1)
    counts = np.repeat([0.0, 2.0, 8.0, 64.0], 100)
    expected = np.full((400, 1), 0.01)
    for _ in range(50):
        made.learn(
            inputs, counts, expected, expected * np.searchsorted(GROUPS, counts, side="right")[:, None], np.zeros(400, dtype=np.int64)
        )
    worth = made.worth(inputs, counts)[:, 0].reshape(4, 100).mean(axis=1)
    np.testing.assert_allclose(worth, [0.0, 0.01, 0.02, 0.03], atol=2e-3)


def test_a_block_that_no_pair_has_is_worth_nothing_yet() -> None:
    made, inputs = taught(1.0, lacking=True)
    worth = made.worth(inputs, np.full(len(inputs), 9.0))
    assert worth[:, 0].min() > 0.0
    assert not worth[:, 1].any()


def test_a_block_that_does_harm_is_worth_nothing() -> None:
    made, inputs = taught(-1.0, prior=1e-3)
    assert made.worth(inputs, np.full(len(inputs), 9.0)).max() < 1e-3
    assert math.isinf(made.uncertainty())


def test_uncertainty_falls_with_evidence() -> None:
    assert math.isinf(Controller(BLOCKS, INPUTS).uncertainty())
    few, many, loud = taught(1.0, steps=10)[0], taught(1.0, steps=200)[0], taught(1.0, steps=200, noise=0.2)[0]
    assert 0.0 < many.uncertainty() < few.uncertainty()
    assert many.uncertainty() < loud.uncertainty()


def test_state_is_all_there_is() -> None:
    made, inputs = taught(1.0, steps=5)
    other = Controller(BLOCKS, INPUTS, 0.5)
    other.load_state_dict("x", made.state_dict("x"))
    counts = np.zeros(len(inputs))
    for controller in (made, other):
        controller.learn(inputs, counts, inputs @ TRUE.T, inputs @ TRUE.T, np.zeros(len(inputs), dtype=np.int64))
    np.testing.assert_array_equal(made.worth(inputs, counts), other.worth(inputs, counts))


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
