"""River's biased matrix factorisation as a reference, in the regime of the cells beside it (extra ``experiments``).

`river.reco.BiasedMF` with plain SGD at a rate of .02, ten factors, its own defaults otherwise. It predicts a number: the label (1.0 where
the rating is above the threshold), so the classification task has no such row. By `--context`: event, it learns each interaction before
the next; strict, before the next later one; batch, after the mini-batch.
"""

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.experiments.cells import DONE, STEPS_PER_SEGMENT, Progress, Stream, mini_batches, write_done
from autoemb_pipeline.records import ContextMode, Interaction, OfflineStage

NAME = "River BiasedMF"
RATE = 0.02
FACTORS = 10
INITIAL_DEVIATION = 0.1
SETTINGS = "cell.json"
_Pending = list[tuple[Interaction, float]]


def is_installed() -> bool:
    """Whether the extra ``experiments`` is there."""
    return importlib.util.find_spec("river") is not None


def run_river_cell(
    folder: Path,
    stream: Stream,
    *,
    batch_size: int,
    mode: ContextMode,
    offline: OfflineStage | None,
    epochs: int,
    positive_above: float,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Predicts and learns the stream unless it is done already; losses and hits lie in ``predictions`` like a cell's.

    Args:
        folder: of this reference alone.
        stream: as for the cells.
        batch_size, offline, epochs: decide the mini-batches, as for the cells.
        mode: when labels may be learnt.
        positive_above: ratings above it are positive.
        progress: told the interactions done, about once a second.
    """
    settings = {
        "fingerprint": stream.fingerprint,
        "length": stream.length,
        "mode": mode,
        "offline": repr(offline),
        "epochs": epochs,
        "positive_above": positive_above,
        "model": [RATE, FACTORS, INITIAL_DEVIATION],
        # where they decide what may be known
        "batch_size": batch_size if mode == "batch" or epochs > 1 else None,
    }
    noted = folder / SETTINGS
    if (folder / DONE).exists() and noted.exists() and json.loads(noted.read_text(encoding="utf-8")) == settings:
        result: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return result
    _empty(folder)
    noted.write_text(json.dumps(settings), encoding="utf-8")
    started = told = time.perf_counter()
    log = _Log(folder / "predictions")
    examples = 0
    for batch, predictions in _predictions(mini_batches(stream.open, batch_size, offline, epochs), mode, positive_above):
        if predictions:
            examples += len(batch)
            log.add(batch, np.array(predictions), positive_above)
        if time.perf_counter() - told > 1.0:
            told = time.perf_counter()
            progress(examples)
    log.close()
    return write_done(folder, {"examples": examples, "mse": log.loss / max(1, examples), "seconds": time.perf_counter() - started})


def _empty(folder: Path) -> None:
    (folder / DONE).unlink(missing_ok=True)
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    for old in (folder / "predictions").glob("*.parquet"):
        old.unlink()


def _predictions(batches: Iterator[MiniBatch], mode: ContextMode, positive_above: float) -> Iterator[tuple[MiniBatch, list[float]]]:
    """Every mini-batch with its predictions, each made before its label was learnt; none where it is read again."""
    from river import optim, reco  # noqa: PLC0415  # the extra may be absent

    model = reco.BiasedMF(
        n_factors=FACTORS,
        bias_optimizer=optim.SGD(RATE),
        latent_optimizer=optim.SGD(RATE),
        latent_initializer=optim.initializers.Normal(mu=0.0, sigma=INITIAL_DEVIATION, seed=0),
    )
    pending: _Pending = []

    def learn(until: int | None) -> None:
        """What is pending and, if asked, earlier than this event time."""
        if not pending or (until is not None and pending[0][0].timestamp >= until):
            return
        ready = [known for known in pending if until is None or known[0].timestamp < until]
        pending[:] = [] if until is None else [known for known in pending if known[0].timestamp >= until]
        for interaction, label in ready:
            model.learn_one(interaction.user_id, interaction.item_id, label)

    for batch in batches:
        predictions = []
        for interaction in batch.records:
            if mode == "strict":
                learn(interaction.timestamp)
            elif mode == "event":
                learn(None)
            if batch.epoch == 1:
                predictions.append(min(1.0, max(0.0, model.predict_one(interaction.user_id, interaction.item_id))))
            pending.append((interaction, float(interaction.rating > positive_above)))
        if mode == "batch" or batch.epoch > 1:
            learn(None)
        yield batch, predictions


class _Log:
    """Losses and hits by user, in Parquet segments named as the prediction log's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: list[pl.DataFrame] = []
        self._first = self._last = 0
        self.loss = 0.0

    def add(self, batch: MiniBatch, predictions: np.ndarray[Any, np.dtype[np.float64]], positive_above: float) -> None:
        labels = (batch.block.rating > positive_above).astype(np.float64)
        losses = (predictions - labels) ** 2
        self.loss += float(losses.sum())
        self._frames.append(
            pl.DataFrame(
                {
                    "user_id": [user.decode() for user in batch.block.user_ids.to_list()],
                    "timestamp": batch.block.time,
                    "method_loss": losses,
                    "method_hit": (predictions >= 0.5) == (labels == 1.0),  # noqa: PLR2004  # as `losses_and_hits`
                }
            )
        )
        self._first, self._last = self._first or batch.step, batch.step
        if len(self._frames) == STEPS_PER_SEGMENT:
            self.close()

    def close(self) -> None:
        if self._frames:
            pl.concat(self._frames).write_parquet(self._folder / f"steps-{self._first:09d}-{self._last:09d}.parquet")
        self._frames, self._first = [], 0
