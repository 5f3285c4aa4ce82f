"""`autoemb-pipeline predict`."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
import structlog

from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.cli.options import configure_logging, logging_options
from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.predict import Foreseen, Pair, Predictor, tables_of
from autoemb_pipeline.records import FloatArray

_log = structlog.get_logger()
_FORMS = "user_id,item_id[,timestamp] with commas or tabs, or JSON objects with these names, one a line; timestamp in ms since the epoch"


def read_pairs(lines: Iterable[str], *, name: str) -> Iterator[Pair]:
    """Pairs from CSV, TSV or JSON lines, told apart by each line's own look; a header is skipped, blank lines too.

    Raises:
        DatasetError: a line is none of these; names the file and the line.
    """
    for number, text in enumerate(lines, start=1):
        line = text.strip("\r\n")
        if not line.strip():
            continue
        try:
            pair = _json_pair(line) if line.lstrip().startswith("{") else _row_pair(line)
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise DatasetError(f"{name}, line {number}, is no pair: {line[:80]!r}", why=str(error), remedy=f"give {_FORMS}") from error
        if pair is not None:
            yield pair


def _json_pair(line: str) -> Pair:
    fields = json.loads(line)
    return _pair(_json_id(fields, "user_id"), _json_id(fields, "item_id"), fields.get("timestamp"))


def _json_id(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    raise ValueError(f"no {name}" if value is None else f"{name} is neither a string nor a whole number")


def _row_pair(line: str) -> Pair | None:
    cells = line.split("\t") if "\t" in line else next(csv.reader([line], strict=True))
    if cells[:2] == ["user_id", "item_id"]:
        return None
    if len(cells) not in (2, 3):
        raise ValueError("1 column" if len(cells) == 1 else f"{len(cells)} columns")
    return _pair(cells[0], cells[1], cells[2] if len(cells) == 3 and cells[2] else None)  # noqa: PLR2004  # the optional third


def _pair(user: str, item: str, timestamp: str | int | None) -> Pair:
    if not user or not item:
        raise ValueError("an id is empty")
    milliseconds = None if timestamp is None else int(timestamp)
    if milliseconds is not None and abs(milliseconds) >= 1 << 63:
        raise ValueError("the timestamp has more than 64 bits")
    return Pair(user, item, milliseconds)


def prediction_rows(pairs: list[Pair], foreseen: Foreseen, dims: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """One row per pair: its score, class probabilities for the rating task, the dimensions chosen, how often the ids were seen."""
    p = foreseen.predictions
    for k, pair in enumerate(pairs):
        row: dict[str, Any] = {"user_id": pair.user_id, "item_id": pair.item_id}
        if p.probabilities.ndim == 1:
            row["score"] = float(p.probabilities[k])
        else:
            classes = p.probabilities[k]
            row["score"] = float(classes @ np.arange(1, len(classes) + 1))
            row |= {f"probability_{c + 1}": float(value) for c, value in enumerate(classes)}
        row["user_dimension"] = _chosen(p.user_weights, k, dims)
        row["item_dimension"] = _chosen(p.item_weights, k, dims)
        yield row | {"user_count": int(foreseen.user_counts[k]), "item_count": int(foreseen.item_counts[k])}


def _chosen(weights: FloatArray | None, k: int, dims: tuple[int, ...]) -> int | None:
    return None if weights is None else dims[int(weights[k].argmax())]


@click.command("predict")
@click.option(
    "--state-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Of the run; it may be training."
)
@click.option("--output", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True, help="Format of what is printed.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where predictions are computed.")
@click.option(
    "--consecutive",
    is_flag=True,
    help="The pairs are the run's next mini-batches in order: earlier ones of a mini-batch count for later ones, as in training.",
)
@logging_options
@click.argument("pairs", type=click.File("r", encoding="utf-8"), default="-")
def command(state_dir: Path, form: str, device: str, log_format: str, pairs: TextIO, *, consecutive: bool) -> int:
    """Predict pairs of users and items from a run's newest checkpoint: from the file PAIRS, or stdin.

    PAIRS holds user_id,item_id[,timestamp] with commas or tabs, or JSON objects with these names, one a line. Timestamps are in
    ms since the epoch; without one, a pair is predicted at the event time the checkpoint stands at. The score is the
    probability of a positive rating, or the expected class (1 to 5). Ids never seen get a new id's context: user_count, item_count 0.
    """
    configure_logging(log_format)
    with open_newest(CheckpointStore(state_dir), tables_of) as opened:
        for refused in opened.refused:
            _log.warning("damaged checkpoint passed over", path=str(refused.path), problems=list(refused.problems))
        predictor = Predictor(opened, device=device)
        size = int(opened.loaded.payload["configuration"]["batch_size"])
        _log.info("predicting", run_id=opened.loaded.payload["run_id"], step=predictor.step)
        remaining = read_pairs(pairs, name=pairs.name)
        writer: Any = None
        while batch := list(islice(remaining, size)):
            for row in prediction_rows(batch, predictor.predict(batch, consecutive=consecutive), predictor.config.learner.dims):
                if form == "jsonl":
                    sys.stdout.write(json.dumps(row) + "\n")
                    continue
                if writer is None:
                    writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
                    writer.writeheader()
                writer.writerow(row)
    return 0
