"""Interactions on the wire: what is valid, and the single-object encoding of it.

`decode_interaction` raises `DecodeError` and nothing else, whatever the bytes: a bad record is a value to dead-letter.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.avro import Schema, SingleObjectCodec, load_schema

MAX_ID_BYTES = 1024
MAX_TIMESTAMP = 253_402_300_799_999  # last millisecond of the year 9999; a timestamp in microseconds lies beyond it
MAX_SEQUENCE = 2**63 - 1
_SURELY_SHORT = MAX_ID_BYTES // 4  # characters that fit whatever they are

INTERACTION_SCHEMA = load_schema("interaction")


def checked_interaction(record: Mapping[str, Any]) -> Interaction:
    """The interaction in a record of the reader schema.

    Raises:
        DecodeError: ``bad-value``: an id empty or over 1 KiB of UTF-8, a rating or feature not finite, a timestamp negative or after
            the year 9999, a negative sequence, a dataset name over 1 KiB.
    """
    interaction = Interaction(
        record["user_id"],
        record["item_id"],
        record["rating"],
        record["timestamp"],
        record["dataset"],
        record["sequence"],
        record["features"],
    )
    check(interaction)
    return interaction


def check(interaction: Interaction) -> None:
    """Raises DecodeError (``bad-value``) where a field lies outside what `checked_interaction` lists."""
    user_id, item_id, rating, timestamp, dataset, sequence, features = interaction
    if not user_id or not item_id:
        raise DecodeError("bad-value", f"{'item_id' if user_id else 'user_id'} is empty")
    if not math.isfinite(rating):
        raise DecodeError("bad-value", f"rating is {rating}")
    if not 0 <= timestamp <= MAX_TIMESTAMP:
        raise DecodeError("bad-value", f"timestamp {timestamp} is not in milliseconds between 1970 and the year 9999")
    if sequence is not None and not 0 <= sequence <= MAX_SEQUENCE:
        raise DecodeError("bad-value", f"sequence {sequence} is not a position")
    if len(user_id) > _SURELY_SHORT or len(item_id) > _SURELY_SHORT or len(dataset or "") > _SURELY_SHORT:
        _check_lengths(user_id=user_id, item_id=item_id, dataset=dataset or "")
    if features is not None:
        _check_features(features)


def _check_lengths(**texts: str) -> None:
    for name, text in texts.items():
        length = len(text.encode(errors="surrogatepass"))
        if length > MAX_ID_BYTES:
            raise DecodeError("bad-value", f"{name} has {length} bytes; at most {MAX_ID_BYTES} are allowed")


def _check_features(features: Mapping[str, float]) -> None:
    for name, value in features.items():
        if not math.isfinite(value):
            raise DecodeError("bad-value", f"feature {name[:64]!r} is {value}")


class InteractionCodec:
    """Single-object encoding of interactions.

    Args:
        writers: schemas, besides the current one, that records may have been written with. Each must resolve to the current one.
    """

    def __init__(self, writers: Iterable[Schema] = ()) -> None:
        self._codec = SingleObjectCodec(INTERACTION_SCHEMA, writers)

    def encode(self, interaction: Interaction) -> bytes:
        """See `encode_interaction`."""
        return encode_checked(self._codec.encode, interaction)

    def decode(self, payload: bytes | None) -> Interaction:
        """See `decode_interaction`."""
        return checked_interaction(self._codec.decode(payload))


def encode_checked(encode: Callable[[Mapping[str, Any]], bytes], interaction: Interaction) -> bytes:
    """``encode(record)`` of a valid interaction, with every failure as DecodeError (``bad-value``)."""
    try:
        check(interaction)
        payload = encode(interaction._asdict())
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DecodeError("bad-value", f"not an interaction: {error}") from error
    return payload


# Older published versions of interaction.avsc go here, newest last, when the schema changes.
_HISTORY: tuple[Schema, ...] = ()
_CODEC = InteractionCodec(_HISTORY)


def encode_interaction(interaction: Interaction) -> bytes:
    """The interaction in Avro single-object encoding.

    Raises:
        DecodeError: ``bad-value``: the reader would refuse it. Nothing is written that can only be dead-lettered.
    """
    return _CODEC.encode(interaction)


def decode_interaction(payload: bytes | None) -> Interaction:
    """The interaction in a record's value, written in Avro single-object encoding by any known version of the schema.

    Raises:
        DecodeError: with reason ``empty`` (no value: a tombstone), ``bad-magic`` (another wire format), ``unknown-schema``,
            ``bad-avro``, ``trailing-bytes`` or ``bad-value`` (see `checked_interaction`). Nothing else is raised, whatever the bytes.
    """
    return _CODEC.decode(payload)
