"""A run that cannot keep its promise refuses, at every start, until somebody decides: lost checkpoints, records deleted unread."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from autoemb_pipeline.checkpoint.identity import read_identity
from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.cli.main import main
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.errors import CheckpointError, OffsetError, TopicError
from autoemb_pipeline.predict import Pair, Predictor, tables_of
from autoemb_pipeline.records import OfflineStage
from tests.run.conftest import MakeStream, Stream, trainer_config
from tests.run.interruptions import Crash, add_partition, crash_after, damage, delete_before
from tests.run.kafka_reading import metrics_of
from tests.run.outcome import outcome
from tests.source.topics import write
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
RECORDS = synthetic_stream(2_000, seed=31, users=60, items=50)


def steps_sent(stream: Stream, config: RunConfig) -> int:
    return len(metrics_of(stream.kafka, config.metrics_topic))


@pytest.mark.parametrize("loss", ["damaged", "set aside by an earlier version", "removed"])
def test_a_run_without_a_usable_checkpoint_refuses_every_time(make_stream: MakeStream, tmp_path: Path, loss: str) -> None:
    stream = make_stream()
    stream.send(RECORDS[:1_000])
    config = stream.config()
    run_id = stream.train(config).run_id
    backup = tmp_path / "backup"
    shutil.copytree(config.state_dir, backup)
    store = CheckpointStore(config.state_dir)
    if loss == "removed":
        shutil.rmtree(store.directory)
    for step in store.list():
        damage(store.path(step))
        if loss != "damaged":
            store.path(step).rename(store.directory / f"refused-{store.path(step).name}")
    stream.send(RECORDS[1_000:])
    delete_before(stream, 500)
    for _ in range(3):
        with pytest.raises(CheckpointError, match=r"damaged|no checkpoint of it that can be used") as caught:
            stream.train(config)
        assert "backup" in caught.value.remedy
        assert "--new-run" in caught.value.remedy
    assert steps_sent(stream, config) == 5

    shutil.rmtree(config.state_dir)
    shutil.copytree(backup, config.state_dir)
    summary = stream.train(config)
    assert (summary.run_id, summary.step, summary.examples, summary.trained) == (run_id, 10, 2_000, 1_000)
    assert stream.train(replace(config, new_run=True)).examples == 1_500


def test_a_kill_before_the_first_steps_checkpoint_while_retention_deletes(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS)
    config = stream.config(checkpoint_every=1_000)
    with pytest.raises(Crash):
        stream.train(config, stop=crash_after(6))
    assert steps_sent(stream, config) > 0
    delete_before(stream, 1_300)
    for _ in range(2):
        with pytest.raises(OffsetError, match="begins at offset 1300, and this run stands at 0") as caught:
            stream.train(config)
        assert "1300 records it has not read were deleted" in caught.value.why
        assert "--new-run" in caught.value.remedy
    assert stream.train(replace(config, new_run=True)).examples == 700


def test_a_run_that_began_on_an_empty_topic_knows_where(make_stream: MakeStream) -> None:
    stream = make_stream(2)
    config = stream.config()
    assert stream.train(config).step == 0
    (first,) = CheckpointStore(config.state_dir).list()
    position = CheckpointStore(config.state_dir).manifest(first).payload["position"]
    assert (first, position["next_offsets"], position["first_offsets"]) == (0, {"0": 0, "1": 0}, {"0": 0, "1": 0})
    stream.send(RECORDS, 2)
    delete_before(stream, -1, partition=1)
    with pytest.raises(OffsetError, match=r"Partition 1 .* and this run stands at 0"):
        stream.train(config)


def test_records_deleted_under_a_running_trainer_stop_it(make_stream: MakeStream) -> None:
    stream = make_stream()
    write(stream.kafka, stream.topic, RECORDS, per_batch=20)
    rounds = iter(range(10_000))

    def stop() -> bool:
        if next(rounds) == 1:
            delete_before(stream, -1)
        return False

    # So little is fetched ahead that most of the topic is unread when it goes.
    hungry = {**stream.kafka, "queued.max.messages.kbytes": "8", "queued.min.messages": "50", "fetch.message.max.bytes": "4000"}
    with pytest.raises(OffsetError, match=r"no longer holds the position") as caught:
        stream.train(stream.config(batch_size=20), stop=stop, kafka=hungry)
    assert "--new-run" in caught.value.remedy


def test_an_added_partition_must_be_whole(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:1_000])
    config = stream.config()
    stream.train(config)
    add_partition(stream, RECORDS[1_000:])
    delete_before(stream, 400, partition=1)
    with pytest.raises(TopicError, match=r"Partition 1 .* begins at offset 400, and this run stands at 0"):
        stream.train(config)


def test_predict_has_a_checkpoint_from_the_start(make_stream: MakeStream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = make_stream()
    config = stream.config(trainer=trainer_config("autoemb", preset="stream"), until_end=False)
    asked = tmp_path / "pairs.csv"
    asked.write_text("u1,i1\n")
    foreseen: list[float] = []

    def stop() -> bool:
        with open_newest(CheckpointStore(config.state_dir), tables_of) as opened:
            assert opened.loaded.step == 0
            foreseen.extend(Predictor(opened).predict([Pair("u1", "i1")]).predictions.probabilities.tolist())
        return True

    stream.train(config, stop=stop)
    assert [0 < p < 1 for p in foreseen] == [True]
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--state-dir", str(config.state_dir), str(asked)])
    assert ended.value.code == 0
    assert "\nu1,i1,0." in capsys.readouterr().out


@pytest.mark.parametrize("epochs", [1, 3])
def test_checkpoints_by_time_change_no_bit(make_stream: MakeStream, epochs: int) -> None:
    stream = make_stream(2)
    stream.send([*RECORDS[:500], b"rubbish", *RECORDS[500:]], 2)
    trainer = trainer_config("autoemb", preset="paper-layernorm")
    if epochs > 1:
        trainer = replace(trainer, offline=OfflineStage(count=700), offline_epochs=epochs)
    by_steps = stream.config("steps", trainer=trainer, checkpoint_every=1_000)
    stream.train(by_steps)
    assert CheckpointStore(by_steps.state_dir).list()[:-1] == (0,)
    by_time = stream.config("time", trainer=trainer, checkpoint_every=1_000, checkpoint_seconds=0.01, checkpoints_kept=100)
    with pytest.raises(Crash):
        stream.train(by_time, stop=slowly(crash_after(9)))
    assert len(CheckpointStore(by_time.state_dir).list()) >= 3
    stream.train(by_time, stop=slowly(lambda: False))
    found, wanted = (outcome(stream.kafka, c) for c in (by_time, by_steps))
    assert len(CheckpointStore(by_time.state_dir).list()) >= 5
    for part in ("step", "payload", "tensors", "rows", "counts", "metrics", "predictions"):
        assert found[part] == wanted[part], part


def slowly(stop: Callable[[], bool]) -> Callable[[], bool]:
    def slow() -> bool:
        time.sleep(0.05)
        return stop()

    return slow


def test_a_silent_stream_is_checkpointed_once(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:500])
    config = stream.config(until_end=False, checkpoint_every=1_000, checkpoint_seconds=0.3)
    store = CheckpointStore(config.state_dir)
    written: list[tuple[int, ...]] = []
    end = time.monotonic() + 4.0

    def stop() -> bool:
        written.append(store.list())
        return time.monotonic() > end

    with capture_logs() as logs:
        stream.train(config, stop=stop)
    assert store.list()[-1] == 2
    assert [entry["step"] for entry in logs if entry["event"] == "checkpoint"] in ([0, 2], [0, 1, 2])
    assert written[-1] == store.list(), "the last checkpoint was due by time, not by the stop"


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda d: shutil.rmtree(d / "checkpoints"), id="before the directory"),
        pytest.param(lambda d: (d / "checkpoints" / "step-000000000").rename(d / "checkpoints" / "tmp-step-000000000"), id="unpublished"),
        pytest.param(lambda _: None, id="published"),
    ],
)
def test_a_kill_before_the_run_began_begins_it_again(make_stream: MakeStream, leave: Callable[[Path], None]) -> None:
    stream = make_stream()
    config = stream.config()
    run_id = stream.train(config).run_id
    path = config.state_dir / "run.json"
    path.write_text(path.read_text().replace('"begun": true', '"begun": false'))
    (config.state_dir / "outputs.json").unlink()
    leave(config.state_dir)
    stream.send(RECORDS)
    summary = stream.train(config)
    assert (summary.run_id, summary.examples) == (run_id, 2_000)
    identity = read_identity(config.state_dir)
    assert identity is not None
    assert identity.begun
