"""From a configuration to a learner of the paper's network."""

import torch

from autoemb_pipeline.learners.common.dense import DenseParameters
from autoemb_pipeline.learners.common.losses import outputs
from autoemb_pipeline.learners.common.optimisers import make_optimiser
from autoemb_pipeline.learners.common.tables import EmbeddingTable, TablePlan
from autoemb_pipeline.learners.common.tensors import torch_type
from autoemb_pipeline.learners.paper.config import PaperConfig, ResidualConfig
from autoemb_pipeline.learners.paper.forward import PaperModel
from autoemb_pipeline.learners.paper.hypergradient import Hypergradient
from autoemb_pipeline.learners.paper.learner import NetworkLearner
from autoemb_pipeline.learners.paper.network import FixedSizeNetwork, SelectingNetwork
from autoemb_pipeline.learners.paper.recommender import Recommender
from autoemb_pipeline.learners.paper.reservoir import Reservoir
from autoemb_pipeline.learners.paper.residual import ResidualLearner
from autoemb_pipeline.learners.paper.strategies import Bilevel, Joint, Strategy, TrainOnly
from autoemb_pipeline.learners.paper.validation import AfterTraining, Holdout, Replay
from autoemb_pipeline.learners.search.factory import make_selector, selector_tables
from autoemb_pipeline.records import CONTEXT_FEATURES
from autoemb_pipeline.rows import RowStore, TableSpec

EMBEDDING_TABLES = ("embedding.user", "embedding.item")


def paper_tables(config: PaperConfig) -> tuple[TableSpec, ...]:
    """Tables of `make_paper_learner`."""
    return (*(_plan(config, name).spec() for name in EMBEDDING_TABLES), *selector_tables(config))


def make_paper_learner(config: PaperConfig, store: RowStore, device: str) -> NetworkLearner | ResidualLearner:
    """A new learner with its initial parameters. store: holds `paper_tables`; device: torch's name of one that is there."""
    model = make_model(config, store, torch.device(device))
    network = NetworkLearner(model, _strategy(config, model))
    return ResidualLearner(network, config.task) if isinstance(config, ResidualConfig) else network


def make_model(config: PaperConfig, store: RowStore, device: torch.device) -> PaperModel:
    """W and Θ of a configuration, before anything says how they learn."""
    dense = DenseParameters(
        "recommender",
        _network(config),
        make_optimiser(config.dense_optimiser, config.dense_rate, initial_accumulator=config.initial_accumulator),
        dtype=torch_type(config.precision),
        device=device,
        bf16=config.precision == "bf16",
    )
    users, items = (EmbeddingTable(_plan(config, name), store, device) for name in EMBEDDING_TABLES)
    return PaperModel(
        recommender=Recommender(dense, users, items),
        selector=make_selector(config, store, device),
        selection=config.selection,
        task=config.task,
        reduction=config.reduction,
        dtype=torch_type(config.precision),
        device=device,
    )


def _plan(config: PaperConfig, name: str) -> TablePlan:
    optimiser = make_optimiser(config.row_optimiser, config.row_rate, initial_accumulator=config.initial_accumulator)
    return TablePlan(
        name=name, width=config.width, std=config.embedding_std, optimiser=optimiser, seed=config.seed, dtype=torch_type(config.precision)
    )


def _network(config: PaperConfig) -> FixedSizeNetwork | SelectingNetwork:
    features = CONTEXT_FEATURES if isinstance(config, ResidualConfig) and config.context_inputs else 0
    if config.method == "fse":
        return FixedSizeNetwork(config.width, config.hidden, outputs(config.task), config.seed, features)
    return SelectingNetwork(
        config.dims,
        config.normalisation,
        config.hidden,
        outputs(config.task),
        config.seed,
        shared_maps=config.shared_maps,
        scale=config.soft_scale,
        features=features,
    )


def _strategy(config: PaperConfig, model: PaperModel) -> Strategy:
    if config.method in ("fse", "fse-uniform"):
        return TrainOnly(model)
    if config.method == "sam":
        return Joint(model)
    source: AfterTraining | None = None
    if config.validation == "replay":
        source = Replay(Reservoir(config.reservoir, config.seed), config.validation_size)
    elif config.validation == "holdout":
        source = Holdout()
    hypergradient = Hypergradient(model=model, xi=config.xi, unroll=config.unroll, preconditioner=config.preconditioner)
    return Bilevel(model, hypergradient, source)
