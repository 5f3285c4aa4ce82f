"""What the paper's Figures 6, 7 and 8 show, as numbers, from prediction logs. Memory is bounded by ids and bins, not by the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from autoemb_pipeline.experiments.runs import REFERENCE_TITLES, Group, Run, Variant
from autoemb_pipeline.records import FloatArray

STRETCHES = 40
LEAST_IN_BUCKET = 30
_LAST_BUCKET = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of a panel; `low` and `high` are the extremes over seeds, where there are several."""

    name: str
    x: FloatArray
    y: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None
    reference: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One set of axes.

    Attributes:
        title, x_label, y_label: with units.
        curves: its lines.
        ticks: x value -> its text; none: numbers.
        bars: x value -> height of the background bars (drawn on their own, unnumbered scale), e.g. interactions per bucket.
        y_range: None fits the lines.
        stacked: the curves are parts of a whole, drawn as bars upon one another.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    ticks: dict[int, str] | None = None
    bars: dict[int, int] | None = None
    y_range: tuple[float, float] | None = None
    stacked: bool = False


def bucket_of(column: str) -> pl.Expr:
    """Popularity bucket 0, 1, 2-3, 4-7, ... (number 0, 1, 2, 3, ...), as the metrics topic's."""
    count = pl.col(column).cast(pl.Float64)
    return pl.when(count < 1).then(0).otherwise(count.log(2).floor() + 1).clip(0, _LAST_BUCKET).cast(pl.Int32)


def bucket_name(bucket: int) -> str:
    """0, 1, 2, 4, 8, ...: a bucket's lower bound."""
    return "0" if bucket == 0 else str(2 ** (bucket - 1))


def error_by_popularity(group: Group, side: str) -> tuple[list[Curve], dict[int, int]]:
    """Figure 6: mean loss by the user's (item's) number of earlier interactions; and bucket -> interactions.

    Buckets of fewer than 30 interactions are left out: their means are noise.
    """
    tables = {run.run_id: _by_bucket(group, run, side, [f"{model}_loss" for model in run.models]) for run in group.runs}
    first = tables[group.runs[0].run_id]
    curves = [_over_seeds(variant, tables, "method_loss") for variant in group.variants]
    curves += [
        Curve(name=name, x=_floats(first, "bucket"), y=_floats(first, f"{model}_loss"), reference=True)
        for model, name in REFERENCE_TITLES.items()
        if f"{model}_loss" in first.columns
    ]
    return curves, dict(zip(first["bucket"].to_list(), first["interactions"].to_list(), strict=True))


def weights_by_popularity(group: Group, variant: Variant, side: str) -> list[Curve]:
    """Figure 7: the mean controller weight of every embedding space by popularity; none for methods without controllers.

    Where dimensions are chosen, these are shares of interactions by the dimension that the id held, none of them first.
    """
    columns = [column for column in variant.runs[0].columns if column.startswith(f"{side}_weight_")]
    if not columns:
        return []
    tables = {run.run_id: _by_bucket(group, run, side, columns) for run in variant.runs}
    curves = [_over_seeds(variant, tables, column, name=f"dimension {column.rpartition('_')[2]}") for column in columns]
    if variant.runs[0].searches:
        without = np.maximum(1.0 - np.sum([curve.y for curve in curves], axis=0), 0.0)
        curves.insert(0, Curve(name="no row yet", x=curves[0].x, y=without))
    return curves


def error_over_stream(group: Group) -> tuple[list[Curve], list[Curve]]:
    """Figure 8: mean loss of every stretch of the stream, and the mean since its beginning, against interactions seen."""
    tables = {run.run_id: _by_stretch(group, run) for run in group.runs}
    stretch = [_over_seeds(variant, tables, "method_loss", x="end") for variant in group.variants]
    running = [_over_seeds(variant, tables, "method_running", x="end") for variant in group.variants]
    first = tables[group.runs[0].run_id]
    for model, name in REFERENCE_TITLES.items():
        if f"{model}_loss" in first.columns:
            stretch.append(Curve(name=name, x=_floats(first, "end"), y=_floats(first, f"{model}_loss"), reference=True))
            running.append(Curve(name=name, x=_floats(first, "end"), y=_floats(first, f"{model}_running"), reference=True))
    return stretch, running


def user_sums(group: Group, run: Run) -> pl.DataFrame:
    """Per user, in order of id: interactions, and the sum of every model's losses and hits: all an interval by users needs."""
    sums = [pl.col(f"{model}_{what}").cast(pl.Float64).sum() for model in run.models for what in ("loss", "hit")]
    return group.scored(run).group_by("user_id").agg(pl.len().alias("interactions"), *sums).sort("user_id").collect()


def _by_bucket(group: Group, run: Run, side: str, columns: Sequence[str]) -> pl.DataFrame:
    grouped = group.scored(run).group_by(bucket_of(f"{side}_count").alias("bucket"))
    table = grouped.agg(pl.len().alias("interactions"), *[pl.col(c).cast(pl.Float64).mean() for c in columns]).collect()
    return table.filter(pl.col("interactions") >= LEAST_IN_BUCKET).sort("bucket")


def _by_stretch(group: Group, run: Run) -> pl.DataFrame:
    length = group.length
    losses = [f"{model}_loss" for model in run.models]
    number = (pl.col("row") * min(STRETCHES, length) // length).alias("stretch")
    rows = run.log.head(length).select(*losses).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    table = rows.group_by(number).agg(pl.len().alias("size"), *[pl.col(c).sum() for c in losses]).sort("stretch").collect()
    end = pl.col("size").cum_sum()
    running = [(pl.col(c).cum_sum() / end).alias(f"{c.removesuffix('_loss')}_running") for c in losses]
    return table.select(end.alias("end"), *running, *[(pl.col(c) / pl.col("size")) for c in losses])


def _over_seeds(variant: Variant, tables: Mapping[str, pl.DataFrame], column: str, *, x: str = "bucket", name: str | None = None) -> Curve:
    own = [tables[run.run_id] for run in variant.runs]
    values = np.stack([_floats(table, column) for table in own])
    several = len(own) > 1
    return Curve(
        name=name or variant.name,
        x=_floats(own[0], x),
        y=values.mean(axis=0),
        low=values.min(axis=0) if several else None,
        high=values.max(axis=0) if several else None,
    )


def _floats(table: pl.DataFrame, column: str) -> FloatArray:
    return np.asarray(table[column].to_numpy(), dtype=np.float64)
