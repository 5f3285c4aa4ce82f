"""Kill -9 at every named place and at random instants, on a real broker; started again, the run is to the bit the run never stopped.

`make crash-test N=100` sets AUTOEMB_CRASHES: so many kills at random instants.
"""

import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics
from tests.conftest import TestBroker
from tests.fastdisk import fast_directory
from tests.run.conftest import Stream
from tests.run.crash_zygote import Zygote, run_config
from tests.run.outcome import assert_same, nothing_left_over, outcome
from tests.streams import synthetic_stream

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

PARTITIONS, BATCH, EVERY = 3, 40, 4
FAILPOINTS = ("poll", "step", "emit", "flush", "rocksdb-checkpoint", "sync", "rename-before", "rename-after", "commit")
PER_CHECKPOINT = FAILPOINTS[3:]
KILLS = int(os.environ.get("AUTOEMB_CRASHES", "20"))
KILLS_PER_RUN = 5
BROKER_KILLS = max(10, KILLS // 10)
SEED = int(os.environ.get("AUTOEMB_CRASH_SEED", "20261124"))
RUBBISH = [b"not avro", None, b"\xc3\x01" + bytes(8) + b"unknown schema"]


def dirty_stream() -> list[Any]:
    """1,100 interactions in order; among them 200 late ones, re-deliveries, undecodable records and tombstones, also at both ends."""
    records: list[Any] = []
    for n, interaction in enumerate(synthetic_stream(1_100, seed=21, users=120, items=90)):
        if n % 50 == 0:
            records.append(RUBBISH[n // 50 % 3])
        records.append(interaction)
        if n % 11 in (3, 7):
            records.append(interaction._replace(timestamp=interaction.timestamp - 30_000, dataset=None, sequence=None))
        if n % 60 == 59:
            records.append(interaction)
    return [*records, b"the last record is none"]


@dataclass
class Scene:
    """The stream that all runs train on, and two trainers' warm processes under different hash seeds."""

    kafka: dict[str, str]
    topic: str
    directory: Path
    zygotes: list[Zygote]
    starts: int = 0

    def config(self, name: str, **changes: Any) -> dict[str, Any]:
        """A run with output topics of its own."""
        prefix = f"{self.topic}.{name}"
        topics = {"metrics_topic": f"{prefix}.m", "runtime_topic": f"{prefix}.r", "dead_letter_topic": f"{prefix}.d"}
        ensure_metrics_topics(self.kafka, *topics.values())
        sizes = {"batch_size": BATCH, "checkpoint_every": EVERY, "cache_bytes": 60_000}
        own = {"state_dir": str(self.directory / name), "run_id": f"run-{name}"}
        return {"topic": self.topic, **topics, **sizes, **own, **changes}

    def start(self, config: dict[str, Any], **kill: Any) -> int:
        """One life of a trainer; its end. Every start is under another hash seed than the one before."""
        self.starts += 1
        ended = self.zygotes[self.starts % 2].run(self.kafka, config, **kill)
        assert ended.returncode in (0, -signal.SIGKILL), ended.output
        return ended.returncode

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """The last life, and what the run left behind."""
        with nothing_left_over(Path(config["state_dir"])):
            assert self.start(config) == 0
        return outcome(self.kafka, run_config(config))


@pytest.fixture(scope="module")
def scene(broker: TestBroker) -> Iterator[Scene]:
    topic = f"crash-{random.randrange(16**8):08x}"
    ensure_interactions_topic(broker.kafka, topic, PARTITIONS)
    with tempfile.TemporaryDirectory(prefix="autoemb-crash-", dir=fast_directory()) as directory, Zygote(1) as one, Zygote(2) as two:
        Stream(broker.kafka, topic, Path(directory)).send(dirty_stream(), PARTITIONS)
        yield Scene(dict(broker.kafka), topic, Path(directory), [one, two])


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> dict[str, Any]:
    result = scene.finish(scene.config("undisturbed"))
    last = json.loads(result["metrics"][-1][1])
    assert (result["step"], last["examples"], result["predictions"][0]) == (33, 1_300, 1_300)
    assert (last["late"], last["duplicates"], last["dead_letters"], len(result["dead letters"])) == (200, 18, 23, 23)
    return result


@pytest.fixture(scope="module")
def life_seconds(scene: Scene, undisturbed: dict[str, Any]) -> float:
    """How long a run takes on this machine, now that everything is warm."""
    return scene.zygotes[0].run(scene.kafka, scene.config("measured")).seconds


def test_the_hash_seed_decides_nothing(scene: Scene, undisturbed: dict[str, Any]) -> None:
    other = scene.config("other-seed")
    assert scene.finish(other) == undisturbed


@pytest.mark.parametrize("name", FAILPOINTS)
def test_killed_at_a_failpoint_twice(scene: Scene, undisturbed: dict[str, Any], name: str) -> None:
    config = scene.config(f"at-{name}")
    for count in (1, 3) if name in PER_CHECKPOINT else (2, 11):
        assert scene.start(config, failpoint=f"{name}:{count}") == -signal.SIGKILL
    assert_same(scene.finish(config), undisturbed)


@pytest.mark.parametrize("name", ["emit", "flush", "rename-before", "rename-after", "commit"])
def test_killed_with_transactions(scene: Scene, undisturbed: dict[str, Any], name: str) -> None:
    config = scene.config(f"once-{name}", exactly_once=True)
    for count in (1, 2):
        assert scene.start(config, failpoint=f"{name}:{count}") == -signal.SIGKILL
    assert_same(scene.finish(config), undisturbed)


STREAM_PRESET = {
    "default": {},
    "rating": {"task": "rating"},
    "trace": {"validation": "trace"},
    "budget": {"memory_budget": 9_000},
    "separate": {"nested": False},
}


@pytest.mark.parametrize("name", STREAM_PRESET)
def test_the_stream_preset_killed_again_and_again(scene: Scene, name: str) -> None:
    learner = {"preset": "stream", **STREAM_PRESET[name]}
    undisturbed = scene.finish(scene.config(f"stream-{name}", learner=learner))
    config = scene.config(f"stream-{name}-killed", learner=learner, context="event")
    for failpoint in ("emit:7", "rename-before:1", "rename-after:2", "step:3"):
        assert scene.start(config, failpoint=failpoint) == -signal.SIGKILL
    assert_same(scene.finish(config), undisturbed)


@pytest.mark.parametrize("run", range(-(-KILLS // KILLS_PER_RUN)))
def test_killed_at_random_instants(scene: Scene, undisturbed: dict[str, Any], life_seconds: float, run: int) -> None:
    config = scene.config(f"random-{run}", exactly_once=run % 4 == 3)
    instants = random.Random(f"{SEED} {run}")
    for _ in range(min(KILLS_PER_RUN, KILLS - run * KILLS_PER_RUN)):
        scene.start(config, kill_after=instants.uniform(0.0, 0.9) * life_seconds)
    assert_same(scene.finish(config), undisturbed)


def test_a_second_trainer_of_the_run_shuts_the_first_out(scene: Scene, undisturbed: dict[str, Any]) -> None:
    config = scene.config("zombie", exactly_once=True)
    progress = scene.directory / "zombie-progress"
    ends: list[Any] = []
    first = threading.Thread(
        target=lambda: ends.append(scene.zygotes[0].run(scene.kafka, config, round_seconds=0.25, progress=progress)), daemon=True
    )
    first.start()
    state = Path(config["state_dir"])
    copy = state.with_name("zombie-copy")
    while not list((state / "checkpoints").glob("step-*")) if (state / "checkpoints").exists() else True:
        assert first.is_alive()
        first.join(0.05)
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("LOCK", "live", "tmp-*", "*.tmp"))
    second = {**config, "state_dir": str(copy)}
    ended = scene.zygotes[1].run(scene.kafka, second)
    assert ended.returncode == 0, ended.output
    first.join(60)
    (zombie,) = ends
    assert zombie.returncode == 6, zombie.output
    assert f"Another trainer with this run id took over: {config['run_id']}" in zombie.output
    assert "--run-id and --state-dir" in zombie.output
    assert_same(outcome(scene.kafka, run_config(second)), undisturbed)
    assert json.loads(ended.output.splitlines()[-1])["step"] == undisturbed["step"]


def bursts(stream: Stream, stop: threading.Event) -> None:
    """A slow live stream without sequences on two of three partitions: what a mini-batch holds is up to the clock."""
    records = iter(synthetic_stream(20_000, seed=22, users=120, items=90))
    rng = random.Random(SEED)
    while not stop.wait(0.12):
        burst = [r._replace(dataset=None, sequence=None) for r, _ in zip(records, range(rng.randint(3, 25)), strict=False)]
        stream.send([*burst, b"rubbish"] if rng.random() < 0.3 else burst, 2)


def test_what_the_clock_decided_is_read_back(scene: Scene) -> None:
    topic = f"{scene.topic}-live"
    ensure_interactions_topic(scene.kafka, topic, PARTITIONS)
    config = scene.config("live", topic=topic, until_end=False, batch_timeout=0.2, idle_timeout=0.1, checkpoints_kept=10_000)
    stop = threading.Event()
    feeder = threading.Thread(target=bursts, args=(Stream(scene.kafka, topic, scene.directory), stop))
    feeder.start()
    try:
        for emitted in (6, 7, 11):  # two or three steps after a checkpoint each
            assert scene.start(config, failpoint=f"emit:{emitted}") == -signal.SIGKILL
    finally:
        stop.set()
        feeder.join()
    config["until_end"] = True
    lived = scene.finish(config)
    sizes = [json.loads(value)["batch_examples"] for _, value in lived["metrics"]]
    assert sum(0 < size < BATCH for size in sizes[:20]) >= 5

    # The same run from its checkpoint of step 0: every step is recomputed from the recorded boundaries alone, none is sent again.
    replayed = scene.directory / "live-replayed"
    first = Path("checkpoints") / "step-000000000"
    shutil.copytree(Path(config["state_dir"]) / first, replayed / first)
    shutil.copy(Path(config["state_dir"]) / "run.json", replayed)
    assert_same(scene.finish({**config, "state_dir": str(replayed)}), lived)


def newest_step(state_dir: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in (state_dir / "checkpoints").glob("step-*")), default=0)


@pytest.mark.parametrize("exactly_once", [False, True], ids=["idempotent", "transactions"])
def test_broker_killed_again_and_again(scene: Scene, kafka_home: Path, tmp_path: Path, exactly_once: bool) -> None:
    kills = BROKER_KILLS if not exactly_once else 2
    with LocalKafka(LocalKafkaConfig(home=kafka_home, data_dir=tmp_path / "kafka", session_timeout_ms=1_000)) as broker:
        kafka = {"bootstrap.servers": broker.bootstrap_servers}
        ensure_interactions_topic(kafka, "stormy", PARTITIONS)
        there = Scene(kafka, "stormy", scene.directory, scene.zygotes)
        Stream(kafka, "stormy", tmp_path).send(list(synthetic_stream(300 * kills, seed=23, users=120, items=90)), PARTITIONS)
        calm = there.finish(there.config(f"calm-{exactly_once}", batch_size=10))
        config = there.config(f"storm-{exactly_once}", batch_size=10, exactly_once=exactly_once)
        # So little is fetched ahead that reading needs the broker too, not only metrics and checkpoints.
        hungry = {**kafka, "queued.max.messages.kbytes": "8", "queued.min.messages": "50", "fetch.message.max.bytes": "4000"}
        ends: list[Any] = []
        trainer = threading.Thread(target=lambda: ends.append(there.zygotes[0].run(hungry, config, round_seconds=0.02)), daemon=True)
        trainer.start()
        done, state_dir = 0, Path(config["state_dir"])
        for _ in range(kills):
            while newest_step(state_dir) < done + EVERY:
                assert trainer.is_alive(), ends
                time.sleep(0.02)
            broker.kill()
            done = newest_step(state_dir)
            broker.start()
        trainer.join(120)
        (ended,) = ends
        assert ended.returncode == 0, ended.output
        assert_same(outcome(kafka, run_config(config)), calm)
