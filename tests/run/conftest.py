"""A stream on the real broker, and what it takes to train on it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from autoemb_pipeline.config import Ports, RunConfig
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics, topic_id
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.producers.partitioner import partition_of
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.run import RunSummary, train
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.trainer import TrainerConfig
from tests.conftest import TestBroker
from tests.source.topics import IN_ORDER

CHECK_INTERVAL = 0.3  # so long a run may not know of an added partition, or of a topic made anew


def small_layers(preset: str) -> dict[str, Any]:
    """Widths and dimensions of a small learner."""
    dims = {"dims": (2, 4, 8)}
    return dims if preset == "stream" else {**dims, "hidden": (16,), "controller_hidden": (8,)}


def trainer_config(
    method: str = "fse",
    *,
    task: str = "binary",
    context: str = "event",
    preset: str = "paper",
    ttl_days: float | None = None,
    **learner: Any,
) -> TrainerConfig:
    """Small layers: the path is under test here, not the model."""
    config = from_preset(preset, method=method, task=task, **{**small_layers(preset), **learner})
    return TrainerConfig(
        learner=config,
        context=ContextConfig(mode=context, spaces=len(config.dims), with_classes=task == "rating", ttl_days=ttl_days),
        prequential=PrequentialConfig(task=task, window=1000),
    )


@dataclass(frozen=True)
class Stream:
    """Interactions on a topic of the test's own."""

    kafka: Mapping[str, str]
    topic: str
    directory: Path

    def send(self, records: list[Interaction | bytes | None], partitions: int = 1) -> None:
        """In order; undecodable bytes and tombstones go to the partition of the record before them."""
        producer = Producer({**self.kafka, **IN_ORDER})
        partition = 0
        for record in records:
            if isinstance(record, Interaction):
                partition = partition_of(record.user_id.encode(), partitions)
                value = encode_interaction(record)
            else:
                value = record
            while True:
                try:
                    producer.produce(self.topic, value, b"key", partition)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(30) == 0

    def config(self, name: str = "run", **changes: Any) -> RunConfig:
        """Until the end, checkpoints often."""
        config = RunConfig(
            topic=self.topic,
            state_dir=self.directory / name,
            trainer=trainer_config(),
            batch_size=200,
            until_end=True,
            checkpoint_every=5,
            metrics_topic=f"{self.topic}.metrics",
            runtime_topic=f"{self.topic}.runtime",
            dead_letter_topic=f"{self.topic}.dlq",
            threads=1,
        )
        return replace(config, **changes)

    def train(self, config: RunConfig, **changes: Any) -> RunSummary:
        """Runs the main path in this process."""
        ports = Ports(
            kafka=self.kafka, decoder=decode_interaction, topic_id=topic_id(self.kafka, self.topic), check_interval=CHECK_INTERVAL
        )
        return train(config, replace(ports, **changes))


MakeStream = Callable[..., Stream]


@pytest.fixture
def make_stream(broker: TestBroker, topic_name: str, tmp_path: Path) -> Iterator[MakeStream]:
    """make_stream(partitions=1) -> Stream with its topics created."""
    made = []

    def make(partitions: int = 1) -> Stream:
        topic = f"{topic_name}-{len(made)}"
        ensure_interactions_topic(broker.kafka, topic, partitions)
        ensure_metrics_topics(broker.kafka, f"{topic}.metrics", f"{topic}.runtime", f"{topic}.dlq")
        made.append(topic)
        return Stream(broker.kafka, topic, tmp_path / topic)

    return make
