"""A stream of MovieLens 20M's shape, synthetic, replayed and trained end to end through a real Apache Kafka: minutes and memory.

    KAFKA_HOME=... python -m tests.benchmarks.bench_large [--interactions 20000000] [--scratch FOLDER] [--preset stream]

Users, items and days are ml-20m's, users in proportion where --interactions is smaller. Peak memory is the process's own VmHWM at its end:
resident memory, mapped files included. Making the data is timed apart; it stays in the cache. The scratch folder needs about 60 bytes an
interaction for the topic, and the run's state beside it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig

# https://grouplens.org/datasets/movielens/20m/: 9 January 1995 to 31 March 2015
INTERACTIONS, USERS, ITEMS, DAYS, START_MS = 20_000_263, 138_493, 26_744, 7_386, 789_652_009_000
COMMAND = """
from autoemb_pipeline.cli import main
try:
    main()
finally:
    print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=__import__("sys").stderr)
"""


class Ran(NamedTuple):
    """seconds: of the wall. cpu: seconds of all its threads. peak: MiB resident. output: what it printed on stdout."""

    seconds: float
    cpu: float
    peak: float
    output: str

    def __str__(self) -> str:
        return f"{self.seconds / 60:.2f} min, {self.cpu / 60:.2f} min CPU, peak {self.peak:,.0f} MiB"


def run(*arguments: str) -> Ran:
    """A command of this checkout, to its end."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - started, os.times()
    peak = re.findall(r"VmHWM:\s*(\d+) kB", done.stderr)
    if done.returncode or not peak:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Ran(seconds, cpu, int(peak[-1]) / 1024, done.stdout.strip())


def mebibytes(folder: Path) -> float:
    """What a folder's files take."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--scratch", type=Path, help="folder for the topic and the run's state")
    parser.add_argument("--preset", default="stream")
    options = parser.parse_args()
    count = options.interactions
    users = max(1, min(USERS, USERS * count // INTERACTIONS))
    spec = f"synthetic-b:interactions={count},users={users},items={ITEMS},days={DAYS},start_ms={START_MS}"
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        with LocalKafka(LocalKafkaConfig(home=Path(os.environ["KAFKA_HOME"]), data_dir=scratch / "kafka")) as broker:
            where = ("--topic", "large", "--bootstrap-servers", broker.bootstrap_servers)
            report("data made or found in the cache", run("replay", "--dataset", spec, "--limit", "0", *where))
            replayed = run("replay", "--dataset", spec, *where)
            report(f"replay, {count / replayed.seconds:,.0f}/s of the whole command", replayed)
            state = scratch / "state"
            trained = run("train", "--until-end", "--preset", options.preset, "--state-dir", str(state), *where)
            report(f"train, {count / trained.seconds:,.0f}/s of the whole command", trained)
            sizes = f"topic and broker {mebibytes(scratch / 'kafka'):,.0f} MiB, state {mebibytes(state):,.0f} MiB"
    minutes = (replayed.seconds + trained.seconds) / 60
    print(f"{count:,} interactions, {users:,} users: {minutes:.2f} min end to end, {sizes}, load {os.getloadavg()[0]:.1f}")  # noqa: T201


def report(name: str, ran: Ran) -> None:
    print(f"{name}: {ran}\n  {ran.output.splitlines()[-1] if ran.output else ''}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
