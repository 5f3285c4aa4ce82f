"""One step of prequential training: observe, predict, score, learn, remember. Knows nothing of Kafka, files or checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.method import Method, method_tables
from autoemb_pipeline.offsets import offsets_to_text
from autoemb_pipeline.prequential.balance import LabelBalance
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.prequential.metrics import Prequential, PrequentialConfig
from autoemb_pipeline.prequential.references import Logistic, RunningMean
from autoemb_pipeline.records import FloatArray, LearnerInputs, OfflineStage, Predictions
from autoemb_pipeline.rows import AnySpec, RowStore

COUNTERS = ("late", "duplicates", "dead_letters", "skipped")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """All that decides the bits of a run, once its stream is given.

    Attributes:
        learner: method, task, dimensions, rates, seed, device.
        context: context mode; spaces and classes follow the learner.
        prequential: window and fading of the running metrics.
        positive_above: ratings above it are positive.
        offline: the first part of the stream, whose predictions the metrics leave out once the second begins; None: all is online.
        offline_epochs: epochs of the offline stage; those after the first only train, and need a preset without context features.
    """

    learner: LearnerConfig
    context: ContextConfig
    prequential: PrequentialConfig
    positive_above: float = 3.5
    offline: OfflineStage | None = None
    offline_epochs: int = 1

    def __post_init__(self) -> None:
        """Refuses further epochs that nothing ends, or that train on what holds their own labels; and what brings removed ids back."""
        self._check_expiry()
        epochs = self.offline_epochs
        if epochs < 1:
            raise ConfigurationError(f"{epochs} epochs of the offline stage", remedy="give --offline-epochs at least 1")
        if epochs == 1:
            return
        if self.offline is None:
            raise ConfigurationError(
                f"{epochs} epochs of an offline stage that there is not",
                why="only a stage with an end can be read again",
                remedy="give --offline-until or --offline-fraction with --offline-epochs",
            )
        if self.learner.takes_context:
            raise ConfigurationError(
                f"preset {self.learner.preset} cannot read the offline stage again",
                why="its network takes context features, and the label statistics in them hold the label of an interaction read before",
                remedy="use --offline-epochs 1, or --preset paper",
            )
        if self.learner.held_out(size=1, step=1) is not None:
            raise ConfigurationError(
                "validation source holdout cannot read the offline stage again",
                why="what one epoch holds out, another would train on",
                remedy="use --offline-epochs 1, or validation next or replay",
            )

    def _check_expiry(self) -> None:
        days = self.context.ttl_days
        if days is None:
            return
        if self.offline_epochs > 1:
            raise ConfigurationError(
                f"--ttl-days {days:g} with {self.offline_epochs} epochs of the offline stage",
                why="a later epoch would train rows of ids that were removed",
                remedy="give --offline-epochs 1, or no --ttl-days",
            )
        if self.learner.method == "darts" and not self.learner.takes_context:
            raise ConfigurationError(
                f"--ttl-days {days:g} with method darts of preset {self.learner.preset}",
                why="its free weights of an id are also stepped for validation on earlier interactions, when the id may have been removed",
                remedy="use another method, preset stream, or no --ttl-days",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What came of one mini-batch.

    Attributes:
        metrics: fields of the metrics topic, without the run's own names.
        scores: model -> [2, B] loss and hit; empty for a batch without interactions.
        predictions, references, inputs: per interaction; None or empty for a batch without interactions.
    """

    metrics: Mapping[str, object]
    scores: Mapping[str, FloatArray] = field(default_factory=dict)
    predictions: Predictions | None = None
    references: Mapping[str, FloatArray] = field(default_factory=dict)
    inputs: LearnerInputs | None = None


def trainer_tables(config: TrainerConfig) -> tuple[AnySpec, ...]:
    """Every table a `Trainer` keeps in its store."""
    return method_tables(config.context, config.learner)


class Trainer:
    """Context, learner, references and running metrics over one RowStore."""

    def __init__(self, config: TrainerConfig, store: RowStore) -> None:
        task = config.learner.task
        self._config = config
        self._method = Method(config.context, config.learner, store)
        self._running_mean = RunningMean(task)
        self._logistic = Logistic(task)
        self._prequential = self._fresh_metrics()
        self._balance = LabelBalance(task)
        self._online = config.offline is None
        self._examples = 0
        self._counters = dict.fromkeys(COUNTERS, 0)

    def step(self, batch: MiniBatch) -> StepResult:
        """Predict, then score, then learn: no prediction knows a label that the context mode forbids (docs/architecture.md, invariant 1).

        A later epoch only learns.
        """
        if batch.epoch > 1:
            return self._step_again(batch)
        self._counters["late"] += batch.late
        self._counters["duplicates"] += batch.duplicates
        self._counters["dead_letters"] += len(batch.dead_letters)
        self._counters["skipped"] += batch.skipped
        if len(batch) == 0:
            self._prequential.skip()
            return StepResult(metrics=self._metrics(batch))
        self._enter_online_stage(batch)
        ratings = batch.block.rating
        labels = labels_of(ratings, positive_above=self._config.positive_above)
        self._balance.add(ratings, labels)
        held_out = self._config.learner.held_out(size=len(batch), step=batch.step)
        inputs, predictions = self._method.predict(batch.block, labels, held_out)
        references = {"running_mean": self._running_mean.predict(inputs), "logistic": self._logistic.predict(inputs)}
        scores = self._prequential.add(predictions, references, labels, inputs.users, inputs.items)
        self._examples += len(batch)
        self._method.learn(labels, scores["method"][0], predictions, held_out)
        self._logistic.update(inputs, references["logistic"], labels)
        return StepResult(metrics=self._metrics(batch), scores=scores, predictions=predictions, references=references, inputs=inputs)

    def _step_again(self, batch: MiniBatch) -> StepResult:
        """Trains the learner on interactions of an earlier epoch. They were predicted, scored and counted then."""
        self._prequential.skip()
        if len(batch):
            self._method.learn_again(batch.block, labels_of(batch.block.rating, positive_above=self._config.positive_above))
        return StepResult(metrics=self._metrics(batch))

    @property
    def examples(self) -> int:
        """Interactions trained so far, in both stages."""
        return self._examples

    def _fresh_metrics(self) -> Prequential:
        return Prequential(self._config.prequential, self._config.learner.dims, ("method", "running_mean", "logistic"))

    def _enter_online_stage(self, batch: MiniBatch) -> None:
        """At the online stage's first mini-batch the running metrics begin anew (section 3.4: the online stage alone is reported)."""
        offline = self._config.offline
        if offline is not None and not self._online and offline.is_over(self._examples, int(batch.block.time[0])):
            self._online = True
            self._prequential = self._fresh_metrics()

    def _metrics(self, batch: MiniBatch) -> dict[str, object]:
        learner = self._config.learner
        return {
            "method": learner.method,
            "task": learner.task,
            "preset": learner.preset,
            "context_mode": self._config.context.mode,
            "step": batch.step,
            "batch_examples": len(batch),
            "event_time": int(batch.block.time[-1]) if len(batch) else None,
            **self._balance.fields(),
            **self._prequential.fields(),
            "stage": "online" if self._online else "offline",
            "epoch": batch.epoch,
            "scored_examples": self._prequential.examples,
            "examples": self._examples,
            **self._counters,
            **self._method.report(),
            "next_offsets": {str(p): o for p, o in sorted(batch.next_offsets.items())},
            "refused_offsets": {str(p): offsets_to_text(offsets) for p, offsets in batch.refused.items()},
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything but the store's rows, as arrays for the checkpoint."""
        parts: dict[str, Mapping[str, FloatArray]] = {"prequential": self._prequential.state(), "logistic": self._logistic.state()}
        arrays = {f"{part}.{name}": array.copy() for part, state in parts.items() for name, array in state.items()}
        return {**arrays, **{f"learner.{name}": tensor for name, tensor in self._method.tensors().items()}}

    def payload(self) -> dict[str, object]:
        """The JSON-able rest of the state."""
        stage = {"online": self._online, "examples": self._examples}
        return {"context": self._method.context.state(), "counters": dict(self._counters), "labels": self._balance.state(), **stage}

    def restore(self, tensors: Arrays, payload: Mapping[str, object]) -> None:
        """Restores what `tensors` and `payload` returned."""
        groups: dict[str, dict[str, NDArray[Any]]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            groups.setdefault(part, {})[rest] = tensor
        self._prequential.load_state(groups["prequential"])
        self._logistic.load_state(groups["logistic"])
        self._method.restore(groups.get("learner", {}), payload["context"])  # type: ignore[arg-type]
        self._online, self._examples = bool(payload["online"]), int(payload["examples"])  # type: ignore[call-overload]
        self._counters = dict(payload["counters"])  # type: ignore[call-overload]
        self._balance.load_state(payload["labels"])  # type: ignore[arg-type]
