"""Bytes that are said are bytes that are kept: `Holdings` against the values that RocksDB holds of every id."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.kernels.layout import COUNT
from autoemb_pipeline.learners.stream.holdings import INDEX_ENTRY_BYTES
from autoemb_pipeline.learners.stream.rows import CONTEXT, HOLDS, REMEMBERED
from autoemb_pipeline.open_batch import SIDES
from autoemb_pipeline.rows import AnySpec
from autoemb_pipeline.state.codec import RowCodec
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import Trainer, trainer_tables
from tests.learners.stream.running import SEARCHING, config, steps, trainer
from tests.streams import taste_stream

VERSION_BYTES = 1
STREAM = taste_stream(400, seed=4, users=40, items=60)
OPTIONS = [
    {},
    SEARCHING,
    {"method": "sam", "row_precision": "float32", **SEARCHING},
    {"precision": "float64", "row_precision": "float32", **SEARCHING},
    {"task": "rating", "context": "strict", **SEARCHING},
    {"tolerance": 100.0},
    {"memory_budget": 3000},
]


def kept(store: MemoryRowStore, table: AnySpec) -> tuple[int, int, int]:
    """(ids, bytes for embeddings, bytes for context) by the values themselves: an index entry, the key, the value without its version."""
    codec, ids, own, context = RowCodec(table), 0, 0, 0
    for identifier, record in store.records(table.name):
        value = codec.encode(tuple(part[None] for part in record))[0]
        ids += 1
        context += record[CONTEXT].nbytes
        own += INDEX_ENTRY_BYTES + len(identifier.encode()) + len(value) - VERSION_BYTES - record[CONTEXT].nbytes
    return ids, own, context


def holdings_of(by: Trainer) -> Any:
    return by._method._learner._components.holdings


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bytes_are_those_of_the_stored_values(options: dict[str, Any]) -> None:
    of = config(**options)
    by, store = trainer(of)
    tables = {spec.name: spec for spec in trainer_tables(of)}
    several = set()
    for start in range(0, len(STREAM), 40):
        steps(by, STREAM[: start + 40], 40, first=start)
        for side, holdings in zip(SIDES, holdings_of(by), strict=True):
            assert (holdings.ids, holdings.bytes, holdings.context_bytes) == kept(store, tables[side])
            levels = [int((record[HOLDS] != 0).sum()) for _, record in store.records(side)]
            assert holdings.holders.tolist() == np.bincount(levels, minlength=4).tolist()
            several.update(levels)
    assert len(several) > 1, several
    report = by._method.report()
    assert report["embedding_bytes"] == sum(kept(store, tables[side])[1] for side in SIDES)
    assert report["bytes_share_of_fixed"] == pytest.approx(
        report["embedding_bytes"] / sum(INDEX_ENTRY_BYTES + len(i) + 4 * (146 + 3) for side in SIDES for i, _ in store.records(side))
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_restored_run_counts_the_same(options: dict[str, Any]) -> None:
    of = config(**options)
    by, store = trainer(of)
    steps(by, STREAM[:240], 40)
    again = Trainer(of, store)
    assert [holdings.bytes for holdings in holdings_of(again)] == [0, 0]
    again.restore(by.tensors(), by.payload())
    for own, other in zip(holdings_of(again), holdings_of(by), strict=True):
        assert (own.bytes, own.ids, own.fixed_bytes, own.cursor) == (other.bytes, other.ids, other.fixed_bytes, other.cursor)
        assert own.holders.tolist() == other.holders.tolist()
        assert list(own.next_visited(64)) == list(other.next_visited(64))


def test_every_holder_is_visited_in_turn() -> None:
    by, store = trainer(config(panel=0.3))
    steps(by, STREAM[:200], 40)
    for side, holdings in zip(SIDES, holdings_of(by), strict=True):
        holders = {i for i, record in store.records(side) if record[HOLDS].any() or record[REMEMBERED][:2].any()}
        assert len(holders) > 14
        calls = len(holders) // 7 + 1
        rounds = [i for _ in range(2 * calls) for i in holdings.next_visited(7)]
        assert set(rounds[: len(rounds) // 2 + 7]) == set(rounds) == holders
        assert max(Counter(rounds).values()) <= 3


def test_what_is_remembered_is_counted() -> None:
    """Else the first test would hold of a search that remembers nothing."""
    by, store = trainer(config(**SEARCHING))
    steps(by, STREAM[:160], 40)
    assert sum(int(record[REMEMBERED][0] != 0) for side in SIDES for _, record in store.records(side)) > 5
    assert all(record[CONTEXT][COUNT] > 0 for side in SIDES for _, record in store.records(side))
