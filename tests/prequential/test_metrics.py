"""Running metrics against their definitions, whatever the mini-batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.prequential.metrics import (
    PopularityMeans,
    Prequential,
    PrequentialConfig,
    RunningMeans,
    losses_and_hits,
)
from autoemb_pipeline.records import Interaction, Labels, Predictions, SideContext
from tests.streams import ratings_of


def side(counts: np.ndarray) -> SideContext:
    size = len(counts)
    return SideContext(count=counts, previous_weights=np.full((size, 3), 1 / 3), previous_loss=np.zeros(size), fading_loss=np.zeros(size))


@settings(max_examples=50, deadline=None)
@given(
    bounds=st.lists(st.integers(1, 199), max_size=8, unique=True).map(sorted),
    window=st.integers(1, 300),
    fading=st.floats(0.5, 0.9999),
    seed=st.integers(0, 99),
)
def test_means_equal_their_definitions_for_any_batches(bounds: list[int], window: int, fading: float, seed: int) -> None:
    values = np.random.default_rng(seed).random((2, 200))
    means = RunningMeans(PrequentialConfig(window=window, fading=fading))
    for start, end in zip([0, *bounds], [*bounds, 200], strict=True):
        means.add(values[None, :, start:end])
    weights = fading ** np.arange(199, -1, -1)
    for k in range(2):
        got = {suffix: pair[k] for suffix, pair in means.means()[0].items()}
        assert got[""] == pytest.approx(values[k].mean())
        assert got["_window"] == pytest.approx(values[k, -window:].mean())
        assert got["_fading"] == pytest.approx((values[k] * weights).sum() / weights.sum())


def test_before_the_first_interaction_there_is_no_mean() -> None:
    assert RunningMeans(PrequentialConfig()).means()[0][""] == (None, None)


def test_squared_error_and_cross_entropy() -> None:
    labels = Labels(binary=np.array([1.0, 0.0]), classes=np.array([4, 0]))
    loss, hit = losses_and_hits(np.array([0.5, 0.7]), labels, "binary")
    np.testing.assert_allclose(loss, [0.25, 0.49])
    np.testing.assert_array_equal(hit, [1.0, 0.0])
    loss, hit = losses_and_hits(np.array([[0.1, 0.1, 0.1, 0.1, 0.6], [0.0, 1.0, 0.0, 0.0, 0.0]]), labels, "rating")
    np.testing.assert_allclose(loss, [-np.log(0.6), -np.log(1e-12)])
    np.testing.assert_array_equal(hit, [1.0, 0.0])


@pytest.mark.parametrize(
    ("rating", "klass", "positive"), [(0.5, 0, 0), (1, 0, 0), (2.5, 2, 0), (3.5, 3, 0), (4, 3, 1), (4.5, 4, 1), (5, 4, 1)]
)
def test_half_stars_go_up(rating: float, klass: int, positive: int) -> None:
    labels = labels_of(ratings_of([Interaction("u", "i", float(rating), 0)]))
    assert (labels.classes[0], labels.binary[0]) == (klass, positive)


def test_popularity_buckets_are_powers_of_two() -> None:
    means = PopularityMeans((2, 16))
    counts = np.array([0.0, 1, 2, 3, 4, 7, 8, 1e9])
    weights = np.tile([0.25, 0.75], (8, 1))
    means.add(counts, np.arange(8.0), weights)
    fields = means.fields("user")
    assert fields["user_bucket_count"] == {"0": 1, "1": 1, "2": 2, "4": 2, "8": 1, "16384": 1}
    assert fields["user_bucket_loss"]["2"] == 2.5
    assert fields["user_bucket_dimension"]["0"] == 12.5
    assert fields["user_bucket_weight"]["4_16"] == 0.75


def test_what_a_mini_batch_tells_of_its_weights() -> None:
    means, nothing = PopularityMeans((2, 16)), np.zeros(2)
    told = means.add(nothing, nothing, np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert told == {"weight": {"2": 0.75, "16": 0.25}, "entropy": pytest.approx(np.log(2) / 2), "dimension": pytest.approx(5.5)}
    assert means.add(nothing, nothing, None) == {"weight": None, "entropy": None, "dimension": None}


@pytest.mark.parametrize("cut", [1, 3])
def test_restored_metrics_go_on_to_the_same_bits(cut: int) -> None:
    rng = np.random.default_rng(0)
    batches = [
        (
            Predictions(probabilities=rng.random(50), user_weights=rng.dirichlet([1, 1, 1], 50), item_weights=rng.dirichlet([1, 1, 1], 50)),
            {"logistic": rng.random(50)},
            Labels(binary=(rng.random(50) > 0.5).astype(float), classes=np.zeros(50, dtype=np.int64)),
            side(rng.integers(0, 100, 50).astype(float)),
            side(rng.integers(0, 100, 50).astype(float)),
        )
        for _ in range(5)
    ]
    config = PrequentialConfig(window=70)
    whole, resumed = (Prequential(config, (2, 16, 128), ("method", "logistic")) for _ in range(2))
    for step, batch in enumerate(batches):
        if step == cut:
            state = resumed.state()
            resumed = Prequential(config, (2, 16, 128), ("method", "logistic"))
            resumed.load_state(state)
        whole.add(*batch)
        resumed.add(*batch)
        assert resumed.fields() == whole.fields()
    assert whole.fields()["mse"] == pytest.approx(np.mean([(b[0].probabilities - b[2].binary) ** 2 for b in batches]))


def test_unusable_configurations_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        PrequentialConfig(window=0)
    with pytest.raises(ConfigurationError):
        PrequentialConfig(fading=1.0)
