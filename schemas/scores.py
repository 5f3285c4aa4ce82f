"""Who predicts and how predictions are scored, as every metric names it: models, losses, averages and sides."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Who predicts: the run's method, or a reference on the same interactions.

    Attributes:
        name: in labels of Prometheus and columns of the prediction log.
        prefix: of its fields in a metrics record.
        title: for people; the method's own name stands instead where it is known.
        long_title: where there is room to say of what.
    """

    name: str
    prefix: str
    title: str
    long_title: str


METHOD = Model(name="method", prefix="", title="method", long_title="method")
RUNNING_MEAN = Model(name="running_mean", prefix="running_mean_", title="running mean", long_title="running user + item mean")
LOGISTIC = Model(name="logistic", prefix="logistic_", title="online logistic", long_title="online logistic")
REFERENCES = (RUNNING_MEAN, LOGISTIC)
MODELS = (METHOD, *REFERENCES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A task's loss.

    Attributes:
        field: in a metrics record, behind the model's prefix.
        title, abbreviation: for people.
        long_title: with the unit.
    """

    field: str
    title: str
    abbreviation: str
    long_title: str


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "binary": Loss(field="mse", title="MSE", abbreviation="MSE", long_title="squared error (MSE)"),
        "rating": Loss(field="cross_entropy", title="cross-entropy", abbreviation="CE", long_title="cross-entropy (nats)"),
    }
)
ACCURACY = "accuracy"
# How a mean is taken -> suffix of its field.
CUMULATIVE, WINDOW, FADING = "cumulative", "window", "fading"
AVERAGES: Mapping[str, str] = MappingProxyType({CUMULATIVE: "", WINDOW: "_window", FADING: "_fading"})
SIDES = ("user", "item")


def score_field(model: Model, score: str, average: str = CUMULATIVE) -> str:
    """The field of a metrics record that holds a model's loss (`Loss.field`) or accuracy."""
    return f"{model.prefix}{score}{AVERAGES[average]}"


def scored(record: Mapping[str, Any]) -> Loss:
    """The loss that a metrics record's task has."""
    return LOSSES[record["task"]]
