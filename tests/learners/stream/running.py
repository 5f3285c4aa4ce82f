"""Short runs of the stream preset."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import METHODS, STREAM_METHODS, from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.rows import RecordSpec
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables

EVERY_METHOD = METHODS + STREAM_METHODS
MODES = ("batch", "event", "strict")
SMALL = {"dims": (2, 4, 8), "controller_hidden": (8,), "thresholds": (3, 9), "rank": 2.0, "user_std": 0.5, "item_std": 0.5}


def config(method: str = "autoemb", *, task: str = "binary", context: str = "event", **learner: Any) -> TrainerConfig:
    made = from_preset("stream", method=method, task=task, **{**SMALL, **learner})
    return TrainerConfig(
        learner=made,
        context=ContextConfig(mode=context, spaces=len(made.dims), with_classes=task == "rating"),
        prequential=PrequentialConfig(task=task, window=1000),
    )


def trainer(of: TrainerConfig) -> tuple[Trainer, MemoryRowStore]:
    store = MemoryRowStore(trainer_tables(of))
    return Trainer(of, store), store


def steps(by: Trainer, stream: Sequence[Interaction], size: int, first: int = 0) -> np.ndarray:
    """Probabilities of the stream's events from `first` on, [n] or [n, C]."""
    parts = []
    for start in range(first, len(stream), size):
        batch = MiniBatch.of(step=start // size + 1, records=stream[start : start + size], next_offsets={0: start + size})
        result = by.step(batch)
        assert result.predictions is not None
        parts.append(result.predictions.probabilities)
    return np.concatenate(parts)


def everything(by: Trainer, store: MemoryRowStore, of: TrainerConfig) -> dict[str, np.ndarray]:
    """Every tensor and row, by name."""
    state = dict(by.tensors())
    for spec in trainer_tables(of):
        if isinstance(spec, RecordSpec):
            state.update({f"{spec.name}/{i}/{k}": part for i, row in store.records(spec.name) for k, part in enumerate(row)})
        else:
            state.update({f"{spec.name}/{identifier}": row for identifier, row in store.items(spec.name)})
    return state
