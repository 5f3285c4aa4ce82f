"""Kill -9 around the moment a live run takes up an added partition: whoever recomputes those steps takes it up in the same one."""

import json
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions

from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics
from tests.conftest import TestBroker
from tests.fastdisk import fast_directory
from tests.run.crash_zygote import Ended, Zygote, run_config
from tests.run.interruptions import until_done
from tests.run.kafka_reading import metrics_of
from tests.run.outcome import outcome
from tests.source.topics import write
from tests.streams import synthetic_stream

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

BATCH, EVERY = 40, 4
RECORDS = synthetic_stream(800, seed=77, users=60, items=40)


class Run:
    """A live run on a topic of its own, half of whose stream is there at the start."""

    def __init__(self, kafka: dict[str, str], zygote: Zygote, directory: Path) -> None:
        self.kafka = kafka
        self.topic = f"added-{random.randrange(16**8):08x}"
        self._zygote = zygote
        topics = {name: f"{self.topic}.{name[0]}" for name in ("metrics_topic", "runtime_topic", "dead_letter_topic")}
        ensure_interactions_topic(kafka, self.topic, 1)
        ensure_metrics_topics(kafka, *topics.values())
        write(kafka, self.topic, RECORDS[:400])
        sizes = {"batch_size": BATCH, "checkpoint_every": EVERY, "cache_bytes": 60_000}
        own = {"state_dir": str(directory / self.topic / "run"), "run_id": self.topic}
        self.config: dict[str, Any] = {"topic": self.topic, **topics, **sizes, **own}

    def start(self, config: dict[str, Any], **kill: Any) -> Ended:
        """One life; the last ones end by themselves."""
        ended = self._zygote.run(self.kafka, {"until_end": False, "idle_timeout": 1.0, **config}, **kill)
        assert ended.returncode in (0, -signal.SIGKILL), ended.output
        return ended

    def add_partition(self) -> None:
        admin = quiet_admin(self.kafka)
        admin.create_partitions([NewPartitions(self.topic, 2)])[self.topic].result(20)

    def send_the_rest(self) -> None:
        until_done(lambda: write(self.kafka, self.topic, RECORDS[400:], lambda n: 1 - n % 2), KafkaException)

    def metrics(self) -> list[dict[str, Any]]:
        return metrics_of(self.kafka, self.config["metrics_topic"], self.topic)

    def copy_state(self) -> dict[str, Any]:
        """The state directory as it is, as another run of the same id."""
        state = Path(self.config["state_dir"])
        copy = state.with_name("copy")
        shutil.copytree(state, copy, ignore=shutil.ignore_patterns("LOCK", "live", "tmp-*", "*.tmp"))
        return {**self.config, "state_dir": str(copy)}


@pytest.fixture(scope="module")
def warm() -> Iterator[tuple[Zygote, Path]]:
    with tempfile.TemporaryDirectory(prefix="autoemb-added-", dir=fast_directory()) as directory, Zygote(3) as zygote:
        yield zygote, Path(directory)


@pytest.mark.parametrize("kill", ["emit:11", "emit:15", "rename-before:4"])
def test_recomputed_steps_take_an_added_partition_up_where_it_was(broker: TestBroker, warm: tuple[Zygote, Path], kill: str) -> None:
    run = Run(dict(broker.kafka), *warm)
    assert run.start(run.config, failpoint="emit:2").returncode == -signal.SIGKILL
    early = run.copy_state()
    lives: list[Ended] = []
    living = threading.Thread(target=lambda: lives.append(run.start(run.config, failpoint=kill, kill_after=30.0)), daemon=True)
    living.start()
    deadline = time.monotonic() + 40
    while (run.metrics() or [{"step": 0}])[-1]["step"] < 10:  # all there is has been trained
        assert time.monotonic() < deadline
        time.sleep(0.2)
    run.add_partition()
    run.send_the_rest()
    living.join(80)
    assert lives[0].returncode == -signal.SIGKILL

    last = json.loads(run.start({**run.config, "until_end": True}).output.splitlines()[-1])
    assert last["examples"] == 800
    metrics = run.metrics()
    assert [m["step"] for m in metrics] == list(range(1, 21))
    joined = [m["step"] for m in metrics if "next_offsets_1" in m]
    assert joined == list(range(joined[0], 21))
    assert joined[0] > 10
    assert (metrics[-1]["next_offsets_0"], metrics[-1]["next_offsets_1"]) == (600, 200)

    # The copy knows nothing of the second partition: it finds it in the topic from the start, and must wait for the step that names it.
    found = outcome(run.kafka, run_config(run.config))
    run.start({**early, "until_end": True})
    assert outcome(run.kafka, run_config(early)) == found


def test_a_partition_added_while_the_run_is_stopped_is_taken_up(broker: TestBroker, warm: tuple[Zygote, Path]) -> None:
    run = Run(dict(broker.kafka), *warm)
    assert run.start(run.config, failpoint="emit:6").returncode == -signal.SIGKILL
    early = run.copy_state()
    run.add_partition()
    run.send_the_rest()
    assert run.start(run.config, failpoint="emit:3").returncode == -signal.SIGKILL
    run.start({**run.config, "until_end": True})
    assert run.metrics()[-1]["examples"] == 800
    found = outcome(run.kafka, run_config(run.config))
    run.start({**early, "until_end": True})
    assert outcome(run.kafka, run_config(early)) == found
