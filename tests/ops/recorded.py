"""Real records of the metrics and runtime topics, made by the trainer on a small stream with a taste in it, without a broker."""

import json
import random
from typing import Any

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.meter import Meter
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables

RUN_ID = "autoemb-binary-20261124-053112-9f3a"
WALL_TIME = 1_795_000_000_000


def tastes(events: int) -> list[Interaction]:
    """12 users of two tastes, 20 items of two kinds, some more popular than others: only a product of two rows can tell who likes what."""
    rng = random.Random(1)
    stream = []
    for second in range(events):
        user, item = int(12 * rng.random()), int(20 * rng.random() ** 1.5)
        stream.append(Interaction(f"u{user}", f"i{item}", 4.5 if (user + item) % 2 == 0 else 2.0, 1_700_000_000_000 + 1000 * second))
    return stream


SMALL = {
    "stream": {"panel": 0.2},
    "paper": {"dims": (2, 16, 128), "hidden": (8,), "controller_hidden": (8,), "validation_size": 10},
}


def recorded(
    method: str = "autoemb", task: str = "binary", *, preset: str = "stream", batches: int = 6, size: int = 50
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last (metrics, runtime) that an observer of the main path would see."""
    learner = from_preset(preset, method=method, task=task, **SMALL[preset])
    config = TrainerConfig(
        learner=learner,
        context=ContextConfig(with_classes=task == "rating", ttl_days=1.0),
        prequential=PrequentialConfig(task=task, window=100),
    )
    trainer, meter = Trainer(config, MemoryRowStore(trainer_tables(config))), Meter()
    stream = tastes(batches * size)
    metrics: dict[str, Any] = {}
    for step in range(1, batches + 1):
        records = stream[(step - 1) * size : step * size]
        with meter.step(size), meter.phase("emit"):
            metrics = dict(trainer.step(MiniBatch.of(step=step, records=records, next_offsets={0: step * size, 1: 7}, late=1)).metrics)
    runtime = {
        "run_id": RUN_ID,
        "step": batches,
        "wall_time": WALL_TIME,
        "lag": 1234,
        "waiting_interactions": 300,
        "waiting_dead_letters": 2,
        "batch_closes_in_seconds": 7.25,
        "held_back_by": None,
        "checkpoint_age_seconds": 12.5,
        "checkpoint_bytes": 4096,
        "buffer_size": {"source": 99},
        **meter.snapshot(),
    }
    return metrics, runtime


def flat(metrics: dict[str, Any], runtime: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """As flat JSON on the topics."""
    return json.loads(PREQUENTIAL.to_json({"run_id": RUN_ID, **metrics})), json.loads(RUNTIME.to_json(runtime))
