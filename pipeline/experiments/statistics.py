"""Statistics of prequential comparisons. Pure: arrays in, numbers out.

Losses of one user hang together, so intervals resample whole users (cluster bootstrap: Davison and Hinkley 1997, "Bootstrap Methods and
their Application", section 3.8). Two runs are compared by their differences on the same interactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.records import FloatArray

RESAMPLES = 2000
_DRAWS_AT_ONCE = 2_000_000  # bounds memory: 16 MB of indices, whatever the number of users


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its bootstrap percentile interval.

    Attributes:
        estimate: the mean over all interactions.
        low, high: bounds at `level`; NaN where fewer than two clusters make them undefined.
        p_value: two-sided, of "the mean is 0": twice the smaller share of resamples on either side of 0; NaN likewise.
        level: coverage aimed at.
        clusters: how many were resampled.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    level: float
    clusters: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Repetitions over seeds: mean, sample standard deviation (NaN for one value), extremes and how many."""

    mean: float
    deviation: float
    minimum: float
    maximum: float
    count: int


def clustered_interval(
    values: FloatArray, clusters: NDArray[np.generic], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of `values` with an interval that resamples whole clusters.

    Args:
        values: [E] one number per interaction, e.g. the difference of two runs' losses on it.
        clusters: [E] whose they are: user ids or numbers.
        resamples: bootstrap samples; each draws as many clusters as there are, with replacement.
        seed: equal seeds give equal intervals.
        level: of the percentile interval.

    Raises:
        ConfigurationError: no values, arrays of different lengths, or a level outside (0, 1).
    """
    if len(values) == 0 or len(values) != len(clusters):
        raise ConfigurationError(
            f"an interval of {len(values)} values in {len(clusters)} clusters", remedy="give one cluster per value, and at least one value"
        )
    _, index = np.unique(clusters, return_inverse=True)
    return interval_of_sums(
        np.bincount(index, weights=values).astype(np.float64), np.bincount(index), resamples=resamples, seed=seed, level=level
    )


def interval_of_sums(sums: FloatArray, counts: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95) -> Interval:
    """`clustered_interval` of data summed up by cluster already: sums [U], counts [U] of interactions."""
    if resamples < 1 or not 0.0 < level < 1.0:
        raise ConfigurationError(f"{resamples} resamples at level {level}", remedy="give at least 1 resample and a level between 0 and 1")
    sizes = np.asarray(counts, dtype=np.float64)
    estimate, clusters = float(sums.sum() / sizes.sum()), len(sums)
    if clusters < 2:  # noqa: PLR2004  # one cluster resampled is always itself: no spread to measure
        return Interval(estimate=estimate, low=np.nan, high=np.nan, p_value=np.nan, level=level, clusters=clusters)
    means = _resampled_means(sums, sizes, resamples, np.random.Generator(np.random.Philox(seed)))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # The observed sample counts as one resample, so that no p-value is 0.
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p_value = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Interval(estimate=estimate, low=float(low), high=float(high), p_value=p_value, level=level, clusters=clusters)


def _resampled_means(sums: FloatArray, sizes: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """[R] means of resampled clusters. Drawing U indices is the multinomial weighting, without U weights per resample."""
    clusters = len(sums)
    rows = max(1, _DRAWS_AT_ONCE // clusters)
    means = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(clusters, size=(min(rows, resamples - start), clusters), dtype=np.int64)
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread over seeds. Raises ConfigurationError without values."""
    if not values:
        raise ConfigurationError("a spread over no seeds", remedy="give at least one run")
    array = np.asarray(values, dtype=np.float64)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
    return Spread(mean=float(array.mean()), deviation=deviation, minimum=float(array.min()), maximum=float(array.max()), count=len(array))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979, step-down): reject where one is at most α, family-wise error at most α.

    Raises:
        ConfigurationError: a value outside [0, 1].
    """
    array = np.asarray(p_values, dtype=np.float64)
    if np.any(~((array >= 0) & (array <= 1))):
        raise ConfigurationError(f"p-values {list(p_values)}", remedy="give values between 0 and 1")
    order = np.argsort(array, kind="stable")
    stepped = np.maximum.accumulate((len(array) - np.arange(len(array))) * array[order])
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
