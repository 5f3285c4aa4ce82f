"""The broker killed again and again under a trainer, which goes on when it is back: to the bit the run on a broker that stayed."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka
from tests.run.crash_scene import EVERY, crash_scene
from tests.run.crash_zygote import run_config
from tests.run.outcome import assert_same, outcome
from tests.streams import synthetic_stream

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

LONG = "AUTOEMB_CRASHES" in os.environ
BROKER_KILLS = max(10, int(os.environ["AUTOEMB_CRASHES"]) // 10) if LONG else 4


def newest_step(state_dir: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in (state_dir / "checkpoints").glob("step-*")), default=0)


@pytest.mark.parametrize("exactly_once", [False, True], ids=["idempotent", "transactions"])
def test_broker_killed_again_and_again(mortal_broker: LocalKafka, exactly_once: bool) -> None:
    kills = BROKER_KILLS if not exactly_once else 2
    broker, kafka = mortal_broker, {"bootstrap.servers": mortal_broker.bootstrap_servers}
    records = list(synthetic_stream(200 * kills, seed=23, users=120, items=90))
    with crash_scene(kafka, zygotes=1, records=records) as there:
        calm = there.finish(there.config("calm", batch_size=10))
        config = there.config("storm", batch_size=10, exactly_once=exactly_once)
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
