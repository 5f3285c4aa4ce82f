"""Running metrics of predictions made before the update: cumulative, over a window, and fading; overall and by popularity.

Predict, record, then learn (prequential evaluation: Dawid 1984; fading factors: Gama, Sebastião and Rodrigues 2013, "On evaluating stream
learning algorithms"). Everything here is a function of the stream, so that a recomputation gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.kernels.popularity import sum_by_popularity
from autoemb_pipeline.records import FloatArray, Labels, Predictions, SideContext, Task

PROBABILITY_FLOOR = 1e-12
BUCKETS = 16  # 0, 1, 2-3, 4-7, ..., 2^14 and above


@dataclass(frozen=True, kw_only=True, slots=True)
class PrequentialConfig:
    """How running metrics are formed.

    Attributes:
        task: `binary` (squared error, accuracy at .5) or `rating` (cross-entropy, accuracy of the most probable class).
        window: interactions of the metrics' window.
        fading: factor per interaction of the fading metrics.
    """

    task: Task = "binary"
    window: int = 5000
    fading: float = 0.999

    def __post_init__(self) -> None:
        """Refuses an empty window and a factor that does not fade."""
        if self.window < 1:
            raise ConfigurationError(f"a metrics window of {self.window} interactions", remedy="give --window at least 1")
        if not 0.0 < self.fading < 1.0:
            raise ConfigurationError(f"a fading factor of {self.fading}", remedy="give --fading between 0 and 1")

    @property
    def loss_name(self) -> str:
        """The task's loss as the metrics topic names it."""
        return "mse" if self.task == "binary" else "cross_entropy"


def losses_and_hits(probabilities: FloatArray, labels: Labels, task: Task) -> tuple[FloatArray, FloatArray]:
    """[..., B] loss and 1.0 where the prediction is right: squared error and threshold .5, or cross-entropy (nats) and argmax.

    Args:
        probabilities: [..., B], or [..., B, C] for the rating task.
        labels: B of them.
        task: which.
    """
    if task == "binary":
        return (probabilities - labels.binary) ** 2, ((probabilities >= 0.5) == (labels.binary == 1.0)).astype(np.float64)  # noqa: PLR2004
    own = probabilities[..., np.arange(len(labels.classes)), labels.classes]
    hits = (probabilities.argmax(axis=-1) == labels.classes).astype(np.float64)
    return -np.log(np.maximum(own, PROBABILITY_FLOOR)), hits


class RunningMeans:
    """Cumulative, windowed and fading means of two series (loss, hit) of each of several models, whose arrays lie side by side.

    State is a handful of numbers and the windows' rings, whatever the length of the stream.

    Args:
        config: window and fading.
        models: how many.
    """

    def __init__(self, config: PrequentialConfig, models: int = 1) -> None:
        self._config = config
        self._count = 0
        self._sums = np.zeros((models, 2))
        self._faded = np.zeros((models, 2))
        self._faded_weight = 0.0
        self._ring = np.zeros((models, 2, config.window))
        self._weights = np.ones(0)

    def add(self, values: FloatArray) -> None:
        """values: [models, 2, B], loss and hit per interaction, in order."""
        size = values.shape[2]
        window, factor = self._config.window, self._config.fading
        if len(self._weights) != size:  # all mini-batches but the last have one size
            self._weights = factor ** np.arange(size - 1, -1, -1)
        self._sums += values.sum(axis=2)
        self._faded = self._faded * factor**size + (values * self._weights).sum(axis=2)
        self._faded_weight = self._faded_weight * factor**size + float(self._weights.sum())
        kept = values[:, :, -window:]
        first = (self._count + size - kept.shape[2]) % window
        fitting = min(kept.shape[2], window - first)
        self._ring[:, :, first : first + fitting] = kept[:, :, :fitting]
        self._ring[:, :, : kept.shape[2] - fitting] = kept[:, :, fitting:]
        self._count += size

    def means(self) -> list[dict[str, tuple[float | None, float | None]]]:
        """Of each model: suffix -> (loss, accuracy); None before the first interaction."""
        if self._count == 0:
            return [{"": (None, None), "_window": (None, None), "_fading": (None, None)} for _ in self._sums]
        window = self._ring[:, :, : min(self._count, self._config.window)].mean(axis=2)
        means = np.stack([self._sums / self._count, window, self._faded / self._faded_weight], axis=1).tolist()
        return [dict(zip(("", "_window", "_fading"), ((loss, hit) for loss, hit in own), strict=True)) for own in means]

    def state(self) -> list[dict[str, FloatArray]]:
        """Of each model: arrays for the checkpoint."""
        scalars = np.array([float(self._count), self._faded_weight])
        parts = zip(self._sums.copy(), self._faded.copy(), self._ring.copy(), strict=True)
        return [{"sums": sums, "faded": faded, "ring": ring, "scalars": scalars} for sums, faded, ring in parts]

    def load_state(self, state: Sequence[Mapping[str, FloatArray]]) -> None:
        """Restores what `state` returned."""
        self._sums, self._faded, self._ring = (np.stack([own[name] for own in state]) for name in ("sums", "faded", "ring"))
        self._count, self._faded_weight = int(state[0]["scalars"][0]), float(state[0]["scalars"][1])


class PopularityMeans:
    """Mean loss and mean effective dimension by popularity at prediction time, in buckets 0, 1, 2-3, 4-7, ... (Figures 6 and 7)."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        self._names = tuple(map(str, dims))
        self._dims = np.array(dims, dtype=np.float64)
        self._none = np.zeros((0, len(dims)))
        self._sums = np.zeros((3 + len(dims), BUCKETS))  # count, loss, dimension, weights

    def add(self, counts: FloatArray, losses: FloatArray, weights: FloatArray | None) -> dict[str, object]:
        """Adds one mini-batch. counts, losses: [B]; weights: [B, N].

        Returns:
            Of the mini-batch mean weights by dimension, entropy (nats) and effective dimension Σ α_n d_n; None without weights.
        """
        told = np.empty(len(self._dims) + 2)
        given = self._none if weights is None else np.ascontiguousarray(weights, dtype=np.float64)
        sum_by_popularity(counts, losses, given, self._dims, self._sums, told)
        if len(given) == 0:
            return {"weight": None, "entropy": None, "dimension": None}
        *own, entropy, dimension = (told / len(given)).tolist()
        return {"weight": dict(zip(self._names, own, strict=True)), "entropy": entropy, "dimension": dimension}

    def fields(self, side: str) -> dict[str, dict[str, float] | dict[str, int]]:
        """Maps keyed by a bucket's lower bound, only buckets that hold something."""
        count, losses, dimensions, *weights = self._sums.tolist()
        used = [b for b in range(BUCKETS) if count[b] > 0]
        bounds = {b: "0" if b == 0 else str(2 ** (b - 1)) for b in used}
        result: dict[str, dict[str, float] | dict[str, int]] = {
            f"{side}_bucket_count": {bounds[b]: int(count[b]) for b in used},
            f"{side}_bucket_loss": {bounds[b]: losses[b] / count[b] for b in used},
        }
        if any(map(any, weights)):  # weights were given; they are positive
            result[f"{side}_bucket_dimension"] = {bounds[b]: dimensions[b] / count[b] for b in used}
            result[f"{side}_bucket_weight"] = {
                f"{bounds[b]}_{dim}": own[b] / count[b] for b in used for dim, own in zip(self._names, weights, strict=True)
            }
        return result

    def state(self) -> dict[str, FloatArray]:
        """Arrays for the checkpoint."""
        return {"sums": self._sums.copy()}

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Restores what `state` returned."""
        self._sums = state["sums"].copy()


class Prequential:
    """The method's and the references' running metrics over one stream."""

    def __init__(self, config: PrequentialConfig, dims: tuple[int, ...], models: tuple[str, ...]) -> None:
        self._config = config
        self._models = models
        self._means = RunningMeans(config, len(models))
        self._popularity = {side: PopularityMeans(dims) for side in ("user", "item")}
        self._latest: dict[str, object] = {}
        self.examples = 0

    def add(
        self, predictions: Predictions, references: Mapping[str, FloatArray], labels: Labels, users: SideContext, items: SideContext
    ) -> dict[str, FloatArray]:
        """Scores one mini-batch; returns [2, B], loss and hit, of every model."""
        task = self._config.task
        given = {"method": predictions.probabilities, **references}
        values = np.stack(losses_and_hits(np.stack([given[name] for name in self._models]), labels, task), axis=1)
        self._means.add(values)
        scores = dict(zip(self._models, values, strict=True))
        losses = scores["method"][0]
        for side, weights, context in (("user", predictions.user_weights, users), ("item", predictions.item_weights, items)):
            told = self._popularity[side].add(context.count, losses, weights)
            self._latest.update({f"{side}_{name}": value for name, value in told.items()})
        self.examples += len(losses)
        return scores

    def skip(self) -> None:
        """A mini-batch that is not scored: what is told of the newest one is told of none."""
        self._latest = {}

    def fields(self) -> dict[str, object]:
        """Everything the metrics topic says of predictions so far."""
        loss_name = self._config.loss_name
        other = "cross_entropy" if loss_name == "mse" else "mse"
        fields: dict[str, object] = {"examples": self.examples}
        for model, means in zip(self._models, self._means.means(), strict=True):
            prefix = "" if model == "method" else f"{model}_"
            for suffix, (loss, accuracy) in means.items():
                fields[f"{prefix}{loss_name}{suffix}"] = loss
                fields[f"{prefix}{other}{suffix}"] = None
                fields[f"{prefix}accuracy{suffix}"] = accuracy
        for side, popularity in self._popularity.items():
            fields.update(popularity.fields(side))
        return {**fields, **self._latest}

    def state(self) -> dict[str, FloatArray]:
        """Arrays for the checkpoint, names joined by dots."""
        parts = {
            **{f"means.{name}": state for name, state in zip(self._models, self._means.state(), strict=True)},
            **{f"popularity.{s}": p.state() for s, p in self._popularity.items()},
        }
        flat = {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
        return {**flat, "examples": np.array([float(self.examples)])}

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Restores what `state` returned."""
        self._means.load_state([_below(state, f"means.{name}.") for name in self._models])
        for side, popularity in self._popularity.items():
            popularity.load_state(_below(state, f"popularity.{side}."))
        self.examples = int(state["examples"][0])


def _below(state: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    return {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
