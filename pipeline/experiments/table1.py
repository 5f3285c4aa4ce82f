"""The paper's Table 1: users, items and interactions of each dataset."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from autoemb_pipeline.experiments.cells import Stream, paper_name

# As printed: dataset -> users, items, interactions.
PAPER = {
    "ml-20m": (138_493, 27_278, 20_000_263),
    "ml-latest": (283_228, 58_098, 27_753_444),
    "netflix": (480_189, 17_770, 100_480_507),
}


class Counts(NamedTuple):
    """One column of the table, and the range of ratings."""

    dataset: str
    users: int
    items: int
    interactions: int
    lowest: float
    highest: float


def count(stream: Stream) -> Counts:
    """Counts a stream; memory follows its ids, not its interactions."""
    users: set[str] = set()
    items: set[str] = set()
    lowest, highest, total = float("inf"), float("-inf"), 0
    for interaction in stream.interactions():
        users.add(interaction.user_id)
        items.add(interaction.item_id)
        lowest, highest = min(lowest, interaction.rating), max(highest, interaction.rating)
        total += 1
    return Counts(stream.name, len(users), len(items), total, lowest, highest)


def as_frame(counts: Sequence[Counts]) -> pl.DataFrame:
    """The table for Parquet."""
    return pl.DataFrame([c._asdict() for c in counts])


def as_markdown(counts: Sequence[Counts]) -> str:
    """The table, with the paper's figures where it has the dataset."""
    lines = [
        "| dataset | # user | # item | # interaction | # rating | paper: user, item, interaction |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for c in counts:
        paper = PAPER.get(paper_name(c.dataset))
        printed = "" if paper is None else f"{paper[0]:,}, {paper[1]:,}, {paper[2]:,}"
        lines.append(f"| {c.dataset} | {c.users:,} | {c.items:,} | {c.interactions:,} | {c.lowest:g}~{c.highest:g} | {printed} |")
    return "\n".join(lines) + "\n"
