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
        validation: what Θ learns from: the `next` predictions before their labels are learnt; `trace`: also each id's next occurrence.
        nested: one table whose prefixes are the spaces; false: a table per space, each multiplied with the other side's same space.
        user_variance, item_variance: of a new row's numbers; the larger, the faster a new row learns.
        user_std, item_std: standard deviation of a new row's initial numbers.
        user_bias_variance, item_bias_variance: of a new row's bias.
        drift: added to the variance of a row's block at each occurrence that uses it.
        rank: directions over which a block's variance falls, see `autoemb_pipeline.kernels`.
        ridge, quadratic_ridge, gain_ridge: precision of the dense weights' prior: context features, their products, embedding products.
        quadratic: whether products of context features are inputs (binary task).
        start: logit of the largest space in the controllers' output layer before the first step; 0 makes the first weights 1/N.
        cost: λ of the cost term λ · Σ_n α_n d_n / (1 + count)^amortised.
        amortised: 1 charges a row once over its life, 0 at each occurrence.
        thresholds: counts at which method `count-thresholds` goes to the next space.
        memory_budget: bound on embeddings, optimiser state and index, bytes (preset stream); 0: none.
        admission: τ0, what a block must be worth to be given while the budget is empty.
        half_life: mini-batches in which an id that is not seen loses half of its worth.
    """

    takes_context: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = False

    method: Literal[Method, OwnMethod] = "autoemb"
    preset: Literal["stream"] = "stream"
    precision: Precision = "float32"
    controller_hidden: tuple[int, ...] = (64,)
    controller_rate: float = 1e-3
    validation: Literal["next", "trace"] = "next"
    nested: bool = True
    user_variance: float = 1.0
    item_variance: float = 0.2
    user_std: float = 0.06
    item_std: float = 0.023
    user_bias_variance: float = 0.027
    item_bias_variance: float = 0.005
    drift: float = 1e-6
    rank: float = 8.0
    ridge: float = 10.0
    quadratic_ridge: float = 30.0
    gain_ridge: float = 30.0
    quadratic: bool = True
    start: float = 4.0
    cost: float = 3e-6
    amortised: float = 1.0
    thresholds: tuple[int, ...] = (8, 64)
    memory_budget: int = 0
    admission: float = 8.0
    half_life: float = 2000.0

    def __post_init__(self) -> None:
        SearchConfig.__post_init__(self)
        check_numbers(self, "user_variance item_variance ridge quadratic_ridge gain_ridge half_life", above=0.0)
        check_numbers(self, "user_std item_std user_bias_variance item_bias_variance drift cost amortised admission", least=0.0)
        check_numbers(self, "rank", least=1.0)
        check_numbers(self, "memory_budget", least=0.0)
        if any(a >= b for a, b in pairwise(self.thresholds)):
            raise ConfigurationError(f"thresholds {self.thresholds} do not increase", remedy="give them as in 8,64")
        if self.method == "count-thresholds" and len(self.thresholds) != len(self.dims) - 1:
            raise ConfigurationError(f"{len(self.thresholds)} thresholds for {len(self.dims)} dims", remedy="give one less than dims")
        if self.validation == "trace" and self.method != "autoemb":
            raise ConfigurationError(f"validation trace needs controllers; {self.method} has none", remedy="use the method autoemb")
        if self.memory_budget and not self.nested:
            raise ConfigurationError(
                "a memory budget needs nested spaces",
                why="an id's space grows block by block",
                remedy="use nested true, or no memory budget",
            )
