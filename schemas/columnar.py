"""Interactions on the wire, many at a time: values to columns and back, by compiled kernels.

What is valid is still decided by one decoder per record (`schemas.registry.InteractionDecoder`): the kernel reads only what is plain, and
every other value is given to that decoder. Plain are records of this very version of the schema without further features; a test holds
the two to the same verdicts and values on any bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.columns import NO_VALUE, Block, Bytes, Decoded, Integers, Refused, Texts, concat
from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.kernels.avro import decode_interactions, encode_interactions
from autoemb_pipeline.records import SKIPPED, Interaction
from autoemb_pipeline.schemas.avro import MAGIC, schema_fingerprint
from autoemb_pipeline.schemas.codec import INTERACTION_SCHEMA, MAX_ID_BYTES, MAX_TIMESTAMP, encode_interaction
from autoemb_pipeline.schemas.registry import InteractionDecoder

Read = TypeVar("Read")
HEADER = MAGIC + schema_fingerprint(INTERACTION_SCHEMA)


class ColumnDecoder:
    """Decodes the values of a chunk of records.

    Args:
        decoder: the decoder of one value; raises DecodeError, and nothing else, for bytes that are no interaction. An `InteractionDecoder`
            also says with which registry's headers a value is plain, once it has decoded one of them.
    """

    def __init__(self, decoder: Callable[[bytes], Interaction]) -> None:
        self._decoder = decoder
        self._registry_headers: tuple[bytes, ...] = ()
        self._headers = Texts.of([HEADER])

    def decode(self, values: Sequence[bytes | None], times: object = None) -> Decoded:  # noqa: ARG002  # the event time stands in the value
        """The interactions in these values, and the values that are none. What the decoder raises, but DecodeError, is let through."""
        try:
            joined = b"".join(values)  # type: ignore[arg-type]
        except TypeError:
            joined = b"".join([value or b"" for value in values])
            lengths = np.fromiter((len(value or b"") for value in values), np.int64, len(values))
        else:
            lengths = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
        bounds = np.zeros(len(values) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        self._learn_headers()
        plain, *columns = decode_interactions(
            np.frombuffer(joined, np.uint8), bounds, self._headers.data, self._headers.bounds, MAX_ID_BYTES, MAX_TIMESTAMP
        )
        block = _block(joined, *columns)
        if len(block) == len(values):
            return Decoded(block)
        return completed(values, block, plain, read=lambda _, value: self._decoder(value), made=Block.of)

    def _learn_headers(self) -> None:
        if isinstance(self._decoder, InteractionDecoder) and self._decoder.plain_headers != self._registry_headers:
            self._registry_headers = self._decoder.plain_headers
            self._headers = Texts.of([HEADER, *self._registry_headers])


def completed(
    values: Sequence[bytes | None],
    block: Block,
    plain: NDArray[np.bool_],
    *,
    read: Callable[[int, bytes], Read | None],
    made: Callable[[Sequence[Read]], Block],
    skipped: NDArray[np.bool_] | None = None,
) -> Decoded:
    """The plain values with what only a reader of one value can tell of the others, in the values' order.

    Args:
        values: n of a chunk.
        block: those that are plain.
        plain: [n] which they are.
        read: row, value -> what it holds; None where it is to be left out; raises DecodeError where it cannot be used.
        made: the block of what was read.
        skipped: [n] those known to be left out; not read.
    """
    refused = [] if skipped is None else [Refused(row, SKIPPED, "") for row in np.flatnonzero(skipped).tolist()]
    slow: list[Read] = []
    slow_rows: list[int] = []
    for row in np.flatnonzero(~plain if skipped is None else ~plain & ~skipped).tolist():
        value = values[row]
        if value is None:
            refused.append(Refused(row, "no-value", NO_VALUE))
            continue
        try:
            one = read(row, value)
        except DecodeError as error:
            refused.append(Refused(row, error.reason, str(error)))
            continue
        if one is None:
            refused.append(Refused(row, SKIPPED, ""))
        else:
            slow.append(one)
            slow_rows.append(row)
    rows = np.flatnonzero(plain)
    if slow:
        rows = np.concatenate([rows, np.array(slow_rows, np.int64)])
        order = np.argsort(rows)
        block, rows = concat([block, made(slow)]).take(order), rows[order]
    return Decoded(block, rows if refused else None, sorted(refused))


def _block(
    joined: bytes,
    users: Bytes,
    user_bounds: Integers,
    items: Bytes,
    item_bounds: Integers,
    rating: "np.ndarray[tuple[int], np.dtype[np.uint64]]",
    time: Integers,
    sequence: Integers,
    code: Integers,
    starts: Integers,
    stops: Integers,
) -> Block:
    """The kernel's columns as a block, the datasets' names in their order."""
    known = [joined[start:stop].decode() for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    names = tuple(sorted(known))
    if names != tuple(known):
        code = np.array([*map(names.index, known), -1], np.int64)[code]
    count = len(time)
    nowhere = np.zeros(count, np.int64)
    ids = Texts(users, user_bounds), Texts(items, item_bounds)
    return Block(ids, rating.view(np.float64), time, sequence, code, names, nowhere, nowhere, np.zeros(count, np.int8))


@dataclass(frozen=True, slots=True)
class Encoded:
    """Values one behind the other: value i is ``data[bounds[i]:bounds[i + 1]]``."""

    data: bytes
    bounds: Integers

    def __getitem__(self, rows: slice) -> "Encoded":
        """The values of these rows (step 1); copies nothing."""
        return Encoded(self.data, self.bounds[rows.start : rows.stop + 1])

    def values(self) -> list[bytes]:
        """Each value, to be produced."""
        places = self.bounds.tolist()
        return [self.data[start:stop] for start, stop in pairwise(places)]


def encode_block(block: Block, header: bytes = HEADER) -> Encoded:
    """The values of a block's interactions: the bytes of `schemas.codec.encode_interaction`, or of a registry's encoder with its header.

    Raises:
        DecodeError: ``bad-value``: the reader would refuse one of them.
    """
    names = Texts.of([name.encode(errors="surrogatepass") for name in block.datasets])
    _check_names(names, block)
    data, bounds, valid = encode_interactions(
        np.frombuffer(header, np.uint8),
        block.user_ids.data,
        block.user_ids.bounds,
        block.item_ids.data,
        block.item_ids.bounds,
        block.rating.view(np.uint64),
        block.time,
        block.sequence,
        block.dataset,
        names.data,
        names.bounds,
        MAX_ID_BYTES,
        MAX_TIMESTAMP,
    )
    if valid < len(block):
        _refuse(block[valid : valid + 1])
    return Encoded(data.tobytes(), bounds)


def _check_names(names: Texts, block: Block) -> None:
    """Refuses a dataset that cannot be written, at the first row that is of it."""
    for code, name in enumerate(names.to_list()):
        try:
            name.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("bad-value", f"not an interaction: {error}") from error
        if len(name) > MAX_ID_BYTES and (block.dataset == code).any():
            raise DecodeError("bad-value", f"dataset has {len(name)} bytes; at most {MAX_ID_BYTES} are allowed")


def _refuse(row: Block) -> None:
    """Raises what the encoder of one record says of it."""
    try:
        interaction = row.interactions()[0]
    except UnicodeDecodeError as error:
        raise DecodeError("bad-value", f"not an interaction: {error}") from error
    encode_interaction(interaction)
    raise AssertionError(f"the kernel refuses what the encoder takes: {interaction}")
