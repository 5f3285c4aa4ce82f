"""Kill -9 at every named place and at random instants, on a real broker; started again, the run is to the bit the run never stopped.

`make crash-test N=100` sets AUTOEMB_CRASHES: so many kills at random instants.
"""

import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TestBroker
from tests.run.crash_scene import Scene, crash_scene
from tests.run.crash_zygote import run_config
from tests.run.outcome import assert_same, outcome

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

FAILPOINTS = ("poll", "step", "emit", "flush", "rocksdb-checkpoint", "sync", "rename-before", "rename-after", "commit")
PER_CHECKPOINT = FAILPOINTS[3:]
KILLS = int(os.environ.get("AUTOEMB_CRASHES", "8"))
KILLS_PER_RUN = 5
SEED = int(os.environ.get("AUTOEMB_CRASH_SEED", "20261124"))


@pytest.fixture(scope="module")
def scene(broker: TestBroker) -> Iterator[Scene]:
    with crash_scene(broker.kafka, zygotes=2) as made:
        yield made


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
