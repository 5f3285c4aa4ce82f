"""From a configuration to a stream learner."""

import numpy as np

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kernels import blank_context
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import FixedGate, Gate, same_use, threshold_use
from autoemb_pipeline.learners.stream.holdings import Holdings, smallest_bytes
from autoemb_pipeline.learners.stream.learner import StreamComponents, StreamLearner
from autoemb_pipeline.learners.stream.logits import LogitGate, logit_tables
from autoemb_pipeline.learners.stream.rows import SidePlan
from autoemb_pipeline.learners.stream.search import Search
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.records import RATING_CLASSES
from autoemb_pipeline.rows import AnySpec, RowStore


def blocks_of(config: StreamConfig) -> Blocks:
    """Blocks of a row: the spaces' for methods that select.

    `fse` has one block of their total width; `context-only` has biases and one unused number.
    """
    if config.method == "fse":
        return Blocks(dims=(config.width,))
    if config.method == "context-only":
        return Blocks(dims=(1,))
    return Blocks.of_spaces(config.dims, nested=config.nested)


def stream_tables(config: StreamConfig) -> tuple[AnySpec, ...]:
    """Tables of `make_stream_learner`; the records' parts stand behind the context's of the same name (`joined`)."""
    specs: list[AnySpec] = [plan.spec() for plan in side_plans(config)]
    if config.method == "darts":
        specs += logit_tables(config)
    return tuple(specs)


def make_stream_learner(config: StreamConfig, store: RowStore) -> StreamLearner:
    """A new learner with its initial parameters, on the CPU: event by event there is nothing for a GPU to do.

    Args:
        config: what to build.
        store: holds `stream_tables`, joined with the context's.
    """
    users, items = side_plans(config)
    holdings = (Holdings(users, store), Holdings(items, store))
    outputs = RATING_CLASSES if config.task == "rating" else 1
    search = Search(config, (users, items), holdings, store, outputs) if config.searches else None
    return StreamLearner(config, StreamComponents(plans=(users, items), gate=_gate(config, store), holdings=holdings, search=search))


def check_budget(config: StreamConfig) -> None:
    """Refuses a memory budget that no stream could keep.

    Raises:
        ConfigurationError: it cannot hold one user and one item with their smallest block.
    """
    least = sum(smallest_bytes(plan) for plan in side_plans(config))
    if 0 < config.memory_budget < least:
        raise ConfigurationError(
            f"--memory-budget {config.memory_budget:,} cannot be kept: one user and one item with {config.dims[0]} dimensions take "
            f"{least:,} bytes",
            why="index, id, bias and the smallest embedding are kept for whoever holds one",
            remedy=f"give --memory-budget at least {least}, better some hundred bytes per user and item; or none, and --tolerance",
        )


def side_plans(config: StreamConfig) -> tuple[SidePlan, SidePlan]:
    """What users' and items' rows are."""
    sides = (
        (config.user_std, config.user_variance, config.user_bias_variance),
        (config.item_std, config.item_variance, config.item_bias_variance),
    )
    classes = RATING_CLASSES if config.task == "rating" else 0
    users, items = (
        SidePlan(
            name=name,
            blocks=blocks_of(config),
            std=std,
            variance=variance,
            bias_variance=bias_variance,
            seed=config.seed,
            dtype=config.row_dtype,
            context_bytes=blank_context(field, 1, len(config.dims), classes).nbytes,
            precision=config.row_precision,
            searched=config.searches,
        )
        for field, (name, (std, variance, bias_variance)) in enumerate(zip(SIDES, sides, strict=True))
    )
    return users, items


def _gate(config: StreamConfig, store: RowStore) -> Gate:
    if config.method == "context-only":
        return FixedGate(same_use(np.zeros(1)))
    if config.method == "fse":
        return FixedGate(same_use(np.ones(1)))
    if config.method == "fse-uniform":
        equal = np.full((1, len(config.dims)), 1.0 / len(config.dims))
        return FixedGate(same_use(blocks_of(config).use_of(equal)[0]))
    if config.method == "count-thresholds":
        return FixedGate(threshold_use(config.thresholds, blocks_of(config)))
    if config.method == "darts":
        return LogitGate(config, store, blocks_of(config))
    return FixedGate(same_use(np.ones(len(config.dims))))
