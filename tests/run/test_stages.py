"""Two stages through Kafka, and the promise that `experiment` without Kafka gives the same bits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from autoemb_pipeline.cli.run_options import CountOrTime
from autoemb_pipeline.config import RunConfig, with_offline_stage
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.experiments.cells import Stream as Interactions
from autoemb_pipeline.experiments.cells import run_cell
from autoemb_pipeline.ops.topics import record_count
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.sink.prediction_log import read_predictions
from tests.run.conftest import Stream, trainer_config
from tests.run.kafka_reading import metrics_of
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
RECORDS = synthetic_stream(2_000, seed=21)


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize(
    ("offline", "epochs"),
    [
        (None, 1),
        (OfflineStage(count=1_450), 1),
        (OfflineStage(until_ms=RECORDS[1_100].timestamp), 1),
        (OfflineStage(count=1_450), 2),
        (OfflineStage(until_ms=RECORDS[1_100].timestamp), 3),
        (OfflineStage(count=len(RECORDS)), 2),
    ],
    ids=str,
)
def test_without_kafka_the_same_bits(
    make_stream: Callable[..., Stream], tmp_path: Path, offline: OfflineStage | None, epochs: int, task: str
) -> None:
    trainer = replace(trainer_config("autoemb", task=task), offline=offline, offline_epochs=epochs)
    stream = make_stream(3)
    stream.send(RECORDS, 3)
    config = stream.config(trainer=trainer)
    stream.train(config)
    interactions = Interactions(name="synthetic-test", fingerprint="f", length=len(RECORDS), open=lambda: RECORDS)
    direct = run_cell(tmp_path / "cell", trainer, interactions, batch_size=200)
    logs = [read_predictions(folder / "predictions").select(pl.all()).collect() for folder in (config.state_dir, tmp_path / "cell")]
    assert logs[0].equals(logs[1])
    last = metrics_of(stream.kafka, config.metrics_topic)[-1]
    loss = "mse" if task == "binary" else "cross_entropy"
    assert last[loss] == direct[loss]
    assert {name: last[name] for name in ("step", "epoch", "stage", "examples", "scored_examples")}.items() <= direct.items()


def staged(stream: Stream, config: RunConfig, fraction: float, until: OfflineStage | None = None) -> RunConfig:
    return with_offline_stage(
        config, until=until, fraction=fraction, epochs=1, record_count=partial(record_count, stream.kafka, stream.topic)
    )


def test_a_fraction_is_of_what_the_topic_held_at_the_runs_beginning(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(2)
    stream.send(RECORDS[:1_000], 2)
    assert record_count(stream.kafka, stream.topic) == 1_000
    config = staged(stream, stream.config(trainer=trainer_config("fse")), 0.7)
    assert config.trainer.offline == OfflineStage(count=700)
    stream.train(config)
    metrics = metrics_of(stream.kafka, config.metrics_topic)
    assert [m["stage"] for m in metrics] == ["offline"] * 4 + ["online"] * 2
    assert [m["scored_examples"] for m in metrics] == [200, 400, 600, 700, 200, 300]
    stream.send(RECORDS[1_000:], 2)
    again = staged(stream, stream.config(trainer=trainer_config("fse")), 0.7)
    assert again.trainer.offline == OfflineStage(count=700)
    assert stream.train(again).trained == 1_000
    assert metrics_of(stream.kafka, config.metrics_topic)[-1]["scored_examples"] == 1_300


def test_a_fraction_needs_an_end(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream()
    with pytest.raises(ConfigurationError, match="offline-fraction"):
        staged(stream, stream.config(until_end=False), 0.5)
    with pytest.raises(ConfigurationError, match="offline-fraction"):
        staged(stream, stream.config(), 0.5, OfflineStage(count=1))


def test_count_or_time() -> None:
    assert CountOrTime().convert("700", None, None) == OfflineStage(count=700)
    assert CountOrTime().convert("2000-01-01", None, None) == OfflineStage(until_ms=946_684_800_000)
