"""`autoemb-pipeline replay` against Apache Kafka's own producer benchmark: records of the same size, the same broker, in turns.

    KAFKA_HOME=... python -m tests.benchmarks.bench_replay [--interactions 2000000] [--rounds 3] [--partitions 1]

Both rates are what the commands print themselves: sending alone, without the processes' start. ProducerPerformance sends lines of text as long
as a replayed record's key, value and header together, with replay's batching and compression; it keeps no order by user, reads no dataset
and proves nothing afterwards. CPU time is of the sending process, its start included.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import NewTopic

from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, default_cache_dir, load_dataset
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.topic_reader import FINGERPRINT_HEADER
from autoemb_pipeline.schemas.columnar import encode_block

LINES = 50_000  # distinct records that ProducerPerformance draws from
REPLAY = "from autoemb_pipeline.cli import main; main()"
PERFORMANCE = "org.apache.kafka.tools.ProducerPerformance"
# what producers/delivery.py and librdkafka's defaults amount to; idempotence and acks=all are the Java client's own defaults
SETTINGS = ("compression.type=lz4", "linger.ms=10", "batch.size=1000000", "buffer.memory=67108864", "acks=all", "enable.idempotence=true")


class Measured(NamedTuple):
    """rate: records per second, by the command itself; cpu: seconds of the process; output: the lines with it."""

    rate: float
    cpu: float


def measured(command: Sequence[str], pattern: str) -> Measured:
    """Runs a command that prints its rate."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    after = os.times()
    found = re.findall(pattern, done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(float(found[-1].replace(",", "")), cpu)


def replayed(spec: str, servers: str, topic: str, partitions: int) -> Measured:
    """One replay of the whole dataset into a new topic."""
    where = ("--topic", topic, "--bootstrap-servers", servers, "--partitions", str(partitions))
    return measured((sys.executable, "-c", REPLAY, "replay", "--dataset", spec, *where), r"\(([\d,]+)/s\)")


def performed(home: Path, servers: str, topic: str, records: int, payload: Path) -> Measured:
    """One run of Kafka's benchmark into a topic that exists."""
    java = ("java", "-Xmx512m", "-cp", f"{home}/libs/*", PERFORMANCE, "--topic", topic, "--num-records", str(records))
    what = ("--payload-file", str(payload), "--throughput", "-1")
    return measured((*java, *what, "--producer-props", f"bootstrap.servers={servers}", *SETTINGS), r"records sent, ([\d.]+) records/sec")


def record_size(dataset: SortedDataset) -> int:
    """Mean bytes of a record's key, value and header."""
    block = next(iter(dataset.blocks()))
    total = len(encode_block(block).data) + int(block.user_ids.bounds[-1])
    return round(total / len(block)) + len(FINGERPRINT_HEADER) + len(dataset.fingerprint)


def write_payload(dataset: SortedDataset, size: int, file: Path) -> None:
    """Interactions as lines of text of this size: about as compressible as the records."""
    with file.open("w") as out:
        for i in dataset.interactions(range(min(LINES, len(dataset)))):
            line = f"{i.user_id},{i.item_id},{i.rating},{i.timestamp},{i.sequence},{i.dataset},{dataset.fingerprint}"
            out.write(f"{line:.{size}}".ljust(size, ".") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=1)
    options = parser.parse_args()
    home = Path(os.environ["KAFKA_HOME"])
    spec = f"synthetic:interactions={options.interactions},users=20000,items=5000"
    dataset = load_dataset(spec, DatasetOptions(cache_dir=default_cache_dir()))
    size = record_size(dataset)
    rates: dict[str, list[Measured]] = {"replay": [], "ProducerPerformance": []}
    with tempfile.TemporaryDirectory() as folder, LocalKafka(LocalKafkaConfig(home=home, data_dir=Path(folder) / "kafka")) as broker:
        servers, payload = broker.bootstrap_servers, Path(folder) / "payload"
        write_payload(dataset, size, payload)
        admin = quiet_admin({"bootstrap.servers": servers})
        for number in range(options.rounds):
            admin.create_topics([NewTopic(f"java-{number}", options.partitions, 1)])[f"java-{number}"].result(20)
            rates["replay"].append(replayed(spec, servers, f"replay-{number}", options.partitions))
            rates["ProducerPerformance"].append(performed(home, servers, f"java-{number}", options.interactions, payload))
            last = ", ".join(f"{name} {runs[-1].rate:,.0f}/s ({runs[-1].cpu:.1f} s CPU)" for name, runs in rates.items())
            print(f"{time.strftime('%H:%M:%S')} {last}", flush=True)  # noqa: T201  # a benchmark's output
    ours, theirs = (statistics.median(run.rate for run in runs) for runs in rates.values())
    load = os.getloadavg()[0]
    print(  # noqa: T201
        f"{options.interactions:,} records of {size} bytes, {options.partitions} partition(s), medians of {options.rounds}, load {load:.1f}: "
        f"replay {ours:,.0f}/s, ProducerPerformance {theirs:,.0f}/s, ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
