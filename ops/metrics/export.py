"""The metrics or runtime topic as a table in a file: one row per step, maps as columns ``name_key``."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from autoemb_pipeline.errors import ConfigurationError, StateError
from autoemb_pipeline.ops.metrics.reader import FORMATS, MetricsReader, Record, flat_json
from autoemb_pipeline.schemas.metrics import RecordFormat

_ROWS_AT_ONCE = 5000
_POLL_SECONDS = 1.0
_TYPES: Mapping[str, pl.DataType] = {"double": pl.Float64(), "long": pl.Int64(), "string": pl.String(), "boolean": pl.Boolean()}
_TIMES = ("event_time", "wall_time")


def export(
    reader: MetricsReader, kind: str, output: Path, *, run_ids: Collection[str] = (), stop: Callable[[], bool] = lambda: False
) -> int:
    """Writes everything up to the topic's present end to a .parquet or .csv file; returns the number of rows.

    A step that was sent twice (a resumed run may) is one row. Times become UTC timestamps; columns stand in the schema's order.

    Args:
        reader: at the beginning of the topic.
        kind: `metrics` or `runtime`.
        output: replaced as a whole, only at the end.
        run_ids: of these runs; empty: all.
        stop: asked between polls; the file then holds what was read.

    Raises:
        ConfigurationError: the file's name ends in neither.
        StateError: there are no such records, or the file cannot be written.
        TopicError, BrokerError: as `MetricsReader.poll`.
    """
    suffix = output.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise ConfigurationError(f"--output {output}: neither .parquet nor .csv", remedy="give a name that ends in one of them")
    frames, rows = [], list[Record]()
    while not reader.caught_up and not stop():
        rows += [flat_json(kind, record) for record in reader.poll(_POLL_SECONDS) if not run_ids or record["run_id"] in run_ids]
        if len(rows) >= _ROWS_AT_ONCE or (rows and reader.caught_up):
            frames.append(_frame(FORMATS[kind], rows))
            rows = []
    if rows:
        frames.append(_frame(FORMATS[kind], rows))
    if not frames:
        scope = f" of {', '.join(sorted(run_ids))}" if run_ids else ""
        raise StateError(f"The topic holds no {kind}{scope}", remedy="see which runs there are: autoemb-pipeline watch --once")
    table = _ordered(FORMATS[kind], pl.concat(frames, how="diagonal").unique(["run_id", "step"], keep="last", maintain_order=True))
    temporary = output.with_name(f"{output.name}.tmp{os.getpid()}")
    try:
        if suffix == ".csv":
            table.write_csv(temporary)
        else:
            table.write_parquet(temporary)
        temporary.replace(output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StateError(f"{output} cannot be written", why=str(error), remedy="give another --output") from error
    return table.height


def _leaf(spec: Mapping[str, Any]) -> tuple[str, bool]:
    """(the Avro type of a field's values, whether it is a map)."""

    def bare(kind: Any) -> Any:
        return next(branch for branch in kind if branch != "null") if isinstance(kind, list) else kind

    kind = bare(spec["type"])
    if isinstance(kind, Mapping) and kind["type"] == "map":
        return bare(kind["values"]), True
    return (kind["type"] if isinstance(kind, Mapping) else kind), False


def _frame(record_format: RecordFormat, rows: list[Record]) -> pl.DataFrame:
    """Typed by the schema, so that a column of nulls only has the type it has elsewhere."""
    names = dict.fromkeys(name for row in rows for name in row)
    types: dict[str, pl.DataType] = {}
    for spec in record_format.schema["fields"]:
        leaf, is_map = _leaf(spec)
        mine = [name for name in names if name.startswith(f"{spec['name']}_") and name not in types] if is_map else [spec["name"]]
        types |= dict.fromkeys(mine, _TYPES[leaf])
    frame = pl.DataFrame({name: [row.get(name) for row in rows] for name in types}, schema=types)
    return frame.with_columns(pl.col(name).cast(pl.Datetime("ms", "UTC")) for name in _TIMES if name in types)


def _ordered(record_format: RecordFormat, table: pl.DataFrame) -> pl.DataFrame:
    """Columns in the schema's order, a map's by its keys as numbers."""
    places = {spec["name"]: place for place, spec in enumerate(record_format.schema["fields"])}

    def place(column: str) -> tuple[int, list[int], str]:
        field = column if column in places else max((name for name in places if column.startswith(f"{name}_")), key=len)
        keys = column.removeprefix(field).split("_")[1:]
        return places[field], [int(key) if key.isdigit() else -1 for key in keys], column

    columns: list[str] = sorted(list[str](table.columns), key=place)
    return table.select(columns)
