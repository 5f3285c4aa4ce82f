"""A checkout's own commands as processes of their own, with what they took; and the streams that benchmarks send through a broker.

Shape legend: n interactions.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig

HERE = Path(__file__).resolve().parents[2]
OLD_LAYOUT = "from pipeline.cli import main; main()"
LAYOUT = "from autoemb_pipeline.cli import main; main()"
YEAR_MS = 366 * 24 * 3_600_000
SHOWN = 2_000  # characters of a failed command's output


class Took(NamedTuple):
    """What a command took: seconds on the wall, seconds of CPU of all its threads, and its peak of resident memory in bytes."""

    wall: float
    cpu: float
    peak: int


def command(checkout: Path, *arguments: str) -> Took:
    """Runs a command of a checkout's own code. SystemExit, with its last words, if it fails."""
    code = LAYOUT if (checkout / "autoemb_pipeline").exists() else OLD_LAYOUT
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(arguments)}\n{output.read()[-SHOWN:]}")
    return Took(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


@contextmanager
def kafka() -> Iterator[tuple[str, Path]]:
    """A broker of one's own, as `make test` has it: its address, and a folder that goes with it."""
    with tempfile.TemporaryDirectory() as scratch:
        config = LocalKafkaConfig(home=Path(os.environ["KAFKA_HOME"]), data_dir=Path(scratch) / "kafka")
        with LocalKafka(config) as broker:
            yield broker.bootstrap_servers, Path(scratch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What is sent, and what its training needs to know.

    Attributes:
        name: for people.
        dataset: as `replay --dataset`.
        lengths: two lengths; their difference takes start-up out of the rate.
        reading, training: further options of `replay` and of `train`.
        positive_above: ratings above it are positive.
    """

    name: str
    dataset: str
    lengths: tuple[int, int]
    reading: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    positive_above: float = 3.5

    def replay(self, servers: str, length: int) -> str:
        """Sends the first interactions, one partition. Returns the topic."""
        topic = f"t{time.time_ns()}"
        where = ("--topic", topic, "--bootstrap-servers", servers)
        took = command(HERE, "replay", "--dataset", self.dataset, "--limit", str(length), *self.reading, *where)
        tell(f"replay of {length:,}: {took.wall:.1f} s")
        return topic

    def train(self, checkout: Path, servers: str, topic: str, scratch: Path, *further: str) -> Took:
        """A fresh run over the topic's whole content."""
        with tempfile.TemporaryDirectory(dir=scratch) as state:
            mark = time.time_ns()
            own = ("--metrics-topic", f"m{mark}", "--runtime-topic", f"r{mark}", "--dead-letter-topic", f"d{mark}")
            where = ("--topic", topic, "--bootstrap-servers", servers, "--state-dir", f"{state}/run")
            return command(checkout, "train", "--until-end", *where, *own, *self.training, *further)


def streams(folder: Path, copies: int) -> dict[str, Stream]:
    """The streams of docs/performance.md, by name; those whose data is not there are left out.

    Args:
        folder: where a file may be written.
        copies: of ml-latest-small, one after the other, each a year later.
    """
    known = {"synthetic": Stream(name="synthetic", dataset="synthetic:interactions=1000000", lengths=(100_000, 1_000_000))}
    data = Path(os.environ.get("AUTOEMB_DATA_DIR", "data"))
    small, clicks = data / "ml-latest-small" / "ratings.csv", data / "globo" / "clicks-1.parquet"
    if small.exists():
        file, count = _repeated(small, folder, copies)
        known["ml-latest-small"] = Stream(name="ml-latest-small", dataset=str(file), lengths=(count // copies // 5, count))
    if clicks.exists():
        file, count = _clicks(clicks, folder)
        known["globo"] = Stream(
            name="globo",
            dataset=str(file),
            lengths=(count // 10, count),
            reading=("--columns", "user=user_id,item=article_id,rating=clicked_again,timestamp=timestamp"),
            training=("--positive-above", "0.5"),
            positive_above=0.5,
        )
    return known


def _repeated(ratings: Path, folder: Path, copies: int) -> tuple[Path, int]:
    """ml-latest-small several times over. Returns the file and its length."""
    once = pl.read_csv(ratings).with_columns(pl.col("timestamp") * 1000)
    later = int(once["timestamp"].max() - once["timestamp"].min()) + YEAR_MS  # type: ignore[operator]
    file = folder / "ml-latest-small.parquet"
    pl.concat([once.with_columns(pl.col("timestamp") + k * later) for k in range(copies)]).write_parquet(file)
    return file, copies * len(once)


def _clicks(clicks: Path, folder: Path) -> tuple[Path, int]:
    """Globo's clicks but each session's first, which its publishers' selection gives away (the data's README). File and length."""
    kept = pl.read_parquet(clicks).filter(pl.col("position") > 0)
    file = folder / "globo.parquet"
    kept.write_parquet(file)
    return file, len(kept)


def median(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def tell(text: str) -> None:
    """A line of the report, at once."""
    print(text, flush=True)  # noqa: T201


def machine() -> str:
    """This machine, in words, with what else it does."""
    name = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return f"{os.cpu_count()} cores of {name}; load {os.getloadavg()[0]:.1f}"
