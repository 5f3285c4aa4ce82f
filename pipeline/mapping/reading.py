"""A description from its file. Every error names the file, the key, and what mends it."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, get_args

from fastavro.schema import SchemaParseException, UnknownType

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.mapping.description import Format, LabelRule, Others, Path, RecordMapping, StreamDescription, Unit
from autoemb_pipeline.schemas.avro import parse

KEYS: Mapping[str, tuple[str, ...]] = {
    "input": ("topics", "format", "schema"),
    "fields": ("user", "item", "id", "id_window", "sequence"),
    "timestamp": ("field", "unit"),
    "label": ("field", "positive_above", "positive", "negative", "others"),
}


def read_stream(file: FilePath) -> StreamDescription:
    """The stream that a TOML file describes (docs/own-stream.md).

    Raises:
        ConfigurationError: it cannot be read, has a key that is not known here, lacks one, or one's value cannot be used.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{file} cannot be read", why=str(error), remedy=f"autoemb-pipeline stream init --topic TOPIC --output {file} writes one"
        ) from error
    return parse_stream(text, name=str(file), folder=file.parent)


def parse_stream(text: str, *, name: str = "stream.toml", folder: FilePath = FilePath()) -> StreamDescription:
    """As `read_stream`, of a file's text. folder: from where `schema` is looked for."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        remedy = 'write keys as  name = "value"  under [input], [fields], …'
        raise ConfigurationError(f"{name} is no TOML", why=str(error), remedy=remedy) from error
    try:
        _refuse_unknown("", tables, tuple(KEYS))
        parts = {table: _Table(table, tables.get(table, {})) for table in KEYS}
        return _stream(parts, has_record=any(table in tables for table in ("fields", "timestamp", "label")), folder=folder)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error.what}", why=error.why, remedy=error.remedy) from error


def _stream(parts: "Mapping[str, _Table]", *, has_record: bool, folder: FilePath) -> StreamDescription:
    source = parts["input"]
    form: Format = source.choice("format", get_args(Format))
    schema = source.optional_text("schema")
    if schema is not None and form != "avro":
        raise ConfigurationError(f'[input] has a schema and format = "{form}"', remedy='remove schema, or give format = "avro"')
    return StreamDescription(
        topics=source.texts("topics"),
        format=form,
        record=_record(parts, schema=None if schema is None else read_schema(folder / schema)) if has_record else None,
    )


def _record(parts: "Mapping[str, _Table]", *, schema: str | None) -> RecordMapping:
    fields, time, label = parts["fields"], parts["timestamp"], parts["label"]
    window = fields.optional_number("id_window")
    optional = {} if window is None else {"id_window": int(window)}
    return RecordMapping(
        user=fields.path("user"),
        item=fields.path("item"),
        label=LabelRule(
            field=label.path("field"),
            positive_above=label.optional_number("positive_above"),
            positive=label.texts("positive", needed=False),
            negative=label.texts("negative", needed=False),
            others=label.choice("others", get_args(Others), default="skip"),
        ),
        unit=time.choice("unit", get_args(Unit)),
        timestamp=time.optional_path("field"),
        id=fields.optional_path("id"),
        sequence=fields.optional_path("sequence"),
        schema=schema,
        **optional,
    )


def read_schema(file: FilePath) -> str:
    """An Avro schema as JSON without spaces: its content, not its place, is part of a run's identity. Raises ConfigurationError."""
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
        parse(schema)
    except (OSError, ValueError, SchemaParseException, UnknownType, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"[input] schema: {file} is no Avro schema that can be read",
            why=f"{type(error).__name__}: {error}",
            remedy="give the path of an .avsc file, relative to the stream's file",
        ) from error
    return json.dumps(schema, separators=(",", ":"))


class _Table:
    """One table of the file, its keys known."""

    def __init__(self, name: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{name} is no table", remedy=f"write [{name}] on a line of its own, its keys below it")
        if name == "label" and "negatives" in values:
            raise ConfigurationError(
                "[label] negatives is not part of this version",
                why="negatives drawn for a stream of positives only are not available yet",
                remedy='name types of events that are negative: negative = ["view"]',
            )
        _refuse_unknown(name, values, KEYS[name])
        self._name = name
        self._values = values

    def choice(self, key: str, choices: Sequence[str], *, default: str | None = None) -> Any:
        """One of some words."""
        value = self._values.get(key, default)
        if value is None:
            raise self._missing(key, " | ".join(f'"{choice}"' for choice in choices))
        if value not in choices:
            raise ConfigurationError(f"[{self._name}] {key} is {value!r}", why=f"it must be one of {', '.join(choices)}")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text."""
        value = self._values.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        raise ConfigurationError(f"[{self._name}] {key} is {value!r}", why="it must be a text that is not empty")

    def texts(self, key: str, *, needed: bool = True) -> tuple[str, ...]:
        """A list of texts; one text is a list of one."""
        value = self._values.get(key)
        if value is None and not needed:
            return ()
        if value is None:
            raise self._missing(key, '["..."]')
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed or not all(isinstance(text, str) and text for text in listed):
            raise ConfigurationError(f"[{self._name}] {key} is {value!r}", why="it must be a list of texts", remedy=f'{key} = ["..."]')
        return tuple(listed)

    def optional_number(self, key: str) -> float | None:
        """A finite number."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise ConfigurationError(f"[{self._name}] {key} is {value!r}", why="it must be a number")
        return float(value)

    def optional_path(self, key: str) -> Path | None:
        """Keys, separated by points; or a list of keys, where a key has a point in it."""
        value = self._values.get(key)
        if value is None:
            return None
        keys = value.split(".") if isinstance(value, str) else value
        if not isinstance(keys, list) or not keys or not all(isinstance(part, str) and part for part in keys):
            raise ConfigurationError(
                f"[{self._name}] {key} is {value!r}",
                why="it must be the path of a field",
                remedy=f'{key} = "payload.item"; of a field with a point in its name: {key} = ["payload", "item.id"]',
            )
        return tuple(keys)

    def path(self, key: str) -> Path:
        """The same, needed."""
        place = self.optional_path(key)
        if place is None:
            raise self._missing(key, '"path.of.the.field"')
        return place

    def _missing(self, key: str, example: str) -> ConfigurationError:
        return ConfigurationError(f"[{self._name}] lacks {key}", remedy=f"add under [{self._name}]: {key} = {example}")


def _refuse_unknown(table: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [key for key in values if key not in known]
    if unknown:
        what = f"[{table}] has an unknown key {unknown[0]!r}" if table else f"there is an unknown table [{unknown[0]}]"
        raise ConfigurationError(what, why=f"known are: {', '.join(known)}", remedy="correct the name, or remove it")
