"""The kernels against the learner, context and references they replace, and the product's published figures."""

import os
from pathlib import Path

import numpy as np
import pytest

from autoemb_pipeline.columns import MiniBatch
from tests.kernels.loop import Columns, Settings, figures, read_ratings, whole
from tests.learners.stream.running import config, trainer
from tests.streams import synthetic_stream

RATINGS = Path(os.environ.get("AUTOEMB_DATA_DIR", "data")) / "ml-latest-small" / "ratings.csv"
# Of the loop before the search chose blocks, commit 5a2ab7a, in the settings of then: mean loss of all, and of the last 30%.
BEFORE = {
    "fse": (Settings(dims=(146,), searched=False, rank=8.0, rounded=False, horizon=0.0), (0.183233, 0.166890)),
    "rating": (Settings(dims=(146,), searched=False, rank=8.0, rounded=False, horizon=0.0, task="rating"), (1.214221, 1.155757)),
}


def columns_of(stream) -> Columns:
    ids, names = [], []
    for key in ("user_id", "item_id"):
        positions: dict[str, int] = {}
        ids.append(np.array([positions.setdefault(getattr(r, key), len(positions)) for r in stream]))
        names.append(list(positions))
    return Columns(ids=ids, names=names, times=np.array([r.timestamp for r in stream]), ratings=np.array([r.rating for r in stream]))


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("mode", ["event", "strict"])
@pytest.mark.parametrize("method", ["fse-uniform", "autoemb"])
def test_losses_are_those_of_the_trainer(task, method, mode):
    stream = synthetic_stream(1200, seed=5, users=30, items=60)
    made, _ = trainer(config(method, task=task, context=mode, precision="float64", row_precision="float32"))
    scores = [
        made.step(MiniBatch.of(step=k + 1, records=stream[s : s + 100], next_offsets={0: s + 100})).scores
        for k, s in enumerate(range(0, len(stream), 100))
    ]
    settings = Settings(dims=(2, 4, 8), task=task, mode=mode, batch=100, dtype=np.float64, rank=2.0, std=0.5, searched=method == "autoemb")
    if method == "fse-uniform":
        settings.use = (1.0, 2 / 3, 1 / 3)
    loop = whole(settings, columns_of(stream))
    np.testing.assert_allclose(np.concatenate(loop.losses), np.concatenate([s["method"][0] for s in scores]), rtol=0, atol=1e-9)
    for name, parts in loop.references.items():
        np.testing.assert_allclose(np.concatenate(parts), np.concatenate([s[name][0] for s in scores]), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not RATINGS.exists(), reason="needs ml-latest-small under AUTOEMB_DATA_DIR")
@pytest.mark.parametrize("name", BEFORE)
def test_figures_on_movielens_stay(name):
    settings, expected = BEFORE[name]
    assert figures(whole(settings, read_ratings(RATINGS)).losses) == pytest.approx(expected, abs=2e-5)


@pytest.mark.slow
@pytest.mark.skipif(not RATINGS.exists(), reason="needs ml-latest-small under AUTOEMB_DATA_DIR")
def test_the_search_loses_little_on_movielens_and_holds_a_fraction_of_the_bytes():
    columns = read_ratings(RATINGS)
    searched, fixed = (whole(settings, columns) for settings in (Settings(), Settings(dims=(146,), searched=False)))
    assert figures(searched.losses)[1] < figures(fixed.losses)[1] + 1.5e-4
    sides = searched.search.holdings
    share = sum(side.bytes for side in sides) / sum(side.fixed_bytes for side in sides)
    assert share < 0.4
