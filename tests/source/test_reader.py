"""One partition's records to items: duplicates, dead letters and where they attach."""

import math
from typing import Any

import pytest

from autoemb_pipeline.errors import ConfigurationError, DecodeError
from autoemb_pipeline.records import AHEAD, Interaction
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.source import SourceConfig
from autoemb_pipeline.source.reader import MAX_PREFIX_BYTES, MAX_PREFIX_LETTERS
from tests.source.oracle.items import ConsumedRecord, Remainder
from tests.source.oracle.reader import PartitionReader
from tests.strategies import remembered_up_to


def encoded(sequence: int | None, dataset: str | None = "set") -> bytes:
    return encode_interaction(Interaction("u", "i", 3.5, 1000, dataset, sequence))


def reader(next_offset: int = 0, **known: Any) -> PartitionReader[bytes]:
    return PartitionReader(topic="t", partition=3, next_offset=next_offset, decoder=decode_interaction, **known)


def test_unusable_records_travel_with_the_next_usable_one():
    items = reader().read([(0, b"k", None), (1, None, b"rubbish"), (2, None, encoded(0)), (3, None, encoded(0)), (4, None, encoded(1))])
    assert [(i.offset, i.duplicates, [(d.offset, d.reason, d.key, d.value) for d in i.dead_letters]) for i in items] == [
        (2, 0, [(0, "no-value", b"k", None), (1, "bad-magic", None, b"rubbish")]),
        (4, 1, []),
    ]
    assert items[0].dead_letters[0].id == "t:3:0"


def test_fetches_cut_anywhere_give_the_same_items():
    records = [(o, None, v) for o, v in enumerate([b"x", encoded(0), encoded(0), None, encoded(1), b"y", encoded(2)])]
    whole = reader().read(records)
    one = reader()
    assert [item for r in records for item in one.read([r])] == whole


def test_a_duplicate_is_what_the_partition_released_before():
    r = reader(deliveries=(remembered_up_to("set", 5, 1000),))
    given = [(5, "set"), (3, "other"), (7, "set"), (6, "set"), (7, "set"), (8, "set")]
    items = r.read([(o, None, encoded(s, d)) for o, (s, d) in enumerate(given)])
    assert [(i.interaction.sequence, i.duplicates) for i in items] == [(3, 1), (7, 0), (6, 0), (8, 1)]


def test_a_time_beyond_the_latest_is_refused_but_what_was_decided_stays():
    latest = 2_000.0
    records = [
        (o, None, encode_interaction(Interaction("u", "i", 3.5, time))) for o, time in enumerate([3_000, 1_000, 1_000, 3_000, 2_001])
    ]

    def letters(**known: Any) -> list[tuple[int, list[tuple[int, str]]]]:
        r = reader(latest=lambda: latest, **known)
        r.cut_at([3] if known else [])
        return [(i.offset, [(d.offset, d.reason) for d in i.dead_letters]) for i in [*r.read(records), *r.read([(5, None, encoded(None))])]]

    assert letters() == [(1, [(0, AHEAD)]), (2, []), (5, [(3, AHEAD), (4, AHEAD)])]
    assert letters(refused=frozenset({1, 3})) == [(0, []), (2, [(1, AHEAD)]), (5, [(3, AHEAD), (4, AHEAD)])]
    latest = math.inf
    assert letters(refused=frozenset({1, 3})) == [(0, []), (2, [(1, AHEAD)]), (4, [(3, AHEAD)]), (5, [])]


@pytest.mark.parametrize(("dataset", "sequence"), [(None, 1), ("set", None), (None, None)])
def test_records_without_dataset_or_sequence_are_never_duplicates(dataset, sequence):
    items = reader(deliveries=(remembered_up_to("set", 5, 1000),)).read(
        [(0, None, encoded(sequence, dataset)), (1, None, encoded(sequence, dataset))]
    )
    assert [i.duplicates for i in items] == [0, 0]


def test_pending_records_can_be_flushed_as_a_remainder():
    r = reader()
    assert r.flush() is None
    assert r.read([(7, None, encoded(0)), (8, None, encoded(0)), (9, None, b"x")]) == [ConsumedRecord(decode_interaction(encoded(0)), 3, 7)]
    assert r.pending
    remainder = r.flush(trailing=True)
    assert isinstance(remainder, Remainder)
    assert (remainder.partition, remainder.next_offset, remainder.duplicates, len(remainder.dead_letters)) == (3, 10, 1, 1)
    assert remainder.trailing
    assert not r.pending


def test_a_cut_divides_unusable_records():
    r = reader()
    r.cut_at([2, 4])
    items = r.read([(0, None, b"x"), (1, None, b"x"), (2, None, b"x"), (3, None, encoded(0))])
    assert [type(i) for i in items] == [Remainder, ConsumedRecord]
    assert items[0].next_offset == 2
    assert [len(i.dead_letters) for i in items] == [2, 1]


def test_long_runs_of_unusable_records_are_handed_on_in_parts():
    items = reader().read([(o, None, b"x") for o in range(2 * MAX_PREFIX_LETTERS + 1)])
    assert [(i.next_offset, len(i.dead_letters)) for i in items] == [(MAX_PREFIX_LETTERS, 100), (2 * MAX_PREFIX_LETTERS, 100)]
    large = reader().read([(o, None, b"x" * (MAX_PREFIX_BYTES // 2)) for o in range(4)])
    assert [i.next_offset for i in large] == [2, 4]


def test_a_record_delivered_again_by_the_client_is_ignored():
    r = reader()
    assert len(r.read([(4, None, encoded(None)), (5, None, encoded(None))])) == 2
    assert [i.offset for i in r.read([(4, None, encoded(None)), (5, None, encoded(None)), (6, None, encoded(None))])] == [6]


def test_errors_other_than_decode_errors_stop_the_run():
    def broken(_: bytes) -> Interaction:
        raise ZeroDivisionError

    r = PartitionReader(topic="t", partition=0, next_offset=0, decoder=broken)
    with pytest.raises(ZeroDivisionError):
        r.read([(0, None, b"x")])


def test_a_decode_errors_detail_reaches_the_dead_letter():
    def picky(_: bytes) -> Interaction:
        raise DecodeError("bad-taste", "too sweet")

    r = PartitionReader(topic="t", partition=0, next_offset=0, decoder=picky)
    r.read([(0, None, b"x")])
    remainder = r.flush()
    assert remainder is not None
    assert (remainder.dead_letters[0].reason, remainder.dead_letters[0].detail) == ("bad-taste", "too sweet")


@pytest.mark.parametrize("wrong", [{"topic": ""}, {"idle_timeout": -1.0}, {"chunk": 0}, {"low_mark": 5, "high_mark": 5}])
def test_wrong_configuration_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        SourceConfig(**{"topic": "t", "run_id": "r", **wrong})
