"""Both producers and the sinks on them, on a real broker: everything acknowledged is there once and in order; a refusal is an error."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from autoemb_pipeline.errors import AutoembError, BrokerError, ConfigurationError, DeliveryError, StateError
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka
from autoemb_pipeline.records import DeadLetter
from autoemb_pipeline.schemas.avro import load_schema
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME, parse_metrics
from autoemb_pipeline.sink.dead_letters import DeadLetterSink
from autoemb_pipeline.sink.metrics import MetricsSink
from autoemb_pipeline.sink.producer import IdempotentProducer, Outgoing, RecordProducer
from autoemb_pipeline.sink.runtime import RuntimeSink
from autoemb_pipeline.sink.transactions import TransactionalProducer
from tests.conftest import TestBroker
from tests.sink.reading import read_all, step_record

pytestmark = pytest.mark.kafka
MakeTopic = Callable[..., str]
NOWHERE = {"bootstrap.servers": "127.0.0.1:9"}


def idempotent(kafka: Mapping[str, str], run_id: str) -> RecordProducer:
    return IdempotentProducer(kafka)


def transactional(kafka: Mapping[str, str], run_id: str) -> RecordProducer:
    return TransactionalProducer(kafka, run_id=run_id)


both = pytest.mark.parametrize("open_producer", [idempotent, transactional])


def numbers(count: int, topic: str, start: int = 0) -> list[Outgoing]:
    return [Outgoing(topic, b"k", str(number).encode()) for number in range(start, start + count)]


def values(kafka: Mapping[str, str], topic: str, **options: Any) -> list[int]:
    return [int(record.value or b"-1") for record in read_all(kafka, topic, **options)]


@both
def test_a_flush_means_everything_is_there_in_order(
    broker: TestBroker, make_topic: MakeTopic, topic_name: str, open_producer: Callable
) -> None:
    topic = make_topic(topic_name)
    with open_producer(broker.kafka, topic) as producer:
        sink = MetricsSink(producer, topic)
        for step in range(1, 2001):
            sink.emit(step_record(step))
        producer.flush()
        assert producer.buffered == 0
        records = read_all(broker.kafka, topic)
    assert [record.key for record in records] == [f"run:{step}".encode() for step in range(1, 2001)]
    assert [parse_metrics(record.value) for record in records] == [PREQUENTIAL.normalise(step_record(step)) for step in range(1, 2001)]


@both
def test_a_full_buffer_waits_and_loses_nothing(broker: TestBroker, make_topic: MakeTopic, topic_name: str, open_producer: Callable) -> None:
    topic = make_topic(topic_name)
    with open_producer({**broker.kafka, "queue.buffering.max.messages": "20"}, topic) as producer:
        for record in numbers(500, topic):
            producer.send(record)
    assert values(broker.kafka, topic) == list(range(500))


@both
def test_the_first_refusal_is_raised_at_every_later_call_and_nothing_follows(
    broker: TestBroker, make_topic: MakeTopic, topic_name: str, open_producer: Callable
) -> None:
    topic = make_topic(topic_name, config={"max.message.bytes": "2000"})
    producer = open_producer(broker.kafka, topic)
    for record in numbers(5, topic):
        producer.send(record)
    producer.flush()
    producer.send(Outgoing(topic, b"k", b"x" * 5000))
    with pytest.raises(DeliveryError, match=topic) as refused:
        producer.flush()
    assert "MSG_SIZE_TOO_LARGE" in refused.value.why
    assert "max.message.bytes" in refused.value.remedy
    for call in (producer.flush, producer.tick, lambda: producer.send(numbers(1, topic)[0])):
        with pytest.raises(DeliveryError):
            call()
    producer.close()
    assert values(broker.kafka, topic) == [0, 1, 2, 3, 4]


@both
def test_no_record_overtakes_a_refused_one(broker: TestBroker, make_topic: MakeTopic, topic_name: str, open_producer: Callable) -> None:
    topic = make_topic(topic_name, config={"max.message.bytes": "2000"})
    producer = open_producer({**broker.kafka, "linger.ms": "0"}, topic)
    refusal = None
    try:
        for number in range(3000):
            producer.send(Outgoing(topic, b"k", b"x" * 5000 if number == 1000 else str(number).encode()))
        producer.flush()
    except DeliveryError as error:
        refusal = error
    producer.discard()
    assert refusal is not None
    written = values(broker.kafka, topic)
    assert written == list(range(len(written)))
    assert len(written) <= 1000


def test_a_record_too_large_for_the_client_is_refused_at_once(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    with IdempotentProducer(broker.kafka) as producer, pytest.raises(DeliveryError, match=topic):
        producer.send(Outgoing(topic, b"k", bytes(2_000_000)))


@both
def test_a_missing_topic_is_an_error_that_names_it(broker: TestBroker, topic_name: str, open_producer: Callable) -> None:
    producer = open_producer({**broker.kafka, "topic.metadata.propagation.max.ms": "300"}, topic_name)
    producer.send(numbers(1, topic_name)[0])
    with pytest.raises(DeliveryError, match=topic_name) as caught:
        producer.flush()
    assert caught.value.remedy
    producer.close()


@pytest.mark.slow
@both
def test_a_broker_killed_and_restarted_loses_and_doubles_nothing(
    mortal_broker: LocalKafka, topic_name: str, open_producer: Callable
) -> None:
    kafka = {"bootstrap.servers": mortal_broker.bootstrap_servers}
    admin = AdminClient({**kafka, "log_level": "0"})
    admin.create_topics([NewTopic(topic_name, 1, 1)])[topic_name].result(15)
    with open_producer(kafka, "run") as producer:
        for number, record in enumerate(numbers(600, topic_name)):
            producer.send(record)
            if number == 300:
                mortal_broker.kill()
                mortal_broker.start()
            time.sleep(0.001)
    assert values(kafka, topic_name) == list(range(600))


def test_letting_go_does_not_wait_for_an_absent_broker() -> None:
    began = time.monotonic()
    producer = IdempotentProducer(NOWHERE)
    producer.send(numbers(1, "t")[0])
    with pytest.raises(KeyboardInterrupt), producer:
        raise KeyboardInterrupt
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "setting",
    [
        {"enable.idempotence": "false"}, {"acks": "1"}, {"request.required.acks": "0"}, {"message.timeout.ms": "5000"},
        {"delivery.timeout.ms": "5000"}, {"transactional.id": "mine"}, {"no.such.setting": "1"}, {"linger.ms": "soon"},
    ],
)  # fmt: skip
def test_settings_that_break_the_guarantee_are_refused(setting: dict) -> None:
    with pytest.raises(ConfigurationError) as caught:
        IdempotentProducer({**NOWHERE, **setting})
    assert caught.value.remedy


def test_settings_that_restate_the_guarantee_pass() -> None:
    IdempotentProducer({**NOWHERE, "enable.idempotence": "True", "acks": "-1", "delivery.timeout.ms": "0"}).discard()


# Transactions


def test_a_transaction_is_seen_only_when_it_closes_and_closes_within_a_second(
    broker: TestBroker, make_topic: MakeTopic, topic_name: str
) -> None:
    topic = make_topic(topic_name)
    with TransactionalProducer(broker.kafka, run_id=topic) as producer:
        producer.send(numbers(1, topic)[0])
        producer.tick()
        assert values(broker.kafka, topic) == []
        deadline = time.monotonic() + 5
        while producer.buffered and time.monotonic() < deadline:
            time.sleep(0.05)
            producer.tick()
        assert values(broker.kafka, topic) == [0]


def test_a_second_trainer_of_the_run_fences_the_first(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    first = TransactionalProducer(broker.kafka, run_id=topic)
    first.send(numbers(1, topic)[0])
    first.flush()
    first.send(numbers(1, topic, 77)[0])
    with TransactionalProducer(broker.kafka, run_id=topic) as second:
        second.send(numbers(1, topic, 1)[0])
        second.flush()
        for _ in range(2):
            with pytest.raises(StateError, match=f"Another trainer with this run id took over: {topic}"):
                first.flush()
        with pytest.raises(StateError):
            first.send(numbers(1, topic, 78)[0])
        first.close()
        second.send(numbers(1, topic, 2)[0])
    assert values(broker.kafka, topic) == [0, 1, 2]


def test_other_runs_are_not_fenced(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    with TransactionalProducer(broker.kafka, run_id=f"{topic}-a") as one, TransactionalProducer(broker.kafka, run_id=f"{topic}-b") as other:
        one.send(numbers(1, topic)[0])
        other.send(numbers(1, topic, 1)[0])
    assert sorted(values(broker.kafka, topic)) == [0, 1]


def test_metrics_and_dead_letters_share_one_transaction(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    metrics, letters = make_topic(f"{topic_name}-m"), make_topic(f"{topic_name}-d")
    letter = DeadLetter("interactions", 0, 5, "bad-avro", "detail", b"k", b"junk")
    with TransactionalProducer(broker.kafka, run_id=topic_name) as producer:
        MetricsSink(producer, metrics).emit(step_record(1))
        DeadLetterSink(producer, letters).emit(letter)
        assert read_all(broker.kafka, metrics) == read_all(broker.kafka, letters) == []
        producer.flush()
        assert [record.key for record in (*read_all(broker.kafka, metrics), *read_all(broker.kafka, letters))] == [
            b"run:1",
            b"interactions:0:5",
        ]


class AbortingClient:
    """The real client, except that the next `aborts` commits say, as the broker may, that the transaction must be aborted."""

    def __init__(self, client: object, aborts: int) -> None:
        self._client = client
        self._aborts = aborts

    def commit_transaction(self, seconds: float) -> None:
        if self._aborts:
            self._aborts -= 1
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, "lost track", txn_requires_abort=True))
        self._client.commit_transaction(seconds)

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)


def test_what_the_broker_aborts_is_written_again(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    with TransactionalProducer(broker.kafka, run_id=topic) as producer:
        producer._producer = AbortingClient(producer._producer, aborts=2)
        for record in numbers(10, topic):
            producer.send(record)
        producer._producer.flush(10)  # the first writing is in the log before it is aborted
        producer.flush()
        producer.send(numbers(1, topic, 10)[0])
    assert values(broker.kafka, topic) == list(range(11))
    assert len(values(broker.kafka, topic, committed=False)) >= 21


def test_a_transaction_aborted_again_and_again_is_an_error(
    broker: TestBroker, make_topic: MakeTopic, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoemb_pipeline.sink.transactions._PAUSES", (0.0, 0.0, 0.0))
    topic = make_topic(topic_name)
    producer = TransactionalProducer(broker.kafka, run_id=topic)
    producer._producer = AbortingClient(producer._producer, aborts=99)
    producer.send(numbers(1, topic)[0])
    for _ in range(2):
        with pytest.raises(DeliveryError, match="aborted 3 times"):
            producer.flush()
    producer.close()
    assert values(broker.kafka, topic) == []


@pytest.mark.slow
def test_a_process_that_stood_still_too_long_is_told_so(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    producer = TransactionalProducer({**broker.kafka, "transaction.timeout.ms": "1000"}, run_id=topic)
    producer.send(numbers(1, topic)[0])
    producer._producer.flush(10)
    time.sleep(3 + broker.expiry_interval)
    with pytest.raises(BrokerError, match="stayed open for"):
        producer.tick()
    producer.close()
    with TransactionalProducer(broker.kafka, run_id=topic) as successor:
        successor.send(numbers(1, topic, 1)[0])
    assert values(broker.kafka, topic) == [1]


def test_an_absent_broker_at_the_start_is_a_broker_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoemb_pipeline.sink.transactions._START_SECONDS", 1.0)
    with pytest.raises(BrokerError, match="cannot be started") as caught:
        TransactionalProducer(NOWHERE, run_id="r")
    assert "--exactly-once-metrics" in caught.value.remedy


# Metrics, dead letters, runtime


def test_metrics_can_be_avro(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    with IdempotentProducer(broker.kafka) as producer:
        MetricsSink(producer, topic, form="avro").emit(step_record(3))
    (record,) = read_all(broker.kafka, topic)
    assert record.value == PREQUENTIAL.to_avro(step_record(3))


LETTERS = [
    DeadLetter("interactions", 3, 41, "bad-magic", "starts with 6e 6f", b"user", b"\x00\xffjunk"),
    DeadLetter("interactions", 0, 42, "empty", "the record has no value", None, None),
    DeadLetter("interactions", 0, 43, "bad-value", "x" * 1023 + "\N{SNOWMAN}", b"", b""),
    DeadLetter("interactions", 0, 44, "bad-avro", "long", b"k" * 900, b"v" * 5000),
    DeadLetter("interactions", 0, 45, "bad-avro", "fits exactly", b"k" * 10, b"v" * 990),
]


def test_dead_letters_keep_the_original_bytes(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    with IdempotentProducer(broker.kafka) as producer:
        sink = DeadLetterSink(producer, topic, max_bytes=1000)
        for letter in LETTERS:
            sink.emit(letter)
    plain, empty, blank, long, exact = read_all(broker.kafka, topic)
    assert (plain.key, plain.value) == (b"interactions:3:41", b"\x00\xffjunk")
    assert plain.headers == {
        "reason": b"bad-magic", "detail": b"starts with 6e 6f", "topic": b"interactions", "partition": b"3", "offset": b"41", "key": b"user",
    }  # fmt: skip
    assert (empty.value, "key" in empty.headers) == (None, False)
    assert (blank.value, blank.headers["key"], blank.headers["detail"]) == (b"", b"", b"x" * 1023)
    assert (exact.value, exact.headers.keys() & {"value_length", "key_length"}) == (b"v" * 990, set())
    assert (long.value, long.headers["key"]) == (b"v" * 500, b"k" * 500)
    assert (long.headers["value_length"], long.headers["key_length"]) == (b"5000", b"900")
    assert long.headers["value_sha256"].decode() == hashlib.sha256(b"v" * 5000).hexdigest()
    assert long.headers["key_sha256"].decode() == hashlib.sha256(b"k" * 900).hexdigest()
    named = {field["name"] for field in load_schema("dead_letter")["fields"]}
    assert set().union(*(record.headers for record in (plain, empty, blank, long, exact))) == named - {"value"}


def test_a_dead_letter_of_the_largest_record_fits_a_default_topic(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    with IdempotentProducer(broker.kafka) as producer:
        DeadLetterSink(producer, topic).emit(DeadLetter("t" * 249, 0, 1, "bad-avro", "d" * 5000, b"k" * 600_000, b"v" * 1_000_000))
    (record,) = read_all(broker.kafka, topic)
    assert len(record.value or b"") + len(record.headers["key"]) == 900_000


RUNTIME_RECORD = {"run_id": "run", "step": 1, "wall_time": 1_700_000_000_000, "interactions_per_second": 1e4, "lag": 0}


def test_runtime_records_arrive(broker: TestBroker, make_topic: MakeTopic, topic_name: str) -> None:
    topic = make_topic(topic_name)
    sink = RuntimeSink({**broker.kafka, "enable.idempotence": "true"}, topic)
    sink.emit(RUNTIME_RECORD)
    sink.close()
    (record,) = read_all(broker.kafka, topic)
    assert (record.key, record.value) == (b"run:1", RUNTIME.to_json(RUNTIME_RECORD))
    assert json.loads(record.value or b"")["interactions_per_second"] == 10_000
    assert sink.dropped == 0


def test_runtime_records_never_stop_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoemb_pipeline.sink.runtime._CLOSE_SECONDS", 0.2)
    sink = RuntimeSink(NOWHERE, "runtime")
    began = time.monotonic()
    for _ in range(1500):
        sink.emit(RUNTIME_RECORD)
    sink.close()
    assert time.monotonic() - began < 3
    assert sink.dropped == 1500
    with pytest.raises(AutoembError):
        sink.emit({"run_id": "run"} | {"step": 1})
