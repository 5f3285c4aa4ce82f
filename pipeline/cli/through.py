"""`--through kafka`: a broker for an experiment, and its streams in topics."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from autoemb_pipeline.cli.options import kafka_settings
from autoemb_pipeline.cli.replay import progress_bar
from autoemb_pipeline.experiments.cells import Stream
from autoemb_pipeline.experiments.kafka_cells import Topic
from autoemb_pipeline.ops.brokers.command import make_broker
from autoemb_pipeline.ops.brokers.process import free_port
from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics, topic_id
from autoemb_pipeline.producers.config import ReplayConfig
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.replay import replay

TopicOf = Callable[[SortedDataset, Stream], Topic]


@contextmanager
def topics(through: str, bootstrap_servers: str | None, kafka_config: Path | None, console: Console) -> Iterator[TopicOf | None]:
    """What gives a stream's topic, replayed into if it must be; None for ``direct``.

    Args:
        through: ``kafka`` or ``direct``.
        bootstrap_servers, kafka_config: of a broker; neither here nor in the environment: one of our own, gone at the end.
        console: for progress.
    """
    if through == "direct":
        yield None
        return
    with ExitStack() as closing:
        if bootstrap_servers or kafka_config or os.environ.get("AUTOEMB_BOOTSTRAP_SERVERS"):
            kafka = kafka_settings(bootstrap_servers, kafka_config)
        else:
            scratch = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="autoemb-experiment-")))
            broker = closing.enter_context(make_broker(os.environ, port=free_port(), data_dir=scratch / "broker"))
            kafka = {"bootstrap.servers": broker.bootstrap_servers}
        yield partial(_topic_of, kafka, console)


def _topic_of(kafka: Mapping[str, str], console: Console, dataset: SortedDataset, stream: Stream) -> Topic:
    name = f"autoemb.experiment.{dataset.fingerprint[:12]}-{stream.length}"
    ensure_interactions_topic(kafka, name, 1)
    ensure_metrics_topics(kafka, f"{name}.metrics", f"{name}.runtime", f"{name}.dlq")
    with progress_bar(console, f"replay {stream.name}") as show:
        replay(dataset, ReplayConfig(topic=name, limit=stream.length), kafka=kafka, progress=show)
    return Topic(kafka=kafka, name=name, id=topic_id(kafka, name))
