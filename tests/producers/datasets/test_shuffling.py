"""Shuffled datasets: the same ratings, the same times, another order that is the same everywhere."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.datasets.shuffling import Order, shuffle
from autoemb_pipeline.producers.datasets.sorting import sort_source
from autoemb_pipeline.producers.datasets.ties import Ties
from autoemb_pipeline.producers.formats.layouts import find_source


def dataset_of(folder: Path, length: int):
    path = folder / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n" + "".join(f"{n},{n % 7},{n % 5 + 1},{n // 3}\n" for n in range(length)))
    return sort_source(find_source(path), name="d", cache_dir=folder)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(1, 250), st.integers(0, 2**64 - 1))
def test_ratings_are_permuted_along_the_sorted_times_whatever_the_run_length(length, run_rows, seed):
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(Path(folder), length)
        shuffled = shuffle(dataset, seed, cache_dir=Path(folder), run_rows=run_rows)
        whole = shuffle(dataset, seed, cache_dir=Path(folder) / "other")
        before, after = list(dataset.interactions()), list(shuffled.interactions())
        assert [i.timestamp for i in after] == [i.timestamp for i in before]
        assert Counter((i.user_id, i.item_id, i.rating) for i in after) == Counter((i.user_id, i.item_id, i.rating) for i in before)
        assert [i.sequence for i in after] == list(range(length))
        assert after == list(whole.interactions())
        assert shuffled.fingerprint == whole.fingerprint


def test_seeds_differ_and_names_tell(tmp_path):
    dataset = dataset_of(tmp_path, 500)
    shuffled = [shuffle(dataset, seed, cache_dir=tmp_path) for seed in (0, 1)]
    assert [d.name for d in (dataset, *shuffled)] == ["d", "d+shuffled", "d+shuffled-1"]
    assert len({d.fingerprint for d in (dataset, *shuffled)}) == 3
    orders = [[int(i.user_id) for i in d.interactions()] for d in shuffled]
    assert orders[0] != orders[1]
    for order in orders:  # uncorrelated with the order in time: 4.5 standard errors
        assert abs(np.corrcoef(order, range(500))[0, 1]) < 0.2


def test_a_shuffled_dataset_is_kept(tmp_path):
    dataset = dataset_of(tmp_path, 50)
    told: list[str] = []
    once = shuffle(dataset, 3, cache_dir=tmp_path, report=lambda stage, _done, _total: told.append(stage))
    assert told == ["shuffle"]
    assert shuffle(dataset, 3, cache_dir=tmp_path, report=lambda stage, _done, _total: told.append(stage)) == once
    assert told == ["shuffle"]


def test_the_catalogue_shuffles_whatever_it_loads(tmp_path):
    options = DatasetOptions(cache_dir=tmp_path, order=Order.parse("shuffled:4"))
    dataset = load_dataset("synthetic:interactions=300", options)
    assert dataset.name.endswith("+shuffled-4")
    assert len(dataset) == 300
    with pytest.raises(ConfigurationError, match="--ties"):
        load_dataset("synthetic", DatasetOptions(cache_dir=tmp_path, ties=Ties(kind="hash")))


@pytest.mark.parametrize("text", ["", "random", "timestamp:1", "shuffled:", "shuffled:-1", "shuffled:x", f"shuffled:{2**64}"])
def test_unknown_orders_are_refused(text):
    with pytest.raises(ConfigurationError, match="order"):
        Order.parse(text)


@pytest.mark.parametrize("text", ["", "random", "hash:", "hash:-1", "file:1", f"hash:{2**64}"])
def test_unknown_ties_are_refused(text):
    with pytest.raises(ConfigurationError, match="ties"):
        Ties.parse(text)


def test_orders_and_ties_as_they_are_written():
    assert Order.parse("shuffled:12") == Order(kind="shuffled", seed=12)
    assert Order.parse("timestamp") == Order()
    assert Ties.parse("hash:9") == Ties(kind="hash", seed=9)
    assert Ties.parse("file") == Ties(kind="file")
