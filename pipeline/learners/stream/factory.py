"""From a configuration to a stream learner."""

import numpy as np

from autoemb_pipeline.learners.search.inputs import controller_width
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.budget import MemoryBudget
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import ControllerGate, FixedGate, Gate, same_use, threshold_use
from autoemb_pipeline.learners.stream.learner import StreamComponents, StreamLearner
from autoemb_pipeline.learners.stream.logits import LogitGate, logit_tables
from autoemb_pipeline.learners.stream.rows import SidePlan
from autoemb_pipeline.learners.stream.trace import Trace, trace_tables
from autoemb_pipeline.open_batch import SIDES
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
    if config.validation == "trace":
        specs += trace_tables(blocks_of(config), controller_width(len(config.dims)))
    return tuple(specs)


def make_stream_learner(config: StreamConfig, store: RowStore) -> StreamLearner:
    """A new learner with its initial parameters, on the CPU: event by event there is nothing for a GPU to do.

    Args:
        config: what to build.
        store: holds `stream_tables`, joined with the context's.
    """
    gate, plans = _gate(config, store), side_plans(config)
    trace, budget = None, None
    if config.validation == "trace" and isinstance(gate, ControllerGate):
        trace = Trace(store, blocks_of(config), controller_width(len(config.dims)), gate)
    if config.memory_budget:
        budget = MemoryBudget(config.memory_budget, config.admission, config.half_life, plans, store)
    return StreamLearner(config, StreamComponents(plans=plans, gate=gate, trace=trace, budget=budget))


def side_plans(config: StreamConfig) -> tuple[SidePlan, SidePlan]:
    """What users' and items' rows are."""
    sides = (
        (config.user_std, config.user_variance, config.user_bias_variance),
        (config.item_std, config.item_variance, config.item_bias_variance),
    )
    users, items = (
        SidePlan(
            name=name,
            blocks=blocks_of(config),
            std=std,
            variance=variance,
            bias_variance=bias_variance,
            seed=config.seed,
            dtype=config.row_dtype,
            budgeted=config.memory_budget > 0,
        )
        for name, (std, variance, bias_variance) in zip(SIDES, sides, strict=True)
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
    return ControllerGate(config)
