"""Which dimensions ids of every popularity hold, from a metrics record of a run that searches them."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoemb_pipeline.schemas.scores import SIDES
from autoemb_pipeline.schemas.vocabulary import BUCKET_INTERACTIONS, BUCKET_WEIGHT, IDS_OF_SPACE

NO_ROW = "0"


def spaces_of(metrics: Mapping[str, Any]) -> Sequence[str]:
    """The dimensions an id may hold, increasing, "0" (no row yet) first; empty where none are searched."""
    return sorted(metrics.get(IDS_OF_SPACE.field.format(side=SIDES[0])) or (), key=int)


def held_by_popularity(metrics: Mapping[str, Any], side: str, buckets: int) -> dict[str, list[float]]:
    """Dimension -> share of the interactions over the run whose user (item) held it, for every popularity bucket, the rarest first.

    Args:
        metrics: a record.
        side: user or item.
        buckets: at most so many; the most popular ones are one then.
    """
    counts = {int(bucket): count for bucket, count in (metrics.get(BUCKET_INTERACTIONS.field.format(side=side)) or {}).items()}
    weights = metrics.get(BUCKET_WEIGHT.field.format(side=side)) or {}
    order = sorted(counts)
    groups = [[bucket] for bucket in order[: buckets - 1]] + [order[buckets - 1 :]]
    shares: dict[str, list[float]] = {space: [] for space in spaces_of(metrics)}
    for group in filter(None, groups):
        total = sum(counts[bucket] for bucket in group)
        held = 0.0
        for space, own in shares.items():
            if space != NO_ROW:
                own.append(sum(counts[bucket] * (weights.get(f"{bucket}_{space}") or 0.0) for bucket in group) / total)
                held += own[-1]
        shares[NO_ROW].append(max(0.0, 1.0 - held))
    return shares
