"""Values of a topic as records: JSON and Avro. Each gives a chunk's described fields in columns, and one value as a whole record."""

import json
import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from autoemb_pipeline.errors import ConfigurationError, DecodeError
from autoemb_pipeline.mapping.columns import Column, Fields
from autoemb_pipeline.mapping.description import Path, RecordMapping
from autoemb_pipeline.schemas.avro import HEADER_BYTES, MAGIC, Schema, parse, read_body, schema_fingerprint
from autoemb_pipeline.schemas.registry import RegistryCodec

_ABSENT = object()
_MALFORMED = (msgspec.DecodeError, DecodeError, ValueError, RecursionError, TypeError)
_NOT_IN_STRUCTS = re.compile(r'[\\"\x00-\x1f]')  # what msgspec takes in no field's name


class RecordFormat(Protocol):
    """How values become records."""

    def fields(self, values: Sequence[bytes | None]) -> Fields:
        """The described fields of n values; of a value that cannot be read, or lacks one, what no field may be."""
        ...

    def record(self, value: bytes) -> Any:
        """All of one value, objects as dicts. Raises DecodeError where it cannot be read."""
        ...


class JsonFormat:
    """JSON, decoded into structs of the described fields alone: what else a record holds is passed over.

    msgspec measured best: 529,000 records of 300 bytes a second, orjson 390,000, json 165,000 (docs/performance.md). Where a described
    key is no name of a struct's field, whole records are decoded.
    """

    def __init__(self, mapping: RecordMapping) -> None:
        self._decode: Callable[[bytes], Any]
        self._getters: Sequence[Callable[[Any], Any]]
        if any(_NOT_IN_STRUCTS.search(key) for path in mapping.paths for key in path):
            self._decode = read_json
            self._getters = [_getter(path) for path in mapping.paths]
        else:
            self._decode = msgspec.json.Decoder(_struct(mapping.paths, ())).decode
            self._getters = [attrgetter(".".join(f"f_{key.encode().hex()}" for key in path)) for path in mapping.paths]
        self._blank = self._decode(b"{}")
        self._places = _places(mapping)

    def fields(self, values: Sequence[bytes | None]) -> Fields:
        """See RecordFormat."""
        try:
            objects = list(map(self._decode, values))  # type: ignore[arg-type]  # of None it raises
        except _MALFORMED:
            objects = [self._or_blank(value) for value in values]
        # Column by column: a tuple per record would have the garbage collector look at the whole trainer again and again.
        return _fields([list(map(get, objects)) for get in self._getters], self._places)

    def record(self, value: bytes) -> Any:
        """See RecordFormat."""
        return read_json(value)

    def _or_blank(self, value: bytes | None) -> Any:
        try:
            return self._decode(value)  # type: ignore[arg-type]
        except _MALFORMED:
            return self._blank


_read_anything = msgspec.json.Decoder().decode


def read_json(value: bytes) -> Any:
    """A whole JSON value. NaN and Infinity, which Python's json writes, are read: they matter where a described field holds one.

    Raises DecodeError where it cannot be read.
    """
    try:
        return _read_anything(value)
    except _MALFORMED as error:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise DecodeError("bad-json", f"not JSON: {error}"[:300]) from error


def _struct(paths: Sequence[Path], above: Path) -> Any:
    """The type of an object of which these paths are needed; any field of it may be missing."""
    fields: list[Any] = []
    names: dict[str, str] = {}
    for key in dict.fromkeys(path[len(above)] for path in paths):
        below = [path for path in paths if path[len(above)] == key]
        name = f"f_{key.encode().hex()}"  # any key is one of JSON, few are one of Python
        names[name] = key
        if len(below[0]) == len(above) + 1:
            fields.append((name, Any, msgspec.UNSET))
        else:
            inner = _struct(below, (*above, key))
            fields.append((name, inner, msgspec.field(default_factory=inner)))
    return msgspec.defstruct("Object", fields, rename=names, gc=False)


class AvroFormat:
    """Avro: with a schema of the description bare bodies and single-object encoding, without one the schema registry's wire format.

    Raises:
        ConfigurationError: neither a schema nor a registry.
    """

    def __init__(self, mapping: RecordMapping, registry: RegistryCodec | None) -> None:
        self._record = _reader(mapping.schema, registry)
        self._getters = [_getter(path) for path in mapping.paths]
        self._places = _places(mapping)

    def fields(self, values: Sequence[bytes | None]) -> Fields:
        """See RecordFormat."""
        records = [self._or_blank(value) for value in values]
        return _fields([list(map(get, records)) for get in self._getters], self._places)

    def record(self, value: bytes) -> Any:
        """See RecordFormat."""
        return self._record(value)

    def _or_blank(self, value: bytes | None) -> Any:
        try:
            return {} if value is None else self._record(value)
        except DecodeError:
            return {}


def _reader(schema: str | None, registry: RegistryCodec | None) -> Callable[[bytes], Any]:
    if schema is None:
        if registry is None:
            raise ConfigurationError(
                'format = "avro" needs to know the schema of its values',
                why="the stream's description names no schema, and there is no registry",
                remedy='start with --schema-registry URL, or give the schema under [input]: schema = "click.avsc"',
            )
        return registry.decode_any
    return value_reader(json.loads(schema))


def value_reader(schema: Schema) -> Callable[[bytes], Any]:
    """What reads a value, bare or in single-object encoding, by its schema; raises DecodeError."""
    header, parsed = MAGIC + schema_fingerprint(schema), parse(schema)
    return lambda value: read_body(value, HEADER_BYTES if value[:HEADER_BYTES] == header else 0, parsed)


def _getter(path: Path) -> Callable[[Any], Any]:
    def get(record: Any) -> Any:
        for key in path:
            if type(record) is not dict:  # as fastavro makes them; to ask for a Mapping costs as much as reading the record
                return _ABSENT
            record = record.get(key, _ABSENT)
        return record

    return get


def _places(mapping: RecordMapping) -> Sequence[int | None]:
    """Each field's place among the paths."""
    given = (mapping.user, mapping.item, mapping.label.field, mapping.timestamp, mapping.id, mapping.sequence)
    return [None if path is None else mapping.paths.index(path) for path in given]


def _fields(columns: Sequence[Column], places: Sequence[int | None]) -> Fields:
    return Fields(*(None if place is None else columns[place] for place in places))  # type: ignore[arg-type]  # the first three are there
