# ruff: noqa: T201 - a command that prints its tables
"""What the ladder's cells say: comparisons pooled over streams, hindsight per cell of popularity, rungs by popularity, learnt dimensions.

    python -m tests.benchmarks.ladder_report pooled --out DIR --streams synthetic-a:seed=11+synthetic-a:seed=12 --seeds 2
    python -m tests.benchmarks.ladder_report hindsight|buckets|popularity --out DIR --streams ... --seeds 2

All of it is of the last 30%. Where the truth is known (synthetic), hindsight compares expected losses: the label's own noise cancels.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.experiments.statistics import holm
from autoemb_pipeline.producers.datasets.synthetic import PRESETS, SyntheticConfig, SyntheticModel
from autoemb_pipeline.records import FloatArray
from tests.benchmarks.ladder import RUNGS, _shown, _wider, cells, load

FIXED = tuple(rung for rung in RUNGS if rung.startswith("fse-"))


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The last 30% of a stream.

    Attributes:
        users: [n] numbers of the users.
        counts: both sides' [n] interactions of the id before.
        liked: [n] labels.
        truth: [n] P(liked), or None.
        start: of the last 30% in the stream.
    """

    users: NDArray[np.int64]
    counts: tuple[NDArray[np.int64], NDArray[np.int64]]
    liked: NDArray[np.bool_]
    truth: FloatArray | None
    start: int

    @classmethod
    def of(cls, name: str) -> "Tail":
        truth = None
        if name.partition(":")[0] in PRESETS:
            chunks = list(SyntheticModel(SyntheticConfig.parse(name)).stream())
            users, items, _, ratings, truth = (np.concatenate(column) for column in zip(*chunks, strict=True))
        else:
            stream = load(name, None)
            ids = [[getattr(r, side) for r in stream] for side in ("user_id", "item_id")]
            users, items = (np.unique(side, return_inverse=True)[1] for side in ids)
            ratings = np.array([r.rating for r in stream])
        start = int(0.7 * len(users))
        counts = tuple(occurrences_before(side)[start:] for side in (users, items))
        return cls(
            users=users[start:],
            counts=counts,
            liked=ratings[start:] > 3.5,
            truth=None if truth is None else truth[start:],
            start=start,
        )

    def expected(self, losses: FloatArray) -> FloatArray:
        """[n] the losses' expectation over the labels, where the truth is known; else as they are."""
        if self.truth is None:
            return losses
        root = np.sqrt(losses)
        predicted = np.where(self.liked, 1.0 - root, root)
        return (predicted - self.truth) ** 2 + self.truth * (1.0 - self.truth)

    @property
    def popularity(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Both sides' bucket, the whole part of log2(1 + count)."""
        users, items = (np.floor(np.log2(1.0 + count)).astype(np.int64) for count in self.counts)
        return users, items


def occurrences_before(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] how often each id occurred before."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.concatenate([begins, [len(ids)]]))
    before = np.empty(len(ids), dtype=np.int64)
    before[order] = np.arange(len(ids)) - np.repeat(begins, lengths)
    return before


def tails(out: Path, name: str, rungs: Sequence[str], seeds: int, tail: Tail | None = None) -> dict[str, FloatArray]:
    """Each finished rung's losses of the last 30%, averaged over its seeds, the logistic reference first.

    With a tail they are expected losses, computed run by run: the mean loss of two runs is no run's loss.
    """

    def losses(file: Path) -> FloatArray:
        values = np.load(file).astype(np.float64)
        values = values[int(0.7 * len(values)) :]
        return values if tail is None else tail.expected(values)

    found: dict[str, FloatArray] = {}
    for rung in rungs:
        folders = [f for f, _, _ in cells(out, name, [rung], seeds) if (f / "cell.json").exists()]
        if not folders:
            continue
        if "logistic" not in found:
            found["logistic"] = losses(folders[0] / "reference.npy")
        found[rung] = np.mean([losses(f / "losses.npy") for f in folders], axis=0)
    return found


def pooled(out: Path, streams: Sequence[str], seeds: int, rungs: Sequence[str], against: str, *, expected: bool) -> None:
    """Each rung's mean, and `against` less the rung over all streams' users; Holm over the rows. expected: see `Tail.expected`."""
    parts = [Tail.of(name) for name in streams]
    every = {name: tails(out, name, rungs, seeds, tail if expected else None) for name, tail in zip(streams, parts, strict=True)}
    common = [r for r in ("logistic", *rungs) if all(r in found for found in every.values())]
    users = [tail.users + k * 10_000_000 for k, tail in enumerate(parts)]
    others = [r for r in common if r != against]
    differences = {r: [every[name][against] - every[name][r] for name in streams] for r in others}
    intervals = {r: _wider(np.concatenate(d), np.concatenate(users)) for r, d in differences.items()}
    adjusted = dict(zip(others, holm([intervals[r].p_value for r in others]), strict=True))
    print(f"| rung | last 30% | {against} − rung | streams below |\n|---|---|---|---|")
    for rung in common:
        means = np.array([every[name][rung].mean() for name in streams])
        spread = f" ± {means.std(ddof=1):.5f}" if len(means) > 1 else ""
        won = "" if rung == against else f"{sum(d.mean() < 0 for d in differences[rung])} of {len(streams)}"
        shown = "" if rung == against else _shown(intervals[rung], adjusted[rung])
        print(f"| {rung} | {means.mean():.5f}{spread} | {shown} | {won} |")


def hindsight(out: Path, streams: Sequence[str], seeds: int, rungs: Sequence[str]) -> None:
    """What the best fixed dimension of every user x item popularity cell would have: the most that choosing by popularity can bring."""
    searched = [r for r in rungs if r not in FIXED]
    print(
        f"| stream | Bayes | best fixed | hindsight | {' | '.join(searched)} | gap closed by {', '.join(searched)} |\n|---|{'---|' * (4 + len(searched))}"
    )
    for name in streams:
        tail = Tail.of(name)
        losses = tails(out, name, (*FIXED, *searched), seeds, tail)
        fixed = [r for r in FIXED if r in losses]
        users, items = tail.popularity
        cell = users * 64 + items
        sums = np.array([np.bincount(cell, weights=losses[r]) for r in fixed])
        means = {r: losses[r].mean() for r in losses}
        best = min(fixed, key=lambda r: means[r])
        least = sums.min(axis=0).sum() / len(cell)
        gap = means[best] - least
        closed = ", ".join(f"{(means[best] - means[r]) / gap:+.0%}" for r in searched if r in means)
        bayes = "" if tail.truth is None else f"{(tail.truth * (1 - tail.truth)).mean():.5f}"
        shown = " | ".join(f"{means[r]:.5f}" if r in means else "" for r in searched)
        print(f"| {name} | {bayes} | {best}: {means[best]:.5f} | {least:.5f} | {shown} | {closed} |")


def buckets(out: Path, streams: Sequence[str], seeds: int, rungs: Sequence[str], against: str) -> None:
    """Rungs less `against` by popularity of the user and of the item."""
    for name in streams:
        tail = Tail.of(name)
        losses = tails(out, name, (against, *rungs), seeds)
        shown = [r for r in rungs if r in losses and r != against]
        print(
            f"\n{name}\n\n| side | count | interactions | {' | '.join(f'{r} − {against}' for r in shown)} |\n|---|---|---|{'---|' * len(shown)}"
        )
        for side, bucket in zip(("user", "item"), tail.popularity, strict=True):
            for b in np.unique(bucket):
                rows = bucket == b
                if rows.sum() < 200:
                    continue
                found = [_shown(_wider((losses[r] - losses[against])[rows], tail.users[rows]), 1.0) for r in shown]
                print(f"| {side} | {2**b - 1} to {2 ** (b + 1) - 2} | {rows.sum()} | {' | '.join(found)} |")


def popularity(out: Path, streams: Sequence[str], seeds: int, rungs: Sequence[str]) -> None:
    """Spearman's rank correlations between count and Σ α_n d_n, seed by seed."""
    print("| stream | rung | buckets, users | items | interactions, users | items |\n|---|---|---|---|---|---|")
    for name in streams:
        for rung in rungs:
            found = [json.loads((f / "cell.json").read_text()) for f, _, _ in cells(out, name, [rung], seeds) if (f / "cell.json").exists()]
            measured = [c for c in found if c["popularity"]]
            if not measured:
                continue
            columns = [
                [f"{c['popularity'][side][of]:+.2f}" for c in measured]
                for of in ("spearman_of_buckets", "spearman_of_interactions")
                for side in (0, 1)
            ]
            print(f"| {name} | {rung} | {' | '.join(', '.join(c) for c in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["pooled", "hindsight", "buckets", "popularity"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--streams", required=True, help="With + between them.")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rungs", default=",".join(RUNGS))
    parser.add_argument("--against", default="autoemb")
    parser.add_argument("--expected", action="store_true", help="pooled: expected losses, where the truth is known.")
    given = parser.parse_args()
    of = (given.out, given.streams.split("+"), given.seeds, given.rungs.split(","))
    if given.command == "pooled":
        pooled(*of, given.against, expected=given.expected)
    elif given.command == "buckets":
        buckets(*of, given.against)
    else:
        {"hindsight": hindsight, "popularity": popularity}[given.command](*of)


if __name__ == "__main__":
    main()
