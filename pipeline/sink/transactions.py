"""Metrics and dead letters in Kafka transactions: a reader of committed records sees each once, even across a crash (KIP-98).

A transaction is closed every second and at every flush. Its records are kept until then, so that one the broker aborts is written again.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError

from autoemb_pipeline.errors import AutoembError, BrokerError, DeliveryError, StateError
from autoemb_pipeline.kafka.errors import FENCED, NEVER_ACCEPTED, PURGED, attempt, delivery_error, told
from autoemb_pipeline.kafka.settings import producer_settings
from autoemb_pipeline.sink.producer import ClientProducer, Outgoing, hand_over

TRANSACTION_SECONDS = 1.0
_MOST_RECORDS = 10_000
_CALL_SECONDS = 1.0
_START_SECONDS = 60.0
_PAUSES = (0.1, 0.3, 1.0, 3.0, 5.0)  # seconds after each abort, before the records are written again
_BROKER_LIMIT_SECONDS = 60.0  # librdkafka's default transaction.timeout.ms


class _AbortNeededError(Exception):
    """The transaction cannot be committed; its records must be written again."""


class TransactionalProducer(ClientProducer):
    """A `RecordProducer` whose records become visible together, and which only one trainer of a run can hold.

    Opening it ends (aborts) what an earlier trainer of the run had left open and shuts that trainer out: open it before reading how far the
    run got (`autoemb_pipeline.sink.recover`).

    Args:
        kafka_config: librdkafka's settings, with ``bootstrap.servers``.
        run_id: gives the transactional id.

    Raises:
        ConfigurationError: a setting contradicts a guarantee or is unknown.
        BrokerError: the broker does not answer within a minute, or has no transactions.
    """

    def __init__(self, kafka_config: Mapping[str, str], *, run_id: str) -> None:
        self._run_id = run_id
        settings = producer_settings(kafka_config, {"transactional.id": f"autoemb-{run_id}"})
        self._limit = float(settings.get("transaction.timeout.ms", _BROKER_LIMIT_SECONDS * 1000)) / 1000
        super().__init__(settings)
        self._open: list[Outgoing] = []
        self._opened_at = 0.0
        self._refusal: tuple[str, KafkaError] | None = None
        self._start()

    def send(self, record: Outgoing) -> None:
        """See `RecordProducer.send`."""
        self.tick()
        if not self._open:
            self._begin()
        self._open.append(record)
        try:
            self._write(record)
        except _AbortNeededError:
            self._commit()  # will be refused, and writes all records again

    def tick(self) -> None:
        """See `RecordProducer.tick`."""
        self._raise_failure()
        self._serve(0)
        if self._open and (self._age() >= TRANSACTION_SECONDS or len(self._open) >= _MOST_RECORDS):
            self._commit()

    def flush(self) -> None:
        """See `RecordProducer.flush`."""
        self._raise_failure()
        if self._open:
            self._commit()

    def discard(self) -> None:
        """See `RecordProducer.discard`. An open transaction is left to the broker's timeout, or to the next trainer of this run."""
        super().discard()
        self._open.clear()

    @property
    def buffered(self) -> int:
        """See `RecordProducer.buffered`."""
        return len(self._open)

    def _start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while isinstance(cause := attempt(self._producer.init_transactions, _CALL_SECONDS), KafkaError):
            if not cause.retriable() or time.monotonic() >= deadline:
                raise BrokerError(
                    "Kafka transactions cannot be started.",
                    why=told(cause),
                    remedy="Check the broker (the embedded one has no transactions), or start without --exactly-once-metrics.",
                )

    def _begin(self) -> None:
        self._call(lambda _seconds: self._producer.begin_transaction())
        self._opened_at = time.monotonic()
        self._refusal = None

    def _age(self) -> float:
        return time.monotonic() - self._opened_at

    def _write(self, record: Outgoing) -> None:
        self._wait.begin()
        while True:
            try:
                refused = hand_over(self._producer, record, self._delivered)
            except BufferError:
                self._serve(_CALL_SECONDS / 5)
                self._wait.waiting(self.buffered)
                continue
            if refused is None:
                return
            self._refused(record.topic, refused)
            raise _AbortNeededError

    def _commit(self) -> None:
        """Commits the open transaction, writing it again where the broker aborted it."""
        for pause in _PAUSES:
            try:
                self._call(self._producer.commit_transaction)
            except _AbortNeededError:
                self._raise_refusal()
                time.sleep(pause)
                self._write_again()
            else:
                self._open.clear()
                return
        self._failure = DeliveryError(
            f"A transaction of {len(self._open)} records was aborted {len(_PAUSES)} times.",
            why=str(self._refusal[1]) if self._refusal else "",
            remedy="See the broker's log; then start again: the run resumes from its last checkpoint.",
        )
        raise self._failure

    def _write_again(self) -> None:
        self._call(self._producer.abort_transaction)
        self._begin()
        try:
            for record in self._open:
                self._write(record)
        except _AbortNeededError:
            return  # the next commit says so again

    def _call(self, operation: Callable[[float], Any]) -> None:
        """Runs a transactional operation until it is done, as KIP-98's clients must: retriable errors again, others by their kind."""
        self._wait.begin()
        while isinstance(cause := attempt(operation, _CALL_SECONDS), KafkaError):
            if cause.code() in FENCED or cause.fatal():
                self._failure = self._fatal(cause)
            elif cause.txn_requires_abort():
                raise _AbortNeededError
            elif not cause.retriable():
                self._failure = BrokerError("A Kafka transaction failed.", why=told(cause))
            self._raise_failure()
            self._wait.waiting(self.buffered)

    def _serve(self, seconds: float) -> None:
        """Runs callbacks; the client raises a fatal error here, such as being fenced."""
        fatal = attempt(self._producer.poll, seconds)
        if isinstance(fatal, KafkaError):
            self._failure = self._fatal(fatal)
            raise self._failure

    def _fatal(self, cause: KafkaError) -> AutoembError:
        why = told(cause)
        if self._open and self._age() >= self._limit:
            return BrokerError(
                f"A transaction stayed open for {self._age():.0f} s; the broker ends it after {self._limit:.0f} s.",
                why=f"This process stood still. {why}",
                remedy="Start again: the run resumes from its last checkpoint.",
            )
        if cause.code() in FENCED:
            return StateError(
                f"Another trainer with this run id took over: {self._run_id}.",
                why=why,
                remedy="Stop one of the two, or give this one its own --run-id and --state-dir.",
            )
        return DeliveryError(
            "Kafka transactions failed for good.", why=why, remedy="Start again: the run resumes from its last checkpoint."
        )

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._refused(message.topic(), error)

    def _refused(self, topic: str, error: KafkaError) -> None:
        if self._refusal is None and error.code() not in PURGED:
            self._refusal = (topic, error)

    def _raise_refusal(self) -> None:
        if self._refusal and self._refusal[1].code() in NEVER_ACCEPTED:
            self._failure = delivery_error(*self._refusal)
            raise self._failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
