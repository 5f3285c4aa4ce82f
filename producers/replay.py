"""Sends a sorted dataset to a topic: every interaction exactly once, in order, without a gap, also over crashes.

How: an idempotent producer that waits for ever rather than drop a record (``message.timeout.ms=0``), stops at the first delivery error, and
on resume goes on per partition behind that partition's own last record (`producers.resume`). Idempotence alone would not prevent gaps:
a record that times out is missing while later ones are accepted. Nor doubles: a broker that restarts forgets producers whose last record's
*time* is a day old, as event times are, and accepts a retried batch again. So a lost connection ends the producer, and a new one goes on
behind what the topic holds.

Record: key = user id, partition = Java's murmur2 of the key, value = the encoded interaction, one header with the dataset's fingerprint,
timestamp = event time. Event time 0 becomes record time 1 ms, because librdkafka takes 0 as "now"; the value keeps the 0, and order
is decided by the value alone.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer

from autoemb_pipeline.columns import Block
from autoemb_pipeline.errors import BrokerError, ConfigurationError, DatasetError, DeliveryError, TopicError
from autoemb_pipeline.kafka.errors import attempt
from autoemb_pipeline.kafka.settings import open_producer
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.delivery import Trouble, replay_settings
from autoemb_pipeline.producers.resume import ResumePoints, resume_points, unsent
from autoemb_pipeline.producers.topic_reader import FINGERPRINT_HEADER, Decode, InteractionReader
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import decode_interaction
from autoemb_pipeline.schemas.columnar import encode_block

Encode = Callable[[Interaction], bytes]
EncodeBlock = Callable[[Block], Sequence[bytes]]

# records between two looks at delivery errors, the clock and the stop flag
_STRIDE: Final = 256
_REPORT_SECONDS: Final = 0.1
# pause while the buffer is full
_FULL_SECONDS: Final = 0.01
# before the topic's end is read again: what a living broker had received by then is in it
_SETTLE_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """What to send, how fast.

    Attributes:
        topic: exists already (``autoemb_pipeline.ops.topics.ensure_interactions_topic``).
        partitions: the number of partitions the topic must have; None: whatever it has.
        speed: multiple of event time (60: an hour of it a minute); None: as fast as the broker takes it.
        limit, from_ms, until_ms: see `SortedDataset.select`.
        flush_seconds: how long a stopped replay waits for acknowledgements.
        buffer_messages, buffer_kbytes: bounds of the records waiting to be acknowledged.
    """

    topic: str = "interactions"
    partitions: int | None = None
    speed: float | None = None
    limit: int | None = None
    from_ms: int | None = None
    until_ms: int | None = None
    flush_seconds: float = 30.0
    buffer_messages: int = 100_000
    buffer_kbytes: int = 65_536

    def __post_init__(self) -> None:
        """Refuses impossible settings; the time range is checked against the dataset."""
        if self.partitions is not None and self.partitions < 1:
            raise ConfigurationError(f"{self.partitions} partitions", why="a topic has at least one", remedy="give --partitions 1 or more")
        if self.speed is not None and not 0 < self.speed < math.inf:
            raise ConfigurationError(f"speed {self.speed}", why="not a positive number", remedy="give --speed max, or e.g. --speed 3600")
        if self.buffer_messages < 1 or self.buffer_kbytes < 1 or self.flush_seconds < 0:
            raise ConfigurationError("a buffer or a wait below its least value", why="nothing could be sent", remedy="use the defaults")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayProgress:
    """Where a running replay is.

    Attributes:
        total: interactions selected.
        already: of these, in the topic before this run.
        acknowledged: of these, accepted by the broker in this run.
        event_time: of the newest interaction sent, ms; None before the first.
        note: the newest trouble with the broker while nothing is acknowledged, else empty.
    """

    total: int
    already: int
    acknowledged: int
    event_time: int | None
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayResult:
    """How a replay ended.

    Attributes:
        status: ``complete``: this run sent the rest; ``already-complete``: nothing was left to send; ``stopped``: by ``stop()``.
        topic, partitions: where it went.
        dataset, fingerprint: what went there.
        total, already: as in `ReplayProgress`.
        sent: interactions acknowledged in this run.
        unacknowledged: sent, but not acknowledged when a stopped replay gave up waiting; the next run finds out which arrived.
        next_sequence: where a stopped replay goes on; None when complete.
        event_time: of the last interaction sent, ms; None when none was.
        seconds: duration of the sending.
    """

    status: Literal["complete", "already-complete", "stopped"]
    topic: str
    partitions: int
    dataset: str
    fingerprint: str
    total: int
    already: int
    sent: int = 0
    unacknowledged: int = 0
    next_sequence: int | None = None
    event_time: int | None = None
    seconds: float = 0.0


def replay(
    dataset: SortedDataset,
    config: ReplayConfig,
    *,
    kafka: Mapping[str, str],
    progress: Callable[[ReplayProgress], None] = lambda _progress: None,
    stop: Callable[[], bool] = lambda: False,
    encode: Encode | None = None,
    decode: Decode = decode_interaction,
) -> ReplayResult:
    """Sends what the topic lacks of the selected interactions, and proves afterwards that it holds each exactly once.

    Args:
        dataset: what to send.
        config: what of it, where to, how fast.
        kafka: librdkafka settings; those that guarantee order and completeness are ours.
        progress: called about ten times a second.
        stop: asked about as often; True flushes and returns.
        encode, decode: of the records' values, with a schema registry; None: Avro single-object encoding.

    Raises:
        TopicError: no such topic, another number of partitions, or other contents than a beginning of this dataset.
        DeliveryError: the broker refused a record; everything before it in its partition was accepted, nothing behind it.
        BrokerError: no broker answers.
    """
    selection = dataset.select(limit=config.limit, from_ms=config.from_ms, until_ms=config.until_ms)
    if not selection and config.limit != 0:
        raise DatasetError(
            f"{dataset.name} has no interaction in the time asked for", why=_span(dataset), remedy="change --from and --until"
        )
    reader = InteractionReader(kafka, config.topic, decode)
    try:
        partitions = _partitions(reader, config)
        points = resume_points(reader, dataset, selection, partitions)
        sender = _Sender(dataset, config, selection, partitions, points, kafka, _of_blocks(encode), reader)
        if not points.following:
            return sender.result("already-complete")
        if not sender.run(progress, stop):
            return sender.result("stopped")
        after = resume_points(reader, dataset, selection, partitions)
        if after.following:
            raise TopicError(
                f"topic {config.topic} does not hold all that was acknowledged",
                why=f"missing from sequence {min(after.following.values())} on: deleted meanwhile, or lost by the broker",
                remedy="check the topic's retention and the broker's log, then replay into another topic",
            )
        return sender.result("complete")
    finally:
        reader.close()


def _of_blocks(encode: Encode | None) -> EncodeBlock:
    if encode is None:
        return lambda block: encode_block(block).values()
    return lambda block: [encode(interaction) for interaction in block.interactions()]


def _partitions(reader: InteractionReader, config: ReplayConfig) -> int:
    partitions = reader.partitions()
    if config.partitions is not None and partitions != config.partitions:
        raise TopicError(
            f"topic {config.topic} has {partitions} partitions, not {config.partitions}",
            why="the users of a topic cannot be moved to other partitions",
            remedy=f"give --partitions {partitions}, or another topic with --topic",
        )
    return partitions


def _span(dataset: SortedDataset) -> str:
    ends = (next(dataset.interactions(range(s, s + 1))).timestamp / 1000 for s in (0, dataset.length - 1))
    first, last = (datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") for seconds in ends)
    return f"it begins at {first} and ends at {last}"


class _Sender:
    """One run: from the resume points to the selection's end, or to a stop."""

    def __init__(
        self,
        dataset: SortedDataset,
        config: ReplayConfig,
        selection: range,
        partitions: int,
        points: ResumePoints,
        kafka: Mapping[str, str],
        encode: EncodeBlock,
        reader: InteractionReader,
    ) -> None:
        self._reader, self._already = reader, points.present
        self._dataset, self._config, self._selection, self._partitions = dataset, config, selection, partitions
        self._points, self._encode = points, encode
        self._trouble = Trouble()
        self._kafka = kafka
        self._sent = self._unacknowledged = self._acknowledged = self._began_at = 0
        self._next: int | None = min(points.following.values(), default=None)
        self._event_time: int | None = None
        self._seconds = 0.0
        self._reported = -math.inf

    def result(self, status: Literal["complete", "already-complete", "stopped"]) -> ReplayResult:
        return ReplayResult(
            status=status,
            topic=self._config.topic,
            partitions=self._partitions,
            dataset=self._dataset.name,
            fingerprint=self._dataset.fingerprint,
            total=len(self._selection),
            already=self._already,
            sent=self._sent - self._unacknowledged,
            unacknowledged=self._unacknowledged,
            next_sequence=self._next if status == "stopped" else None,
            event_time=self._event_time,
            seconds=self._seconds,
        )

    def run(self, progress: Callable[[ReplayProgress], None], stop: Callable[[], bool]) -> bool:
        """Sends until the end (True) or a stop (False)."""
        begun = time.monotonic()
        try:
            while True:
                finished = self._attempt(progress, stop)
                if finished is not None:
                    return finished
                if not self._look_again(progress, stop):
                    return False
        finally:
            self._seconds = time.monotonic() - begun

    def _attempt(self, progress: Callable[[ReplayProgress], None], stop: Callable[[], bool]) -> bool | None:
        """One producer's life: to the end (True), a stop (False), or a lost connection (None)."""
        self._trouble, self._began_at = Trouble(), self._sent
        producer = open_producer(
            replay_settings(self._kafka, self._trouble, messages=self._config.buffer_messages, kbytes=self._config.buffer_kbytes)
        )
        try:
            finished = self._send_all(producer, progress, stop) and self._await_all(producer, progress, stop)
            if not finished and self._trouble.lost and not stop():
                self._unacknowledged = len(producer)
                return None
            if not finished:
                self._flush_stopped(producer)
        except KafkaException as error:
            # once the producer has failed for good, each of its calls says so
            self._raise(error.args[0])
        else:
            return finished
        finally:
            # on any way out nothing may be sent any more: a destroyed producer would still deliver what waits
            self._trouble.discarding = True
            producer.purge()
            attempt(producer.flush, 1.0)

    def _look_again(self, progress: Callable[[ReplayProgress], None], stop: Callable[[], bool]) -> bool:
        """Waits for the broker and finds out what of the sent arrived. False: stopped meanwhile."""
        while not stop():
            self._show(progress)
            time.sleep(_SETTLE_SECONDS)
            try:
                self._reader.partitions()
                self._points = resume_points(self._reader, self._dataset, self._selection, self._partitions)
            except BrokerError:
                continue
            self._sent, self._unacknowledged = self._points.present - self._already, 0
            self._next = min(self._points.following.values(), default=None)
            return True
        return False

    def _send_all(self, producer: Producer, progress: Callable[[ReplayProgress], None], stop: Callable[[], bool]) -> bool:
        pace = self._pace(self._next or 0)
        produce, countdown = producer.produce, 0
        topic, headers = self._config.topic, [(FINGERPRINT_HEADER, self._dataset.fingerprint.encode())]
        for partitions, block in unsent(self._dataset, self._selection, self._points, self._partitions):
            columns = block.user_ids.to_list(), partitions.tolist(), block.time.tolist(), block.sequence.tolist()
            for value, key, partition, timestamp, sequence in zip(self._encode(block), *columns, strict=True):
                if countdown == 0 or pace is not None:
                    if not self._tend(producer, progress, stop, due=pace and pace(timestamp)):
                        return False
                    countdown = _STRIDE
                countdown -= 1
                while True:
                    try:
                        produce(topic, value, key, partition, timestamp=timestamp or 1, headers=headers)
                        break
                    except BufferError:
                        if not self._tend(producer, progress, stop, due=time.monotonic() + _FULL_SECONDS):
                            return False
                    except KafkaException as error:
                        self._raise(error.args[0], sequence)
                self._sent += 1
                self._next, self._event_time = sequence + 1, timestamp
        return True

    def _pace(self, first: int) -> Callable[[int], float] | None:
        """Event time -> when to send, on the monotonic clock; None at full speed."""
        speed = self._config.speed
        if speed is None:
            return None
        origin = next(self._dataset.interactions(range(first, first + 1))).timestamp
        begun = time.monotonic()
        return lambda timestamp: begun + (timestamp - origin) / 1000 / speed

    def _tend(
        self, producer: Producer, progress: Callable[[ReplayProgress], None], stop: Callable[[], bool], *, due: float | None = None
    ) -> bool:
        """Serves callbacks, raises a delivery error, reports, and waits until ``due``. False: stop now."""
        while True:
            now = time.monotonic()
            wait = 0.0 if due is None else min(_REPORT_SECONDS, max(0.0, due - now))
            producer.poll(wait)
            self._trouble.established |= self._sent - len(producer) > self._began_at
            if self._trouble.error is not None:
                self._raise(self._trouble.error)
            self._report(producer, progress, now=now)
            if stop() or self._trouble.lost:
                return False
            if due is None or time.monotonic() >= due or wait == 0.0:
                return True

    def _await_all(self, producer: Producer, progress: Callable[[ReplayProgress], None], stop: Callable[[], bool]) -> bool:
        while len(producer):
            producer.flush(_REPORT_SECONDS)
            if not self._tend(producer, progress, stop):
                return False
        self._tend(producer, progress, lambda: False)
        self._report(producer, progress, now=math.inf)
        return True

    def _flush_stopped(self, producer: Producer) -> None:
        self._unacknowledged = producer.flush(self._config.flush_seconds)
        if self._trouble.error is not None:
            self._raise(self._trouble.error)

    def _report(self, producer: Producer, progress: Callable[[ReplayProgress], None], *, now: float) -> None:
        if now - self._reported < _REPORT_SECONDS:
            return
        self._reported = now
        acknowledged = self._sent - len(producer)
        if acknowledged > self._acknowledged:
            self._trouble.note = ""
        self._acknowledged = acknowledged
        self._show(progress)

    def _show(self, progress: Callable[[ReplayProgress], None]) -> None:
        progress(
            ReplayProgress(
                total=len(self._selection),
                already=self._already,
                acknowledged=self._acknowledged,
                event_time=self._event_time,
                note=self._trouble.note,
            )
        )

    def _raise(self, error: KafkaError, sequence: int | None = None) -> NoReturn:
        message = self._trouble.message
        where = "" if message is None else f" for partition {message.partition()}"
        which = f"a record{where}" if sequence is None else f"interaction {sequence}"
        raise DeliveryError(
            f"the broker refused {which} of {self._dataset.name}",
            why=f"{error.name()}: {error.str()}",
            remedy=f"mend the cause (settings of topic {self._config.topic}, the broker's log) and run the replay again: it resumes",
        )
