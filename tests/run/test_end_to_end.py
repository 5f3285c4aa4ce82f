"""The main path on a real broker: from bytes on a topic to metrics, checkpoints and the prediction log."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.learners.config import METHODS, STREAM_METHODS
from autoemb_pipeline.predict import tables_of
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.replay import replay
from autoemb_pipeline.sink.prediction_log import read_predictions
from tests.run.conftest import MakeStream, trainer_config
from tests.run.kafka_reading import metrics_of, read_all
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka


def without_run(record: dict[str, Any], *, offsets: bool = False) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != "run_id" and (offsets or not k.startswith("next_offsets"))}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fse", "autoemb"])
def test_real_data_is_trained_exactly_once(make_stream: MakeStream, ml_latest_small: Path, tmp_path: Path, method: str) -> None:
    stream = make_stream(3)
    dataset = load_dataset(str(ml_latest_small), DatasetOptions(cache_dir=tmp_path / "cache"))
    replay(dataset, ReplayConfig(topic=stream.topic), kafka=stream.kafka)
    config = stream.config(trainer=trainer_config(method), batch_size=500, checkpoint_every=50)
    summary = stream.train(config)
    assert summary.trained == summary.examples == len(dataset) == 100_836

    log = read_predictions(config.state_dir / "predictions").collect()
    trained = Counter(zip(log["user_id"], log["item_id"], log["timestamp"], log["rating"], strict=True))
    wanted = Counter((i.user_id, i.item_id, i.timestamp, i.rating) for i in dataset.interactions())
    assert trained == wanted
    assert log["timestamp"].is_sorted()

    metrics = metrics_of(stream.kafka, config.metrics_topic)
    assert [m["step"] for m in metrics] == list(range(1, 203))
    assert [m["examples"] for m in metrics] == [min(500 * s, 100_836) for s in range(1, 203)]
    labels = (log["rating"] > 3.5).cast(pl.Float64).to_numpy()
    squared = (log["prediction"].to_numpy() - labels) ** 2
    for m in metrics[::40] + metrics[-1:]:
        assert m["mse"] == pytest.approx(squared[: m["examples"]].mean(), rel=1e-12)
    assert sum(metrics[-1][f"next_offsets_{p}"] for p in range(3)) == 100_836


@pytest.mark.parametrize("learner", [{}, {"preset": "stream", "ttl_days": 5 / 86_400}], ids=str)
def test_any_number_of_partitions_gives_the_same_metrics(make_stream: MakeStream, learner: dict[str, Any]) -> None:
    records = synthetic_stream(5_000, seed=1)
    results = []
    for partitions in (1, 3, 8):
        stream = make_stream(partitions)
        stream.send(records, partitions)
        config = stream.config(trainer=trainer_config("autoemb", **learner))
        stream.train(config)
        results.append([without_run(m) for m in metrics_of(stream.kafka, config.metrics_topic)])
    assert len(results[0]) == 25
    assert results[0] == results[1] == results[2]
    assert (results[0][-1]["user_removed_ids"] or 0) > 10 or not learner


def test_undecodable_records_are_dead_letters_and_change_nothing_else(make_stream: MakeStream) -> None:
    records = synthetic_stream(1_000, seed=2)
    clean, dirty = make_stream(), make_stream()
    clean.send(records)
    rubbish = [b"not avro", None, b"\xc3\x01" + b"\x00" * 8 + b"unknown schema"]
    mixed = [*rubbish[:1], *records[:300], *rubbish, *records[300:], *rubbish[1:2]]
    dirty.send(mixed)
    for stream in (clean, dirty):
        stream.train(stream.config())
    good = [without_run(m) for m in metrics_of(clean.kafka, f"{clean.topic}.metrics")]
    bad = [without_run(m) for m in metrics_of(dirty.kafka, f"{dirty.topic}.metrics")]
    assert [m.pop("dead_letters") for m in good] == [0] * 5
    assert [m.pop("dead_letters") for m in bad] == [1, 4, 4, 4, 4, 5]
    assert good == bad[:5]
    assert (bad[5]["batch_examples"], bad[5]["mse"]) == (0, bad[4]["mse"])  # the tombstone behind the last whole batch
    letters = read_all(dirty.kafka, f"{dirty.topic}.dlq")
    assert [m.key().decode() for m in letters] == [f"{dirty.topic}:0:{o}" for o in (0, 301, 302, 303, 1004)]
    assert letters[0].value() == b"not avro"
    assert dict(letters[0].headers())["reason"] == b"bad-magic"


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize(
    ("preset", "method"), [*(("paper", m) for m in METHODS), *(("stream", m) for m in METHODS + STREAM_METHODS)], ids=lambda v: v
)
def test_a_run_in_pieces_is_the_run_in_one(make_stream: MakeStream, preset: str, method: str, task: str) -> None:
    records = synthetic_stream(1_200, seed=3)
    stream = make_stream(2)
    stream.send(records, 2)
    trainer = trainer_config(method, task=task, preset=preset)
    whole, pieces = stream.config("whole", trainer=trainer), stream.config("pieces", trainer=trainer)
    stream.train(whole)
    done = 0
    while done < 1_200:
        calls = iter(range(4 + done // 200))
        summary = stream.train(pieces, stop=lambda calls=calls: next(calls, None) is None)
        assert summary.examples > done
        done = summary.examples
    runs: dict[str, list[dict[str, Any]]] = {}
    for m in metrics_of(stream.kafka, whole.metrics_topic):
        runs.setdefault(m["run_id"], []).append(without_run(m, offsets=True))
    one, other = runs.values()
    assert one == other
    columns = pl.exclude("none")
    logs = [read_predictions(c.state_dir / "predictions").select(columns).collect() for c in (whole, pieces)]
    assert logs[0].equals(logs[1])
    rows = []
    for config in (whole, pieces):
        with open_newest(CheckpointStore(config.state_dir), tables_of) as opened:
            rows.append({t: [(i, [part.tobytes() for part in r]) for i, r in opened.rows.records(t)] for t in ("user", "item")})
    assert rows[0] == rows[1]


def test_finished_data_is_said_to_be_finished(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(synthetic_stream(500, seed=4))
    first = stream.train(stream.config())
    again = stream.train(stream.config())
    assert (first.trained, again.trained) == (500, 0)
    assert again.examples == 500
    assert again.run_id == first.run_id
    assert len(metrics_of(stream.kafka, f"{stream.topic}.metrics")) == 3


def test_a_changed_configuration_is_refused_until_a_new_run(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(synthetic_stream(400, seed=5))
    stream.train(stream.config())
    with pytest.raises(CheckpointError, match="batch_size was 200, is 100"):
        stream.train(stream.config(batch_size=100))
    with pytest.raises(CheckpointError, match=r"context.ttl_days was None, is 9\.0"):
        stream.train(stream.config(trainer=trainer_config(ttl_days=9.0)))
    summary = stream.train(stream.config(batch_size=100, new_run=True))
    assert summary.trained == 400


def test_two_trainers_on_one_state_directory(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(synthetic_stream(400, seed=6))
    config = stream.config()

    def second() -> bool:
        with pytest.raises(StateError, match="in use by process"):
            stream.train(config)
        return False

    stream.train(config, stop=second)


def test_runtime_topic_and_observers(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(synthetic_stream(400, seed=7))
    seen: list[tuple[Any, Any]] = []
    stream.train(stream.config(), observers=(lambda metrics, runtime: seen.append((metrics, runtime)),))
    (record,) = [json.loads(m.value()) for m in read_all(stream.kafka, f"{stream.topic}.runtime")]
    assert record["step"] == 2
    assert record["lag"] == 0
    assert record["interactions_per_second"] > 0
    assert record["rss_bytes"] > 1e7
    assert seen[-1][0]["examples"] == 400
    assert np.isfinite(seen[-1][0]["logistic_mse"])
