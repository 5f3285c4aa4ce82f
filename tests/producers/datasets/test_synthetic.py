import itertools

import numpy as np
import polars as pl
import pytest

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.producers.datasets.synthetic import PRESETS, SyntheticConfig, SyntheticModel, generate

PINNED_FIRST = ("244", "34", 5.0, 1421178282465)
PINNED_LAST = ("168", "294", 5.0, 1468548422773)
PINNED_RATINGS = 3150.0
SMALL = "synthetic:interactions=20000,users=300,items=200,seed={seed}"


def frame(config: SyntheticConfig, folder) -> pl.DataFrame:
    return generate(config, cache_dir=folder).scan().collect()


def test_equal_parameters_give_the_same_data_and_other_seeds_do_not(tmp_path):
    config, other = (SyntheticConfig.parse(SMALL.format(seed=seed)) for seed in (1, 2))
    first, second, third = frame(config, tmp_path / "a"), frame(config, tmp_path / "b"), frame(other, tmp_path / "a")
    assert first.equals(second)
    assert not first.equals(third)


def test_the_data_is_the_same_as_when_this_test_was_written(tmp_path):
    # a change here is a new GENERATOR_VERSION: names and fingerprints must not stand for other data than before
    rows = frame(SyntheticConfig.parse("synthetic:interactions=1000"), tmp_path).select("user_id", "item_id", "rating", "timestamp").rows()
    assert rows[0] == PINNED_FIRST
    assert rows[-1] == PINNED_LAST
    assert sum(row[2] for row in rows) == PINNED_RATINGS


def test_a_longer_dataset_of_the_same_pace_has_the_shorter_one_as_its_beginning(tmp_path):
    # chunked generation may not depend on where the dataset ends; the pace is interactions per day
    short = frame(SyntheticConfig.parse("synthetic:interactions=5000,days=10"), tmp_path)
    long = frame(SyntheticConfig.parse("synthetic:interactions=400000,days=800"), tmp_path)
    assert long.head(5000).select("user_id", "timestamp").equals(short.select("user_id", "timestamp"))


@pytest.mark.parametrize("preset", PRESETS)
def test_names_say_synthetic_and_never_stand_for_two_datasets(preset):
    variants = ["", ":seed=1", ":interactions=5", ":users=7", ":spectrum=harmonic,rank=3", ":item_exponent=0.5", ":days=3"]
    names = {SyntheticConfig.parse(preset + v).name for v in variants}
    assert len(names) == len(variants)
    assert all("synthetic" in name for name in names)
    assert f"-n{SyntheticConfig.parse(preset).interactions}-seed0-" in SyntheticConfig.parse(preset).name


def test_event_times_are_in_order_and_people_come_in_sessions(tmp_path):
    config = SyntheticConfig()
    data = frame(config, tmp_path)
    times = data["timestamp"]
    assert data.height == config.interactions == 100_000
    assert times.is_sorted()
    assert times.min() >= config.start_ms
    assert config.start_ms + 0.8 * config.days * 86_400_000 < times.max() < config.start_ms + 1.2 * config.days * 86_400_000
    users_in_a_batch = [data["user_id"][k : k + 500].n_unique() for k in range(0, 100_000, 500)]
    assert 8 < np.mean(users_in_a_batch) < 20


def test_popularity_follows_zipf_laws(tmp_path):
    config = SyntheticConfig.parse("synthetic:interactions=300000,session_length=1.5")
    data = frame(config, tmp_path)
    for column, n, exponent in (("user_id", 1000, 0.8), ("item_id", 500, 1.0)):
        counts = np.sort(data[column].value_counts()["count"].to_numpy())[::-1]
        expected = np.arange(1, n + 1) ** -exponent
        expected *= data.height / expected.sum()
        assert counts[:5] == pytest.approx(expected[:5], rel=0.1)
        ranks = np.arange(5, 200)
        slope = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0]
        assert slope == pytest.approx(-exponent, abs=0.1)


@pytest.mark.parametrize("spectrum", ["flat", "harmonic"])
def test_the_logit_has_the_variance_and_spectrum_asked_for(spectrum):
    model = SyntheticModel(SyntheticConfig(users=4000, items=4000, spectrum=spectrum))
    ids = [str(n) for n in range(1, 4001)]
    p = model.probabilities(ids, ids)
    logit = np.log(p / (1 - p))
    assert logit.mean() == pytest.approx(0, abs=0.15)
    assert logit.std() == pytest.approx(np.sqrt(2.2**2 + 2 * 0.6**2), rel=0.05)
    variance = model._user_factors.var(axis=0)
    assert variance.sum() == pytest.approx(2.2**2, rel=0.03)
    expected = np.ones(32) if spectrum == "flat" else 1 / np.arange(1, 33)
    assert variance / variance.sum() == pytest.approx(expected / expected.sum(), rel=0.15)


def test_labels_are_draws_of_the_exposed_probabilities_and_ratings_follow_them(tmp_path):
    config = SyntheticConfig.parse(SMALL.format(seed=4))
    data = frame(config, tmp_path)
    p = SyntheticModel(config).probabilities(data["user_id"].to_list(), data["item_id"].to_list())
    rating = data["rating"].to_numpy()
    liked = rating > 3.5
    assert set(rating) == {1.0, 2.0, 3.0, 4.0, 5.0}
    for low in np.arange(0, 1, 0.1):
        cell = (p >= low) & (p < low + 0.1)
        spread = 5 / np.sqrt(cell.sum())
        assert liked[cell].mean() == pytest.approx(p[cell].mean(), abs=spread)
        assert (rating[cell & liked] == 5).mean() == pytest.approx(p[cell & liked].mean(), abs=8 / np.sqrt((cell & liked).sum()))


def bayes_error(config: SyntheticConfig) -> tuple[float, float, float]:
    """What the truth itself loses on the labels, in expectation: squared error, share of wrong classes, cross-entropy in nats."""
    p = np.clip(np.concatenate([chunk.probabilities for chunk in SyntheticModel(config).stream()]), 1e-300, 1 - 1e-16)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    return float(np.mean(p * (1 - p))), float(np.mean(np.minimum(p, 1 - p))), float(entropy.mean())


def test_no_predictor_beats_the_bayes_error_and_the_truth_reaches_it(tmp_path):
    config = SyntheticConfig.parse(SMALL.format(seed=5))
    data = frame(config, tmp_path)
    p = SyntheticModel(config).probabilities(data["user_id"].to_list(), data["item_id"].to_list())
    y = data["rating"].to_numpy() > 3.5
    mse, error_rate, cross_entropy = bayes_error(config)
    assert np.mean((y - p) ** 2) == pytest.approx(mse, abs=0.006)
    assert np.mean((p > 0.5) != y) == pytest.approx(error_rate, abs=0.015)
    assert -np.mean(np.where(y, np.log(p), np.log1p(-p))) == pytest.approx(cross_entropy, abs=0.02)
    for worse in (0.8 * p + 0.1, np.clip(1.5 * p - 0.25, 0.01, 0.99), np.full_like(p, y.mean())):
        assert np.mean((y - worse) ** 2) > mse


def test_it_is_kept_and_made_anew_when_torn(tmp_path):
    config = SyntheticConfig.parse("synthetic:interactions=1000")
    dataset = generate(config, cache_dir=tmp_path)
    again: list[str] = []
    assert generate(config, cache_dir=tmp_path, report=lambda stage, _done, _total: again.append(stage)) == dataset
    assert again == []
    (dataset.folder / dataset.parts[0].file).write_bytes(b"torn")
    assert len(list(generate(config, cache_dir=tmp_path).interactions())) == 1000


def test_several_parts_follow_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr("autoemb_pipeline.producers.datasets.synthetic._PART_ROWS", 1)
    monkeypatch.setattr("autoemb_pipeline.producers.datasets.synthetic._SESSIONS_PER_CHUNK", 64)
    dataset = generate(SyntheticConfig.parse("synthetic:interactions=20000"), cache_dir=tmp_path)
    assert len(dataset.parts) > 3
    interactions = list(dataset.interactions())
    assert [i.sequence for i in interactions] == list(range(20_000))
    assert all(a.timestamp <= b.timestamp for a, b in itertools.pairwise(interactions))


@pytest.mark.parametrize(
    "spec",
    [
        "synthetic-z",
        "synthetic:nonsense=1",
        "synthetic:preset=real",
        "synthetic:users",
        "synthetic:users=many",
        "synthetic:users=0",
        "synthetic:interactions=0",
        "synthetic:seed=-1",
        "synthetic:spectrum=round",
        "synthetic:session_length=1",
        "synthetic:bias_sd=nan",
        "synthetic:users=1.5",
    ],
)
def test_impossible_parameters_are_refused(spec):
    with pytest.raises(ConfigurationError) as raised:
        SyntheticConfig.parse(spec)
    assert raised.value.remedy


def test_a_name_without_synthetic_is_refused():
    with pytest.raises(ConfigurationError, match="preset"):
        SyntheticConfig(preset="real-data")


def test_no_room_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write"):
        generate(SyntheticConfig.parse("synthetic:interactions=10"), cache_dir=tmp_path / "file")
