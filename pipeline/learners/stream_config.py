"""Options of the stream architecture. docs/stream.md tells what each does and why its default is what it is."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigurationError

Architecture = Literal["paper", "stream"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamOptions:
    """Fields of `LearnerConfig` that only the stream architecture uses.

    Attributes:
        nested: one table whose prefixes are the spaces; false: a table per space, each multiplied with the other side's same space.
        micro_batch: interactions after which rows are updated inside a mini-batch (contexts `event` and `strict`); 1: after each.
        user_variance, item_variance: of a new row's numbers; the larger, the faster a new row learns.
        user_std, item_std: standard deviation of a new row's initial numbers.
        user_bias_variance, item_bias_variance: of a new row's bias.
        drift: added to the variance of a row's block at each occurrence that uses it.
        rank: directions over which a block's variance falls, see `pipeline.learners.kalman`.
        ridge, quadratic_ridge, gain_ridge: precision of the dense weights' prior: context features, their products, embedding products.
        quadratic: whether products of context features are inputs (binary task).
        start: logit of the largest space in the controllers' output layer before the first step; 0 makes the first weights 1/N.
        cost: λ of the cost term λ · Σ_n α_n d_n / (1 + count)^amortised.
        amortised: 1 charges a row once over its life, 0 at each occurrence.
        entropy: weight of the entropy penalty at its full strength.
        entropy_steps: mini-batches over which it is annealed to 63%.
        horizon: mini-batches after which `trace` forgets a change; 0 never.
        thresholds: counts at which method `count-thresholds` goes to the next space.
        gate_rate: Adam's rate of method `count-gate`.
        memory_budget: bytes of rows, optimiser state and index; 0 sets no bound. See `pipeline.learners.budget`.
        admission: τ0, what a block must be worth to be given while the budget is empty.
        half_life: mini-batches in which an id that is not seen loses half of its worth.
    """

    nested: bool = True
    micro_batch: int = 1
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
    entropy: float = 0.0
    entropy_steps: float = 1000.0
    horizon: int = 0
    thresholds: tuple[int, ...] = (8, 64)
    gate_rate: float = 4e-3
    memory_budget: int = 0
    admission: float = 8.0
    half_life: float = 2000.0

    def check_stream(self) -> None:
        """Refuses values that cannot be used.

        Raises:
            ConfigurationError: names the field.
        """
        for name in ("user_variance", "item_variance", "ridge", "quadratic_ridge", "gain_ridge", "entropy_steps", "half_life"):
            _check(name, getattr(self, name), above=0.0)
        for name in (
            "user_std",
            "item_std",
            "user_bias_variance",
            "item_bias_variance",
            "drift",
            "cost",
            "amortised",
            "entropy",
            "gate_rate",
            "admission",
        ):
            _check(name, getattr(self, name), least=0.0)
        _check("rank", self.rank, least=1.0)
        _check("micro_batch", self.micro_batch, least=1.0)
        _check("horizon", self.horizon, least=0.0)
        _check("memory_budget", self.memory_budget, least=0.0)
        if not all(a < b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False)):
            raise ConfigurationError(f"thresholds {self.thresholds} do not increase", remedy="give them as in 8,64")


def _check(name: str, value: float, *, above: float | None = None, least: float | None = None) -> None:
    fits = value < float("inf") and (above is None or value > above) and (least is None or value >= least)
    if not fits:
        bound = f"above {above:g}" if above is not None else f"at least {least:g}"
        raise ConfigurationError(f"{name} is {value}", why=f"it must be a finite number, {bound}", remedy=f"change {name}")
