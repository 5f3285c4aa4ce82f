"""What a run meets when it comes back, through `train`: retention passed, topics made anew, partitions added, checkpoints damaged, disk full."""

import json
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.cli.progress import describe
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.errors import AutoembError, CheckpointError, OffsetError, StateError, TopicError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.topics import ensure_interactions_topic
from autoemb_pipeline.schemas.codec import encode_interaction
from tests.run.conftest import MakeStream, Stream
from tests.run.interruptions import Crash, add_partition, crash_after, damage, delete_before, until_done
from tests.run.kafka_reading import metrics_of
from tests.run.outcome import assert_same, outcome
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
RECORDS = synthetic_stream(2_000, seed=31, users=60, items=50)


def steps(stream: Stream, config: RunConfig) -> list[int]:
    return [m["step"] for m in metrics_of(stream.kafka, config.metrics_topic)]


def test_a_cleanly_stopped_run_comes_back_after_the_metrics_are_gone(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:1_000])
    config = stream.config(checkpoint_every=3)
    stream.train(config)
    assert steps(stream, config) == [1, 2, 3, 4, 5]
    for topic in (config.metrics_topic, config.dead_letter_topic):
        delete_before(stream, -1, topic=topic)
    stream.send([*RECORDS[1_000:1_400], b"rubbish", *RECORDS[1_400:]])
    with pytest.raises(Crash):  # emits steps 6 and 7 and dies before its first checkpoint
        stream.train(config, stop=crash_after(3))
    assert 6 in steps(stream, config)
    summary = stream.train(config)
    assert (summary.step, summary.examples) == (10, 2_000)
    assert steps(stream, config) == [6, 7, 8, 9, 10]

    whole = stream.config("whole")
    stream.train(whole)
    found, wanted = (outcome(stream.kafka, c) for c in (config, whole))
    for part in ("step", "payload", "tensors", "rows", "counts", "predictions"):
        assert found[part] == wanted[part], part
    assert found["metrics"] == wanted["metrics"][5:]


def test_a_crashed_run_whose_metrics_are_gone_is_told_so(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS)
    config = stream.config(checkpoint_every=4)
    with pytest.raises(Crash):
        stream.train(config, stop=crash_after(7))
    delete_before(stream, -1, topic=config.metrics_topic)
    with pytest.raises(OffsetError, match=r"is not in the topic") as caught:
        stream.train(config)
    assert "--new-run" in caught.value.remedy
    assert "retention" in caught.value.why
    summary = stream.train(stream.config(new_run=True))
    assert (summary.step, summary.examples) == (10, 2_000)


def test_a_new_run_puts_all_of_the_old_one_aside(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:600])
    config = stream.config()
    first = stream.train(config)
    second = stream.train(stream.config(new_run=True))
    assert first.run_id != second.run_id
    (old,) = (config.state_dir / "old-runs").iterdir()
    assert {p.name for p in old.iterdir()} == {"run.json", "checkpoints", "predictions", "outputs.json"}
    assert json.loads((old / "run.json").read_text())["run_id"] == first.run_id
    assert len(list((old / "predictions").iterdir())) == 1


def test_a_topic_made_anew_is_refused(make_stream: MakeStream) -> None:
    stream = make_stream(3)
    stream.send(RECORDS[:600], 3)
    config = stream.config()
    stream.train(config)
    recreate(stream, partitions=2)
    stream.send(RECORDS, 2)
    with pytest.raises(StateError, match="was recreated") as caught:
        stream.train(config)
    assert "--new-run" in caught.value.remedy
    assert stream.train(stream.config(new_run=True)).examples == 2_000


def recreate(stream: Stream, *, partitions: int) -> None:
    admin = quiet_admin(stream.kafka)
    admin.delete_topics([stream.topic])[stream.topic].result(20)
    until_done(lambda: ensure_interactions_topic(stream.kafka, stream.topic, partitions), AutoembError)


def test_a_topic_made_anew_under_a_running_trainer_stops_it(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:600])
    rounds = iter(range(10_000))

    def stop() -> bool:
        if next(rounds) == 3:
            recreate(stream, partitions=1)
            stream.send(RECORDS[:10])
        return False

    with pytest.raises(TopicError) as caught:
        stream.train(stream.config(until_end=False), stop=stop)
    assert "made anew" in caught.value.what or "no longer holds" in caught.value.what or "no topic" in caught.value.what
    assert caught.value.remedy


def test_unread_records_deleted_are_never_skipped(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS)
    config = stream.config()
    with pytest.raises(Crash):
        stream.train(config, stop=crash_after(7))
    delete_before(stream, 1_300)
    with pytest.raises(OffsetError, match="begins at offset 1300, and this run stands at 1000") as caught:
        stream.train(config)
    assert "300 records it has not read were deleted" in caught.value.why
    assert "--new-run" in caught.value.remedy


def test_added_partitions_are_taken_up_without_a_checkpoint(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:1_200])
    rounds, told = iter(range(10**6)), {"examples": 0, "lag": 0}
    deadline = time.monotonic() + 40

    def stop() -> bool:
        if next(rounds) == 1:
            add_partition(stream, RECORDS[1_200:])
        assert time.monotonic() < deadline, told
        return told["examples"] == 2_000

    def observe(metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        told.update(examples=metrics.get("examples", 0), lag=runtime["lag"])

    config = stream.config(until_end=False, checkpoint_every=10_000)
    summary = stream.train(config, stop=stop, observers=(observe,))
    assert (summary.examples, summary.unread) == (2_000, ())
    last = metrics_of(stream.kafka, config.metrics_topic)[-1]
    assert (last["next_offsets_0"], last["next_offsets_1"]) == (1_200, 800)
    again = stream.train(stream.config())
    assert (again.trained, again.examples) == (0, 2_000)


def test_until_end_says_what_was_added_meanwhile_and_the_next_start_trains_it(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:1_200])
    rounds = iter(range(10**6))

    def stop() -> bool:
        if next(rounds) == 1:
            add_partition(stream, RECORDS[1_200:])
        return False

    config = stream.config()
    summary = stream.train(config, stop=stop)
    assert summary.examples == 1_200
    assert summary.unread[0].startswith("800 records of partitions [1] were not read")
    assert "800 records of partitions [1]" in describe(summary, until_end=True, stopped=False)
    again = stream.train(config)
    assert (again.examples, again.unread) == (2_000, ())


def test_until_end_is_not_done_before_an_open_transaction(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:600])
    producer = Producer({**stream.kafka, "transactional.id": f"tx-{stream.topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for record in RECORDS[600:]:
        producer.produce(stream.topic, encode_interaction(record))
    assert producer.flush(30) == 0
    lags: list[int] = []

    def observe(_: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        lags.append(runtime["lag"])
        if len(lags) == 2:
            producer.commit_transaction(30)

    summary = stream.train(stream.config(), observers=(observe,))
    assert (summary.examples, summary.unread) == (2_000, ())
    assert lags[0] == 1_400


def test_the_checkpoint_before_a_damaged_one_gives_the_same_bits(make_stream: MakeStream) -> None:
    stream = make_stream(2)
    stream.send([*RECORDS[:500], b"rubbish", *RECORDS[500:]], 2)
    config = stream.config(checkpoint_every=4)
    stream.train(config)
    before = outcome(stream.kafka, config)
    newest = CheckpointStore(config.state_dir).path(before["step"])
    damage(newest)
    summary = stream.train(config)
    assert 0 < summary.trained < 2_000
    assert_same(outcome(stream.kafka, config), before)
    assert (newest.parent / f"refused-{newest.name}").exists()


def test_a_checkpoint_of_another_run_is_refused(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(RECORDS[:600])
    one, other = stream.config("one"), stream.config("other")
    stream.train(one)
    stream.train(other)
    (one.state_dir / "run.json").write_bytes((other.state_dir / "run.json").read_bytes())
    with pytest.raises(CheckpointError, match="is a checkpoint of run"):
        stream.train(one)


@contextmanager
def tiny_file_system(directory: Path) -> Iterator[Callable[[], Callable[[], None]]]:
    """Yields fill() -> free(); skips where nothing can be mounted."""
    directory.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(directory)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")

    def fill() -> Callable[[], None]:
        ballast = directory / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        return ballast.unlink

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def limited_files(directory: Path) -> Iterator[Callable[[], Callable[[], None]]]:
    """Yields fill() -> free() that any user may do: no file can grow beyond 2 kB."""
    del directory
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def free() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def fill() -> Callable[[], None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
        return free

    try:
        yield fill
    finally:
        free()


@pytest.mark.parametrize("predictions_kept", [0, 1_000_000], ids=["without log", "with log"])
@pytest.mark.parametrize("disk", [tiny_file_system, limited_files], ids=["full disk", "file size"])
def test_a_full_disk_stops_training_and_the_previous_checkpoint_resumes(
    make_stream: MakeStream, tmp_path: Path, disk: Any, predictions_kept: int
) -> None:
    stream = make_stream()
    stream.send(RECORDS)
    calm = stream.config("calm", batch_size=50, predictions_kept=predictions_kept)
    stream.train(calm)
    with disk(tmp_path / "disk") as fill:
        config = stream.config(state_dir=tmp_path / "disk" / "state", batch_size=50, checkpoint_every=3, predictions_kept=predictions_kept)
        free: list[Callable[[], None]] = []
        rounds = iter(range(10_000))

        def stop() -> bool:
            if next(rounds) >= 3 and CheckpointStore(config.state_dir).list() and not free:
                free.append(fill())
            return False

        with pytest.raises(StateError) as caught:
            stream.train(config, stop=stop)
        assert "Free space" in caught.value.remedy
        assert any(text in caught.value.why for text in ("No space left", "File too large", "os error 28", "os error 27")), caught.value.why
        held = CheckpointStore(config.state_dir).newest_valid()
        assert (held.step, held.refused) == (CheckpointStore(config.state_dir).list()[-1], ())
        free[0]()
        summary = stream.train(config)
        assert summary.trained == 2_000 - 50 * held.step
        assert_same(logged(stream.kafka, config, predictions_kept), logged(stream.kafka, calm, predictions_kept))


def logged(kafka: Mapping[str, str], config: RunConfig, predictions_kept: int) -> dict[str, Any]:
    return outcome(kafka, config, with_log=predictions_kept > 0)
