"""The paper's Figures 1, 6, 7 and 8 as pictures with their numbers, from cells (or any state directories with a prediction log)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.experiments.curves import Curve, Panel
from autoemb_pipeline.experiments.panels import error_panels, stream_panels, weight_panels
from autoemb_pipeline.experiments.runs import Group, comparable, open_run

FIGURES: dict[int, str] = {
    6: "Error by popularity at the time of the prediction",
    7: "Weights of the embedding dimensions by popularity",
    8: "Error over the stream",
}


def one_group(folders: Sequence[Path]) -> Group:
    """The runs of these folders, which must be comparable.

    Raises:
        ConfigurationError: they scored different streams or knew different labels.
    """
    groups = comparable([open_run(folder) for folder in folders])
    if len(groups) != 1:
        raise ConfigurationError(
            f"These runs fall into {len(groups)} groups that may not be compared",
            why="other stream, task or context",
            remedy="draw one at a time",
        )
    return groups[0]


def panels_of(figure: int, group: Group) -> list[Panel]:
    """The panels of Figure 6, 7 or 8. Figure 7 is of the group's AutoEmb runs."""
    return {6: error_panels, 7: _autoembs_weights, 8: stream_panels}[figure](group)


def _autoembs_weights(group: Group) -> list[Panel]:
    variant = next((v for v in group.variants if v.runs[0].setting("method") == "autoemb"), None)
    if variant is None:
        raise ConfigurationError("Figure 7 shows AutoEmb's weights", why="no run of it is here", remedy="include autoemb in --methods")
    return weight_panels(group, variant)


def figure1_panels(results: pl.DataFrame, loss_name: str) -> list[Panel]:
    """Loss and accuracy against training ratings per user, one line a dimension; bands are ranges over seeds."""
    panels = []
    for column, label in (("loss", f"mean {loss_name}"), ("accuracy", "accuracy")):
        curves = []
        for dimension in results["dimension"].unique().sort():
            table = (
                results.filter(pl.col("dimension") == dimension)
                .group_by("ratings")
                .agg(pl.col(column).mean().alias("mean"), pl.col(column).min().alias("low"), pl.col(column).max().alias("high"))
                .sort("ratings")
            )
            x = np.arange(len(table), dtype=np.float64)
            low, mean, high = (table[name].to_numpy() for name in ("low", "mean", "high"))
            curves.append(Curve(name=f"dimension {dimension}", x=x, y=mean, low=low, high=high))
        ticks = {place: str(ratings) for place, ratings in enumerate(results["ratings"].unique().sort())}
        panels.append(
            Panel(title=label[0].upper() + label[1:], x_label="training ratings per user", y_label=label, curves=curves, ticks=ticks)
        )
    return panels


def write(path: Path, panels: Sequence[Panel], *, title: str) -> None:
    """``path.png``, ``path.svg``, and the numbers as ``path.parquet``.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    with _drawing() as save:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, panels, title=title)
    numbers = [
        {"panel": panel.title, "line": curve.name, "x": (panel.ticks or {}).get(int(x), f"{x:g}"), "y": float(y)}
        for panel in panels
        for curve in panel.curves
        for x, y in zip(curve.x, curve.y, strict=True)
    ]
    pl.DataFrame(numbers).write_parquet(path.with_name(f"{path.name}.parquet"))


@contextmanager
def _drawing() -> Iterator[Callable[..., None]]:
    try:
        from autoemb_pipeline.experiments.drawing import save  # noqa: PLC0415  # matplotlib is an extra
    except ImportError as error:
        raise ConfigurationError("Figures need matplotlib", why=str(error), remedy="pip install 'autoemb-pipeline[report]'") from error
    yield save
