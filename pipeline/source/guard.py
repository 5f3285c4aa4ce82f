"""Watches the topic: is it the one the run began with, how many partitions has it; and turns librdkafka's errors into this project's."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from autoemb_pipeline.errors import AutoembError, BrokerError, ConfigurationError, OffsetError, TopicError

_log = structlog.get_logger()

_NEW_RUN = "restore the topic, or start a new run: autoemb-pipeline train --new-run"
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}  # noqa: SLF001 # its names
_UNKNOWN_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
}
_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,  # noqa: SLF001
    KafkaError._SSL,  # noqa: SLF001
}
_SILENT = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}  # noqa: SLF001
_NOT_YET = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
}
_SECONDS_BETWEEN_ATTEMPTS = 0.2
_SECONDS_UNTIL_MISSING = 2.0
_SECONDS_BETWEEN_WARNINGS = 10.0
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
        # Kept for the guard's life: a garbage-collected AdminClient cancels its futures.
        try:
            self._admin = AdminClient({**kafka, "log_level": "0", "error_cb": self.on_global_error})
        except KafkaException as error:
            raise ConfigurationError("A Kafka setting cannot be used", why=error.args[0].str(), remedy="check --kafka-config") from error
        self._interval = check_interval
        self._clock = clock
        self._due = clock() + check_interval
        self._asked: Future[Any] | None = None
        self._misses = 0
        self._partitions: int | None = None
        self._fatal: AutoembError | None = None
        self._warned: dict[str, float] = {}

    def describe(self, timeout: float) -> TopicInfo:
        """What the topic is now.

        Raises:
            TopicError: there is no such topic.
            OffsetError: it is another topic of the same name.
            BrokerError: no answer within `timeout` seconds, or a refusal.
        """
        future = self._ask(timeout)
        try:
            return self._judged(future.result(timeout + 1))
        except KafkaException as error:
            raise self._translated(error.args[0]) from error
        except TimeoutError as error:
            raise self._no_answer("no answer") from error

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
        """Partition -> offset of its earliest record. Waits for leaders: a topic is described before its partitions are served.

        Raises:
            TopicError, BrokerError: as `describe`.
        """
        return self._offsets(partitions, OffsetSpec.earliest(), timeout)

    def records(self, partitions: Iterable[int], timeout: float) -> int:
        """Offsets between the beginnings and the high watermarks of these partitions. Errors as `earliest`."""
        wanted = tuple(partitions)
        ends, starts = (self._offsets(wanted, spec, timeout) for spec in (OffsetSpec.latest(), OffsetSpec.earliest()))
        return sum(ends[p] - starts[p] for p in wanted)

    def _offsets(self, partitions: Iterable[int], spec: OffsetSpec, timeout: float) -> dict[int, int]:
        wanted = {TopicPartition(self._topic, partition): spec for partition in partitions}
        deadline = self._clock() + timeout
        while True:
            futures = self._admin.list_offsets(wanted, request_timeout=timeout)
            try:
                return {at.partition: int(future.result(timeout + 1).offset) for at, future in futures.items()}
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or self._clock() >= deadline:
                    raise self._translated(error.args[0]) from error
            except TimeoutError as error:
                raise self._no_answer("no answer") from error
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
        try:
            self._judged(asked.result())
        except KafkaException as error:
            self._missed(error)

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
        if code in _OUT_OF_RANGE:
            self._explain_out_of_range(error, partition)
        if code in _UNKNOWN_TOPIC:
            self.look_soon()
        elif code in _REFUSED or error.fatal():
            raise self._translated(error)
        self._warn(error, partition)

    def on_global_error(self, error: KafkaError) -> None:
        """librdkafka's error callback. Raising in it would be lost, so a final error is kept for the next `tick`."""
        if error.code() in _REFUSED or error.fatal():
            self._fatal = self._translated(error)
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

    def _missed(self, error: KafkaException) -> None:
        if error.args[0].code() not in _UNKNOWN_TOPIC:
            self._warn(error.args[0], None)
            return
        self._misses += 1
        self._due = self._clock() + min(1.0, self._interval)
        if self._misses >= _MISSES_BELIEVED:
            raise self._translated(error.args[0]) from error

    def _explain_out_of_range(self, error: KafkaError, partition: int | None) -> None:
        with contextlib.suppress(BrokerError):
            self.describe(5.0)  # a topic made anew is the likelier cause, and the better explanation
        raise OffsetError(
            f"Partition {partition} of topic {self._topic!r} no longer holds the position this run needs",
            why=error.str(),
            remedy=_NEW_RUN,
        )

    def _translated(self, error: KafkaError) -> AutoembError:
        if error.code() in _UNKNOWN_TOPIC:
            return TopicError(
                f"There is no topic {self._topic!r} at {self._servers}",
                why=error.str(),
                remedy=f"autoemb-pipeline replay --dataset ml-latest-small --topic {self._topic}",
            )
        if error.code() in _REFUSED or error.fatal():
            return BrokerError(
                f"The broker at {self._servers} refuses to serve topic {self._topic!r}",
                why=error.str(),
                remedy="check the security settings in --kafka-config",
            )
        if error.code() in _SILENT:
            return self._no_answer(error.str())
        return BrokerError(
            f"The broker at {self._servers} cannot serve topic {self._topic!r}", why=error.str(), remedy="autoemb-pipeline doctor"
        )

    def _no_answer(self, why: str) -> BrokerError:
        return BrokerError(f"No broker answers at {self._servers}", why=why, remedy="autoemb-pipeline doctor")

    def _warn(self, error: KafkaError, partition: int | None) -> None:
        now = self._clock()
        if now - self._warned.get(error.name(), -_SECONDS_BETWEEN_WARNINGS) >= _SECONDS_BETWEEN_WARNINGS:
            self._warned[error.name()] = now
            _log.warning("kafka trouble, retrying", topic=self._topic, partition=partition, error=error.name(), detail=error.str())
