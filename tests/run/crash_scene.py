"""A stream with everything in it that a stream may hold, and trainers that are killed on it."""

import random
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoemb_pipeline.ops.topics import ensure_interactions_topic, ensure_metrics_topics
from tests.fastdisk import fast_directory
from tests.run.conftest import Stream
from tests.run.crash_zygote import Zygote, run_config
from tests.run.outcome import nothing_left_over, outcome
from tests.streams import synthetic_stream

PARTITIONS, BATCH, EVERY = 3, 40, 4
RUBBISH = [b"not avro", None, b"\xc3\x01" + bytes(8) + b"unknown schema"]


def dirty_stream() -> list[Any]:
    """1,100 interactions in order; among them 200 late ones, re-deliveries, undecodable records and tombstones, also at both ends."""
    records: list[Any] = []
    for n, interaction in enumerate(synthetic_stream(1_100, seed=21, users=120, items=90)):
        if n % 50 == 0:
            records.append(RUBBISH[n // 50 % 3])
        records.append(interaction)
        if n % 11 in (3, 7):
            records.append(interaction._replace(timestamp=interaction.timestamp - 30_000, dataset=None, sequence=None))
        if n % 60 == 59:
            records.append(interaction)
    return [*records, b"the last record is none"]


@dataclass
class Scene:
    """The stream that all runs train on, and two trainers' warm processes under different hash seeds."""

    kafka: dict[str, str]
    topic: str
    directory: Path
    zygotes: list[Zygote]
    starts: int = 0

    def config(self, name: str, **changes: Any) -> dict[str, Any]:
        """A run with output topics of its own."""
        prefix = f"{self.topic}.{name}"
        topics = {"metrics_topic": f"{prefix}.m", "runtime_topic": f"{prefix}.r", "dead_letter_topic": f"{prefix}.d"}
        ensure_metrics_topics(self.kafka, *topics.values())
        sizes = {"batch_size": BATCH, "checkpoint_every": EVERY, "cache_bytes": 60_000}
        own = {"state_dir": str(self.directory / name), "run_id": f"{self.topic}-{name}"}
        return {"topic": self.topic, **topics, **sizes, **own, **changes}

    def start(self, config: dict[str, Any], **kill: Any) -> int:
        """One life of a trainer; its end. Every start is under another hash seed than the one before."""
        self.starts += 1
        ended = self.zygotes[self.starts % len(self.zygotes)].run(self.kafka, config, **kill)
        assert ended.returncode in (0, -signal.SIGKILL), ended.output
        return ended.returncode

    def finish(self, config: dict[str, Any]) -> dict[str, Any]:
        """The last life, and what the run left behind."""
        with nothing_left_over(Path(config["state_dir"])):
            assert self.start(config) == 0
        return outcome(self.kafka, run_config(config))


@contextmanager
def crash_scene(kafka: Mapping[str, str], *, zygotes: int, records: list[Any] | None = None) -> Iterator[Scene]:
    """A scene on a topic of its own. records: other than `dirty_stream`'s."""
    topic = f"crash-{random.randrange(16**8):08x}"
    ensure_interactions_topic(kafka, topic, PARTITIONS)
    with tempfile.TemporaryDirectory(prefix="autoemb-crash-", dir=fast_directory()) as directory, ExitStack() as closing:
        warm = [closing.enter_context(Zygote(seed + 1)) for seed in range(zygotes)]
        Stream(kafka, topic, Path(directory)).send(dirty_stream() if records is None else records, PARTITIONS)
        yield Scene(dict(kafka), topic, Path(directory), warm)
