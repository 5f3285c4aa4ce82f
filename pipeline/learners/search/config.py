"""What every learner is told: its task, its embedding spaces, and how weights over these are searched."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.common.checks import check_choices, check_numbers, check_widths
from autoemb_pipeline.learners.common.choices import Activation, OptimiserName
from autoemb_pipeline.records import Task

Method = Literal["fse", "fse-uniform", "sam", "darts", "autoemb"]
Precision = Literal["float32", "float64"]
LOGIT_TABLES = ("logits.user", "logits.item")  # rows of the free logits of `darts`


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """The part of a configuration that both learners have. Rates are per step; dimensions and layer widths in numbers.

    Attributes:
        method: `fse` fixed-size embedding; `fse-uniform` equal weights of the spaces; `sam` controllers trained with the network on the
            same batch; `darts` free weights per id and `autoemb` controllers, in a bilevel update. A learner may have methods of its own.
        task: whether the rating is above 3.5 (binary, squared error), or which of five classes it is (rating, cross-entropy).
        preset: the name of the preset these fields came from; it decides which learner this is.
        dims: dimensions of the embedding spaces, increasing.
        controller_hidden: widths of the controllers' hidden layers.
        controller_activation: of these.
        controller_optimiser, controller_rate: of the controllers.
        logit_optimiser, logit_rate: of the free weights of `darts`.
        seed: of initial parameters and of every random choice.
        precision: of all arithmetic and of stored rows. A learner may have precisions of its own.
        device: torch device of a step's arithmetic; rows stay in the row store.
    """

    takes_context: ClassVar[bool]
    """Whether context features, and with them label statistics, are inputs of the network."""
    uses_torch: ClassVar[bool]
    """Whether its arithmetic is torch's, so that torch, its threads and its devices decide the bits."""

    method: str = "autoemb"
    task: Task = "binary"
    preset: str = ""
    dims: tuple[int, ...] = (2, 16, 128)
    controller_hidden: tuple[int, ...] = (512, 512)
    controller_activation: Activation = "tanh"
    controller_optimiser: OptimiserName = "adam"
    controller_rate: float = 3e-4
    logit_optimiser: OptimiserName = "adagrad"
    logit_rate: float = 0.05
    seed: int = 0
    precision: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.dims or any(d < 1 for d in self.dims) or list(self.dims) != sorted(set(self.dims)):
            raise ConfigurationError(f"dims {self.dims} are not increasing positive dimensions", remedy="give them as in (2, 16, 128)")
        check_widths(self, "controller_hidden")
        check_numbers(self, "controller_rate logit_rate", least=0.0)

    def held_out(self, *, size: int, step: int) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """[size] True for the interactions of mini-batch `step` whose labels only Θ may learn from; None unless the method validates so.

        For whoever builds the context: it must leave these labels out of its statistics.
        """
        return None

    @property
    def width(self) -> int:
        """Numbers of one row's concatenated embedding; 146 in the paper."""
        return sum(self.dims)

    @property
    def row_dtype(self) -> Literal["f4", "f8"]:
        """The row store's type of `precision`."""
        return "f8" if self.precision == "float64" else "f4"
