"""Importing torch takes 1.5 s: who does not compute with it does not wait for it. Each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TestBroker

# The exit code and the foreign modules that stand at the end, behind whatever the command printed.
PROGRAM = """
import json, sys
from autoemb_pipeline.cli.main import main
try:
    main()
except SystemExit as ended:
    print()
    print(json.dumps([ended.code, sorted({name.split(".")[0] for name in sys.modules})]))
"""
METHODS = """
import sys
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import METHODS, STREAM_METHODS, from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.streams import synthetic_stream

stream = synthetic_stream(40, seed=1)
for method in (*METHODS, *STREAM_METHODS):
    learner = from_preset("stream", method=method, dims=(2, 4, 8))
    config = TrainerConfig(learner=learner, context=ContextConfig(spaces=3, with_classes=False), prequential=PrequentialConfig(task="binary"))
    trainer = Trainer(config, MemoryRowStore(trainer_tables(config)))
    for step in (1, 2):
        trainer.step(MiniBatch.of(step=step, records=stream[20 * step - 20 : 20 * step], next_offsets={0: 20 * step}))
    trainer.restore(trainer.tensors(), trainer.payload())
    print(method)
print("torch" in sys.modules)
"""


def modules_of(*arguments: str, text: str = "") -> set[str]:
    """What stands imported after a command that went well."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], input=text, capture_output=True, text=True, timeout=200, check=False
    )
    assert found.stdout, found.stderr
    code, modules = json.loads(found.stdout.splitlines()[-1])
    assert code == 0, found.stderr
    return set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["replay", "--help"], ["predict", "--help"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    assert "torch" not in modules_of(*arguments)


def test_the_list_of_commands_is_printed_before_any_of_them_is_imported() -> None:
    assert not {"numpy", "numba", "confluent_kafka", "polars"} & modules_of("--help")


def test_no_method_of_the_stream_preset_computes_with_torch() -> None:
    found = subprocess.run([sys.executable, "-c", METHODS], capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 0, found.stderr
    *methods, imported = found.stdout.split()
    assert {"autoemb", "darts", "sam", "count-thresholds"} <= set(methods)
    assert imported == "False"


@pytest.mark.kafka
def test_a_run_of_the_stream_preset_and_all_around_it_imports_no_torch(
    broker: TestBroker, topic_name: str, tmp_path: Path, ml_latest_small: Path
) -> None:
    at, topic = ["--bootstrap-servers", broker.bootstrap_servers], ["--topic", topic_name]
    outputs = ["--metrics-topic", f"{topic_name}.m", "--runtime-topic", f"{topic_name}.r"]
    state = ["--state-dir", str(tmp_path / "state")]
    data = ["--data-dir", str(ml_latest_small.parent)]
    train = ["train", *topic, *outputs, *state, *at, "--until-end", "--dead-letter-topic", f"{topic_name}.dlq"]
    assert "torch" not in modules_of("replay", "--dataset", "ml-latest-small", "--limit", "600", *data, *topic, *at)
    for _ in ("begun", "resumed"):
        assert not {"torch", "prometheus_client"} & modules_of(*train)
    assert "torch" not in modules_of("predict", *state, text="1,2\n")
    assert "torch" not in modules_of("watch", "--once", *outputs, *at)
    assert "torch" not in modules_of("doctor", *topic, *outputs, *at, "--device", "cpu", "--min-free-mb", "1", *state)
    assert "torch" not in modules_of("checkpoint", "inspect", *state)
