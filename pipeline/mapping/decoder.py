"""A chunk of a described stream's values as interactions: what a source is given (`source.reader.ChunkDecoder`)."""

from collections.abc import Callable, Sequence

from autoemb_pipeline.columns import EMPTY, Decoded, Integers
from autoemb_pipeline.mapping.columns import block_of, columns_of
from autoemb_pipeline.mapping.description import RecordMapping, StreamDescription
from autoemb_pipeline.mapping.formats import AvroFormat, JsonFormat, RecordFormat
from autoemb_pipeline.mapping.rules import Row, row_of
from autoemb_pipeline.schemas.columnar import ColumnDecoder, completed
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

        def read(row: int, value: bytes) -> Row | None:
            return row_of(self._mapping, self._format.record(value), None if own_times is None else int(own_times[row]))

        return completed(values, block.only(plain), plain, read=read, made=block_of, skipped=skipped)


def stream_decoder(stream: StreamDescription, registry: RegistryCodec | None) -> ColumnDecoder | MappedDecoder:
    """The decoder of a described stream.

    Raises:
        ConfigurationError: Avro of an unknown schema.
    """
    if stream.record is None:
        return ColumnDecoder(InteractionDecoder(registry=registry))
    form = JsonFormat(stream.record) if stream.format == "json" else AvroFormat(stream.record, registry)
    return MappedDecoder(stream.record, form)
