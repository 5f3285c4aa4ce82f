"""Records per second of CPU time through the columns: `python -m tests.benchmarks.bench_columns`. One thread, best of five."""

import time
from collections.abc import Callable

import numpy as np

from autoemb_pipeline.columns import Block, concat, distinct
from autoemb_pipeline.ordering import canonical, late
from autoemb_pipeline.records import Interaction, RunPosition
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.schemas.columnar import ColumnDecoder, encode_block
from autoemb_pipeline.source.merge import ColumnMerge
from autoemb_pipeline.source.reader import Chunk, ColumnReader
from tests.source.oracle.merge import EventTimeMerge
from tests.source.oracle.reader import PartitionReader

RECORDS, CHUNK, BATCH, PARTITIONS = 200_000, 2_000, 500, 8
decode = ColumnDecoder(decode_interaction).decode


def rate(name: str, call: Callable[[], object], records: int = RECORDS) -> None:
    """Prints the rate of a call that treats so many records."""
    call()  # compiles
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    print(f"{name:42} {records / best:>12,.0f}/s  {best / records * 1e9:>6,.0f} ns")  # noqa: T201


def stream() -> list[Interaction]:
    """Ids of a skewed popularity, dense sequences, ties in time."""
    random = np.random.default_rng(1)
    users, items = random.zipf(1.2, RECORDS) % 100_000, random.zipf(1.3, RECORDS) % 20_000
    ratings = random.integers(1, 11, RECORDS) / 2
    return [
        Interaction(str(u), str(i), float(r), 1_500_000_000_000 + k // 3 * 1_000, "synthetic", k)
        for k, (u, i, r) in enumerate(zip(users.tolist(), items.tolist(), ratings.tolist(), strict=True))
    ]


def read_columns(values: list[bytes], offsets: np.ndarray) -> list[Block]:
    reader = ColumnReader(topic="t", partition=0, next_offset=0, decode=decode)
    cuts = range(0, len(values), CHUNK)
    return [reader.read(Chunk(offsets[at : at + CHUNK], values[at : at + CHUNK], lambda _: None)).block for at in cuts]


def read_objects(values: list[bytes]) -> None:
    reader = PartitionReader(topic="t", partition=0, next_offset=0, decoder=decode_interaction)
    for at in range(0, len(values), CHUNK):
        reader.read([(at + k, None, value) for k, value in enumerate(values[at : at + CHUNK])])


def merge_columns(lanes: list[list[Block]]) -> list[Block]:
    """Chunk by chunk as a source does: a partition is asked for its next when nothing of it is held."""
    merge = ColumnMerge(dict.fromkeys(range(len(lanes)), 0), position=RunPosition(), idle_timeout=5.0, dense=False)
    queues, released = [iter(lane) for lane in lanes], []
    while not merge.exhausted:
        for partition in merge.wanted():
            block = next(queues[partition], None)
            merge.freeze(partition) if block is None else merge.push(partition, block)
        taken = merge.release(BATCH, 0.0)
        if len(taken.block):
            released.append(taken.block)
    return released


def merge_objects(lanes: list[list[list]]) -> None:
    merge = EventTimeMerge(dict.fromkeys(range(len(lanes)), 0), position=RunPosition(), idle_timeout=5.0, dense=False)
    queues = [iter(lane) for lane in lanes]
    while not merge.exhausted:
        for partition in merge.wanted():
            items = next(queues[partition], None)
            merge.freeze(partition) if items is None else merge.push(partition, items)
        merge.release(BATCH, 0.0)


def main() -> None:
    records = stream()
    values = [encode_interaction(record) for record in records]
    chunks = [values[at : at + CHUNK] for at in range(0, RECORDS, CHUNK)]
    offsets = np.arange(RECORDS)
    rate("decode, one by one", lambda: [decode_interaction(value) for value in values])
    rate("decode, columns of 2,000", lambda: [decode(chunk) for chunk in chunks])
    rate("read a partition, one by one", lambda: read_objects(values))
    rate("read a partition, columns", lambda: read_columns(values, offsets))
    blocks = read_columns(values, offsets)
    rate("encode, one by one", lambda: [encode_interaction(record) for record in records])
    rate("encode, columns of 2,000, as bytes objects", lambda: [encode_block(block).values() for block in blocks])

    homes = [np.flatnonzero(np.arange(RECORDS) * 7919 % 104_729 % PARTITIONS == p) for p in range(PARTITIONS)]
    whole = concat(blocks)
    lanes = [whole.take(home).at(p, np.arange(len(home))) for p, home in enumerate(homes)]
    cut = [[lane[at : at + CHUNK] for at in range(0, len(lane), CHUNK)] for lane in lanes]
    items = []
    for p, home in enumerate(homes):
        reader = PartitionReader(topic="t", partition=p, next_offset=0, decoder=lambda row: records[row])
        items.append(
            [reader.read([(at + k, None, int(row)) for k, row in enumerate(home[at : at + CHUNK])]) for at in range(0, len(home), CHUNK)]
        )
    rate("merge 8 partitions, one by one", lambda: merge_objects(items))
    rate("merge 8 partitions, columns", lambda: merge_columns(cut))
    one = [[block.at(0, np.arange(n * CHUNK, n * CHUNK + len(block))) for n, block in enumerate(blocks)]]
    rate("merge 1 partition, columns", lambda: merge_columns(one))
    batches = merge_columns(cut)
    shuffled = [batch.take(np.argsort(batch.partition, kind="stable")) for batch in batches]
    rate("canonical order and late of 500, in order", lambda: [late(canonical(batch), None) for batch in batches])
    rate("canonical order and late of 500, grouped", lambda: [late(canonical(batch), None) for batch in shuffled])
    rate("local ids of 500, users and items", lambda: [(distinct(b.user_ids), distinct(b.item_ids)) for b in batches])


if __name__ == "__main__":
    main()
