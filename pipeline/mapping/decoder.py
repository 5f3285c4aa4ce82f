"""A chunk of a described stream's values as interactions: what a source is given (`source.reader.ChunkDecoder`)."""

from collections.abc import Callable, Sequence

import numpy as np

from autoemb_pipeline.columns import EMPTY, NO_VALUE, Decoded, Integers, Refused, concat
from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.mapping.columns import block_of, columns_of
from autoemb_pipeline.mapping.description import RecordMapping, StreamDescription
from autoemb_pipeline.mapping.formats import AvroFormat, JsonFormat, RecordFormat
from autoemb_pipeline.mapping.rules import Row, row_of
from autoemb_pipeline.records import SKIPPED
from autoemb_pipeline.schemas.columnar import ColumnDecoder
from autoemb_pipeline.schemas.registry import InteractionDecoder, RegistryCodec


class MappedDecoder:
    """Interactions by a description. A value's verdict depends on no other value.

    Args:
        mapping: where the fields stand.
        form: JSON or Avro.
    """

    def __init__(self, mapping: RecordMapping, form: RecordFormat) -> None:
        self._mapping = mapping
        self._format = form

    def decode(self, values: Sequence[bytes | None], times: Callable[[], Integers] | None = None) -> Decoded:
        """The interactions in these values, and the values that are none or are left out.

        Raises:
            BrokerError: a registry does not answer: nothing is known about the records, so they are not condemned.
        """
        if not values:
            return Decoded(EMPTY)
        own_times = times() if times is not None and self._mapping.timestamp is None else None
        block, plain, skipped = columns_of(self._mapping, self._format.fields(values), own_times)
        if plain.all():
            return Decoded(block)
        refused = [Refused(row, SKIPPED, "") for row in np.flatnonzero(skipped).tolist()]
        rows: list[Row] = []
        places: list[int] = []
        for place in np.flatnonzero(~plain & ~skipped).tolist():
            verdict = self._verdict(place, values[place], None if own_times is None else int(own_times[place]))
            if isinstance(verdict, Row):
                rows.append(verdict)
                places.append(place)
            else:
                refused.append(verdict)
        order = np.concatenate([np.flatnonzero(plain), np.array(places, np.int64)])
        usable = concat([block.only(plain), block_of(rows)]) if rows else block.only(plain)
        if rows:
            sorting = np.argsort(order)
            order, usable = order[sorting], usable.take(sorting)
        return Decoded(usable, order, sorted(refused))

    def _verdict(self, place: int, value: bytes | None, time: int | None) -> Row | Refused:
        """What becomes of a value that is not plain."""
        if value is None:
            return Refused(place, "no-value", NO_VALUE)
        try:
            row = row_of(self._mapping, self._format.record(value), time)
        except DecodeError as error:
            return Refused(place, error.reason, str(error))
        return Refused(place, SKIPPED, "") if row is None else row


def stream_decoder(stream: StreamDescription, registry: RegistryCodec | None) -> ColumnDecoder | MappedDecoder:
    """The decoder of a described stream.

    Raises:
        ConfigurationError: Avro of an unknown schema.
    """
    if stream.record is None:
        return ColumnDecoder(InteractionDecoder(registry=registry))
    form = JsonFormat(stream.record) if stream.format == "json" else AvroFormat(stream.record, registry)
    return MappedDecoder(stream.record, form)
