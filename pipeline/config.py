"""What a run is told, and what it is connected to."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autoemb_pipeline.checkpoint.identity import READERS_OF_OLDER_STATE, flatten, unflatten
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import CheckpointError, ConfigurationError
from autoemb_pipeline.learners.config import learner_class
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import Interaction, OfflineStage
from autoemb_pipeline.schemas.registry import RegistryCodec
from autoemb_pipeline.sink.metrics import Format
from autoemb_pipeline.trainer import TrainerConfig

Observer = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run of `train`.

    Attributes:
        topic: interactions; its dead letters go to `dead_letter_topic`.
        state_dir: checkpoints, prediction log and the live database.
        trainer: all that decides the bits.
        batch_size: interactions of a mini-batch.
        run_id: None: the state directory's, or a new one.
        new_run: put the state directory's run aside and begin anew.
        batch_timeout: seconds that close a partial mini-batch on a live stream; None never does. With `until_end` the clock closes none:
            such a run is a function of the stream.
        idle_timeout: seconds that other partitions wait for one that is at its end.
        max_ahead: seconds that an event time may lie beyond the clock on a live stream; a record beyond is a dead letter. None: any.
        until_end: stop at the end of what the topic holds now.
        checkpoint_every, checkpoint_seconds: steps, and time, after which the next checkpoint is due; whichever comes first. One of step 0
            is written before anything is trained, and none while nothing has changed.
        checkpoints_kept: how many stay.
        cache_bytes: memory of the row cache.
        predictions_kept: interactions in the prediction log; 0 switches it off.
        exactly_once: metrics and dead letters in Kafka transactions.
        metrics_format: of the metrics and runtime topics.
        threads: torch's; None: the checkpoint's, else torch's default.
        offline_fraction: what `trainer.offline` was computed from, so that a resumed run need not count again.
    """

    topic: str
    state_dir: Path
    trainer: TrainerConfig
    batch_size: int = 500
    run_id: str | None = None
    new_run: bool = False
    metrics_topic: str = "autoemb.metrics"
    runtime_topic: str = "autoemb.runtime"
    dead_letter_topic: str = "interactions.dlq"
    batch_timeout: float | None = 10.0
    idle_timeout: float = 5.0
    max_ahead: float | None = 3600.0
    until_end: bool = False
    checkpoint_every: int = 200
    checkpoint_seconds: float = 60.0
    checkpoints_kept: int = 3
    cache_bytes: int = 256 << 20
    predictions_kept: int = 10_000_000
    exactly_once: bool = False
    metrics_format: Format = "json"
    threads: int | None = None
    offline_fraction: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "checkpoint_every", "checkpoints_kept", "cache_bytes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}", why="it must be at least 1")
        if not self.checkpoint_seconds > 0:
            raise ConfigurationError(f"checkpoint_seconds is {self.checkpoint_seconds}", why="it must be above 0")

    def bits(self) -> dict[str, Any]:
        """All that decides parameters and metrics, once the stream is given; a resumed run must have the same."""
        trainer = asdict(self.trainer)
        del trainer["learner"]["device"]
        names = ("topic", "batch_size", "metrics_topic", "dead_letter_topic", "offline_fraction")
        return flatten({**{name: getattr(self, name) for name in names}, **trainer})


def trainer_of(configuration: Mapping[str, Any], *, device: str) -> TrainerConfig:
    """The trainer of a run from the flat configuration that `RunConfig.bits` gave, as ``run.json`` and every manifest hold it.

    Fields that the run's version of this program did not have yet get their defaults.

    Raises:
        CheckpointError: a field is unknown to this version, or has a value that it cannot use.
    """
    nested = unflatten(configuration)
    given = {name: nested[name] for name in (f.name for f in fields(TrainerConfig)) if name in nested}
    try:
        given["learner"] = learner_class(given["learner"]["preset"])(**given["learner"], device=device)
        given["context"] = ContextConfig(**given["context"])
        given["prequential"] = PrequentialConfig(**given["prequential"])
        if given.get("offline") is not None:
            given["offline"] = OfflineStage(**given["offline"])
        return TrainerConfig(**given)
    except (TypeError, KeyError, ConfigurationError) as error:
        raise CheckpointError(
            "The run's configuration cannot be used by this version of autoemb-pipeline",
            why=str(error),
            remedy=f"use the version that the run was trained with ({READERS_OF_OLDER_STATE})",
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """What the main path is connected to.

    Attributes:
        kafka: librdkafka settings.
        decoder: a record's value to its interaction.
        topic_id: the interactions topic's.
        registry: for Avro metrics in the registry's wire format.
        stop: asked between polls.
        observers: see `autoemb_pipeline.reporting.RuntimeReporter`.
    """

    kafka: Mapping[str, str]
    decoder: Callable[[bytes], Interaction]
    topic_id: str
    registry: RegistryCodec | None = None
    stop: Callable[[], bool] = lambda: False
    observers: tuple[Observer, ...] = ()
