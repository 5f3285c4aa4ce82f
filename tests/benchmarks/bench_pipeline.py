"""The whole pipeline, `autoemb-pipeline train --until-end` on a real Apache Kafka, against another commit and other references.

    KAFKA_HOME=... python -m tests.benchmarks pipeline [--stream synthetic|ml-latest-small|globo] [--other CHECKOUT] [--river] [--bare]

Two lengths of one stream are trained by processes of their own; the rate is the difference of their lengths over the difference of
their wall times, so that start-up is taken out; rates per second of CPU likewise. ``--other`` names a checkout of another commit, which
trains the same topics in alternation, shorter ones where `--other-lengths` says so. With ``--river`` its BiasedMF (16 factors) learns the
same interactions in memory, on one core: what users would pick instead. With ``--bare`` the kernels alone (events, Newton, controllers)
learn them from prepared columns, and a bare consumer reads the topic.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.formats.named import Columns as Roles
from autoemb_pipeline.records import Interaction
from tests.benchmarks.commands import HERE, Stream, kafka, machine, median, streams, tell
from tests.kernels.loop import Columns, Settings, whole

KERNELS = ("events", "newton", "controllers")


@dataclass
class Rates:
    """Of one checkout, over the rounds: interactions per second on the wall, and per second of CPU; peak memory of the long runs."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0


def measure(
    stream: Stream, checkout: Path, servers: str, topics: Sequence[str], scratch: Path, rates: Rates, *further: str
) -> None:  # fmt: skip
    """One round. further: options of train."""
    short, long = (stream.train(checkout, servers, topic, scratch, *further) for topic in topics)
    count = stream.lengths[1] - stream.lengths[0]
    rates.wall.append(count / (long.wall - short.wall))
    rates.cpu.append(count / (long.cpu - short.cpu))
    rates.peak = max(rates.peak, long.peak)
    figures = f"{rates.wall[-1]:,.0f} interactions/s, {rates.cpu[-1]:,.0f} per CPU second, peak {long.peak / 2**20:,.0f} MiB"
    tell(f"{checkout.name}: {short.wall:.1f} s, {long.wall:.1f} s: {figures}")


def interactions_of(stream: Stream, length: int) -> list[Interaction]:
    """The same interactions as objects."""
    roles = next(
        (Roles.parse(text) for option, text in zip(stream.reading, stream.reading[1:], strict=False) if option == "--columns"), None
    )
    with tempfile.TemporaryDirectory() as cache:
        reading = DatasetOptions(cache_dir=Path(cache), columns=roles)
        return list(islice(load_dataset(stream.dataset, reading).interactions(), length))


def river_rate(interactions: Sequence[Interaction], positive_above: float) -> float:
    """Interactions per second of River's BiasedMF, predict_one then learn_one, in memory, of one core."""
    from river import optim, reco  # noqa: PLC0415  # an extra of the package

    model = reco.BiasedMF(n_factors=16, bias_optimizer=optim.SGD(0.02), latent_optimizer=optim.SGD(0.02))
    started = time.thread_time()
    for interaction in interactions:
        model.predict_one(interaction.user_id, interaction.item_id)
        model.learn_one(interaction.user_id, interaction.item_id, float(interaction.rating > positive_above))
    return len(interactions) / (time.thread_time() - started)


def bare_rate(interactions: Sequence[Interaction], positive_above: float) -> float:
    """Interactions per CPU second of the kernels alone: no Kafka, no store, no metrics."""
    ids, names = [], []
    for column in ([i.user_id for i in interactions], [i.item_id for i in interactions]):
        positions: dict[str, int] = {}
        ids.append(np.array([positions.setdefault(identifier, len(positions)) for identifier in column], dtype=np.int64))
        names.append(list(positions))
    times = np.array([i.timestamp for i in interactions], dtype=np.int64)
    ratings = np.array([5.0 if i.rating > positive_above else 0.0 for i in interactions])
    loop = whole(Settings(), Columns(ids=ids, names=names, times=times, ratings=ratings))
    return len(interactions) / sum(loop.seconds[part] for part in KERNELS)


def consumer_rate(servers: str, topic: str, length: int) -> float:
    """Records per second on the wall of a consumer that does nothing with them."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": f"bare-{time.time_ns()}", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    count, started = 0, time.perf_counter()
    while count < length:
        count += len(consumer.consume(10_000, 1.0))
    rate = length / (time.perf_counter() - started)
    consumer.close()
    return rate


def compare(stream: Stream, options: argparse.Namespace) -> None:
    """Prints a stream's rates and ratios."""
    checkouts = [HERE] + ([options.other.resolve()] if options.other else [])
    theirs = replace(stream, lengths=tuple(options.other_lengths or stream.lengths))
    rates = {checkout: Rates() for checkout in checkouts}
    with kafka() as (servers, scratch):
        topics = {length: stream.replay(servers, length) for length in sorted({*stream.lengths, *theirs.lengths})}
        for _ in range(options.rounds):
            for checkout in checkouts:
                used = stream if checkout == HERE else theirs
                measure(used, checkout, servers, [topics[length] for length in used.lengths], scratch, rates[checkout])
        consumed = [consumer_rate(servers, topics[stream.lengths[1]], stream.lengths[1]) for _ in range(3 if options.bare else 0)]
    own = rates[HERE]
    tell(f"\n{stream.name}, {stream.lengths[0]:,} and {stream.lengths[1]:,} interactions, {options.rounds} rounds; {machine()}")
    tell(f"pipeline: {median(own.wall)} interactions/s, {median(own.cpu)} per CPU second, peak {own.peak / 2**20:,.0f} MiB")
    wall, cpu = statistics.median(own.wall), statistics.median(own.cpu)
    for checkout in checkouts[1:]:
        other = rates[checkout]
        ratio, ratio_cpu = wall / statistics.median(other.wall), cpu / statistics.median(other.cpu)
        tell(f"{checkout.name}: {median(other.wall)} interactions/s; pipeline ÷ it {ratio:.2f}, by CPU {ratio_cpu:.2f}")
    if not (options.river or options.bare):
        return
    interactions = interactions_of(stream, options.in_memory)
    if options.river:
        river = statistics.median(river_rate(interactions, stream.positive_above) for _ in range(options.rounds))
        tell(f"River's BiasedMF: {river:,.0f}/s of one core; pipeline ÷ it {wall / river:.2f}")
    if options.bare:
        bare = statistics.median(bare_rate(interactions, stream.positive_above) for _ in range(options.rounds))
        tell(f"bare loop: {bare:,.0f} per CPU second; pipeline ÷ it {wall / bare:.2f}, by CPU of all threads {cpu / bare:.2f}")
        read = statistics.median(consumed)
        tell(f"bare consumer: {read:,.0f} records/s; pipeline ÷ it {wall / read:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", nargs="+", default=["synthetic", "ml-latest-small", "globo"])
    parser.add_argument("--dataset", help="another dataset instead, as of `replay`")
    parser.add_argument("--lengths", type=int, nargs=2, help="instead of the stream's own")
    parser.add_argument("--other", type=Path, help="checkout of another commit")
    parser.add_argument("--other-lengths", type=int, nargs=2, help="lengths that it trains; default: the same")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=5, help="of ml-latest-small, one after the other")
    parser.add_argument("--train", nargs="+", default=[], metavar="NAME=VALUE", help="further options of train")
    parser.add_argument("--river", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--in-memory", type=int, default=200_000, help="interactions that River and the bare loop learn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = streams(Path(folder), options.copies)
        if options.dataset:
            known = {options.dataset: Stream(name=options.dataset, dataset=options.dataset, lengths=(20_000, 100_000))}
            options.stream = [options.dataset]
        for name in options.stream:
            if name not in known:
                tell(f"{name}: its data is not here, left out")
                continue
            training = (*known[name].training, *(f"--{option}" for option in options.train))
            compare(replace(known[name], lengths=tuple(options.lengths or known[name].lengths), training=training), options)


if __name__ == "__main__":
    main()
