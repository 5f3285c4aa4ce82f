"""Blocks of columns against lists of objects: slicing, taking, joining, distinct ids, keys' partitions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.columns import Block, Texts, common_datasets, concat, distinct
from autoemb_pipeline.kernels.texts import is_utf8, partitions_of
from autoemb_pipeline.producers.partitioner import partition_of
from autoemb_pipeline.records import Interaction
from tests.strategies import interactions

plain = st.lists(interactions.map(lambda i: i._replace(features=None)), max_size=8)
texts = st.lists(st.sampled_from([b"", b"a", b"b", b"ab", b"\x00", b"long" * 9]) | st.binary(max_size=12), max_size=40)


def slices(length: int) -> st.SearchStrategy[slice]:
    return st.slices(length).filter(lambda s: s.step in (None, 1))


@settings(deadline=None)
@given(plain)
def test_a_block_holds_what_it_was_made_of(records: list[Interaction]) -> None:
    assert Block.of(records).interactions() == records


@settings(deadline=None)
@given(plain, st.data())
def test_blocks_are_cut_taken_and_joined_as_lists_are(records: list[Interaction], data: st.DataObject) -> None:
    rows = data.draw(slices(len(records)))
    block, cut = Block.of(records)[rows], records[rows]
    assert block.interactions() == cut
    places = data.draw(st.lists(st.integers(0, len(cut) - 1), max_size=9)) if cut else []
    taken = block.take(np.array(places, np.int64))
    assert taken.interactions() == [cut[place] for place in places]
    others = data.draw(plain)
    joined = concat([block, Block.of(others), taken, block])
    assert joined.interactions() == [*cut, *others, *taken.interactions(), *cut]
    assert joined.take(np.arange(len(joined))[::-1]).interactions() == joined.interactions()[::-1]


@settings(deadline=None)
@given(st.lists(plain.filter(bool), min_size=1, max_size=4))
def test_ranks_compare_as_the_datasets_of_merge_keys(lists: list[list[Interaction]]) -> None:
    block = concat([Block.of(records) for records in lists])
    assert list(block.datasets) == sorted(set(block.datasets))
    names = [i.dataset or "" for i in block.interactions()]
    assert [[a < b for b in block.rank.tolist()] for a in block.rank.tolist()] == [[a < b for b in names] for a in names]


@settings(deadline=None)
@given(st.lists(plain, min_size=1, max_size=4))
def test_a_common_table_of_datasets_keeps_every_name(lists: list[list[Interaction]]) -> None:
    names, codes = common_datasets([Block.of(records) for records in lists])
    for records, code in zip(lists, codes, strict=True):
        assert [None if c < 0 else names[c] for c in code.tolist()] == [i.dataset for i in records]


@settings(deadline=None)
@given(texts, st.data())
def test_distinct_values_are_numbered_by_first_occurrence(values: list[bytes], data: st.DataObject) -> None:
    rows = data.draw(slices(len(values)))
    cut = values[rows]
    found = distinct(Texts.of(values)[rows])
    expected = list(dict.fromkeys(cut))
    assert found.values.to_list() == expected
    assert found.inverse.tolist() == [expected.index(value) for value in cut]
    assert found.firsts.tolist() == [cut.index(value) for value in expected]


def test_ten_thousand_ids_are_told_apart() -> None:
    values = [str(number * number % 7919).encode() for number in range(10_000)]
    assert len(distinct(Texts.of(values)).values) == len(set(values))


@settings(deadline=None)
@given(texts, st.integers(1, 64))
def test_partitions_are_those_of_the_java_client(values: list[bytes], partitions: int) -> None:
    column = Texts.of(values)
    assert partitions_of(column.data, column.bounds, partitions).tolist() == [partition_of(value, partitions) for value in values]


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_utf8_is_what_python_decodes() -> None:
    for lead in range(0x80, 0x100):
        edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
        tails = [b"", *(bytes([a]) for a in range(0x100)), *(bytes([a, b]) for a in edges for b in edges)]
        tails += [bytes([a, b, c]) for a in edges for b in edges for c in edges]
        for tail in tails:
            value = bytes([lead]) + tail
            data = np.frombuffer(b"x" + value + b"\x80", np.uint8)
            assert is_utf8(data, 1, len(value) + 1) == _decodes(value), value
