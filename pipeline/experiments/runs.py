"""Runs as their state directories tell them: configuration and prediction log; and which of them may stand beside one another.

Two runs are comparable when they scored the same interactions in the same regime (task, threshold, what a prediction may know).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from autoemb_pipeline.checkpoint.identity import read_identity
from autoemb_pipeline.errors import StateError
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.schemas.scores import LOSSES, REFERENCES
from autoemb_pipeline.sink.prediction_log import read_predictions

PREDICTIONS = "predictions"
REFERENCE_TITLES = {model.name: model.long_title for model in REFERENCES}
METHOD_NAMES = {"autoemb": "AutoEmb", "darts": "DARTS", "fse": "FSE", "fse-uniform": "FSE, equal weights", "sam": "SAM"}
_SEED = "seed"
# Names of topics and the smoothing of emitted metrics do not enter what is predicted.
_NOT_THE_METHOD = {_SEED, "topic", "metrics_topic", "dead_letter_topic", "window", "fading"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run on disk.

    Attributes:
        path: its state directory.
        run_id, configuration: as `RunIdentity`; names are dotted.
        log: its prediction log, lazily read.
        columns: of the log.
        events: [E] a hash of every logged interaction (user, item, time, rating), in order: equal arrays, equal streams.
        online_from: interactions logged before the online stage (`OfflineStage`); 0 where all is online.
        first_step: 1 unless the oldest segments of the log were dropped.
        datasets: names of the datasets the interactions come from; empty for logs that do not say.
    """

    path: Path
    run_id: str
    configuration: Mapping[str, Any]
    log: pl.LazyFrame
    columns: tuple[str, ...]
    events: NDArray[np.uint64]
    online_from: int
    first_step: int
    datasets: tuple[str, ...]

    def setting(self, name: str, default: Any = None) -> Any:
        """A configured value by the last part(s) of its dotted name."""
        values = [value for key, value in self.configuration.items() if key == name or key.endswith(f".{name}")]
        return values[0] if values else default

    @property
    def method(self) -> str:
        """As printed: AutoEmb, FSE, ..."""
        name = str(self.setting("method", "unknown method"))
        return METHOD_NAMES.get(name, name)

    @property
    def synthetic(self) -> bool:
        """Whether any of its data is synthetic: the producer names such datasets so."""
        return any("synthetic" in name.lower() for name in self.datasets)

    @property
    def models(self) -> tuple[str, ...]:
        """The method and the references that scored the stream, as the log's columns name them."""
        return tuple(column.removesuffix("_loss") for column in self.columns if column.endswith("_loss"))

    @property
    def searches(self) -> bool:
        """Whether ids got one of several dimensions each, by what it is worth: the log then tells what loss that gave up."""
        return "loss_given_up" in self.columns

    @property
    def loss_name(self) -> str:
        """With unit."""
        return LOSSES[self.setting("task", "binary")].long_title

    @property
    def regime(self) -> tuple[tuple[str, Any], ...]:
        """What must be equal before two errors may be compared."""
        mode = self.setting("context.mode", "event")
        names = [("task", self.setting("task")), ("positive above", self.setting("positive_above")), ("context", mode)]
        if mode == "batch":  # labels of the same batch are hidden: its size decides what a prediction knows
            names.append(("batch size", self.setting("batch_size")))
        offline = _offline_stage(self.configuration)
        if offline is not None:
            bounds = {"interactions": offline.count, "ms": offline.until_ms}
            names.append(("offline stage until", " and ".join(f"{bound:,} {unit}" for unit, bound in bounds.items() if bound is not None)))
        return tuple(names)

    @property
    def variant(self) -> tuple[tuple[str, str], ...]:
        """The configuration but for the seed: runs that share it are repetitions."""
        return tuple((k, repr(v)) for k, v in sorted(self.configuration.items()) if k.rpartition(".")[2] not in _NOT_THE_METHOD)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Repetitions of one configuration over seeds, with the name they carry in tables and figures."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Comparable runs.

    Attributes:
        variants: in order of first appearance.
        length: interactions they have in common: the first `length` of each log.
    """

    variants: tuple[Variant, ...]
    length: int

    @property
    def scored_from(self) -> int:
        """The first interaction that errors are averaged over: where the online stage begins; 0 while all are offline."""
        start = self.runs[0].online_from
        return start if start < self.length else 0

    def scored(self, run: Run) -> pl.LazyFrame:
        """A run's log of the interactions that errors are averaged over."""
        return run.log.slice(self.scored_from, self.length - self.scored_from)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them."""
        return tuple(run for variant in self.variants for run in variant.runs)


def open_run(state_dir: Path) -> Run:
    """Reads a run's identity and opens its log.

    Raises:
        StateError: no run began there, or it logged no predictions.
        CheckpointError: its identity cannot be read.
    """
    identity = read_identity(state_dir)
    if identity is None:
        raise StateError(f"{state_dir} holds no run", why="it has no run.json", remedy="name the --state-dir of a training run")
    try:
        log = read_predictions(state_dir / PREDICTIONS)
        columns = tuple(log.collect_schema().names())
        key = pl.struct("user_id", "item_id", "timestamp", "rating").hash(seed=0).alias("event")
        head = log.select(pl.col("step").first(), pl.len().alias("length")).collect()
        online_from = _online_from(log, _offline_stage(identity.configuration))
        events = log.select(key).collect()["event"].to_numpy()
        datasets = log.select(pl.col("dataset").unique()).collect()["dataset"].drop_nulls().sort() if "dataset" in columns else ()
    except FileNotFoundError as error:
        raise StateError(
            f"Run {identity.run_id} in {state_dir} logged no predictions",
            why="the log is written at each checkpoint, and not at all where its limit is 0",
            remedy="let it reach a checkpoint, or train with a prediction log",
        ) from error
    except pl.exceptions.PolarsError as error:
        raise StateError(f"The prediction log in {state_dir} cannot be read", why=str(error), remedy="train again") from error
    return Run(
        path=state_dir,
        run_id=identity.run_id,
        configuration=identity.configuration,
        log=log,
        columns=columns,
        events=events,
        online_from=online_from,
        first_step=int(head["step"][0]),
        datasets=tuple(datasets),
    )


def _offline_stage(configuration: Mapping[str, Any]) -> OfflineStage | None:
    count, until_ms = configuration.get("offline.count"), configuration.get("offline.until_ms")
    return None if count is None and until_ms is None else OfflineStage(count=count, until_ms=until_ms)


def _online_from(log: pl.LazyFrame, offline: OfflineStage | None) -> int:
    """Rows before the online stage, which begins with a mini-batch, as in the trainer."""
    if offline is None:
        return 0
    steps = log.group_by("step", maintain_order=True).agg(pl.len().alias("size"), pl.col("timestamp").first()).collect()
    before = 0
    for _, size, timestamp in steps.iter_rows():
        if offline.is_over(before, timestamp):
            break
        before += size
    return before


def comparable(runs: Iterable[Run]) -> list[Group]:
    """Runs sorted into groups within which errors may be compared: same regime, same stream (one may have seen more of it)."""
    groups: list[list[Run]] = []
    for run in runs:
        home = next((group for group in groups if group[0].regime == run.regime and _same_stream(group[0], run)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return [Group(variants=_variants(group), length=min(len(run.events) for run in group)) for group in groups]


def _same_stream(one: Run, other: Run) -> bool:
    common = min(len(one.events), len(other.events))
    return bool(np.array_equal(one.events[:common], other.events[:common]))


def _variants(runs: Sequence[Run]) -> tuple[Variant, ...]:
    by_configuration: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        by_configuration.setdefault(run.variant, []).append(run)
    bundles = list(by_configuration.values())
    names = [bundle[0].method for bundle in bundles]
    for place, bundle in enumerate(bundles):
        twins = [b for b in bundles if b[0].method == bundle[0].method]
        if len(twins) > 1:
            names[place] = f"{bundle[0].method} ({_distinction(bundle[0], [twin[0] for twin in twins])})"
    return tuple(Variant(name=name, runs=tuple(bundle)) for name, bundle in zip(names, bundles, strict=True))


def _distinction(run: Run, twins: Sequence[Run]) -> str:
    """The settings in which a run differs from others of its method; its id where they are too many to read."""
    keys = sorted({key for twin in twins for key in twin.configuration if twin.configuration.get(key) != run.configuration.get(key)})
    keys = [key for key in keys if key.rpartition(".")[2] not in _NOT_THE_METHOD]
    if not 0 < len(keys) <= 3:  # noqa: PLR2004  # more do not fit a legend
        return run.run_id
    return ", ".join(f"{key.rpartition('.')[2]}={run.configuration.get(key)}" for key in keys)
