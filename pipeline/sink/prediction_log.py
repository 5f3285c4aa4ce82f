"""Every prediction with its loss, in Parquet segments of the state directory: what reports, figures and bootstraps are computed from.

A segment holds the interactions between two checkpoints and is durable before the later one is. It is encoded and written by the thread
that writes that checkpoint, beside training. After a crash the segments past the checkpoint are dropped and written again by the
recomputation: the log holds every interaction exactly once. The oldest segments go when the log holds more than its limit.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import Block, MiniBatch, Texts, concat, distinct
from autoemb_pipeline.durable import replace_synced
from autoemb_pipeline.errors import StateError
from autoemb_pipeline.records import FloatArray, LearnerInputs, Predictions, Task

if TYPE_CHECKING:
    import polars as pl  # takes .2 s, and nobody needs it before the first segment is written or read

KEPT_FIELDS = ("bytes_share_of_fixed", "total_share_of_fixed", "loss_given_up", "loss_given_up_low", "loss_given_up_high")
"""Fields of the step's metrics that are logged beside its interactions, where the learner reports them."""
_SEGMENT = re.compile(r"steps-(\d{9})-(\d{9})\.parquet")


class PredictionLog:
    """Buffers the predictions of the steps since the last checkpoint and writes them as one segment.

    Args:
        folder: created if absent.
        dims: dimensions of the embedding spaces, for the weights' column names.
        task: `binary` also logs P(positive).
        limit: interactions kept on disk, about; 0 keeps none (nothing is written).
    """

    def __init__(self, folder: Path, *, dims: Sequence[int], task: Task, limit: int) -> None:
        self._folder = folder
        self._dims = tuple(dims)
        self._task = task
        self._limit = limit
        self._blocks: list[Block] = []
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._first = 0
        if limit:
            folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        batch: MiniBatch,
        scores: Mapping[str, FloatArray],
        predictions: Predictions | None,
        inputs: LearnerInputs | None,
        metrics: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """One mini-batch; scores: model -> [2, B] loss and hit; metrics: of its step. A batch without interactions leaves no trace."""
        if not self._limit or predictions is None or inputs is None:
            return
        self._first = self._first or batch.step
        columns: dict[str, NDArray[Any]] = {
            "step": np.full(len(batch), batch.step, dtype=np.uint32),
            "user_count": inputs.users.count.astype(np.uint32),
            "item_count": inputs.items.count.astype(np.uint32),
        }
        if self._task == "binary":
            columns["prediction"] = predictions.probabilities
        for model, (losses, hits) in scores.items():
            columns[f"{model}_loss"] = losses
            columns[f"{model}_hit"] = hits.astype(bool)
        for side, weights in (("user", predictions.user_weights), ("item", predictions.item_weights)):
            if weights is not None:
                columns.update({f"{side}_weight_{d}": weights[:, n].astype(np.float32) for n, d in enumerate(self._dims)})
        told = {name: metrics[name] for name in KEPT_FIELDS if name in metrics}
        columns |= {name: np.full(len(batch), np.nan if value is None else value, dtype=np.float32) for name, value in told.items()}
        self._blocks.append(batch.block)
        self._parts.append(columns)

    def close_segment(self, step: int) -> None:
        """Writes the buffered steps up to `step` durably. Raises as what `take_segment` returns."""
        self.take_segment(step)()

    def take_segment(self, step: int) -> Callable[[], None]:
        """Ends a segment at `step`, the step of a checkpoint that is begun, without encoding or writing anything yet.

        Returns:
            What writes it durably, in whichever thread, once: after the segment before it, and before the checkpoint is published. It
            raises StateError where the disk is full.
        """
        if not self._blocks:
            return _nothing
        path = self._folder / f"steps-{self._first:09d}-{step:09d}.parquet"
        write = partial(self._write, path, self._blocks, self._parts)
        self._blocks, self._parts, self._first = [], [], 0
        return write

    def _write(self, path: Path, blocks: Sequence[Block], parts: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        segment = io.BytesIO()  # Parquet's writer explains a full disk as "Invalid thrift", or not at all
        _frame(blocks, parts).write_parquet(segment, compression="zstd", statistics=False)
        try:
            replace_synced(path, segment.getvalue())
        except OSError as error:
            raise StateError(
                f"The prediction log could not be written to {self._folder}.",
                why=str(error),
                remedy="Free space on its disk (see `df`), then start again: training goes on from the last checkpoint.",
            ) from error
        self._trim()

    def truncate_to(self, step: int) -> None:
        """Drops what lies past a checkpoint; the recomputation writes it again."""
        for path, (_, last) in _segments(self._folder):
            if last > step:
                path.unlink()
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink()

    def _trim(self) -> None:
        import polars as pl  # noqa: PLC0415

        kept = 0
        for path, _ in reversed(_segments(self._folder)):
            if kept >= self._limit:
                path.unlink()
            else:
                kept += int(pl.scan_parquet(path).select(pl.len()).collect().item())


def _nothing() -> None:
    """Writes a segment without interactions."""


def _frame(blocks: Sequence[Block], parts: Sequence[Mapping[str, NDArray[Any]]]) -> "pl.DataFrame":
    """Mini-batches, one block and its further columns each, as one frame."""
    import polars as pl  # noqa: PLC0415

    block = concat(blocks)
    step, *rest = parts[0]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in (step, *rest)}
    names = pl.Series([*block.datasets, None], dtype=pl.String)  # the last one, at -1, for none
    return pl.DataFrame(
        {
            step: columns.pop(step),
            "user_id": _strings(block.user_ids),
            "item_id": _strings(block.item_ids),
            "timestamp": block.time,
            "rating": block.rating,
            "dataset": names.gather(block.dataset % len(names)),
            **columns,
        }
    )


def _strings(column: Texts) -> "pl.Series":
    """The texts, each distinct one made an object once."""
    import polars as pl  # noqa: PLC0415

    values, _, inverse = distinct(column)
    return pl.Series(values.to_strings(), dtype=pl.String).gather(inverse)


def read_predictions(folder: Path) -> "pl.LazyFrame":
    """All segments in step order.

    Raises:
        FileNotFoundError: the run logged no predictions.
    """
    import polars as pl  # noqa: PLC0415

    paths = [path for path, _ in _segments(folder)]
    if not paths:
        raise FileNotFoundError(folder)
    return pl.scan_parquet(paths)


def _segments(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    matches = [(path, _SEGMENT.fullmatch(path.name)) for path in folder.glob("steps-*.parquet")]
    return sorted((path, (int(m[1]), int(m[2]))) for path, m in matches if m)
