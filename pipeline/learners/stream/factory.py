"""From a configuration to a stream learner."""

import numpy as np
import torch

from autoemb_pipeline.learners.search.controller import controller_width
from autoemb_pipeline.learners.search.factory import make_selector, selector_tables
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.budget import MemoryBudget
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import FixedGate, Gate, SearchedGate, same_use, threshold_use
from autoemb_pipeline.learners.stream.kalman import KalmanConfig
from autoemb_pipeline.learners.stream.learner import StreamComponents, StreamLearner
from autoemb_pipeline.learners.stream.link import Link, dense_width
from autoemb_pipeline.learners.stream.rows import SidePlan, SideRows
from autoemb_pipeline.learners.stream.trace import Trace, trace_tables
from autoemb_pipeline.newton import OnlineNewton
from autoemb_pipeline.records import CONTEXT_FEATURES
from autoemb_pipeline.rows import RowStore, TableSpec

TABLE_PREFIXES = ("embedding.user", "embedding.item")


def blocks_of(config: StreamConfig) -> Blocks:
    """Blocks of a row: the spaces' for methods that select.

    `fse` has one block of their total width; `context-only` has biases and one unused number.
    """
    if config.method == "fse":
        return Blocks(dims=(config.width,))
    if config.method == "context-only":
        return Blocks(dims=(1,))
    return Blocks.of_spaces(config.dims, nested=config.nested)


def stream_tables(config: StreamConfig) -> tuple[TableSpec, ...]:
    """Tables of `make_stream_learner`."""
    specs = [spec for plan in _plans(config) for spec in plan.specs()]
    specs += selector_tables(config)
    if config.validation == "trace":
        specs += trace_tables(blocks_of(config), controller_width(len(config.dims)))
    return tuple(specs)


def make_stream_learner(config: StreamConfig, store: RowStore, device: torch.device) -> StreamLearner:
    """A new learner with its initial parameters. store: holds `stream_tables`."""
    users, items = (SideRows(plan, store) for plan in _plans(config))
    blocks, link = blocks_of(config), Link(task=config.task)
    quadratic = config.quadratic and config.task == "binary"
    trace = None
    if config.validation == "trace":
        trace = Trace(store, blocks, controller_width(len(config.dims)))
    budget = None
    if config.memory_budget:
        budget = MemoryBudget(config.memory_budget, config.admission, config.half_life, _plans(config), store)
    return StreamLearner(
        StreamComponents(
            users=users,
            items=items,
            kalman=KalmanConfig(blocks=blocks, rank=config.rank, drift=config.drift),
            gate=_gate(config, store, device),
            newton=_newton(config, link, len(blocks.dims), quadratic=quadratic),
            link=link,
            micro_batch=config.micro_batch,
            quadratic=quadratic,
            trace=trace,
            budget=budget,
        )
    )


def _plans(config: StreamConfig) -> tuple[SidePlan, SidePlan]:
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
        for name, (std, variance, bias_variance) in zip(TABLE_PREFIXES, sides, strict=True)
    )
    return users, items


def _newton(config: StreamConfig, link: Link, blocks: int, *, quadratic: bool) -> OnlineNewton:
    """Weights 0 for the features and their products; for each block's product the levels, so that its gain starts at 1."""
    width = dense_width(CONTEXT_FEATURES, quadratic=quadratic)
    start = np.concatenate([np.zeros((len(link.levels), width)), np.outer(link.levels, np.ones(blocks))], axis=1)
    ridge = np.full(width + blocks, config.ridge)
    ridge[CONTEXT_FEATURES:width] = config.quadratic_ridge
    ridge[width:] = config.gain_ridge
    return OnlineNewton(start, ridge)


def _gate(config: StreamConfig, store: RowStore, device: torch.device) -> Gate:
    if config.method == "context-only":
        return FixedGate(same_use(np.zeros(1)))
    if config.method == "fse":
        return FixedGate(same_use(np.ones(1)))
    if config.method == "fse-uniform":
        equal = np.full((1, len(config.dims)), 1.0 / len(config.dims))
        return FixedGate(same_use(blocks_of(config).use_of(equal)[0]))
    if config.method == "count-thresholds":
        return FixedGate(threshold_use(config.thresholds, blocks_of(config)))
    return SearchedGate(
        make_selector(config, store, device, start=config.start),
        dims=config.dims,
        blocks=blocks_of(config),
        cost=config.cost,
        amortised=config.amortised,
        dtype=config.dtype,
        device=device,
    )
