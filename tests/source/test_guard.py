"""What the source makes of librdkafka's errors. No broker answers here: the errors are given."""

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from autoemb_pipeline.errors import BrokerError, OffsetError
from autoemb_pipeline.source.guard import TopicGuard


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> TopicGuard:
    return TopicGuard({"bootstrap.servers": "127.0.0.1:1"}, "t", expected_id=None, check_interval=1e9, clock=clock)


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._AUTHENTICATION])
def test_a_refusal_stops_the_run(guard: TopicGuard, code: int) -> None:
    with pytest.raises(BrokerError, match="refuses") as caught:
        guard.on_error(KafkaError(code, "no entry"), 0)
    assert caught.value.why == "no entry"
    guard.on_global_error(KafkaError(code, "no entry"))  # in a callback: kept, not raised
    with pytest.raises(BrokerError, match="refuses"):
        guard.tick()


def test_a_fatal_error_stops_the_run(guard: TopicGuard) -> None:
    with pytest.raises(BrokerError):
        guard.on_error(KafkaError(KafkaError._FENCED, "fenced", True), 0)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.GROUP_AUTHORIZATION_FAILED,  # commits are only for show
        KafkaError._MAX_POLL_EXCEEDED,
    ],
)
def test_what_may_pass_is_waited_out_and_said_now_and_then(guard: TopicGuard, clock: Clock, code: int) -> None:
    with capture_logs() as logs:
        for clock.now in (100.0, 101.0, 109.0, 110.0, 119.0):
            guard.on_error(KafkaError(code, "trouble"), 3)
            guard.on_global_error(KafkaError(code, "trouble"))
            guard.tick()
    trouble = [line for line in logs if line["detail"] == "trouble"]
    assert len(trouble) == 2
    assert (trouble[0]["topic"], trouble[0]["partition"], trouble[0]["log_level"]) == ("t", 3, "warning")


def test_a_position_out_of_range_is_an_offset_error_whatever_the_broker_says(guard: TopicGuard) -> None:
    with pytest.raises(OffsetError, match="Partition 4") as caught:
        guard.on_error(KafkaError(KafkaError._AUTO_OFFSET_RESET, "fetch failed: Offset out of range"), 4)
    assert "out of range" in caught.value.why
