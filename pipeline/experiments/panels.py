"""The axes of the paper's Figures 6, 7 and 8, for pages and picture files alike."""

from collections.abc import Sequence

import numpy as np

from autoemb_pipeline.experiments.curves import (
    Curve,
    Panel,
    bucket_name,
    error_by_popularity,
    error_over_stream,
    weights_by_popularity,
)
from autoemb_pipeline.experiments.runs import Group, Variant


def error_panels(group: Group) -> list[Panel]:
    """Figure 6: error by popularity, users and items."""
    panels = []
    for side in ("user", "item"):
        curves, interactions = error_by_popularity(group, side)
        panels.append(
            Panel(
                title=f"By popularity of the {side}",
                x_label=f"earlier interactions of the {side} (bucket's lower bound)",
                y_label=f"mean {group.runs[0].loss_name}",
                curves=curves,
                ticks={bucket: bucket_name(bucket) for bucket in interactions},
                bars=interactions,
            )
        )
    return panels


def weight_panels(group: Group, variant: Variant) -> list[Panel]:
    """Figure 7: the controllers' weights, or the dimensions they chose, by popularity; empty for methods without controllers."""
    panels = []
    for side in ("user", "item"):
        curves = weights_by_popularity(group, variant, side)
        if not curves:
            return []
        chosen = variant.runs[0].searches
        panels.append(
            Panel(
                title=f"{side.capitalize()}s",
                x_label=f"earlier interactions of the {side} (bucket's lower bound)",
                y_label="share of interactions" if chosen else "mean weight of the space",
                curves=curves,
                ticks={int(bucket): bucket_name(int(bucket)) for bucket in curves[0].x},
                y_range=(0.0, 1.0) if chosen else (-0.02, 1.02),
                stacked=chosen,
            )
        )
    return panels


def stream_panels(group: Group) -> list[Panel]:
    """Figure 8: error over the stream, of each stretch and since the beginning."""
    stretch, running = error_over_stream(group)
    titles = ("Mean of each stretch of the stream", "Mean since the beginning")
    return [
        Panel(
            title=title,
            x_label="interactions seen",
            y_label=f"mean {group.runs[0].loss_name}",
            curves=curves,
            y_range=settled_range(curves),
        )
        for title, curves in zip(titles, (stretch, running), strict=True)
    ]


def settled_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """The y axis of an error that starts high: fits all but the first twentieth of each line."""
    tails = np.concatenate([curve.y[max(1, len(curve.y) // 20) :] if len(curve.y) > 1 else curve.y for curve in curves])
    low, high = float(tails.min()), float(tails.max())
    margin = 0.08 * max(high - low, 1e-6)
    return low - margin, high + margin
