"""The whole pipeline, `autoemb-pipeline train --until-end` on a real Apache Kafka, against another commit and other references.

    KAFKA_HOME=... python -m tests.benchmarks.bench_pipeline [--other CHECKOUT] [--rounds 3] [--dataset synthetic:...] [--preset stream]

Two streams of different length are trained by processes of their own; the rate is the difference of their lengths over the difference of
their wall times, so that start-up is taken out. ``--other`` names a checkout of another commit; both run alternately on the same topics.
With ``--river`` its BiasedMF (16 factors) learns the same interactions in memory, on one core, as the reference that users would pick.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from autoemb_pipeline.ops.brokers.local_kafka import LocalKafka, LocalKafkaConfig
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.records import Interaction

HERE = Path(__file__).resolve().parents[2]
OLD_LAYOUT = "from pipeline.cli import main; main()"
LAYOUT = "from autoemb_pipeline.cli import main; main()"


def command(checkout: Path, *arguments: str) -> float:
    """Seconds that a command of a checkout's own code takes."""
    code = LAYOUT if (checkout / "autoemb_pipeline").exists() else OLD_LAYOUT
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def train_seconds(checkout: Path, servers: str, topic: str, scratch: Path, extra: Sequence[str]) -> float:
    """A fresh run over the topic's whole content."""
    with tempfile.TemporaryDirectory(dir=scratch) as state:
        own = (
            "--metrics-topic",
            f"m{time.time_ns()}",
            "--runtime-topic",
            f"r{time.time_ns()}",
            "--dead-letter-topic",
            f"d{time.time_ns()}",
        )
        where = ("--topic", topic, "--bootstrap-servers", servers, "--state-dir", f"{state}/run")
        return command(checkout, "train", "--until-end", *where, *own, *extra)


def river_rate(interactions: Sequence[Interaction]) -> float:
    """Interactions per second of River's BiasedMF, predict_one then learn_one, in memory."""
    from river import optim, reco  # noqa: PLC0415  # an extra of the package

    model = reco.BiasedMF(n_factors=16, bias_optimizer=optim.SGD(0.02), latent_optimizer=optim.SGD(0.02))
    started = time.perf_counter()
    for interaction in interactions:
        model.predict_one(interaction.user_id, interaction.item_id)
        model.learn_one(interaction.user_id, interaction.item_id, float(interaction.rating > 3.5))
    return len(interactions) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="checkout of another commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--lengths", type=int, nargs=2, default=(20_000, 100_000))
    parser.add_argument("--preset", default="stream")
    parser.add_argument("--river", action="store_true")
    options = parser.parse_args()
    short, long = options.lengths
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        config = LocalKafkaConfig(home=Path(os.environ["KAFKA_HOME"]), data_dir=scratch / "kafka")
        with LocalKafka(config) as broker:
            servers = broker.bootstrap_servers
            for length in options.lengths:
                seconds = command(
                    HERE,
                    "replay",
                    "--dataset",
                    options.dataset,
                    "--limit",
                    str(length),
                    "--topic",
                    f"t{length}",
                    "--bootstrap-servers",
                    servers,
                )
                print(f"replay {length:,}: {seconds:.1f} s")  # noqa: T201
            checkouts = [HERE] + ([options.other.resolve()] if options.other else [])
            rates: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
            for _ in range(options.rounds):
                for checkout in checkouts:
                    times = [train_seconds(checkout, servers, f"t{n}", scratch, ("--preset", options.preset)) for n in options.lengths]
                    rates[checkout].append((long - short) / (times[1] - times[0]))
                    print(f"{checkout.name}: {times[0]:.1f} s, {times[1]:.1f} s, {rates[checkout][-1]:,.0f} interactions/s", flush=True)  # noqa: T201
    own = statistics.median(rates[HERE])
    print(f"pipeline {own:,.0f} interactions/s (median of {options.rounds})")  # noqa: T201
    for checkout in checkouts[1:]:
        print(f"÷ {checkout}: {own / statistics.median(rates[checkout]):.2f}")  # noqa: T201
    if options.river:
        reading = DatasetOptions(
            cache_dir=Path(tempfile.gettempdir()), data_dir=Path(data) if (data := os.environ.get("AUTOEMB_DATA_DIR")) else None
        )
        interactions = list(islice(load_dataset(options.dataset, reading).interactions(), long))
        river = statistics.median(river_rate(interactions) for _ in range(options.rounds))
        print(f"River's BiasedMF {river:,.0f}/s; pipeline ÷ River {own / river:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
