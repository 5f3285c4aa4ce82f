"""The parts of a run and how they are wired, from its state directory outwards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from pipeline.assembly.config import Ports, RunConfig
from pipeline.assembly.housekeeping import Housekeeping
from pipeline.batching import Batcher
from pipeline.checkpoint.identity import RunIdentity, new_run_id, open_identity
from pipeline.checkpoint.keeper import CheckpointKeeper
from pipeline.checkpoint.lock import state_lock
from pipeline.checkpoint.outputs import OutputTopics
from pipeline.checkpoint.resume import Resumed, resume
from pipeline.checkpoint.store import CheckpointStore
from pipeline.checkpoint.writer import CheckpointWriter
from pipeline.epochs import Epochs
from pipeline.meter import Meter
from pipeline.records import RunPosition
from pipeline.sink.dead_letters import DeadLetterSink
from pipeline.sink.emitter import Emitter
from pipeline.sink.metrics import MetricsSink
from pipeline.sink.prediction_log import PredictionLog
from pipeline.sink.producer import IdempotentProducer, RecordProducer
from pipeline.sink.runtime import RuntimeSink
from pipeline.sink.transactions import TransactionalProducer
from pipeline.source.config import SourceConfig
from pipeline.source.kafka import KafkaSource
from pipeline.state.options import RocksConfig
from pipeline.state.rocks import RocksRowStore
from pipeline.trainer import Trainer, trainer_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What the main path works with. passes: each pass's source and batcher, in turn."""

    run_id: str
    passes: Iterator[tuple[KafkaSource, Batcher]]
    epochs: Epochs
    trainer: Trainer
    predictions: PredictionLog
    emitter: Emitter
    keeper: CheckpointKeeper
    housekeeping: Housekeeping
    meter: Meter


@contextmanager
def assemble(config: RunConfig, ports: Ports) -> Iterator[Parts]:
    """Locks the state directory, finds where to go on, and builds every part there; lets go of all of them at the end.

    Raises:
        AutoembError: the directory is in use or holds another run, the topic is another one, the broker does not answer, ...
    """
    outputs = OutputTopics(kafka=ports.kafka, metrics=config.metrics_topic, dead_letters=config.dead_letter_topic, registry=ports.registry)
    with state_lock(config.state_dir), ExitStack() as closing:
        identity, new = open_identity(
            config.state_dir,
            _wanted(config, ports),
            explicit_run_id=config.run_id,
            new_run=config.new_run,
            outputs=outputs.ends,
        )
        # Before reading how far the run got: opening it ends what an earlier trainer of the run left open.
        producer = closing.enter_context(_producer(config, ports, identity.run_id))
        store = CheckpointStore(config.state_dir, keep=config.checkpoints_kept)
        resumed = resume(store, identity, outputs, new=new, device=config.trainer.learner.device, threads=config.threads)
        yield _connect(config, ports, closing, store=store, producer=producer, outputs=outputs, resumed=resumed)


def _wanted(config: RunConfig, ports: Ports) -> RunIdentity:
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
) -> Parts:
    run_id = resumed.identity.run_id
    rows, trainer = _restore(config, closing, store, resumed)
    source = closing.enter_context(_source(config, ports, resumed, _with_refused(resumed)))
    epochs = _epochs(config, resumed, trainer.examples)
    passes = epochs.passes(source, lambda position: _source(replace(config, until_end=True), ports, resumed, position))
    closing.callback(passes.close)
    predictions = _predictions(config, resumed)
    emitter = _emitter(config, ports, producer, resumed)
    keeper = CheckpointKeeper(
        every=config.checkpoint_every,
        state_dir=config.state_dir,
        resumed=resumed,
        device=config.trainer.learner.device,
        writer=_writer(closing, store),
        trainer=trainer,
        rows=rows,
        epochs=epochs,
        source=source,
        emitter=emitter,
        predictions=predictions,
        outputs=outputs,
    )
    meter = Meter()
    housekeeping = Housekeeping(
        run_id=run_id,
        meter=meter,
        runtime=_runtime(config, ports, closing),
        keeper=keeper,
        emitter=emitter,
        source=source,
        epochs=epochs,
        stop=ports.stop,
        observers=ports.observers,
    )
    return Parts(
        run_id=run_id,
        passes=passes,
        epochs=epochs,
        trainer=trainer,
        predictions=predictions,
        emitter=emitter,
        keeper=keeper,
        housekeeping=housekeeping,
        meter=meter,
    )


def _emitter(config: RunConfig, ports: Ports, producer: RecordProducer, resumed: Resumed) -> Emitter:
    return Emitter(
        producer,
        MetricsSink(producer, config.metrics_topic, form=config.metrics_format, registry=ports.registry),
        DeadLetterSink(producer, config.dead_letter_topic),
        run_id=resumed.identity.run_id,
        last_step=resumed.last_step,
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
    position, passes = resumed.position, config.trainer.offline_epochs
    read_once = position.offline_end is not None
    first = Batcher(
        batch_size=config.batch_size,
        position=position,
        step=resumed.step,
        recorded=resumed.recorded,
        batch_timeout=config.batch_timeout,
        offline=None if read_once else config.trainer.offline,
        examples=examples,
        pauses=passes > 1 and not read_once,
        paused_at=resumed.paused_at,
    )
    return Epochs(first, position, epochs=passes, batch_size=config.batch_size)


def _with_refused(resumed: Resumed) -> RunPosition:
    """The position for reading on: beyond it, too, some records were refused already."""
    partitions = {*resumed.position.refused, *resumed.refused}
    known = (resumed.position.refused, resumed.refused)
    return replace(resumed.position, refused={p: frozenset().union(*(of.get(p, ()) for of in known)) for p in partitions})


def _source(config: RunConfig, ports: Ports, resumed: Resumed, position: RunPosition) -> KafkaSource:
    settings = SourceConfig(
        topic=config.topic,
        run_id=resumed.identity.run_id,
        until_end=config.until_end,
        idle_timeout=config.idle_timeout,
        max_ahead=config.max_ahead,
        topic_id=resumed.identity.topic_id,
    )
    return KafkaSource(settings, ports.kafka, ports.decoder, position)


def _writer(closing: ExitStack, store: CheckpointStore) -> CheckpointWriter:
    writer = CheckpointWriter(store)
    closing.callback(writer.close)
    return writer
