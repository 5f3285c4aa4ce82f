"""From a configuration to Θ in torch."""

import torch

from autoemb_pipeline.learners.common.dense import DenseParameters
from autoemb_pipeline.learners.common.initial import seeded_generator
from autoemb_pipeline.learners.common.optimisers import make_optimiser
from autoemb_pipeline.learners.common.tables import EmbeddingTable, TablePlan
from autoemb_pipeline.learners.common.tensors import torch_type
from autoemb_pipeline.learners.search.config import LOGIT_TABLES, SearchConfig
from autoemb_pipeline.learners.search.controller import BothControllers, Controller
from autoemb_pipeline.learners.search.selectors import Controllers, EqualWeights, FreeLogits, NoSelection, Selector
from autoemb_pipeline.rows import RowStore, TableSpec


def selector_tables(config: SearchConfig) -> tuple[TableSpec, ...]:
    """The tables `make_selector` keeps rows in: the free logits of `darts`, none for the other methods."""
    return tuple(plan.spec() for plan in _logit_plans(config)) if config.method == "darts" else ()


def make_selector(config: SearchConfig, store: RowStore, device: torch.device) -> Selector:
    """Θ with its initial parameters.

    Args:
        config: what to build.
        store: holds `selector_tables(config)`.
        device: of Θ's arithmetic.
    """
    if config.method == "fse":
        return NoSelection()
    if config.method == "fse-uniform":
        return EqualWeights(len(config.dims))
    if config.method == "darts":
        user_logits, item_logits = (EmbeddingTable(plan, store, device) for plan in _logit_plans(config))
        return FreeLogits(user_logits, item_logits)
    users, items = (
        Controller(
            len(config.dims),
            config.controller_hidden,
            seeded_generator(config.seed, name),
            activation=config.controller_activation,
        )
        for name in ("user_controller", "item_controller")
    )
    return Controllers(
        DenseParameters(
            "controllers",
            BothControllers(users, items),
            make_optimiser(config.controller_optimiser, config.controller_rate),
            dtype=torch_type(config.precision),
            device=device,
            bf16=config.precision == "bf16",
        )
    )


def _logit_plans(config: SearchConfig) -> tuple[TablePlan, ...]:
    optimiser = make_optimiser(config.logit_optimiser, config.logit_rate)
    width = len(config.dims)
    return tuple(
        TablePlan(name=name, width=width, std=0.0, optimiser=optimiser, seed=config.seed, dtype=torch_type(config.precision))
        for name in LOGIT_TABLES
    )
