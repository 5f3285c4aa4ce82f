"""One run of a replay: from the resume points to the selection's end, or to a stop, over as many producers as connections are lost."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, NoReturn

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Producer

from autoemb_pipeline.columns import Integers
from autoemb_pipeline.errors import BrokerError, DeliveryError
from autoemb_pipeline.kafka.errors import attempt
from autoemb_pipeline.kafka.settings import open_producer
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.delivery import Outgoing, Trouble, replay_settings, unacknowledged
from autoemb_pipeline.producers.progress import ReplayProgress, ReplayResult
from autoemb_pipeline.producers.resume import ResumePoints, resume_points, unsent
from autoemb_pipeline.producers.topic_reader import InteractionReader
from autoemb_pipeline.records import FloatArray

# records between two looks at delivery errors, the clock and the stop flag: some 10 ms
_STRIDE: Final = 2048
_REPORT_SECONDS: Final = 0.1
# pause while the buffer is full
_FULL_SECONDS: Final = 0.01
# before the topic's end is read again: what a living broker had received by then is in it
_SETTLE_SECONDS: Final = 0.5


class Sender:
    """One run: from the resume points to the selection's end, or to a stop."""

    def __init__(
        self,
        dataset: SortedDataset,
        config: ReplayConfig,
        selection: range,
        partitions: int,
        points: ResumePoints,
        kafka: Mapping[str, str],
        header: bytes,
        reader: InteractionReader,
    ) -> None:
        self._reader, self._already = reader, points.present
        self._dataset, self._config, self._selection, self._partitions = dataset, config, selection, partitions
        self._points, self._header = points, header
        self._trouble = Trouble()
        self._kafka = kafka
        self._sent = self._unacknowledged = self._acknowledged = self._began_at = 0
        self._next: int | None = min(points.following.values(), default=None)
        self._event_time: int | None = None
        self._seconds = 0.0
        self._reported = -math.inf

    def result(self, status: Literal["complete", "already-complete", "stopped"]) -> ReplayResult:
        """How the replay ended."""
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
                self._unacknowledged = unacknowledged(producer)
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
        for partitions, block in unsent(self._dataset, self._selection, self._points, self._partitions):
            records = Outgoing(block, partitions, header=self._header, topic=self._config.topic, fingerprint=self._dataset.fingerprint)
            moments = pace(block.time) if pace else None
            row, full = 0, False
            while row < len(block):
                due = time.monotonic() + _FULL_SECONDS if full else None if moments is None else float(moments[row])
                if not self._tend(producer, progress, stop, due=due):
                    return False
                end = min(row + _STRIDE, len(block) if moments is None else max(row + 1, _count_due(moments)))
                taken = records.hand_over(producer, slice(row, end))
                if taken.refusal is not None:
                    self._raise(taken.refusal, int(block.sequence[taken.stop]))
                if taken.stop > row:
                    self._sent += taken.stop - row
                    self._next, self._event_time = int(block.sequence[taken.stop - 1]) + 1, int(block.time[taken.stop - 1])
                row, full = taken.stop, taken.stop < end
        return True

    def _pace(self, first: int) -> Callable[[Integers], FloatArray] | None:
        """Event times -> when to send, on the monotonic clock; None at full speed."""
        speed = self._config.speed
        if speed is None:
            return None
        origin = next(self._dataset.interactions(range(first, first + 1))).timestamp
        begun = time.monotonic()
        return lambda times: begun + (times - origin) / 1000 / speed

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
        producer.flush(self._config.flush_seconds)
        self._unacknowledged = unacknowledged(producer)
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


def _count_due(moments: FloatArray) -> int:
    """How many of these ascending moments are past."""
    return int(np.searchsorted(moments, time.monotonic(), side="right"))
