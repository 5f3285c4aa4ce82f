"""As test_crashes.py: the stream preset, and a live stream whose mini-batches the clock decided."""

import json
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoemb_pipeline.ops.topics import ensure_interactions_topic
from tests.conftest import TestBroker
from tests.run.conftest import Stream
from tests.run.crash_scene import BATCH, PARTITIONS, Scene, crash_scene
from tests.run.outcome import assert_same
from tests.streams import synthetic_stream

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scene(broker: TestBroker) -> Iterator[Scene]:
    with crash_scene(broker.kafka, zygotes=2) as made:
        yield made


STREAM_PRESET = {
    "default": {},
    "rating": {"task": "rating", "panel": 0.3},
    "budget": {"memory_budget": 9_000},
    "ttl": {"ttl_days": 60 / 86_400, "row_precision": "float32"},
    "ttl-paper": {"preset": "paper-layernorm", "ttl_days": 60 / 86_400},
}


@pytest.mark.parametrize("name", STREAM_PRESET)
def test_the_stream_preset_killed_again_and_again(scene: Scene, name: str) -> None:
    learner = {"preset": "stream", **STREAM_PRESET[name]}
    undisturbed = scene.finish(scene.config(f"stream-{name}", learner=learner))
    if "ttl_days" in learner:
        removed = json.loads(undisturbed["metrics"][-1][1])["user_removed_ids"]
        assert removed > 20
        assert undisturbed["counts"]["user"] + removed > 120 > undisturbed["counts"]["user"], "some came back"
    config = scene.config(f"stream-{name}-killed", learner=learner, context="event")
    # Checkpoints last: they are written beside training, and on a busy machine the stream may be at its end before one is.
    for failpoint in ("emit:7", "step:3", "rename-before:1", "rename-after:2"):
        assert scene.start(config, failpoint=failpoint) == -signal.SIGKILL
    assert_same(scene.finish(config), undisturbed)


def bursts(stream: Stream, progress: Path, stop: threading.Event) -> None:
    """A live stream without sequences on two of three partitions: what a mini-batch holds is up to the clock.

    No burst is sent before the trainer has taken another turn since the one before (`progress` has grown), so that on a busy machine too
    it finds no full mini-batches waiting.
    """
    records = iter(synthetic_stream(20_000, seed=22, users=120, items=90))
    rng = random.Random(22)
    turns = 0
    while not stop.wait(0.12):
        if progress.stat().st_size == turns:
            continue
        turns = progress.stat().st_size
        burst = [r._replace(dataset=None, sequence=None) for r, _ in zip(records, range(rng.randint(3, 25)), strict=False)]
        stream.send([*burst, b"rubbish"] if rng.random() < 0.3 else burst, 2)


def test_what_the_clock_decided_is_read_back(scene: Scene) -> None:
    topic = f"{scene.topic}-live"
    ensure_interactions_topic(scene.kafka, topic, PARTITIONS)
    config = scene.config("live", topic=topic, until_end=False, batch_timeout=0.2, idle_timeout=0.1, checkpoints_kept=10_000)
    stop, progress = threading.Event(), scene.directory / "live-progress"
    progress.touch()
    feeder = threading.Thread(target=bursts, args=(Stream(scene.kafka, topic, scene.directory), progress, stop))
    feeder.start()
    try:
        for emitted in (6, 7, 11):  # two or three steps after a checkpoint each
            assert scene.start(config, failpoint=f"emit:{emitted}", progress=progress) == -signal.SIGKILL
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
