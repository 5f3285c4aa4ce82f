"""The paper's Table 2: every method and task on the same ordered interactions; 70% offline, figures of the last 30% only (section 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.experiments.cells import Progress, Stream, online_log, run_cell
from pipeline.experiments.statistics import Interval, Spread, clustered_interval, holm, spread
from pipeline.records import FloatArray, OfflineStage, Task
from pipeline.trainer import TrainerConfig

LOSS = {"binary": "mse", "rating": "cross_entropy"}
TASK_NAMES = {"binary": "Regression", "rating": "Classification"}

# Table 2 as printed: dataset -> task -> (loss, accuracy) -> method.
PAPER: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "ml-20m": {
        "binary": {"fse": (0.1840, 0.7211), "sam": (0.1819, 0.7239), "darts": (0.1812, 0.7245), "autoemb": (0.1803, 0.7259)},
        "rating": {"fse": (1.1464, 0.4943), "sam": (1.1423, 0.4958), "darts": (1.1416, 0.4970), "autoemb": (1.1395, 0.4982)},
    },
    "ml-latest": {
        "binary": {"fse": (0.1809, 0.7260), "sam": (0.1803, 0.7275), "darts": (0.1797, 0.7280), "autoemb": (0.1790, 0.7287)},
        "rating": {"fse": (1.1257, 0.5049), "sam": (1.1249, 0.5062), "darts": (1.1242, 0.5071), "autoemb": (1.1233, 0.5079)},
    },
    "netflix": {
        "binary": {"fse": (0.1821, 0.7290), "sam": (0.1812, 0.7302), "darts": (0.1807, 0.7309), "autoemb": (0.1779, 0.7316)},
        "rating": {"fse": (1.1102, 0.5096), "sam": (1.1092, 0.5109), "darts": (1.1085, 0.5119), "autoemb": (1.1076, 0.5127)},
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model of one dataset and task, over all seeds, in the online stage.

    Attributes:
        model: a method, or a reference.
        loss, accuracy: over seeds (references have one).
        against_fse, against_logistic: difference of losses (averaged over seeds), user-clustered bootstrap; negative is better.
        p_holm: of against_logistic, adjusted for the table's methods; None for references.
        paper: (loss, accuracy) as printed, where the paper has the dataset.
    """

    dataset: str
    task: Task
    model: str
    seeds: int
    interactions: int
    loss: Spread
    accuracy: Spread
    against_fse: Interval | None
    against_logistic: Interval | None
    p_holm: float | None = None
    paper: tuple[float, float] | None = None


def offline_stage(stream: Stream, fraction: float) -> OfflineStage:
    """The first part of a stream, by number of interactions."""
    return OfflineStage(count=int(fraction * stream.length))


def cell_folder(output: Path, stream: Stream, config: TrainerConfig) -> Path:
    """Where a cell of the table lies."""
    learner = config.learner
    epochs = "" if config.offline_epochs == 1 else f"-e{config.offline_epochs}"
    name = f"{stream.name}-{learner.task}-{learner.preset}-{config.context.mode}{epochs}-{learner.method}-s{learner.seed}"
    return output / "cells" / name.replace("/", "_")


def compute(
    output: Path,
    stream: Stream,
    configs: Sequence[TrainerConfig],
    *,
    batch_size: int,
    progress: Progress = lambda _: None,
) -> list[Path]:
    """Trains what is missing of the cells; returns their folders in order of `configs`."""
    folders = [cell_folder(output, stream, config) for config in configs]
    for folder, config in zip(folders, configs, strict=True):
        run_cell(folder, config, stream, batch_size=batch_size, progress=progress)
        progress(stream.length)
    return folders


def rows(stream: Stream, configs: Sequence[TrainerConfig], folders: Sequence[Path]) -> list[Row]:
    """The table's rows of one dataset and task; all cells of `configs` are finished and share task, context and stage."""
    task, offline = configs[0].learner.task, configs[0].offline
    by_method: dict[str, list[Path]] = {}
    for folder, config in zip(folders, configs, strict=True):
        by_method.setdefault(config.learner.method, []).append(folder)
    scored = {method: [_online(folder, offline) for folder in own] for method, own in by_method.items()}
    any_cell = next(iter(scored.values()))[0]
    users = any_cell["user_id"].to_numpy()
    mean_loss = {method: _mean([c["method_loss"].to_numpy() for c in cells]) for method, cells in scored.items()}
    logistic = any_cell["logistic_loss"].to_numpy()
    fse = mean_loss.get("fse")
    table = [
        Row(
            dataset=stream.name,
            task=task,
            model=method,
            seeds=len(cells),
            interactions=len(users),
            loss=_spread(cells, "method_loss"),
            accuracy=_spread(cells, "method_hit"),
            against_fse=None if fse is None or method == "fse" else clustered_interval(mean_loss[method] - fse, users),
            against_logistic=clustered_interval(mean_loss[method] - logistic, users),
            paper=PAPER.get(stream.name, {}).get(task, {}).get(method),
        )
        for method, cells in scored.items()
    ]
    adjusted = holm([row.against_logistic.p_value for row in table if row.against_logistic is not None])
    table = [replace(row, p_holm=p) for row, p in zip(table, adjusted, strict=True)]
    return [*table, *(_reference(stream, task, name, any_cell, users, logistic, fse) for name in ("running_mean", "logistic"))]


def _reference(
    stream: Stream, task: Task, name: str, cell: pl.DataFrame, users: NDArray[Any], logistic: FloatArray, fse: FloatArray | None
) -> Row:
    loss = cell[f"{name}_loss"].to_numpy()
    return Row(
        dataset=stream.name,
        task=task,
        model=name.replace("_", " "),
        seeds=1,
        interactions=len(users),
        loss=_spread([cell], f"{name}_loss"),
        accuracy=_spread([cell], f"{name}_hit"),
        against_fse=None if fse is None else clustered_interval(loss - fse, users),
        against_logistic=None if name == "logistic" else clustered_interval(loss - logistic, users),
    )


def _online(folder: Path, offline: OfflineStage | None) -> pl.DataFrame:
    columns = ["user_id", *(f"{m}_{v}" for m in ("method", "running_mean", "logistic") for v in ("loss", "hit"))]
    return online_log(folder, offline).select(columns).collect()


def _spread(cells: Sequence[pl.DataFrame], column: str) -> Spread:
    return spread([float(np.mean(cell[column].to_numpy())) for cell in cells])


def _mean(series: Sequence[FloatArray]) -> FloatArray:
    total: FloatArray = np.mean(np.stack(series), axis=0)
    return total


def as_frame(table: Sequence[Row]) -> pl.DataFrame:
    """The table for Parquet: intervals as columns."""
    return pl.DataFrame([_flat(row) for row in table])


def _flat(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(row, name) for name in ("dataset", "task", "model", "seeds", "interactions", "p_holm")}
    for name, values in (("loss", row.loss), ("accuracy", row.accuracy)):
        fields[name], fields[f"{name}_spread"] = values.mean, values.deviation
    for name, interval in (("against_fse", row.against_fse), ("against_logistic", row.against_logistic)):
        for part in ("estimate", "low", "high", "p_value"):
            fields[f"{name}_{part}"] = None if interval is None else getattr(interval, part)
    fields["paper_loss"], fields["paper_accuracy"] = row.paper or (None, None)
    return fields


def as_markdown(table: Sequence[Row], *, regime: str, fraction: float, epochs: int = 1) -> str:
    """The paper's table with its figures beside ours."""
    passes = "" if epochs == 1 else f", after {epochs} passes over the rest"
    lines = [
        (
            f"Online stage: the last {100 * (1 - fraction):.0f}% of each stream, counters begun anew there{passes}. {regime} "
            "± is the standard deviation over seeds; differences in loss with 95% intervals, users resampled; negative is better."
        ),
        "",
        "| dataset | task | model | loss | accuracy | − FSE | − logistic | p (Holm) | paper's loss | paper's accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        values = [
            row.dataset,
            f"{TASK_NAMES[row.task]}, {'MSE' if row.task == 'binary' else 'CE'}",
            row.model,
            _with_spread(row.loss),
            _with_spread(row.accuracy),
            _interval(row.against_fse),
            _interval(row.against_logistic),
            "" if row.p_holm is None else f"{row.p_holm:.3f}",
            f"{row.paper[0]:.4f}" if row.paper else "",
            f"{row.paper[1]:.4f}" if row.paper else "",
        ]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _with_spread(values: Spread) -> str:
    return f"{values.mean:.4f}" if values.count == 1 else f"{values.mean:.4f} ± {values.deviation:.4f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
