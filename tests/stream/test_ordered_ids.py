"""The order of a table's ids: what a sorted list gives, whatever came and went."""

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learners.ordered_ids import OrderedIds

IDS = st.text(max_size=3)


@given(start=st.sets(IDS, max_size=40), moves=st.lists(IDS, max_size=120), bucket=st.integers(1, 8), count=st.integers(1, 9))
def test_it_is_a_sorted_list(start, moves, bucket, count):
    with patch("pipeline.learners.ordered_ids.BUCKET", bucket):
        ids, expected = OrderedIds(sorted(start)), sorted(start)
        for identifier in moves:
            assert (identifier in ids) == (identifier in expected)
            if identifier in expected:
                ids.remove(identifier)
                expected.remove(identifier)
            else:
                ids.add(identifier)
                expected = sorted([*expected, identifier])
            assert list(ids) == expected
            assert ids.after(identifier, count) == [i for i in expected if i > identifier][:count]


@pytest.mark.parametrize("start", [[], ["a", "c"]])
def test_what_is_not_there_cannot_be_taken_out(start):
    with pytest.raises(KeyError):
        OrderedIds(start).remove("b")
