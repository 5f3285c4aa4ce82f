"""Intervals, spreads and adjusted p-values against known answers and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.experiments.statistics import clustered_interval, holm, interval_of_sums, spread

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holm_on_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(P_VALUES)
def test_holm_never_lowers_keeps_the_order_and_lies_below_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, len(p_values) * p) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_the_standard_error_is_that_of_the_cluster_means() -> None:
    """Equal clusters: the bootstrap's spread is sd(cluster means) / sqrt(U), known in closed form."""
    rng = np.random.default_rng(3)
    users, size = 400, 25
    effects = rng.normal(0.1, 1.0, users)
    clusters = np.repeat(np.arange(users), size)
    values = np.repeat(effects, size)  # wholly dependent within a user
    interval = clustered_interval(values, clusters, seed=1)
    error = effects.std() / math.sqrt(users)
    assert interval.estimate == pytest.approx(effects.mean())
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)
    # An interval that took the interactions for independent would be five times narrower.
    independent = clustered_interval(values, np.arange(len(values)), resamples=200, seed=1)
    assert (interval.high - interval.low) > 4 * (independent.high - independent.low)


def test_coverage_of_unequal_dependent_clusters() -> None:
    """Nominal 95 %; percentile intervals of 60 clusters cover a little less. Taken for independent values: about half."""
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        clusters = np.repeat(np.arange(60), rng.integers(1, 20, 60))
        values = rng.normal(0, 1, 60)[clusters] + rng.normal(0, 0.3, len(clusters))
        interval = clustered_interval(values, clusters, resamples=200, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.integers(0, 5))
def test_a_difference_turned_round_turns_its_interval_round(values: list[float], seed: int) -> None:
    array, clusters = np.array(values), np.arange(len(values)) // 2
    one, other = (clustered_interval(sign * array, clusters, resamples=100, seed=seed) for sign in (1, -1))
    assert one.estimate == pytest.approx(-other.estimate, abs=1e-12)
    if len(values) > 2:
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
        assert one.p_value == pytest.approx(other.p_value)


def test_a_constant_difference_has_no_width_and_one_user_no_interval() -> None:
    constant = clustered_interval(np.full(20, 0.25), np.arange(20) % 4, resamples=50)
    assert (constant.low, constant.high) == pytest.approx((0.25, 0.25))
    assert constant.excludes_zero
    assert constant.p_value == pytest.approx(2 / 51)
    alone = clustered_interval(np.array([0.1, 0.3]), np.array(["u", "u"]))
    assert alone.estimate == pytest.approx(0.2)
    assert math.isnan(alone.low)
    assert not alone.excludes_zero


def test_names_or_numbers_and_order_do_not_matter_and_seeds_repeat() -> None:
    values = np.random.default_rng(0).normal(size=60)
    numbers = np.arange(60) % 7
    names = np.array([f"user-{n}" for n in numbers])
    first = clustered_interval(values, numbers, seed=4)
    assert clustered_interval(values, names, seed=4) == first
    order = np.random.default_rng(1).permutation(60)
    assert clustered_interval(values[order], numbers[order], seed=4).low == pytest.approx(first.low)
    assert clustered_interval(values, numbers, seed=5) != first


def test_many_clusters_are_drawn_in_bounded_pieces() -> None:
    sums = np.random.default_rng(0).normal(0.01, 1, 700_000)
    interval = interval_of_sums(sums, np.ones(700_000), resamples=7)
    assert interval.low < interval.estimate < interval.high
    assert interval.clusters == 700_000


def test_spread_over_seeds() -> None:
    three = spread([0.2, 0.3, 0.4])
    assert (three.mean, three.deviation, three.minimum, three.maximum, three.count) == pytest.approx((0.3, 0.1, 0.2, 0.4, 3))
    assert math.isnan(spread([0.2]).deviation)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: clustered_interval(np.zeros(3), np.zeros(2)),
        lambda: clustered_interval(np.zeros(0), np.zeros(0)),
        lambda: clustered_interval(np.zeros(3), np.arange(3), level=1.0),
        lambda: holm([1.5]),
        lambda: holm([float("nan")]),
        lambda: spread([]),
    ],
)
def test_unusable_input_is_refused(bad: object) -> None:
    with pytest.raises(ConfigurationError):
        bad()  # type: ignore[operator]
