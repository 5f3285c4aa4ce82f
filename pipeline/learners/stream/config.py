"""What the stream learner is built from. docs/stream.md tells what each option does and why its default is what it is."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.common.checks import check_numbers
from autoemb_pipeline.learners.search.config import Method, Precision, SearchConfig

OwnMethod = Literal["context-only", "count-thresholds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig(SearchConfig):
    """Configuration of the stream learner: embeddings multiplied block by block, beside context features.

    Attributes:
        method: also `context-only` (no embeddings) and `count-thresholds` (an id's space follows from its count).
        nested: one table whose prefixes are the spaces; false: a table per space, each multiplied with the other side's same space.
        user_variance, item_variance: of a new row's numbers; the larger, the faster a new row learns.
        user_std, item_std: standard deviation of a new row's initial numbers.
        user_bias_variance, item_bias_variance: of a new row's bias.
        drift: added to the variance of a row's block at each occurrence that uses it.
        rank: directions over which a block's variance falls, see `autoemb_pipeline.kernels`.
        ridge, quadratic_ridge, gain_ridge: precision of the dense weights' prior: context features, their products, embedding products.
        quadratic: whether products of context features are inputs (binary task).
        thresholds: counts at which method `count-thresholds` goes to the next space.
        row_precision: of embeddings as kept: float32, or int16 on a grid per block, rounded stochastically.
        tolerance: loss per interaction that smaller embeddings may give up against the largest for all (binary: squared error; rating:
            nats); the fewest bytes that stay below it are sought (preset stream).
        memory_budget: bound on the bytes kept for embeddings, spent for the least loss; 0: none, the tolerance decides (preset stream).
        panel: part of the ids that hold every block at first, for comparison.
    """

    takes_context: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = False

    method: Literal[Method, OwnMethod] = "autoemb"
    preset: Literal["stream"] = "stream"
    precision: Precision = "float32"
    nested: bool = True
    user_variance: float = 1.0
    item_variance: float = 0.2
    user_std: float = 0.06
    item_std: float = 0.023
    user_bias_variance: float = 0.027
    item_bias_variance: float = 0.005
    drift: float = 1e-6
    rank: float = 16.0
    ridge: float = 10.0
    quadratic_ridge: float = 30.0
    gain_ridge: float = 30.0
    quadratic: bool = True
    thresholds: tuple[int, ...] = (8, 64)
    row_precision: Literal["float32", "int16"] = "int16"
    tolerance: float = 1e-4
    memory_budget: int = 0
    panel: float = 0.05

    def __post_init__(self) -> None:
        SearchConfig.__post_init__(self)
        check_numbers(self, "user_variance item_variance ridge quadratic_ridge gain_ridge tolerance", above=0.0)
        check_numbers(self, "user_std item_std user_bias_variance item_bias_variance drift panel", least=0.0)
        check_numbers(self, "rank", least=1.0)
        check_numbers(self, "memory_budget", least=0.0)
        if any(a >= b for a, b in pairwise(self.thresholds)):
            raise ConfigurationError(f"thresholds {self.thresholds} do not increase", remedy="give them as in 8,64")
        if self.method == "count-thresholds" and len(self.thresholds) != len(self.dims) - 1:
            raise ConfigurationError(f"{len(self.thresholds)} thresholds for {len(self.dims)} dims", remedy="give one less than dims")
        if self.panel >= 1.0:
            raise ConfigurationError(f"a panel of {self.panel:g} of the ids leaves nobody to choose for", remedy="give a part below 1")
        if self.searches and not self.nested:
            raise ConfigurationError(
                f"method {self.method} needs nested spaces", why="an id's space grows block by block", remedy="use nested true, or darts"
            )
        if self.memory_budget and not self.searches:
            raise ConfigurationError(
                f"method {self.method} keeps no memory budget", why="it chooses no dimensions", remedy="use autoemb, or no memory budget"
            )
        if self.row_precision == "int16" and self.precision == "float64":
            raise ConfigurationError(
                "rows of 16 bits with arithmetic of float64", why="they are kept as float32", remedy="give row_precision=float32 too"
            )

    @property
    def searches(self) -> bool:
        """Whether controllers choose each id's space."""
        return self.method in ("autoemb", "sam")
