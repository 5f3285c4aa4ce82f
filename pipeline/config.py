"""What a run is told, and what it is connected to: the configuration of a run from named options, and back from its checkpoints."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from autoemb_pipeline.checkpoint.identity import READERS_OF_OLDER_STATE, flatten, read_identity, unflatten
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import CheckpointError, ConfigurationError
from autoemb_pipeline.learners.config import LearnerConfig, from_preset, learner_class, parse_settings
from autoemb_pipeline.learners.factory import check_learner, resolve_device
from autoemb_pipeline.mapping.description import StreamDescription, dotted
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import Interaction, OfflineStage, StartAt
from autoemb_pipeline.schemas.registry import RegistryCodec
from autoemb_pipeline.sink.metrics import Format
from autoemb_pipeline.source.reader import ChunkDecoder
from autoemb_pipeline.trainer import TrainerConfig

Observer = Callable[[Mapping[str, Any], Mapping[str, Any]], None]

LEARNER_OPTIONS = ("method", "task", "seed", "device", "precision", "tolerance", "memory_budget")
"""Fields of a learner's configuration that are options by their own names; the others are given as settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run of `train`.

    Attributes:
        topic: the interactions; waited for if missing, never created.
        stream: a TOML file that describes a stream of your own: topics, format, fields, label (docs/own-stream.md).
        start_at: where a new run begins, by the records' time in Kafka; later starts go on where it stood.
        state_dir: checkpoints, prediction log and the live database of one run.
        trainer: all that decides the bits.
        batch_size: interactions of a mini-batch.
        run_id: key prefix of the run's metrics. Default: the state directory's, else a new one.
        new_run: put the state directory's run aside and begin anew.
        metrics_topic: prequential metrics, one record a step.
        runtime_topic: rates, lag and latency, one record every two seconds.
        dead_letter_topic: records that are no interactions.
        batch_timeout: seconds that close a partial mini-batch on a slow live stream; in a run until the end the clock closes none.
        idle_timeout: seconds that the other partitions wait for a silent one.
        max_ahead: records of a live stream whose event time lies more seconds beyond the clock go to the dead-letter topic.
        until_end: stop at the end of what the topic's present partitions hold now; train the last partial mini-batch.
        checkpoint_every: steps between checkpoints.
        checkpoint_seconds: seconds between checkpoints, if something was trained meanwhile; whichever of the two comes first.
        checkpoints_kept: checkpoints that stay.
        cache_bytes: memory of the row cache.
        predictions_kept: interactions in the prediction log (for `report`), about 60 bytes each; 0 switches it off.
        exactly_once: metrics and dead letters in Kafka transactions (Apache Kafka only).
        metrics_format: format of both metrics topics.
        threads: threads of torch (every preset but stream). Default: the checkpoint's, else torch's own.
        offline_fraction: what `trainer.offline` was computed from, so that a resumed run need not count again.
    """

    topic: str = "interactions"
    stream: StreamDescription | None = None
    start_at: StartAt = None
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
        if self.stream is not None and self.topic != self.stream.topics[0]:
            raise ConfigurationError(f"topic is {self.topic!r}", why=f"the stream's first is {self.stream.topics[0]!r}")
        if not self.checkpoint_seconds > 0:
            raise ConfigurationError(f"checkpoint_seconds is {self.checkpoint_seconds}", why="it must be above 0")

    @property
    def topics(self) -> tuple[str, ...]:
        """All input topics."""
        return (self.topic,) if self.stream is None else self.stream.topics

    @property
    def events_kept(self) -> int:
        """So many events' ids are remembered, to recognise re-deliveries."""
        return 0 if self.stream is None else self.stream.events_kept

    def bits(self) -> dict[str, Any]:
        """All that decides parameters and metrics, once the stream is given; a resumed run must have the same."""
        described = {} if self.stream is None else {"stream": asdict(self.stream)}
        start = {} if self.start_at is None else {"start_at": self.start_at}
        trainer = asdict(self.trainer)
        del trainer["learner"]["device"]
        names = ("topic", "batch_size", "metrics_topic", "dead_letter_topic", "offline_fraction")
        return flatten({**{name: getattr(self, name) for name in names}, **described, **start, **trainer})


def run_config(options: Mapping[str, Any]) -> RunConfig:
    """A run from options named as the fields of the configurations; see `trainer_config` for the trainer's.

    What is absent or None has its field's default; without ``state_dir`` the run lives in autoemb-state/TOPIC/METHOD-TASK, and without
    ``dead_letter_topic`` its dead letters go to TOPIC.dlq. The offline stage is `with_offline_stage`'s.

    A ``stream`` gives the topics and what is positive, where the options do not.

    Raises:
        ConfigurationError: an unknown setting, or a value that cannot be used.
    """
    if options.get("stream") is not None:
        options = _with_stream(options, options["stream"])
    trainer = trainer_config(options)
    given = _given((f.name for f in fields(RunConfig)), options)
    topic = given.setdefault("topic", "interactions")
    folder = Path("autoemb-state") / topic / f"{trainer.learner.method}-{trainer.learner.task}"
    return RunConfig(**{"state_dir": folder, "dead_letter_topic": f"{topic}.dlq", **given, "trainer": trainer})


def _with_stream(options: Mapping[str, Any], stream: StreamDescription) -> dict[str, Any]:
    """The options with what the stream's description says, where they themselves say nothing."""
    label = None if stream.record is None else stream.record.label
    if label is not None and not label.is_number and options.get("task") == "rating":
        raise ConfigurationError(
            f"The rating task cannot be trained on the label {dotted(label.field)!r}",
            why="it is positive or negative, and the task predicts one of five classes",
            remedy="use --task binary, or describe a numeric label: [label] positive_above = 3.5",
        )
    if label is not None and not label.is_number and options.get("positive_above") is not None:
        raise ConfigurationError(
            f"--positive-above {options['positive_above']:g} with the label {dotted(label.field)!r}",
            why="the stream describes it as a flag, or as types of events: it is no number",
            remedy="leave the option out, or describe a numeric label: [label] positive_above = 3.5",
        )
    topic = options.get("topic")
    stream = stream if topic is None else replace(stream, topics=(topic,))
    described = {"topic": stream.topics[0], "stream": stream}
    if label is not None and options.get("positive_above") is None:
        described["positive_above"] = label.threshold
    return {**options, **described}


def trainer_config(options: Mapping[str, Any]) -> TrainerConfig:
    """All that decides a run's bits but the offline stage.

    Its options are ``mode`` and ``ttl_days`` of the context, ``window``, ``fading``, ``positive_above``, and those of `learner_config`.
    """
    learner = learner_config(options)
    return TrainerConfig(
        learner=learner,
        context=ContextConfig(spaces=len(learner.dims), with_classes=learner.task == "rating", **_given(("mode", "ttl_days"), options)),
        prequential=PrequentialConfig(task=learner.task, **_given(("window", "fading"), options)),
        **_given(("positive_above",), options),
    )


def learner_config(options: Mapping[str, Any]) -> LearnerConfig:
    """The learner of the option ``preset``, changed by ``settings`` (texts NAME=VALUE) and by the options named in `LEARNER_OPTIONS`.

    Raises:
        ConfigurationError: a setting that the preset has not, a value that cannot be used, a device that is not there, or a memory budget
            that cannot be kept.
    """
    preset = options["preset"]
    changes = parse_settings(preset, options.get("settings", ())) | _given(LEARNER_OPTIONS, options)
    if "device" in changes:
        changes["device"] = resolve_device(changes["device"], uses_torch=learner_class(preset).uses_torch)
    learner = from_preset(preset, **changes)
    check_learner(learner)
    return learner


def _given(names: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in names if options.get(name) is not None}


def with_offline_stage(
    config: RunConfig, *, until: OfflineStage | None, fraction: float | None, epochs: int, record_count: Callable[[], int]
) -> RunConfig:
    """The configuration with its offline stage.

    Args:
        config: the run's.
        until: where the stage ends.
        fraction: the same, as a part of the records that the topic held when the run began.
        epochs: how often the stage is read.
        record_count: counts the records that the topic holds now; asked by a new run with a fraction.

    Raises:
        ConfigurationError: both given, a fraction of a stream without end, or several epochs over what cannot be read again.
    """
    if fraction is None:
        return replace(config, trainer=replace(config.trainer, offline=until, offline_epochs=epochs))
    if until is not None or not config.until_end:
        raise ConfigurationError(
            "--offline-fraction cannot be used so",
            why="it is a part of all records between the topic's beginning and its end",
            remedy="give it with --until-end and without --offline-until",
        )
    if config.start_at is not None:
        raise ConfigurationError(
            "--offline-fraction cannot be used with --from",
            why="it is a part of all that the topic holds, and the run begins later",
            remedy="give the stage's end with --offline-until",
        )
    identity = None if config.new_run else read_identity(config.state_dir)
    if identity is not None and identity.configuration.get("offline_fraction") == fraction:
        count = identity.configuration["offline.count"]
    else:
        count = int(fraction * record_count())
    trainer = replace(config.trainer, offline=OfflineStage(count=count), offline_epochs=epochs)
    return replace(config, trainer=trainer, offline_fraction=fraction)


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
        decoder: of a chunk of records' values; or one value to its interaction.
        topic_id: the interactions topic's; those of several separated by commas.
        registry: for Avro metrics in the registry's wire format.
        stop: asked between polls.
        observers: see `autoemb_pipeline.reporting.RuntimeReporter`.
        check_interval: seconds between two looks at the topic's id and its number of partitions.
    """

    kafka: Mapping[str, str]
    decoder: ChunkDecoder | Callable[[bytes], Interaction]
    topic_id: str
    registry: RegistryCodec | None = None
    stop: Callable[[], bool] = lambda: False
    observers: tuple[Observer, ...] = ()
    check_interval: float = 5.0
