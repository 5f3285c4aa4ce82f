"""How the parts of a run are built, wired and closed, from its state directory outwards."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from autoemb_pipeline.batching import Batcher
from autoemb_pipeline.checkpoint.identity import RunIdentity, new_run_id, open_identity
from autoemb_pipeline.checkpoint.lock import state_lock
from autoemb_pipeline.checkpoint.manager import CheckpointManager
from autoemb_pipeline.checkpoint.outputs import OutputTopics
from autoemb_pipeline.checkpoint.resume import Resumed, resume
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.config import Ports, RunConfig
from autoemb_pipeline.epochs import Epochs
from autoemb_pipeline.meter import Meter
from autoemb_pipeline.records import RunPosition
from autoemb_pipeline.redaction import keep_settings_secret
from autoemb_pipeline.reporting import RuntimeReporter
from autoemb_pipeline.sink.dead_letters import DeadLetterSink
from autoemb_pipeline.sink.emitter import Emitter
from autoemb_pipeline.sink.metrics import MetricsSink
from autoemb_pipeline.sink.prediction_log import PredictionLog
from autoemb_pipeline.sink.producer import IdempotentProducer, RecordProducer
from autoemb_pipeline.sink.runtime import RuntimeSink
from autoemb_pipeline.sink.transactions import TransactionalProducer
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.kafka import KafkaSource
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.trainer import Trainer, trainer_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What the main path works with.

    Attributes:
        run_id: key prefix of its metrics.
        batches: the mini-batches of all epochs in turn; None after each wait without one.
        source: of the first reading.
        epochs: where the run stands.
        trainer, predictions, emitter, checkpoints, reporter: what every mini-batch passes through, in this order.
        meter: latencies and rates.
    """

    run_id: str
    batches: Generator[MiniBatch | None, None, None]
    source: KafkaSource
    epochs: Epochs
    trainer: Trainer
    predictions: PredictionLog
    emitter: Emitter
    checkpoints: CheckpointManager
    reporter: RuntimeReporter
    meter: Meter


@contextmanager
def build(config: RunConfig, ports: Ports) -> Iterator[Run]:
    """Locks the state directory, finds where to go on, and builds every part there; lets go of all of them at the end.

    Raises:
        AutoembError: the directory is in use or holds another run, the topic is another one, the broker does not answer, ...
    """
    keep_settings_secret(ports.kafka)
    outputs = OutputTopics(kafka=ports.kafka, metrics=config.metrics_topic, dead_letters=config.dead_letter_topic, registry=ports.registry)
    with state_lock(config.state_dir), ExitStack() as closing:
        identity = open_identity(
            config.state_dir,
            _identity(config, ports),
            explicit_run_id=config.run_id,
            new_run=config.new_run,
            outputs=outputs.ends,
        )
        # Before reading how far the run got: opening it ends what an earlier trainer of the run left open.
        producer = closing.enter_context(_producer(config, ports, identity.run_id))
        store = CheckpointStore(config.state_dir, keep=config.checkpoints_kept)
        resumed = resume(store, identity, outputs, learner=config.trainer.learner, threads=config.threads)
        yield _connect(config, ports, closing, store=store, producer=producer, outputs=outputs, resumed=resumed)


def _identity(config: RunConfig, ports: Ports) -> RunIdentity:
    learner = config.trainer.learner
    return RunIdentity(
        run_id=config.run_id or new_run_id(learner.method, learner.task),
        configuration=config.bits(),
        topic_id=ports.topic_id,
        metrics_start=0,
        dead_letters_start=0,
    )


def _producer(config: RunConfig, ports: Ports, run_id: str) -> RecordProducer:
    return TransactionalProducer(ports.kafka, run_id=run_id) if config.exactly_once else IdempotentProducer(ports.kafka)


def _connect(
    config: RunConfig,
    ports: Ports,
    closing: ExitStack,
    *,
    store: CheckpointStore,
    producer: RecordProducer,
    outputs: OutputTopics,
    resumed: Resumed,
) -> Run:
    rows, trainer = _restore(config, closing, store, resumed)
    source = closing.enter_context(_source(config, ports, resumed, _with_refused(resumed)))
    epochs = _epochs(config, resumed, trainer.examples)
    batches = epochs.read(source, lambda position: _source(replace(config, until_end=True), ports, resumed, position))
    closing.callback(batches.close)
    predictions = _predictions(config, resumed)
    emitter = _emitter(config, ports, producer, resumed)
    checkpoints = CheckpointManager(
        every=config.checkpoint_every,
        seconds=config.checkpoint_seconds,
        state_dir=config.state_dir,
        resumed=resumed,
        learner=config.trainer.learner,
        writer=_writer(closing, store),
        trainer=trainer,
        rows=rows,
        epochs=epochs,
        source=source,
        emitter=emitter,
        predictions=predictions,
        outputs=outputs,
    )
    meter, run_id = Meter(), resumed.identity.run_id
    runtime, observers = _runtime(config, ports, closing), ports.observers
    reporter = RuntimeReporter(
        run_id=run_id, meter=meter, runtime=runtime, checkpoints=checkpoints, source=source, epochs=epochs, observers=observers
    )
    return Run(
        run_id=run_id,
        batches=batches,
        source=source,
        epochs=epochs,
        trainer=trainer,
        predictions=predictions,
        emitter=emitter,
        checkpoints=checkpoints,
        reporter=reporter,
        meter=meter,
    )


def _emitter(config: RunConfig, ports: Ports, producer: RecordProducer, resumed: Resumed) -> Emitter:
    return Emitter(
        producer,
        MetricsSink(producer, config.metrics_topic, form=config.metrics_format, registry=ports.registry),
        DeadLetterSink(producer, config.dead_letter_topic),
        run_id=resumed.identity.run_id,
        last_step=resumed.last_step,
        recorded_examples=resumed.recorded_examples,
        known_letters=resumed.known_letters,
    )


def _runtime(config: RunConfig, ports: Ports, closing: ExitStack) -> RuntimeSink:
    runtime = RuntimeSink(ports.kafka, config.runtime_topic, form=config.metrics_format, registry=ports.registry)
    closing.callback(runtime.close)
    return runtime


def _predictions(config: RunConfig, resumed: Resumed) -> PredictionLog:
    learner = config.trainer.learner
    predictions = PredictionLog(config.state_dir / "predictions", dims=learner.dims, task=learner.task, limit=config.predictions_kept)
    predictions.truncate_to(resumed.step)
    return predictions


def _restore(config: RunConfig, closing: ExitStack, store: CheckpointStore, resumed: Resumed) -> tuple[RocksRowStore, Trainer]:
    checkpoint = resumed.checkpoint
    rocks = RocksConfig(directory=store.live, source=None if checkpoint is None else checkpoint.rows, cache_bytes=config.cache_bytes)
    rows = RocksRowStore(rocks, trainer_tables(config.trainer))
    closing.callback(rows.close)
    trainer = Trainer(config.trainer, rows)
    if checkpoint is not None:
        trainer.restore(checkpoint.tensors, checkpoint.payload["trainer"])
    return rows, trainer


def _epochs(config: RunConfig, resumed: Resumed, examples: int) -> Epochs:
    position, epochs = resumed.position, config.trainer.offline_epochs
    read_once = position.offline_end is not None
    first = Batcher(
        batch_size=config.batch_size,
        position=position,
        step=resumed.step,
        recorded=resumed.recorded,
        batch_timeout=None if config.until_end else config.batch_timeout,
        offline=None if read_once else config.trainer.offline,
        examples=examples,
        pauses=epochs > 1 and not read_once,
        paused_at=resumed.paused_at,
        events_kept=config.events_kept,
    )
    return Epochs(first, position, epochs=epochs, batch_size=config.batch_size, events_kept=config.events_kept)


def _with_refused(resumed: Resumed) -> RunPosition:
    """The position for reading on: beyond it, too, some records were refused already."""
    partitions = {*resumed.position.refused, *resumed.refused}
    known = (resumed.position.refused, resumed.refused)
    return replace(resumed.position, refused={p: frozenset().union(*(offsets.get(p, ()) for offsets in known)) for p in partitions})


def _source(config: RunConfig, ports: Ports, resumed: Resumed, position: RunPosition) -> KafkaSource:
    settings = SourceConfig(
        topic=config.topic,
        further_topics=config.topics[1:],
        start_at=config.start_at,
        run_id=resumed.identity.run_id,
        until_end=config.until_end,
        idle_timeout=config.idle_timeout,
        max_ahead=config.max_ahead,
        topic_id=resumed.identity.topic_id,
        check_interval=ports.check_interval,
    )
    return KafkaSource(settings, ports.kafka, ports.decoder, position)


def _writer(closing: ExitStack, store: CheckpointStore) -> CheckpointWriter:
    writer = CheckpointWriter(store)
    closing.callback(writer.close)
    return writer
