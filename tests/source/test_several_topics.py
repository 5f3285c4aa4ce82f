"""Several topics as one, without a broker."""

from collections.abc import Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from autoemb_pipeline.errors import TopicError
from autoemb_pipeline.kafka.errors import input_error
from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.records import RunPosition
from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.consumers import in_pieces
from autoemb_pipeline.source.kafka import start_offsets
from autoemb_pipeline.source.topics import TopicSet


def message(topic: str, offset: int) -> Any:
    return Message(topic=topic, partition=2, offset=offset, value=b"v")


def test_an_error_of_no_topic_among_their_records_stops_nobody() -> None:
    topics = TopicSet({"bootstrap.servers": "127.0.0.1:1"}, SourceConfig(topic="a", further_topics=("b",), run_id="r"))
    error = Message(topic=None, partition=-1, error=KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert in_pieces([error], topics) == []
    pieces = in_pieces([message("b", 5), error, message("b", 6), message("a", 9)], topics)
    assert {piece.partition: piece.chunk.offsets.tolist() for piece in pieces} == {TOPIC_STRIDE + 2: [5, 6], 2: [9]}


def test_who_lost_a_topic_of_their_own_is_not_told_to_replay_movielens_into_it() -> None:
    error = input_error("broker:9092", "clicks", KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    assert error.remedy is not None
    assert error.remedy.startswith("restore or create it")


def test_missing_partitions_are_named_with_their_own_topic() -> None:
    class Shrunk(TopicSet):
        def earliest(self, partitions: Iterable[int], timeout: float) -> dict[int, int]:
            del timeout
            return dict.fromkeys(partitions, 0)

    config = SourceConfig(topic="a", further_topics=("b",), run_id="r")
    position = RunPosition(next_offsets={0: 5, 1: 5, TOPIC_STRIDE + 3: 5})
    with pytest.raises(TopicError, match=r"^Topic 'a' has no partitions \[1\], which"):
        start_offsets(Shrunk({"bootstrap.servers": "127.0.0.1:1"}, config), config, [0, TOPIC_STRIDE], position, timeout=1.0, begun=True)
