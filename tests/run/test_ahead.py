"""Event times far ahead of the clock, through `train` on a live stream: refused, recorded, and never decided anew."""

import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewPartitions

from autoemb_pipeline.ops.brokers.metadata import quiet_admin
from autoemb_pipeline.ops.topics import ensure_metrics_topics
from autoemb_pipeline.records import AHEAD, DeadLetter, Interaction
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.sink.dead_letters import DeadLetterSink
from autoemb_pipeline.sink.producer import IdempotentProducer
from tests.fastdisk import fast_directory
from tests.run.conftest import Stream
from tests.run.crash_zygote import Zygote, run_config
from tests.run.kafka_reading import metrics_of, read_all
from tests.run.outcome import assert_same, outcome
from tests.streams import synthetic_stream

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]
YEAR_9999 = 253_370_764_800_000
PARTITIONS, BATCH = 2, 40


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(1) as warm:
        yield warm


@pytest.fixture
def stream(make_stream: Callable[..., Stream]) -> Iterator[Stream]:
    made = make_stream(PARTITIONS)
    with tempfile.TemporaryDirectory(prefix="autoemb-ahead-", dir=fast_directory()) as directory:
        yield Stream(made.kafka, made.topic, Path(directory))


def fields(stream: Stream, name: str, **changes: Any) -> dict[str, Any]:
    """A live run with output topics of its own, as the zygote takes it."""
    topics = {f"{kind}_topic": f"{stream.topic}.{name}.{kind}" for kind in ("metrics", "runtime", "dead_letter")}
    ensure_metrics_topics(stream.kafka, *topics.values())
    sizes = {"batch_size": BATCH, "checkpoint_every": 4, "until_end": False, "idle_timeout": 0.2, "batch_timeout": 0.3}
    return {
        "topic": stream.topic,
        **topics,
        **sizes,
        "state_dir": str(stream.directory / name),
        "run_id": f"{stream.topic}-{name}",
        **changes,
    }


def refused(stream: Stream, config: dict[str, Any]) -> list[tuple[str, int]]:
    """(the dead letter's reason, the event time of its interaction), one each."""
    letters = read_all(stream.kafka, config["dead_letter_topic"])
    assert len({m.key() for m in letters}) == len(letters)
    return [(dict(m.headers())["reason"].decode(), decode_interaction(m.value()).timestamp) for m in letters]


def counted(stream: Stream, config: dict[str, Any]) -> tuple[int, int]:
    """(interactions, dead letters) of all steps so far."""
    last = (metrics_of(stream.kafka, config["metrics_topic"]) or [{"examples": 0, "dead_letters": 0}])[-1]
    return last["examples"], last["dead_letters"]


def records(seconds_ahead: float) -> list[Interaction]:
    """800 interactions; five are of the year 9999, five so many seconds ahead of the present clock."""
    stream = synthetic_stream(800, seed=43, users=40, items=30)
    soon = int(1000 * (time.time() + seconds_ahead))
    changed = dict.fromkeys((3, 4, 90, 300, 640), YEAR_9999) | dict.fromkeys((60, 200, 201, 420, 700), soon)
    return [r._replace(timestamp=changed[at], dataset=None, sequence=None) if at in changed else r for at, r in enumerate(stream)]


def test_a_time_far_ahead_delays_nothing_and_makes_nothing_late(stream: Stream, zygote: Zygote) -> None:
    sent = synthetic_stream(800, seed=43, users=40, items=30)
    for at in (3, 4, 90, 300, 640):
        sent[at] = sent[at]._replace(timestamp=YEAR_9999)
    soon = int(1000 * (time.time() + 3_000))  # less than an hour ahead: trained
    stream.send([*sent, sent[0]._replace(timestamp=soon, sequence=800), *[b"rubbish"] * 3], PARTITIONS)
    config = fields(stream, "live")
    assert zygote.run(stream.kafka, config, kill_when=lambda: counted(stream, config) == (796, 8)).returncode == -signal.SIGKILL
    letters = read_all(stream.kafka, config["dead_letter_topic"])
    assert [dict(m.headers())["reason"] for m in letters].count(AHEAD.encode()) == 5
    metrics = metrics_of(stream.kafka, config["metrics_topic"])
    assert metrics[-1]["late"] == 0
    assert max(m["event_time"] for m in metrics if m["event_time"]) == soon
    texts = [text for m in metrics for name, text in m.items() if name.startswith("refused_offsets_")]
    assert sum(text.count(",") + 1 for text in texts) == 5 - texts.count("3-4")


def test_what_was_refused_is_refused_again_when_it_is_no_longer_ahead(stream: Stream, zygote: Zygote) -> None:
    """The first lives refuse what is more than a second ahead; when the last begins all of it is allowed, but was decided."""
    stream.send(records(3_000), PARTITIONS)
    config = fields(stream, "killed", max_ahead=1.0, checkpoints_kept=1_000)
    for kill in ("emit:7", "emit:5"):  # each some steps after a checkpoint
        assert zygote.run(stream.kafka, config, failpoint=kill).returncode == -signal.SIGKILL
    before = refused(stream, config)
    recorded = {name for m in metrics_of(stream.kafka, config["metrics_topic"]) for name in m if name.startswith("refused_offsets_")}
    assert recorded
    config |= {"max_ahead": None, "until_end": True}
    assert zygote.run(stream.kafka, config).returncode == 0
    assert refused(stream, config) == before
    lived = outcome(stream.kafka, run_config(config))
    last = json.loads(lived["metrics"][-1][1])
    assert (last["examples"], last["dead_letters"]) == (800 - len(before), len(before))
    assert 4 <= len(before) < 10

    # From the checkpoint of step 0 all steps are recomputed from what stands in the metrics topic: the same bits, nothing sent again.
    again = stream.directory / "again"
    first = Path("checkpoints") / "step-000000000"
    shutil.copytree(Path(config["state_dir"]) / first, again / first)
    shutil.copy(Path(config["state_dir"]) / "run.json", again)
    assert zygote.run(stream.kafka, {**config, "state_dir": str(again)}).returncode == 0
    assert_same(outcome(stream.kafka, run_config({**config, "state_dir": str(again)})), lived)
    # The other way round, too: what was trained is trained again though it would be refused now.
    shutil.rmtree(again / "checkpoints")
    shutil.copytree(Path(config["state_dir"]) / first, again / first)
    strict = {**config, "state_dir": str(again), "until_end": False, "max_ahead": 0.0}
    (again / "outputs.json").unlink()
    steps = len(lived["metrics"])
    assert zygote.run(stream.kafka, strict, failpoint=f"step:{steps}").returncode == -signal.SIGKILL
    assert zygote.run(stream.kafka, {**strict, "until_end": True}).returncode == 0
    assert_same(outcome(stream.kafka, run_config(strict)), lived)


def test_a_letter_without_its_step_is_a_decision_too(stream: Stream, zygote: Zygote) -> None:
    """Killed between the dead letter and the step's metrics, the run does not train what stands in the dead-letter topic."""
    sent = synthetic_stream(120, seed=44, users=40, items=30)
    stream.send(sent, PARTITIONS)
    config = fields(stream, "letter")
    assert zygote.run(stream.kafka, config, failpoint="step:1").returncode == -signal.SIGKILL
    producer = IdempotentProducer(stream.kafka)
    DeadLetterSink(producer, config["dead_letter_topic"]).emit(
        DeadLetter(stream.topic, 1, 5, AHEAD, "", b"key", encode_interaction(sent[0]))
    )
    producer.flush()
    producer.close()
    assert zygote.run(stream.kafka, {**config, "until_end": True}).returncode == 0
    assert len(read_all(stream.kafka, config["dead_letter_topic"])) == 1
    last = metrics_of(stream.kafka, config["metrics_topic"])[-1]
    assert (last["examples"], last["dead_letters"]) == (119, 1)


def test_a_pass_that_reads_again_refuses_the_same(stream: Stream, zygote: Zygote) -> None:
    stream.send(records(3_000), PARTITIONS)
    config = fields(stream, "passes", max_ahead=1.0, offline_count=400, offline_epochs=2, batch_timeout=None)
    assert zygote.run(stream.kafka, config, failpoint="emit:14").returncode == -signal.SIGKILL  # in the second pass
    config |= {"max_ahead": None, "until_end": True}
    assert zygote.run(stream.kafka, config).returncode == 0
    metrics = metrics_of(stream.kafka, config["metrics_topic"])
    first, second = ([m for m in metrics if m["stage"] == "offline" and m["epoch"] == epoch] for epoch in (1, 2))
    assert [sum(m["batch_examples"] for m in epoch) for epoch in (first, second)] == [400, 400]
    assert first[-1]["dead_letters"] >= 4
    assert [first[-1][f"next_offsets_{p}"] for p in range(PARTITIONS)] == [second[-1][f"next_offsets_{p}"] for p in range(PARTITIONS)]


def test_all_that_follows_the_clock_at_once(stream: Stream, zygote: Zygote) -> None:
    """A stream that begins with rubbish alone, an offline stage, a partition added meanwhile, refused records in it: recomputed to the bit."""
    stream.send([b"rubbish"] * 120)
    sent = records(3_000)
    config = fields(stream, "all", max_ahead=1.0, offline_count=300, checkpoint_every=10_000)

    def meanwhile() -> None:
        while not metrics_of(stream.kafka, config["metrics_topic"]):  # the rubbish makes a mini-batch of its own
            time.sleep(0.2)
        stream.send(sent[:500], PARTITIONS)
        admin = quiet_admin(stream.kafka)
        admin.create_partitions([NewPartitions(stream.topic, PARTITIONS + 1)])[stream.topic].result(20)
        time.sleep(1)
        stream.send(sent[500:], PARTITIONS + 1)

    sending = threading.Thread(target=meanwhile)
    sending.start()
    assert zygote.run(stream.kafka, config, kill_when=lambda: counted(stream, config) == (790, 130)).returncode == -signal.SIGKILL
    sending.join()
    before = metrics_of(stream.kafka, config["metrics_topic"])
    assert (before[0]["batch_examples"], before[-1]["examples"], before[-1]["dead_letters"]) == (0, 790, 130)
    assert {f"next_offsets_{p}" in before[-1] for p in range(PARTITIONS + 1)} == {True}
    config |= {"max_ahead": None, "until_end": True}
    assert zygote.run(stream.kafka, config).returncode == 0
    lived = outcome(stream.kafka, run_config(config))
    assert metrics_of(stream.kafka, config["metrics_topic"]) == before, "nothing is sent again, nothing decided anew"
    assert len(lived["dead letters"]) == 130
