"""Watches the topic: is it the one the run began with, how many partitions has it, and which of librdkafka's errors end the run."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaError, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec

from autoemb_pipeline.errors import AutoembError, BrokerError, OffsetError, TopicError
from autoemb_pipeline.kafka.errors import NOT_YET, OUT_OF_RANGE, REFUSED, UNKNOWN_TOPIC, attempt, input_error
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.kafka.stalls import Throttle

_log = structlog.get_logger()

_NEW_RUN = "restore the topic, or start a new run: autoemb-pipeline train --new-run"
_SECONDS_BETWEEN_ATTEMPTS = 0.2
_SECONDS_UNTIL_MISSING = 2.0
_MISSES_BELIEVED = 2  # a broker that has just started may not know its topics yet


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicInfo:
    """What a broker says of a topic. topic_id: changes when the topic is deleted and made anew (KIP-516)."""

    topic_id: str
    partitions: int


class TopicGuard:
    """Knows the topic's id and what to do about an error.

    Args:
        kafka: librdkafka settings of the client.
        topic: its name.
        expected_id: the id it must have; None takes the first one seen.
        check_interval: seconds between two looks, made without waiting for the answer.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topic: str,
        *,
        expected_id: str | None,
        check_interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topic_id = expected_id
        self._servers = kafka.get("bootstrap.servers", "")
        self._topic = topic
        self._admin = quiet_admin({**kafka, "error_cb": self.on_global_error})
        self._interval = check_interval
        self._clock = clock
        self._due = clock() + check_interval
        self._asked: Future[Any] | None = None
        self._misses = 0
        self._partitions: int | None = None
        self._fatal: AutoembError | None = None
        self._throttle = Throttle()

    def describe(self, timeout: float) -> TopicInfo:
        """What the topic is now.

        Raises:
            TopicError: there is no such topic.
            OffsetError: it is another topic of the same name.
            BrokerError: no answer within `timeout` seconds, or a refusal.
        """
        description = attempt(self._ask(timeout).result, timeout + 1)
        if isinstance(description, KafkaError):
            raise self._explained(description)
        return self._judged(description)

    def describe_at_start(self, timeout: float) -> TopicInfo:
        """As `describe`, but a missing topic is looked for again for a moment: what was just created is not known everywhere at once."""
        deadline = self._clock() + _SECONDS_UNTIL_MISSING
        while True:
            try:
                return self.describe(timeout)
            except OffsetError:
                raise
            except TopicError:
                if self._clock() >= deadline:
                    raise
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)

    def earliest(self, partitions: Iterable[int], timeout: float) -> dict[int, int]:
        """Partition -> offset of its earliest record. Errors as `offsets`."""
        return self.offsets(partitions, OffsetSpec.earliest(), timeout)

    def records(self, partitions: Iterable[int], timeout: float) -> int:
        """Offsets between the beginnings and the high watermarks of these partitions. Errors as `earliest`."""
        requested = tuple(partitions)
        ends, starts = (self.offsets(requested, spec, timeout) for spec in (OffsetSpec.latest(), OffsetSpec.earliest()))
        return sum(ends[p] - starts[p] for p in requested)

    def offsets(self, partitions: Iterable[int], spec: OffsetSpec, timeout: float) -> dict[int, int]:
        """Partition -> offset that the broker names for it. Waits for leaders: a topic is described before its partitions are served.

        Raises:
            TopicError, BrokerError: as `describe`.
        """
        requested = {TopicPartition(self._topic, partition): spec for partition in partitions}
        deadline = self._clock() + timeout
        while True:
            futures = self._admin.list_offsets(requested, request_timeout=timeout)
            answers = {where.partition: attempt(future.result, timeout + 1) for where, future in futures.items()}
            error = next((answer for answer in answers.values() if isinstance(answer, KafkaError)), None)
            if error is None:
                return {partition: int(answer.offset) for partition, answer in answers.items()}
            if error.code() not in NOT_YET or self._clock() >= deadline:
                raise self._explained(error)
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)

    def tick(self) -> None:
        """Looks at the topic from time to time. Raises as `describe`, but outages pass, and a missing topic must be missed twice."""
        if self._fatal is not None:
            raise self._fatal
        now = self._clock()
        if self._asked is None:
            if now >= self._due:
                self._asked = self._ask(max(self._interval, 1.0))
            return
        if not self._asked.done():
            return
        asked, self._asked, self._due = self._asked, None, now + self._interval
        description = attempt(asked.result)
        if isinstance(description, KafkaError):
            self._missed(description)
        else:
            self._judged(description)

    def partitions_seen(self) -> int | None:
        """The number of partitions, once after each look that was answered; else None."""
        seen, self._partitions = self._partitions, None
        return seen

    def look_soon(self) -> None:
        """The next `tick` looks."""
        self._due = self._clock()

    def on_error(self, error: KafkaError, partition: int | None = None) -> None:
        """An error in place of a message: raises if it is final, else warns and lets librdkafka try again.

        Raises:
            OffsetError: the position is not in the log.
            TopicError: the topic is gone.
            BrokerError: refused for good.
        """
        code = error.code()
        if code in OUT_OF_RANGE:
            self._explain_out_of_range(error, partition)
        if code in UNKNOWN_TOPIC:
            self.look_soon()
        elif code in REFUSED or error.fatal():
            raise self._explained(error)
        self._warn(error, partition)

    def on_global_error(self, error: KafkaError) -> None:
        """librdkafka's error callback. Raising in it would be lost, so a final error is kept for the next `tick`."""
        if error.code() in REFUSED or error.fatal():
            self._fatal = self._explained(error)
        else:
            self._warn(error, None)

    def _ask(self, timeout: float) -> "Future[Any]":
        future: Future[Any] = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=timeout)[self._topic]
        return future

    def _judged(self, description: Any) -> TopicInfo:
        info = TopicInfo(topic_id=str(description.topic_id), partitions=len(description.partitions))
        self._misses = 0
        if self.topic_id is None:
            self.topic_id = info.topic_id
        self._partitions = info.partitions
        if info.topic_id != self.topic_id:
            raise OffsetError(
                f"Topic {self._topic!r} was deleted and made anew",
                why=f"its id is {info.topic_id}, and this run reads {self.topic_id}: its offsets mean other records",
                remedy=_NEW_RUN,
            )
        return info

    def _missed(self, error: KafkaError) -> None:
        if error.code() not in UNKNOWN_TOPIC:
            self._warn(error, None)
            return
        self._misses += 1
        self._due = self._clock() + min(1.0, self._interval)
        if self._misses >= _MISSES_BELIEVED:
            raise self._explained(error)

    def _explain_out_of_range(self, error: KafkaError, partition: int | None) -> None:
        with contextlib.suppress(BrokerError):
            self.describe(5.0)  # a topic made anew is the likelier cause, and the better explanation
        raise OffsetError(
            f"Partition {partition} of topic {self._topic!r} no longer holds the position this run needs",
            why=error.str(),
            remedy=_NEW_RUN,
        )

    def _explained(self, error: KafkaError) -> AutoembError:
        return input_error(self._servers, self._topic, error)

    def _warn(self, error: KafkaError, partition: int | None) -> None:
        if self._throttle.due(error.name(), self._clock()):
            _log.warning("kafka trouble, retrying", topic=self._topic, partition=partition, error=error.name(), detail=error.str())
