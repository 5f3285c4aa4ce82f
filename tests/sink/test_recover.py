"""How far a run got, read from a real broker's topics: whatever else stands there, and wherever transactions leave their markers."""

import threading
import time
from collections.abc import Callable, Mapping

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from autoemb_pipeline.errors import BrokerError, ConfigurationError, DecodeError, OffsetError, StateError, TopicError
from autoemb_pipeline.records import DeadLetter
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RecordFormat
from autoemb_pipeline.sink.dead_letters import DeadLetterSink
from autoemb_pipeline.sink.metrics import MetricsSink
from autoemb_pipeline.sink.producer import IdempotentProducer, Outgoing
from autoemb_pipeline.sink.recover import RecordedRun, read_dead_letters, read_run, topic_ranges
from autoemb_pipeline.sink.transactions import TransactionalProducer
from tests.conftest import TestBroker
from tests.sink.reading import read_all, step_record

pytestmark = pytest.mark.kafka
NOWHERE = {"bootstrap.servers": "127.0.0.1:9"}


@pytest.fixture
def topic(make_topic: Callable[..., str], topic_name: str) -> str:
    return make_topic(topic_name)


def metrics_end(kafka: Mapping[str, str], topic: str, **options: float) -> int:
    return topic_ranges(kafka, [topic], **options)[0][1]


def write(kafka: Mapping[str, str], topic: str, *records: dict, form: str = "json") -> None:
    with IdempotentProducer(kafka) as producer:
        sink = MetricsSink(producer, topic, form=form)
        for record in records:
            sink.emit(record)


def steps(first: int, last: int, run_id: str = "run") -> list[dict]:
    return [step_record(step, run_id) for step in range(first, last + 1)]


def expected(first: int, last: int) -> dict[int, dict[int, int]]:
    return {step: {0: 10 * step} for step in range(first, last + 1)}


def test_an_empty_topic_has_no_steps(broker: TestBroker, topic: str) -> None:
    assert metrics_end(broker.kafka, topic) == 0
    run = read_run(broker.kafka, topic, "run", 0)
    assert (run.last_step, run.after(0)) == (0, {})


@pytest.mark.parametrize("form", ["json", "avro"])
def test_steps_since_a_checkpoint_come_back_with_their_boundaries(broker: TestBroker, topic: str, form: str) -> None:
    write(broker.kafka, topic, *steps(1, 40), form=form)
    checkpoint = metrics_end(broker.kafka, topic)
    write(broker.kafka, topic, *steps(41, 60), form=form)
    whole, tail = read_run(broker.kafka, topic, "run", 0), read_run(broker.kafka, topic, "run", checkpoint)
    assert (checkpoint, whole.last_step, tail.last_step) == (40, 60, 60)
    assert whole.next_offsets == expected(1, 60)
    assert tail.next_offsets == whole.after(40) == expected(41, 60)
    assert read_run(broker.kafka, topic, "run", metrics_end(broker.kafka, topic)).next_offsets == {}


def test_other_runs_and_foreign_records_are_passed_over(broker: TestBroker, topic: str) -> None:
    write(broker.kafka, topic, *steps(1, 3))
    with IdempotentProducer(broker.kafka) as producer:
        for key, value in (
            (b"run:4", b"junk"), (b"run:5", None), (b"run:6", b"\xc3\x01truncated"), (b"run:7", PREQUENTIAL.to_json(step_record(7, "another"))),
            (b"run:8", b'{"run_id": "run", "step": 8}'), (b"", b"x"), (b"\xff\xfe", b"x"), (b"run:x", b"x"), (b"run:a:9", b"\x00\x00\x00\x00\x01"),
            (b"runner:99", PREQUENTIAL.to_json(step_record(99))), (b"run:10", PREQUENTIAL.to_json(step_record(10, next_offsets={"x": 1}))),
        ):  # fmt: skip
            producer.send(Outgoing(topic, key, value))
    keyless = Producer({**broker.kafka})
    keyless.produce(topic, PREQUENTIAL.to_json(step_record(11)), partition=0)
    assert keyless.flush(10) == 0
    write(broker.kafka, topic, *steps(1, 9, "other"), *steps(4, 5), *steps(1, 2, "run:"))
    assert read_run(broker.kafka, topic, "run", 0).next_offsets == expected(1, 5)
    assert read_run(broker.kafka, topic, "run:", 0).next_offsets == expected(1, 2)


def test_a_topic_that_ends_in_transaction_markers_is_read_to_its_end(broker: TestBroker, topic: str) -> None:
    with TransactionalProducer(broker.kafka, run_id=topic) as producer:
        sink = MetricsSink(producer, topic)
        for record in steps(1, 3):
            sink.emit(record)
            producer.flush()
    last = max(record.offset for record in read_all(broker.kafka, topic))
    deadline = time.monotonic() + 10
    while (end := metrics_end(broker.kafka, topic)) <= last + 1:  # the last marker, which may come after the commit's answer
        assert time.monotonic() < deadline
    began = time.monotonic()
    assert read_run(broker.kafka, topic, "run", 0).next_offsets == expected(1, 3)
    assert read_run(broker.kafka, topic, "run", end).next_offsets == {}
    assert time.monotonic() - began < 5


def test_what_a_killed_trainer_left_uncommitted_is_not_part_of_the_run(broker: TestBroker, topic: str) -> None:
    killed = TransactionalProducer(broker.kafka, run_id=topic)
    sink = MetricsSink(killed, topic)
    for record in steps(1, 3):
        sink.emit(record)
    killed.flush()
    sink.emit(step_record(4))
    killed._producer.flush(10)  # the record is in the log; the process dies before the commit
    assert len(read_all(broker.kafka, topic, committed=False)) == 4
    with TransactionalProducer(broker.kafka, run_id=topic) as successor:
        assert read_run(broker.kafka, topic, "run", 0).last_step == 3
        MetricsSink(successor, topic).emit(step_record(4))
    assert read_run(broker.kafka, topic, "run", 0).next_offsets == expected(1, 4)
    killed.discard()


def test_an_open_transaction_of_another_run_hides_nothing_of_this_one(broker: TestBroker, topic: str) -> None:
    with TransactionalProducer(broker.kafka, run_id=topic) as other:
        other.send(Outgoing(topic, b"other:1", PREQUENTIAL.to_json(step_record(1, "other"))))
        other._producer.flush(10)
        write(broker.kafka, topic, *steps(1, 5))
        assert read_all(broker.kafka, topic) == []  # all that a plain committed reader sees
        with pytest.raises(BrokerError, match="not reached within 2 s") as caught:
            read_run(broker.kafka, topic, "run", 0, patience=2)
        assert "transaction" in caught.value.why
        closing = threading.Timer(1.0, other.flush)
        closing.start()
        assert read_run(broker.kafka, topic, "run", 0).next_offsets == expected(1, 5)
        closing.join()


def test_a_step_recorded_twice_is_harmless_only_when_equal(broker: TestBroker, topic: str) -> None:
    write(broker.kafka, topic, *steps(1, 3), *steps(2, 3))
    assert read_run(broker.kafka, topic, "run", 0).next_offsets == expected(1, 3)
    write(broker.kafka, topic, step_record(3, next_offsets={0: 31}))
    with pytest.raises(StateError, match="Step 3 of run run stands twice") as caught:
        read_run(broker.kafka, topic, "run", 0)
    assert "--new-run" in caught.value.remedy


def test_a_missing_step_is_an_error_that_names_it() -> None:
    run = RecordedRun(next_offsets=expected(1, 3) | expected(5, 6))
    assert run.after(4) == expected(5, 6)
    assert run.after(6) == run.after(9) == {}
    with pytest.raises(StateError, match=r"lacks step 4 .*, but holds step 6"):
        run.after(2)


def test_a_position_outside_the_topic_is_an_error_with_choices(broker: TestBroker, topic: str) -> None:
    write(broker.kafka, topic, *steps(1, 10))
    admin = AdminClient({**broker.kafka, "log_level": "0"})
    (deleted,) = admin.delete_records([TopicPartition(topic, 0, 6)]).values()
    deleted.result(10)
    assert read_run(broker.kafka, topic, "run", 6).next_offsets == expected(7, 10)
    for gone in (0, 5, 11, 1_000_000):
        with pytest.raises(OffsetError, match=f"Offset {gone} of {topic}") as caught:
            read_run(broker.kafka, topic, "run", gone)
        assert "6 to 10" in caught.value.why
        assert "--new-run" in caught.value.remedy


def test_a_missing_topic_is_a_topic_error(broker: TestBroker, topic_name: str) -> None:
    for read in (lambda: metrics_end(broker.kafka, topic_name), lambda: read_run(broker.kafka, topic_name, "run", 0)):
        with pytest.raises(TopicError, match=topic_name):
            read()


def test_an_absent_broker_is_a_broker_error() -> None:
    with pytest.raises(BrokerError, match="t cannot be read"):
        metrics_end(NOWHERE, "t", timeout=0.5)
    with pytest.raises(BrokerError):
        read_run(NOWHERE, "t", "run", 0, patience=0.5)
    with pytest.raises(ConfigurationError):
        metrics_end({**NOWHERE, "no.such": "1"}, "t")


class OneSchemaRegistry:
    """The part of a RegistryCodec that reading metrics uses, for records of our own schema under any id."""

    def decode_record(self, payload: bytes, record_format: RecordFormat) -> dict:
        if payload[:5] != b"\x00\x00\x00\x00\x01":
            raise DecodeError("unknown-schema", "another id")
        return record_format.parse(record_format.to_avro(step_record(1))[:10] + payload[5:])


def test_records_in_the_registrys_format_need_the_registry(broker: TestBroker, topic: str) -> None:
    with IdempotentProducer(broker.kafka) as producer:
        for record in steps(1, 3):
            value = b"\x00\x00\x00\x00\x01" + PREQUENTIAL.to_avro(record)[10:]
            producer.send(Outgoing(topic, f"run:{record['step']}".encode(), value))
        producer.send(Outgoing(topic, b"run:4", b"\x00\x00\x00\x00\x02foreign"))
    with pytest.raises(ConfigurationError) as caught:
        read_run(broker.kafka, topic, "run", 0)
    assert "--schema-registry" in caught.value.remedy
    assert read_run(broker.kafka, topic, "other-run", 0).next_offsets == {}
    assert read_run(broker.kafka, topic, "run", 0, registry=OneSchemaRegistry()).next_offsets == expected(1, 3)


def test_dead_letters_already_written_are_known_by_key(broker: TestBroker, topic: str) -> None:
    def emit(*offsets: int) -> None:
        with IdempotentProducer(broker.kafka) as producer:
            sink = DeadLetterSink(producer, topic)
            for offset in offsets:
                sink.emit(DeadLetter("interactions", 2, offset, "bad-magic", "", None, b"x"))

    assert read_dead_letters(broker.kafka, topic, 0) == {}
    emit(5, 9)
    checkpoint = metrics_end(broker.kafka, topic)
    emit(12, 12, 40)
    assert read_dead_letters(broker.kafka, topic, checkpoint) == {"interactions:2:12": "bad-magic", "interactions:2:40": "bad-magic"}
    assert len(read_dead_letters(broker.kafka, topic, 0)) == 4
