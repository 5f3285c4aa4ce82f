"""Mini-batches of one partition, cut in the plainest way: what source, batcher and epochs together must equal."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.records import Interaction, OfflineStage


def mini_batches(
    read: Callable[[], Iterable[Interaction]], batch_size: int, offline: OfflineStage | None = None, epochs: int = 1
) -> Iterator[MiniBatch]:
    """The mini-batches that `train` makes of the same interactions in one partition: the offline stage's end also ends one.

    Args:
        read: begins anew at the first interaction.
        batch_size: interactions of a mini-batch.
        offline: the first stage.
        epochs: passes over it.
    """
    iterator, step, offset, held = iter(read()), 0, 0, list[Interaction]()
    is_online = offline is None
    while True:
        room = batch_size
        if not is_online and offline is not None and offline.count is not None and offline.count > offset:
            room = min(batch_size, offline.count - offset)
        records = held + list(islice(iterator, room - len(held)))
        held = []
        if not is_online and offline is not None:
            if records:
                at = next((i for i, r in enumerate(records) if offline.is_over(offset + i, r.timestamp)), None)
                is_online = at == 0
                if at:
                    records, held = records[:at], records[at:]
            else:  # the stream ends with the stage
                is_online = offline.until_ms is None and offline.count == offset
            if is_online:
                for batch in _rereads(read, batch_size, offset, epochs, step):
                    step = batch.step
                    yield batch
        if not records:
            return
        step, offset = step + 1, offset + len(records)
        yield MiniBatch.of(step=step, records=records, next_offsets={0: offset})


def _rereads(read: Callable[[], Iterable[Interaction]], batch_size: int, end: int, epochs: int, step: int) -> Iterator[MiniBatch]:
    """The first `end` interactions in mini-batches again, in epochs 2 to `epochs`; the steps follow `step`."""
    for epoch in range(2, epochs + 1):
        iterator, offset = iter(read()), 0
        while offset < end:
            records = list(islice(iterator, min(batch_size, end - offset)))
            step, offset = step + 1, offset + len(records)
            yield MiniBatch.of(step=step, records=records, next_offsets={0: offset}, epoch=epoch)
