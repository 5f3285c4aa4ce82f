"""Avro bodies, fingerprints and single-object encoding, of any schema.

Source: Avro 1.12 specification: "Parsing Canonical Form for Schemas", "Schema Fingerprints", "Single-object encoding", "Schema Resolution".
"""

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError
from fastavro.schema import fingerprint, to_parsing_canonical_form

from autoemb_pipeline.errors import DecodeError

Schema = Mapping[str, Any]

MAGIC = b"\xc3\x01"
HEADER_BYTES = 10  # magic and fingerprint


def load_schema(name: str) -> Schema:
    """The schema of ``schemas/<name>.avsc`` as written there."""
    schema: Schema = json.loads(schema_text(name))
    return schema


def schema_text(name: str) -> str:
    """The text of ``schemas/<name>.avsc``, as a registry is given it."""
    return (resources.files("autoemb_pipeline.schemas") / f"{name}.avsc").read_text(encoding="utf-8")


def schema_fingerprint(schema: Schema) -> bytes:
    """CRC-64-AVRO of the schema's parsing canonical form: 8 bytes, little-endian as on the wire."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def same_bodies(one: Schema, other: Schema) -> bool:
    """Whether the two say the same of a record's bytes and of its fields: their parsing canonical forms are equal."""
    return bool(to_parsing_canonical_form(one) == to_parsing_canonical_form(other))


def parse(schema: Schema) -> Any:
    """The schema as fastavro wants it, without logical types: times stay integers.

    A logical type changes neither the bytes nor the fingerprint, and a datetime object per record would cost more than the rest.

    Raises:
        fastavro.schema.SchemaParseException, fastavro.schema.UnknownType: it is no Avro schema.
    """
    return parse_schema(_without_logical_types(schema))


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {key: _without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [_without_logical_types(part) for part in schema]
    return schema


def write_body(prefix: bytes, parsed: Any, record: Mapping[str, Any]) -> bytes:
    """``prefix`` and the record's Avro binary encoding."""
    out = BytesIO()
    out.write(prefix)
    schemaless_writer(out, parsed, record)
    return out.getvalue()


def read_body(payload: bytes, start: int, writer: Any, reader: Any | None = None) -> dict[str, Any]:
    """The record encoded in ``payload[start:]``, all of it.

    Args:
        payload: a message.
        start: bytes of its header.
        writer: parsed schema it was written with.
        reader: parsed schema to resolve it to; None where it is the writer's.

    Raises:
        DecodeError: ``unknown-schema`` (writer and reader do not resolve), ``bad-avro`` or ``trailing-bytes``.
    """
    source = BytesIO(payload)
    source.seek(start)
    try:
        record: dict[str, Any] = schemaless_reader(source, writer, reader)
    except SchemaResolutionError as error:
        raise DecodeError("unknown-schema", f"the writer's schema cannot be read as this project's: {error}") from error
    except EOFError as error:  # its text names an object's address, and a dead letter is to be the same whenever it is made
        raise DecodeError("bad-avro", "not an Avro body of the schema: it ends before the record does") from error
    except Exception as error:  # fastavro names no set of errors for malformed bytes
        raise DecodeError("bad-avro", f"not an Avro body of the schema: {type(error).__name__}: {error}") from error
    if source.tell() != len(payload):
        raise DecodeError("trailing-bytes", f"{len(payload) - source.tell()} bytes after the record's end")
    return record


class SingleObjectCodec:
    """Single-object encoding: C3 01, the writer schema's fingerprint, the Avro body.

    Args:
        schema: written, and what every record read is resolved to.
        writers: further schemas that records may have been written with: the older versions, and newer ones once known.
    """

    def __init__(self, schema: Schema, writers: Iterable[Schema] = ()) -> None:
        self._schema = parse(schema)
        self._prefix = MAGIC + schema_fingerprint(schema)
        self._writers = {MAGIC + schema_fingerprint(writer): parse(writer) for writer in writers}

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """The record's bytes; whatever fastavro raises where it does not fit the schema."""
        return write_body(self._prefix, self._schema, record)

    def decode(self, payload: bytes | None) -> dict[str, Any]:
        """The record of a message.

        Raises:
            DecodeError: ``empty``, ``bad-magic``, ``unknown-schema``, ``bad-avro`` or ``trailing-bytes``.
        """
        if not payload:
            raise DecodeError("empty", "the record has no value")
        header = payload[:HEADER_BYTES]
        if header == self._prefix:
            return read_body(payload, HEADER_BYTES, self._schema)
        if header[:2] != MAGIC or len(header) < HEADER_BYTES:
            raise DecodeError("bad-magic", f"starts with {payload[:4].hex(' ')}, not with a single-object header of {HEADER_BYTES} bytes")
        writer = self._writers.get(header)
        if writer is None:
            raise DecodeError("unknown-schema", f"no schema with fingerprint {header[2:].hex()} is known here")
        return read_body(payload, HEADER_BYTES, writer, self._schema)
