"""From a configuration to a learner."""

import torch

from pipeline.errors import ConfigurationError
from pipeline.learners.base import Learner
from pipeline.learners.config import METHODS, PRESETS, LearnerConfig
from pipeline.learners.dense import DenseParameters
from pipeline.learners.hypergradient import Hypergradient
from pipeline.learners.learner import NetworkLearner
from pipeline.learners.optimisers import make_optimiser
from pipeline.learners.passes import Parts
from pipeline.learners.recommender import Recommender
from pipeline.learners.reservoir import Reservoir
from pipeline.learners.selector_factory import make_selector, selector_tables
from pipeline.learners.strategies import Bilevel, Joint, Strategy, TrainOnly
from pipeline.learners.stream_factory import make_stream_learner, stream_tables
from pipeline.learners.tables import EmbeddingTable, TablePlan
from pipeline.learners.validation import AfterTraining, Holdout, Replay
from pipeline.models.embedding import EmbeddingSpaces
from pipeline.models.losses import outputs
from pipeline.models.networks import FixedSizeNetwork, Network, SelectingNetwork
from pipeline.rows import RowStore, TableSpec

__all__ = ["METHODS", "PRESETS", "LearnerConfig", "learner_tables", "make_learner", "make_parts"]

EMBEDDING_TABLES = ("embedding.user", "embedding.item")


def learner_tables(config: LearnerConfig) -> tuple[TableSpec, ...]:
    """The tables the learner of this configuration keeps its rows in: its row store must be made with them."""
    if config.architecture == "stream":
        return stream_tables(config)
    return (*(_plan(config, name).spec() for name in EMBEDDING_TABLES), *selector_tables(config))


def make_learner(config: LearnerConfig, store: RowStore) -> Learner:
    """A new learner with its initial parameters.

    Args:
        config: what to build.
        store: holds `learner_tables(config)`.

    Raises:
        ConfigurationError: the device is not there.
    """
    if config.architecture == "stream":
        return make_stream_learner(config, store, _device(config.device))
    parts = make_parts(config, store)
    return NetworkLearner(parts, _strategy(config, parts))


def make_parts(config: LearnerConfig, store: RowStore) -> Parts:
    """W and Θ of a configuration, before anything says how they learn.

    Raises:
        ConfigurationError: the device is not there.
    """
    device = _device(config.device)
    network = _network(config)
    dense = DenseParameters(
        "recommender",
        network.initial(config.seed),
        make_optimiser(config.dense_optimiser, config.dense_rate, initial_accumulator=config.initial_accumulator),
        dtype=config.dtype,
        device=device,
    )
    users, items = (EmbeddingTable(_plan(config, name), store, device) for name in EMBEDDING_TABLES)
    return Parts(
        recommender=Recommender(network, dense, users, items),
        selector=make_selector(config, store, device),
        selection=config.selection,
        task=config.task,
        reduction=config.reduction,
        dtype=config.dtype,
        device=device,
    )


def _plan(config: LearnerConfig, name: str) -> TablePlan:
    optimiser = make_optimiser(config.row_optimiser, config.row_rate, initial_accumulator=config.initial_accumulator)
    return TablePlan(name=name, width=config.width, std=config.embedding_std, optimiser=optimiser, seed=config.seed, dtype=config.dtype)


def _network(config: LearnerConfig) -> Network:
    if config.method == "fse":
        return FixedSizeNetwork(dims=config.dims, hidden=config.hidden, outputs=outputs(config.task))
    users, items = ("spaces", "spaces") if config.shared_maps else ("user_spaces", "item_spaces")
    return SelectingNetwork(
        users=EmbeddingSpaces(name=users, dims=config.dims, normalisation=config.normalisation),
        items=EmbeddingSpaces(name=items, dims=config.dims, normalisation=config.normalisation),
        hidden=config.hidden,
        outputs=outputs(config.task),
        scale=config.soft_scale,
    )


def _strategy(config: LearnerConfig, parts: Parts) -> Strategy:
    if config.method in ("fse", "fse-uniform"):
        return TrainOnly(parts)
    if config.method == "sam":
        return Joint(parts)
    source: AfterTraining | None = None
    if config.validation == "replay":
        source = Replay(Reservoir(config.reservoir, config.seed), config.validation_size)
    elif config.validation == "holdout":
        source = Holdout()
    hypergradient = Hypergradient(parts=parts, xi=config.xi, unroll=config.unroll, preconditioner=config.preconditioner)
    return Bilevel(parts, hypergradient, source)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"device {name!r} is unknown", why=str(error).split("\n", 1)[0], remedy="use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device cuda is not there", why="torch finds no GPU or is the CPU build", remedy="use --device cpu")
    return device
