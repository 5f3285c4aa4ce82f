"""Short runs of the stream preset."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.config import METHODS, STREAM_METHODS, from_preset
from autoemb_pipeline.learners.stream.rows import CONTEXT, HOLDS
from autoemb_pipeline.learners.stream.search import Search
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.rows import RecordSpec, RowStore
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables

EVERY_METHOD = METHODS + STREAM_METHODS
MODES = ("batch", "event", "strict")
# A search that goes on all the time: a third of the ids are its panel, and blocks are dear.
SEARCHING = {"panel": 0.3, "tolerance": 1.0}
SMALL = {"dims": (2, 4, 8), "thresholds": (3, 9), "rank": 2.0, "user_std": 0.5, "item_std": 0.5}


def config(
    method: str = "autoemb", *, task: str = "binary", context: str = "event", ttl_days: float | None = None, **learner: Any
) -> TrainerConfig:
    made = from_preset("stream", method=method, task=task, **{**SMALL, **learner})
    return TrainerConfig(
        learner=made,
        context=ContextConfig(mode=context, spaces=len(made.dims), with_classes=task == "rating", ttl_days=ttl_days),
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


def search_of(by: Trainer) -> Search:
    """The trainer's search."""
    search = by._method._learner._components.search
    assert search is not None
    return search


def replayed(by: Trainer) -> int:
    """Interactions of earlier mini-batches that ids promoted in the last one had remembered."""
    return sum(len(remembered.partners) for _, remembered in search_of(by)._recalled)


def levels(store: RowStore) -> tuple[dict[str, int], dict[str, int]]:
    """Blocks that each known user and item holds."""
    users, items = ({i: int((row[HOLDS] != 0).sum()) for i, row in store.records(side) if row[CONTEXT][COUNT]} for side in SIDES)
    return users, items


def everything(by: Trainer, store: MemoryRowStore, of: TrainerConfig) -> dict[str, np.ndarray]:
    """Every tensor and row, by name."""
    state = dict(by.tensors())
    for spec in trainer_tables(of):
        if isinstance(spec, RecordSpec):
            state.update({f"{spec.name}/{i}/{k}": part for i, row in store.records(spec.name) for k, part in enumerate(row)})
        else:
            state.update({f"{spec.name}/{identifier}": row for identifier, row in store.items(spec.name)})
    return state
