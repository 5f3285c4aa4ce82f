"""Records per second through source and batcher, from a real broker, by number of partitions.

    KAFKA_HOME=... python -m tests.benchmarks.bench_source [--records 300000] [--partitions 1 8 20]

Wall time counts what the machine does meanwhile, the broker included; CPU time of the reading thread is what one core could do.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from autoemb_pipeline.batching import Batcher, batches
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.mapping.reading import parse_stream
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig
from autoemb_pipeline.records import Interaction, RunPosition
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.source import KafkaSource, MemorySource, SourceConfig

BATCH = 500


def stream(count: int) -> Sequence[Interaction]:
    """Sessions of 1 to 60 records of one user, as MovieLens has them."""
    interactions, user = [], 0
    for n in range(count):
        if n % (1 + user * 7919 % 60) == 0:
            user += 1
        interactions.append(Interaction(str(user % 9973), str(n * 31 % 5003), 3.5, 1_000_000_000_000 + n * 700, "bench", n))
    return interactions


DESCRIPTION = """
[input]
topics = "described"
format = "json"
[fields]
user = "user.id"
item = "payload.item"
id = "event_id"
[timestamp]
field = "ts"
unit = "ms"
[label]
field = "stars"
positive_above = 3.5
"""


def as_json(interaction: Interaction) -> bytes:
    """The same as somebody else's record, of some 230 bytes."""
    return json.dumps(
        {
            "event_id": f"e-{interaction.sequence:012d}",
            "ts": interaction.timestamp,
            "user": {"id": interaction.user_id, "country": "DE", "segments": ["new", "mobile"]},
            "payload": {"item": int(interaction.item_id), "position": 3, "title": f"title of {interaction.item_id}"},
            "stars": interaction.rating,
            "agent": "Mozilla/5.0 (X11; Linux x86_64)",
        }
    ).encode()


def fill(
    servers: str,
    topic: str,
    interactions: Sequence[Interaction],
    partitions: int,
    encode: Callable[[Interaction], bytes] = encode_interaction,
) -> None:
    """Writes the interactions, each user to one partition."""
    admin = quiet_admin({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, partitions, 1, config={"retention.ms": "-1"})])[topic].result(20)
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "message.timeout.ms": 0,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for n, interaction in enumerate(interactions):
        producer.produce(topic, encode(interaction), interaction.user_id, int(interaction.user_id) % partitions)
        if n % 1000 == 0:
            producer.poll(0)
    while producer.flush(60):
        pass


def measure(name: str, make: Callable[[], KafkaSource | MemorySource], expected: int) -> None:
    """Reads to the end and prints the rate."""
    wall, cpu = time.perf_counter(), time.thread_time()
    with make() as source:
        batcher = Batcher(batch_size=BATCH, position=RunPosition(), events_kept=200_000)
        made = list(batches(source, batcher))
        count, ends = sum(map(len, made)), dict(batcher.position().next_offsets)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    if count != expected:
        raise SystemExit(f"{name}: {count} of {expected} records, {sum(batch.duplicates for batch in made)} duplicates, ends {ends}")
    print(f"{name:36} {count / wall:>10,.0f}/s wall {count / cpu:>10,.0f}/s of one core")  # noqa: T201  # a benchmark's output


def main() -> None:
    """Parses, fills, measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 8, 20])
    arguments = parser.parse_args()
    interactions = stream(arguments.records)
    for partitions in arguments.partitions:
        measure(f"memory, {partitions} partitions", lambda p=partitions: MemorySource(interactions, partitions=p), len(interactions))
    home = Path(os.environ["KAFKA_HOME"])
    with tempfile.TemporaryDirectory() as folder, LocalKafka(LocalKafkaConfig(home=home, data_dir=Path(folder))) as broker:
        kafka = {"bootstrap.servers": broker.bootstrap_servers}
        for partitions in arguments.partitions:
            topic = f"bench-{partitions}"
            fill(broker.bootstrap_servers, topic, interactions, partitions)
            config = SourceConfig(topic=topic, run_id="bench", until_end=True)
            for _ in range(2):
                measure(
                    f"kafka, {partitions} partitions",
                    lambda c=config: KafkaSource(c, kafka, decode_interaction, RunPosition()),
                    len(interactions),
                )
            fill(broker.bootstrap_servers, f"{topic}-json", interactions, partitions, as_json)
            described = SourceConfig(topic=f"{topic}-json", run_id="bench", until_end=True)
            for _ in range(2):
                decoder = stream_decoder(parse_stream(DESCRIPTION), None)
                measure(
                    f"kafka, JSON with ids, {partitions} partitions",
                    lambda c=described, d=decoder: KafkaSource(c, kafka, d, RunPosition()),
                    len(interactions),
                )


if __name__ == "__main__":
    main()
