"""What the paper's network is built from. Each choice that the paper leaves open is an option; docs/algorithm.md gives its reasons."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.common.checks import check_numbers, check_widths
from autoemb_pipeline.learners.common.choices import OptimiserName, Preconditioner
from autoemb_pipeline.learners.paper.choices import Normalisation, PaperPrecision, Selection, SoftScale
from autoemb_pipeline.learners.search.config import Method, SearchConfig

Unroll = Literal["exact", "finite-difference"]


def holdout_mask(size: int, *, fraction: float, seed: int, step: int) -> NDArray[np.bool_]:
    """[size] True for the interactions of mini-batch `step` that validation source `holdout` holds out: a function of its arguments."""
    return np.random.Generator(np.random.Philox(key=[seed, step])).random(size) < fraction


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperConfig(SearchConfig):
    """Configuration of the paper's network: embeddings concatenated into hidden layers.

    Attributes:
        precision: of all arithmetic and of stored rows, preset paper: `bf16` multiplies matrices in bfloat16 (autocast), with parameters,
            rows and losses in float32.
        hidden: widths of the network's hidden layers.
        normalisation: of the transformed embeddings (Eq. 2): over the mini-batch, or over one embedding's features.
        shared_maps: one set of linear maps (Eq. 1) for both sides.
        selection: `soft` mixes the spaces, `hard` takes the largest weight's (controllers then learn through the soft relaxation).
        soft_scale: Eq. 7's factor, 1/N as printed, or 1.
        row_optimiser, row_rate, initial_accumulator: of the embedding rows; the accumulator is Adagrad's.
        dense_optimiser, dense_rate: of the dense layers.
        reduction: of the losses of a mini-batch.
        embedding_std: standard deviation of new embeddings.
        validation: where the validation loss comes from: the `next` batch before it is trained on, a `replay` of earlier interactions, or
            a `holdout` of each batch.
        xi: ξ of Eq. 9 in units of the rates: 0 first order, 1 the total derivative of the update really made.
        unroll, preconditioner: how the second-order term is computed, see `autoemb_pipeline.learners.paper.hypergradient`.
        reservoir, validation_size: interactions kept for replay, and drawn per step.
        holdout_fraction: of each mini-batch, for `holdout`; whoever builds the context draws it.
    """

    takes_context: ClassVar[bool] = False
    uses_torch: ClassVar[bool] = True

    method: Method = "autoemb"
    preset: Literal["paper", "paper-layernorm", "residual"] = "paper-layernorm"
    precision: PaperPrecision = "float32"
    hidden: tuple[int, ...] = (512, 512)
    normalisation: Normalisation = "layer"
    shared_maps: bool = False
    selection: Selection = "soft"
    soft_scale: SoftScale = "1/N"
    row_optimiser: OptimiserName = "adagrad"
    row_rate: float = 0.05
    initial_accumulator: float = 0.0
    dense_optimiser: OptimiserName = "adam"
    dense_rate: float = 3e-4
    reduction: Literal["mean", "sum"] = "mean"
    embedding_std: float = 0.02
    validation: Literal["next", "replay", "holdout"] = "next"
    xi: float = 0.0
    unroll: Unroll = "exact"
    preconditioner: Preconditioner = "exact"
    reservoir: int = 10_000
    validation_size: int = 500
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        SearchConfig.__post_init__(self)
        check_widths(self, "hidden")
        check_numbers(self, "row_rate dense_rate initial_accumulator embedding_std xi", least=0.0)
        check_numbers(self, "reservoir validation_size", least=1.0)
        if not 0.0 < self.holdout_fraction < 1.0:
            raise ConfigurationError(f"holdout_fraction is {self.holdout_fraction}", remedy="give a fraction between 0 and 1")
        if self.xi > 0 and not self.is_bilevel:
            raise ConfigurationError(f"xi {self.xi} has no meaning for {self.method}", why="it has no bilevel update", remedy="use xi 0")
        if self.xi > 0 and self.selection == "hard":
            raise ConfigurationError(
                "xi above 0 needs soft selection",
                why="a training step with hard weights has no slope in Θ",
                remedy="use xi 0",
            )

    @property
    def is_bilevel(self) -> bool:
        """Whether Θ descends a loss of its own (Eq. 8)."""
        return self.method in ("darts", "autoemb")

    def held_out(self, *, size: int, step: int) -> NDArray[np.bool_] | None:
        """See `SearchConfig.held_out`."""
        if self.validation != "holdout" or not self.is_bilevel:
            return None
        return holdout_mask(size, fraction=self.holdout_fraction, seed=self.seed, step=step)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualConfig(PaperConfig):
    """Configuration of the paper's network as an addition to the online logistic regression's logit; other fields as `PaperConfig`.

    Attributes:
        context_inputs: whether the hidden layers also see the products of any two of the context features x0..x15.
    """

    takes_context: ClassVar[bool] = True

    preset: Literal["residual"] = "residual"
    hidden: tuple[int, ...] = (128, 128)
    controller_hidden: tuple[int, ...] = (64, 64)
    normalisation: Normalisation = "none"
    dense_rate: float = 1e-3
    context_inputs: bool = True
