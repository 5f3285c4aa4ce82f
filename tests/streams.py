"""Small interaction streams for tests. Synthetic unless a name says otherwise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from autoemb_pipeline.records import Interaction


def synthetic_stream(events: int, *, seed: int, users: int = 12, items: int = 20, ties: int = 3) -> list[Interaction]:
    """A learnable synthetic stream in event-time order, `ties` events per second on average, half-star ratings."""
    rng = np.random.Generator(np.random.Philox(seed))
    taste, quality = rng.normal(size=users), rng.normal(size=items)
    seconds = np.sort(rng.integers(0, max(1, events // ties), size=events))
    stream = []
    for sequence, second in enumerate(seconds):
        user, item = int(rng.integers(users)), int(rng.integers(items))
        rating = float(np.clip(np.round((3.2 + taste[user] + quality[item] + rng.normal()) * 2) / 2, 0.5, 5.0))
        stream.append(
            Interaction(
                user_id=f"u{user}",
                item_id=f"i{item}",
                rating=rating,
                timestamp=1_000_000_000_000 + int(second) * 1000,
                dataset="synthetic-test",
                sequence=sequence,
            )
        )
    return stream


def taste_stream(events: int, *, seed: int, users: int = 60, items: int = 80, ties: int = 3) -> list[Interaction]:
    """A synthetic stream whose labels follow from products of six tastes of both sides alone, and whose ids are as popular as 1/rank."""
    rng = np.random.Generator(np.random.Philox(seed))
    tastes, qualities = rng.normal(size=(users, 6)), rng.normal(size=(items, 6))
    who, what = (rng.choice(n, size=events, p=(p := 1 / np.arange(1, n + 1)) / p.sum()) for n in (users, items))
    liked = rng.random(events) < 1 / (1 + np.exp(-(tastes[who] * qualities[what]).sum(axis=1)))
    return [
        Interaction(f"u{user}", f"i{item}", 5.0 if like else 1.0, 1_000_000_000_000 + sequence // ties * 1000, "taste", sequence)
        for sequence, (user, item, like) in enumerate(zip(who.tolist(), what.tolist(), liked.tolist(), strict=True))
    ]


def passing_stream(events: int, *, seed: int, window: int = 20, every: int = 6, late: int = 0) -> list[Interaction]:
    """As `taste_stream`, one event a second; each side's ids are those of a window that moves on by one id every so many events.

    One event in fifty is of an id that may long be gone. late: one of so many is 100 s late; 0: none.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    tastes, qualities = rng.normal(size=(events, 3)), rng.normal(size=(events, 3))
    stream = []
    for sequence in range(events):
        first = sequence // every
        user, item = (int(first + window * rng.random() ** 2) if rng.random() > 0.02 else int(rng.integers(first + 1)) for _ in range(2))
        like = rng.random() < 1 / (1 + np.exp(-2 * tastes[user] @ qualities[item]))
        seconds = sequence - (100 if late and sequence % late == late - 1 else 0)
        stream.append(Interaction(f"u{user}", f"i{item}", 5.0 if like else 1.0, 1_000_000_000_000 + seconds * 1000, "passing", sequence))
    return stream


def movielens_stream(folder: Path) -> list[Interaction]:
    """Real interactions of a MovieLens csv folder by (timestamp, file order)."""
    frame = pl.read_csv(folder / "ratings.csv").sort("timestamp", maintain_order=True)
    return [
        Interaction(str(user), str(item), rating, seconds * 1000, "ml", sequence)
        for sequence, (user, item, rating, seconds) in enumerate(frame.iter_rows())
    ]


def ratings_of(interactions: Sequence[Interaction]) -> np.ndarray:
    """[n] their ratings, as `labels_of` takes them."""
    return np.array([interaction.rating for interaction in interactions], dtype=np.float64)
