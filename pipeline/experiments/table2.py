"""The paper's Table 2: every method and task on the same ordered interactions; 70% offline, figures of the last 30% only (section 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from autoemb_pipeline.experiments.cells import Progress, Stream, online_log, paper_name, run_cell
from autoemb_pipeline.experiments.jobs import Job
from autoemb_pipeline.experiments.kafka_cells import Topic, run_kafka_cell
from autoemb_pipeline.experiments.kept import Kept, kept_of, mean_of
from autoemb_pipeline.experiments.statistics import Interval, Spread, holm, interval_of_sums, spread
from autoemb_pipeline.records import FloatArray, OfflineStage, Task
from autoemb_pipeline.schemas.scores import (
    LOGISTIC,
    LOSSES,
    METHOD,
    MODELS,
    REFERENCES,
)
from autoemb_pipeline.trainer import TrainerConfig

_MODELS = tuple(model.name for model in MODELS)
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
        kept: bytes at the end and loss given up, mean over seeds.
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
    kept: Kept = field(default_factory=Kept)
    paper: tuple[float, float] | None = None


def offline_stage(stream: Stream, fraction: float) -> OfflineStage:
    """The first part of a stream, by number of interactions."""
    return OfflineStage(count=int(fraction * stream.length))


def cell_folder(output: Path, stream: Stream, config: TrainerConfig, *, through: str = "direct") -> Path:
    """Where a cell of the table lies."""
    learner = config.learner
    epochs = "" if config.offline_epochs == 1 else f"-e{config.offline_epochs}"
    kafka = "" if through == "direct" else f"-{through}"
    name = f"{stream.name}-{learner.task}-{learner.preset}-{config.context.mode}{epochs}-{learner.method}-s{learner.seed}{kafka}"
    return output / "cells" / name.replace("/", "_")


def cell_jobs(
    stream: Stream, configs: Sequence[TrainerConfig], folders: Sequence[Path], *, batch_size: int, topic: Topic | None = None
) -> list[Job]:
    """The cells as jobs: straight from the dataset, or through the topic that holds it."""
    return [
        Job(run=partial(_cell, folder, config, stream, batch_size, topic), length=stream.length)
        for folder, config in zip(folders, configs, strict=True)
    ]


def _cell(folder: Path, config: TrainerConfig, stream: Stream, batch_size: int, topic: Topic | None, progress: Progress) -> None:
    if topic is None:
        run_cell(folder, config, stream, batch_size=batch_size, progress=progress)
    else:
        run_kafka_cell(folder, config, stream, topic, batch_size=batch_size, progress=progress)


def rows(
    stream: Stream, configs: Sequence[TrainerConfig], folders: Sequence[Path], references: Mapping[str, Path] | None = None
) -> list[Row]:
    """The table's rows of one dataset and task. Memory follows the users: losses are summed up by user, cell by cell.

    Args:
        stream: what the cells were trained on.
        configs: of finished cells that share task, context and stage.
        folders: where they are, in the same order.
        references: name -> folder of references that lie outside of the cells.
    """
    task, offline = configs[0].learner.task, configs[0].offline
    by_method: dict[str, list[pl.DataFrame]] = {}
    for folder, config in zip(folders, configs, strict=True):
        by_method.setdefault(config.learner.method, []).append(_user_sums(folder, offline, _MODELS))
    any_cell = next(iter(by_method.values()))[0]
    losses = {method: np.mean([_sums(c, "method_loss") for c in cells], axis=0) for method, cells in by_method.items()}
    table = _Table(stream.name, task, any_cell, losses.get("fse"))
    kept: dict[str, list[Kept]] = {}
    for folder, config in zip(folders, configs, strict=True):
        kept.setdefault(config.learner.method, []).append(kept_of(online_log(folder, offline)))
    printed = PAPER.get(paper_name(stream.name), {}).get(task, {})
    own = [
        replace(table.row(method, losses[method], cells, "method"), paper=printed.get(method), kept=mean_of(kept[method]))
        for method, cells in by_method.items()
    ]
    own = _adjusted(own)
    others = [(model.title, any_cell, model.name) for model in REFERENCES]
    others += [(name, _user_sums(folder, offline, _MODELS[:1]), METHOD.name) for name, folder in (references or {}).items()]
    return own + [table.row(name, _sums(cell, f"{model}_loss"), [cell], model) for name, cell, model in others]


@dataclass(frozen=True, slots=True)
class _Table:
    """What the rows of a dataset and task have in common: sums of the references that each is held against, by user."""

    dataset: str
    task: Task
    users: pl.DataFrame
    fse: FloatArray | None

    def row(self, model: str, losses: FloatArray, cells: Sequence[pl.DataFrame], column: str) -> Row:
        counts = _sums(self.users, "interactions")
        logistic = _sums(self.users, "logistic_loss")
        is_fse, is_logistic = model == "fse", model == LOGISTIC.title
        return Row(
            dataset=self.dataset,
            task=self.task,
            model=model,
            seeds=len(cells),
            interactions=int(counts.sum()),
            loss=spread([float(_sums(cell, f"{column}_loss").sum() / counts.sum()) for cell in cells]),
            accuracy=spread([float(_sums(cell, f"{column}_hit").sum() / counts.sum()) for cell in cells]),
            against_fse=None if self.fse is None or is_fse else interval_of_sums(losses - self.fse, counts),
            against_logistic=None if is_logistic else interval_of_sums(losses - logistic, counts),
        )


def _user_sums(folder: Path, offline: OfflineStage | None, models: Sequence[str]) -> pl.DataFrame:
    """Per user of the online stage, in order of id: interactions, and the sums of every model's losses and hits."""
    sums = [pl.col(f"{model}_{what}").cast(pl.Float64).sum() for model in models for what in ("loss", "hit")]
    grouped = online_log(folder, offline).group_by("user_id").agg(pl.len().alias("interactions"), *sums)
    return grouped.sort("user_id").collect(engine="streaming")


def _sums(users: pl.DataFrame, column: str) -> FloatArray:
    return users[column].to_numpy().astype(np.float64)


def _adjusted(own: Sequence[Row]) -> list[Row]:
    """With Holm's p-values; none where one user makes intervals undefined."""
    values = [row.against_logistic.p_value for row in own if row.against_logistic is not None]
    if not np.isfinite(values).all():
        return list(own)
    return [replace(row, p_holm=p) for row, p in zip(own, holm(values), strict=True)]


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
    fields |= asdict(row.kept)
    fields["paper_loss"], fields["paper_accuracy"] = row.paper or (None, None)
    return fields


def as_markdown(table: Sequence[Row], *, regime: str, fraction: float, epochs: int = 1, notes: Sequence[str] = ()) -> str:
    """The paper's table with its figures beside ours; notes stand above it."""
    epochs_text = "" if epochs == 1 else f", after {epochs} epochs of the rest"
    lines = [
        (
            f"Online stage: the last {100 * (1 - fraction):.0f}% of each stream, counters begun anew there{epochs_text}. {regime} "
            "± is the standard deviation over seeds; differences in loss with 95% intervals, users resampled; negative is better. "
            "Bytes: kept for embeddings at the end, of the fixed size's in float32 (with context); given up: loss, as the search says."
        ),
        *notes,
        "",
        "| dataset | task | model | loss | bytes | given up | accuracy | − FSE | − logistic | p (Holm) | paper's loss | paper's accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        values = [
            row.dataset,
            f"{TASK_NAMES[row.task]}, {LOSSES[row.task].abbreviation}",
            row.model,
            _with_spread(row.loss),
            "" if row.kept.bytes_share is None else row.kept.bytes_text,
            "" if row.kept.given_up is None else row.kept.given_up_text,
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
