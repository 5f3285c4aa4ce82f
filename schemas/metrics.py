"""Metrics on the wire: one record as flat JSON scalars (the default: Grafana reads it as it is) or as Avro.

The bytes are a pure function of the record: keys sorted, numbers in Python's shortest round-trip form, NaN and infinity as null, maps
flattened to ``name_key``. So a step computed twice gives the same bytes twice.
"""

import json
import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from autoemb_pipeline.errors import ConfigurationError, DecodeError
from autoemb_pipeline.schemas.avro import MAGIC, Schema, SingleObjectCodec, load_schema

Record = Mapping[str, Any]


_LONG = range(-(2**63), 2**63)
_WITHIN = 2**62
"""Bound of numbers that need no further look."""


def _double(value: Any) -> float | None:
    if isinstance(value, str):
        raise TypeError("a text is no number")
    number = float(value)
    return number if math.isfinite(number) else None


def _long(value: Any) -> int:
    number = operator.index(value)
    if number not in _LONG:
        raise OverflowError("outside 64 bits")
    return number


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate has no UTF-8
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


_COERCIONS: Mapping[str, Callable[[Any], Any]] = {"double": _double, "long": _long, "string": _string, "boolean": _boolean}


_PLAIN: Mapping[str, type | None] = {"double": float, "long": int, "string": None, "boolean": bool}


class _Field(NamedTuple):
    """One field of the schema: how its values become plain Python, the type of those that mostly are, and whether it is a map."""

    name: str
    coerce: Callable[[Any], Any]
    plain: type | None
    is_map: bool
    nullable: bool
    required: bool
    default: Any


def _branch(avro_type: Any) -> tuple[Any, bool]:
    """(the type that is not null, whether null is allowed)."""
    if isinstance(avro_type, list):
        return next(branch for branch in avro_type if branch != "null"), "null" in avro_type
    return avro_type, False


def _field(spec: Mapping[str, Any]) -> _Field:
    avro_type, nullable = _branch(spec["type"])
    is_map = isinstance(avro_type, Mapping) and avro_type["type"] == "map"
    if is_map:
        leaf, _ = _branch(avro_type["values"])
    else:
        leaf = avro_type["type"] if isinstance(avro_type, Mapping) else avro_type
    return _Field(
        spec["name"], _COERCIONS[leaf], None if is_map else _PLAIN[leaf], is_map, nullable, "default" not in spec, spec.get("default")
    )


class RecordFormat:
    """One kind of metrics record: its schema in both wire forms.

    Args:
        name: of the .avsc file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.schema: Schema = load_schema(name)
        self._fields = {spec["name"]: _field(spec) for spec in self.schema["fields"]}
        self._maps = [field for field in self._fields.values() if field.is_map]
        self._codec = SingleObjectCodec(self.schema)

    def normalise(self, record: Record) -> dict[str, Any]:
        """The record with every field of the schema, as plain Python numbers: what both wire forms hold.

        NaN and infinity become None, an absent field its default, map keys strings in sorted order, an empty nullable map None.

        Raises:
            ConfigurationError: a field the schema lacks, one it requires, or a value of another type.
        """
        unknown = record.keys() - self._fields.keys()
        if unknown:
            raise self._misfit(f"has no field {min(unknown)!r}")
        return {name: self._value(field, record) for name, field in self._fields.items()}

    def _value(self, field: _Field, record: Record) -> Any:
        if field.required and field.name not in record:
            raise self._misfit(f"needs {field.name!r}")
        value = record.get(field.name, field.default)
        if type(value) is field.plain and -_WITHIN < value < _WITHIN:  # type: ignore[operator]  # nearly all; not NaN
            return value
        if value is None:
            if not field.nullable:
                raise self._misfit(f"needs {field.name!r}, which is None")
            return None
        try:
            if not field.is_map:
                coerced = field.coerce(value)
                if coerced is None and not field.nullable:
                    raise self._misfit(f"cannot hold {value} as {field.name!r}")
                return coerced
            entries = {str(key): None if entry is None else field.coerce(entry) for key, entry in value.items()}
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._misfit(f"cannot hold {reprlib.repr(value)} as {field.name!r}") from error
        return dict(sorted(entries.items())) if entries or not field.nullable else None

    def _misfit(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"A {self.schema['name']} record {what}.",
            why=f"schemas/{self.name}.avsc is the contract with every reader of the topic.",
            remedy=f"Change the record, or add the field with a default to schemas/{self.name}.avsc.",
        )

    def to_json(self, record: Record) -> bytes:
        """Flat JSON, UTF-8. Raises ConfigurationError as `normalise`."""
        flat: dict[str, Any] = {}
        for name, value in self.normalise(record).items():
            if self._fields[name].is_map:
                flat.update({f"{name}_{key}": entry for key, entry in (value or {}).items()})
            else:
                flat[name] = value
        return msgspec.json.encode(flat, order="sorted")

    def to_avro(self, record: Record) -> bytes:
        """Avro single-object encoding. Raises ConfigurationError as `normalise`."""
        return self._codec.encode(self.normalise(record))

    def parse(self, payload: bytes | None) -> dict[str, Any]:
        """The normalised record in a message of either form; keys this version does not know are ignored.

        Raises:
            DecodeError: ``empty``, ``bad-json``, ``bad-value`` or a reason of `SingleObjectCodec.decode`; nothing else.
        """
        if payload is not None and payload.startswith(MAGIC):
            return self.checked(self._codec.decode(payload))
        return self._parse_json(payload)

    def checked(self, record: Record) -> dict[str, Any]:
        """`normalise` of a record that came from outside: DecodeError (``bad-value``) instead of ConfigurationError."""
        try:
            return self.normalise(record)
        except ConfigurationError as error:
            raise DecodeError("bad-value", error.what) from error

    def _parse_json(self, payload: bytes | None) -> dict[str, Any]:
        if not payload:
            raise DecodeError("empty", "the record has no value")
        try:
            flat = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise DecodeError("bad-json", f"neither JSON nor a single-object header: {error}") from error
        if not isinstance(flat, dict):
            raise DecodeError("bad-json", "not a JSON object")
        record: dict[str, Any] = {field.name: {} for field in self._maps}
        for key, value in flat.items():
            self._place(record, key, value)
        return self.checked(record)

    def _place(self, record: dict[str, Any], key: str, value: Any) -> None:
        field = self._fields.get(key)
        if field is not None and not field.is_map:
            record[key] = value
            return
        for candidate in self._maps:
            prefix = f"{candidate.name}_"
            if key.startswith(prefix):
                record[candidate.name][key[len(prefix) :]] = value
                return


PREQUENTIAL = RecordFormat("prequential_metrics")
RUNTIME = RecordFormat("runtime_metrics")


def metrics_to_json(record: Record) -> bytes:
    """One mini-batch's prequential metrics as flat JSON. Raises ConfigurationError where the record misfits the schema."""
    return PREQUENTIAL.to_json(record)


def metrics_to_avro(record: Record) -> bytes:
    """The same in Avro single-object encoding."""
    return PREQUENTIAL.to_avro(record)


def parse_metrics(payload: bytes | None) -> dict[str, Any]:
    """The prequential metrics in a message, flat JSON or single-object Avro.

    Returns:
        The record as emitted, maps restored: ``next_offsets`` maps the partition (text) to an offset.

    Raises:
        DecodeError: it is no such message; nothing else is raised, whatever the bytes.
    """
    return PREQUENTIAL.parse(payload)
