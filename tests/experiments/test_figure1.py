"""Figure 1: fixed test ratings, nested training sets, nothing learnt from the test."""

import pytest

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.experiments.cells import Stream
from autoemb_pipeline.experiments.figure1 import Figure1Config, run, split
from autoemb_pipeline.records import Interaction
from tests.run.conftest import trainer_config
from tests.streams import synthetic_stream

RECORDS = synthetic_stream(600, seed=9)
CONFIG = Figure1Config(dims=(2, 4), ratings=(2, 10), test_ratings=5, epochs=1, batch_size=50, seeds=2)


def stream_of(records: list[Interaction]) -> Stream:
    return Stream(name="synthetic-test", fingerprint="f", length=len(records), open=lambda: records)


def test_every_user_has_the_same_test_whatever_x() -> None:
    parts = split(RECORDS, CONFIG, 0)
    users = {r.user_id for r in parts.test}
    assert len(users) == len(parts.training) > 5
    for x in CONFIG.ratings:
        training = parts.first(x)
        assert len(training) == x * len(users)
        assert not {r.sequence for r in training} & {r.sequence for r in parts.test}
    assert {r.sequence for r in parts.first(2)} < {r.sequence for r in parts.first(10)}
    assert split(RECORDS, CONFIG, 1).test != parts.test


def test_one_row_per_seed_x_and_dimension_and_no_label_of_the_test_is_learnt() -> None:
    frame = run(stream_of(RECORDS), trainer_config("fse").learner, CONFIG)
    assert frame.height == 8
    assert frame["tests"].unique().to_list() == [5 * frame["users"][0]]
    assert frame["loss"].is_between(0.05, 0.6).all()
    again = run(stream_of(RECORDS), trainer_config("fse").learner, CONFIG)
    assert frame.equals(again)


def test_impossible_experiments_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        Figure1Config(ratings=(5, 2))
    with pytest.raises(ConfigurationError):
        Figure1Config(epochs=0)
    with pytest.raises(DatasetError, match="no user has"):
        split(RECORDS, Figure1Config(), 0)
