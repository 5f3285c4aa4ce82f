"""Further epochs of the offline stage: they train the learner and nothing else, and a crash in them changes nothing."""

import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.schemas.metrics import PREQUENTIAL
from autoemb_pipeline.sink.prediction_log import read_predictions
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables
from tests.conftest import TestBroker
from tests.fastdisk import fast_directory
from tests.run.conftest import Stream, trainer_config
from tests.run.crash_zygote import Zygote, run_config
from tests.run.kafka_reading import metrics_of
from tests.run.outcome import assert_same, outcome
from tests.streams import synthetic_stream

SIZE = 40
STREAM = synthetic_stream(SIZE * 4, seed=31)
OFFLINE = OfflineStage(count=2 * SIZE)


def staged(method: str = "autoemb", *, epochs: int = 2, task: str = "binary", context: str = "event", **learner: Any) -> TrainerConfig:
    return replace(trainer_config(method, task=task, context=context, **learner), offline=OFFLINE, offline_epochs=epochs)


def mini_batch(step: int, at: int, *, epoch: int = 1) -> MiniBatch:
    return MiniBatch.of(step=step, records=STREAM[at * SIZE : (at + 1) * SIZE], next_offsets={0: (at + 1) * SIZE}, epoch=epoch)


def after_first_pass(config: TrainerConfig) -> tuple[Trainer, MemoryRowStore]:
    store = MemoryRowStore(trainer_tables(config))
    trainer = Trainer(config, store)
    for at in range(2):
        trainer.step(mini_batch(at + 1, at))
    return trainer, store


def rows_of(store: MemoryRowStore, config: TrainerConfig, *, context: bool) -> dict[str, bytes]:
    """Table -> bytes of all its rows; of the context's tables, or of the learner's."""
    tables = [spec.name for spec in trainer_tables(config) if (spec.name in SIDES) == context]
    users, items = sorted({r.user_id for r in STREAM}), sorted({r.item_id for r in STREAM})
    found = {}
    for name in tables:
        lent = store.lend(name, users if "user" in name else items)
        found[name] = b"".join(slab[lent.slots].tobytes() for slab in lent.slabs)
    return found


@pytest.mark.parametrize("context", ["batch", "event", "strict"])
@pytest.mark.parametrize(("method", "task"), [("fse", "binary"), ("sam", "rating"), ("darts", "binary"), ("autoemb", "rating")])
def test_a_further_pass_trains_the_learner_and_nothing_else(method: str, task: str, context: str) -> None:
    config = staged(method, task=task, context=context)
    trainer, store = after_first_pass(config)
    before, payload = trainer.tensors(), trainer.payload()
    context_rows, learner_rows = rows_of(store, config, context=True), rows_of(store, config, context=False)
    first = trainer.step(mini_batch(3, 0, epoch=2))
    after = trainer.tensors()
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed
    assert all(name.startswith("learner.") for name in changed)
    assert trainer.payload() == payload
    assert rows_of(store, config, context=True) == context_rows
    assert rows_of(store, config, context=False) != learner_rows
    assert first.predictions is None
    assert not first.scores
    metrics = first.metrics
    assert (metrics["epoch"], metrics["stage"], metrics["batch_examples"]) == (2, "offline", SIZE)
    assert (metrics["examples"], metrics["scored_examples"], trainer.examples) == (2 * SIZE, 2 * SIZE, 2 * SIZE)


@pytest.mark.parametrize("method", ["fse", "autoemb"])
def test_metrics_of_a_step_without_scores_are_the_same_from_a_checkpoint(method: str) -> None:
    config = staged(method)
    trainer, store = after_first_pass(config)
    tensors, payload = trainer.tensors(), trainer.payload()
    for batch in (mini_batch(3, 0, epoch=2), MiniBatch.of(step=3, records=[], next_offsets={0: 2 * SIZE + 1})):
        restored = Trainer(config, store)
        restored.restore(tensors, payload)
        wanted = PREQUENTIAL.to_json({"run_id": "r", **trainer.step(batch).metrics})
        assert PREQUENTIAL.to_json({"run_id": "r", **restored.step(batch).metrics}) == wanted


def test_replayed_validation_is_not_offered_an_interaction_twice() -> None:
    config = staged("autoemb", reservoir=1_000)
    assert config.learner.validation == "replay"
    trainer, _ = after_first_pass(config)
    names = [n for n in trainer.tensors() if n.startswith("learner.reservoir/") and "generator" not in n]
    before = {n: t.tobytes() for n, t in trainer.tensors().items() if n in names}
    trainer.step(mini_batch(3, 1, epoch=2))
    assert names
    assert {n: t.tobytes() for n, t in trainer.tensors().items() if n in names} == before
    assert before["learner.reservoir/seen"] == np.int64(2 * SIZE).tobytes()


def test_what_cannot_be_read_again_is_refused() -> None:
    stage = {"offline": OFFLINE, "offline_epochs": 2}
    with pytest.raises(ConfigurationError, match="0 epochs"):
        staged(epochs=0)
    with pytest.raises(ConfigurationError, match="that there is not"):
        replace(trainer_config("fse"), offline_epochs=2)
    with pytest.raises(ConfigurationError, match="preset stream cannot") as refused:
        replace(trainer_config("fse"), learner=from_preset("stream", dims=(2, 4, 8)), **stage)
    assert "label statistics in them hold the label" in str(refused.value.why)
    with pytest.raises(ConfigurationError, match="holdout cannot"):
        replace(trainer_config("darts", validation="holdout"), **stage)
    assert replace(trainer_config("fse", validation="holdout"), **stage).offline_epochs == 2  # holds nothing out


# Two epochs more of 500 of 900 interactions in mini-batches of 40: steps 1-13, 14-26, 27-39, then 10 online and one for the rubbish at the end.
COUNT, LENGTH, BATCH, PARTITIONS, EVERY, EPOCHS = 500, 900, 40, 3, 4, 3
PASS = 13
RUBBISH = [b"not avro", None]


def dirty_stream() -> list[Any]:
    """With rubbish and re-deliveries in both stages."""
    clean = synthetic_stream(LENGTH, seed=32, users=60, items=50)
    records: list[Any] = []
    for n, record in enumerate(clean):
        records.append(record)
        if n % 50 == 7:
            records += [RUBBISH[n // 50 % 2], record]  # the record once more, to its user's partition
    return [b"at the front", *records, b"at the end"]


@dataclass
class Scene:
    """A stream, and a warm process that trains on it and may be killed."""

    kafka: dict[str, str]
    topic: str
    directory: Path
    zygote: Zygote

    def config(self, name: str, **changes: Any) -> dict[str, Any]:
        topics = {f"{kind}_topic": f"{self.topic}.{name}.{kind}" for kind in ("metrics", "runtime", "dead_letter")}
        ensure_metrics_topics(self.kafka, *topics.values())
        sizes = {"batch_size": BATCH, "checkpoint_every": EVERY, "offline_count": COUNT, "offline_epochs": EPOCHS}
        return {
            "topic": self.topic,
            **topics,
            **sizes,
            "state_dir": str(self.directory / name),
            "run_id": f"{self.topic}-{name}",
            **changes,
        }

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        ended = self.zygote.run(self.kafka, config)
        assert ended.returncode == 0, ended.output
        return outcome(self.kafka, run_config(config))


@pytest.fixture(scope="module")
def scene(broker: TestBroker) -> Iterator[Scene]:
    topic = f"epochs-{random.randrange(16**8):08x}"
    ensure_interactions_topic(broker.kafka, topic, PARTITIONS)
    with tempfile.TemporaryDirectory(prefix="autoemb-epochs-", dir=fast_directory()) as directory, Zygote(1) as zygote:
        Stream(broker.kafka, topic, Path(directory)).send(dirty_stream(), PARTITIONS)
        yield Scene(dict(broker.kafka), topic, Path(directory), zygote)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> dict[str, Any]:
    return scene.finish(scene.config("undisturbed"))


@pytest.mark.kafka
@pytest.mark.slow
def test_what_a_run_of_three_passes_tells(scene: Scene, undisturbed: dict[str, Any]) -> None:
    config = run_config(scene.config("undisturbed"))
    metrics = metrics_of(scene.kafka, config.metrics_topic)
    assert [m["step"] for m in metrics] == list(range(1, len(metrics) + 1))
    assert [m["epoch"] for m in metrics] == [1] * PASS + [2] * PASS + [3] * PASS + [1] * 11
    assert [m["stage"] for m in metrics] == ["offline"] * 3 * PASS + ["online"] * 11
    sizes = [BATCH] * 12 + [20]
    assert [m["batch_examples"] for m in metrics] == [*sizes, *sizes, *sizes, *[BATCH] * 10, 0]
    quiet = ("examples", "scored_examples", "late", "duplicates", "dead_letters", "mse", "running_mean_mse", "user_bucket_count_8")
    assert all({m[name] for m in metrics[PASS - 1 : 3 * PASS]} == {metrics[PASS - 1][name]} for name in quiet)
    offsets = [[m[f"next_offsets_{p}"] for p in range(PARTITIONS)] for m in metrics]
    assert offsets[PASS - 1] == offsets[2 * PASS - 1] == offsets[3 * PASS - 1]
    last = metrics[-1]
    assert (last["examples"], last["scored_examples"], last["duplicates"], last["dead_letters"]) == (LENGTH, LENGTH - COUNT, 18, 20)
    log = read_predictions(config.state_dir / "predictions").collect()
    assert len(log) == LENGTH
    assert log["step"].is_in(range(PASS + 1, 3 * PASS + 1)).sum() == 0
    assert undisturbed["payload"]["position"]["reread"] is None


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kills",
    [
        ["step:13", "emit:1"],  # at the end of the first pass, then at the first step of the second
        ["emit:15", "step:5", "step:6"],  # inside the second
        ["emit:26", "step:3"],  # between the second and the third
        ["emit:39", "emit:1", "emit:1"],  # at the online stage's beginning
        ["step:40", "rename-after:1", "commit:1"],
        ["commit:4", "rename-before:2", "rename-after:3", "flush:2"],
    ],
    ids=",".join,
)
def test_killed_in_any_pass(scene: Scene, undisturbed: dict[str, Any], kills: list[str]) -> None:
    config = scene.config("at-" + "-".join(kill.replace(":", "") for kill in kills))
    for kill in kills:
        assert scene.zygote.run(scene.kafka, config, failpoint=kill).returncode == -signal.SIGKILL
    assert_same(scene.finish(config), undisturbed)


@pytest.mark.kafka
@pytest.mark.slow
def test_recomputed_from_the_recorded_steps_alone(scene: Scene) -> None:
    """From the checkpoint of step 0 all epochs are recomputed, and none of their steps is sent again."""
    config = scene.config("recomputed", checkpoints_kept=10_000)
    lived = scene.finish(config)
    again = scene.directory / "recomputed-again"
    first = Path("checkpoints") / "step-000000000"
    shutil.copytree(Path(config["state_dir"]) / first, again / first)
    shutil.copy(Path(config["state_dir"]) / "run.json", again)
    assert_same(scene.finish({**config, "state_dir": str(again)}), lived)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("polls", [10, 33])
def test_stopped_again_and_again_it_goes_on(scene: Scene, undisturbed: dict[str, Any], polls: int) -> None:
    fields = scene.config(f"stopped-{polls}")
    stream = Stream(scene.kafka, scene.topic, scene.directory)
    for _ in range(12):
        asked = iter(range(polls))
        stream.train(run_config(fields), stop=lambda asked=asked: next(asked, None) is None)
    found = scene.finish(fields)
    # How often it stopped decides where checkpoints lie, not what is in the last one.
    assert_same(found, undisturbed)
