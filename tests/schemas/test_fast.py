import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import DecodeError
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import MAX_ID_BYTES, MAX_SEQUENCE, MAX_TIMESTAMP, decode_interaction, encode_interaction
from autoemb_pipeline.schemas.fast import dataset_encoder
from tests.strategies import ids, interactions

PLAIN = Interaction("12", "345", 4.5, 978_300_760_000, "ml-1m", 77)


@settings(deadline=None)
@given(interactions, ids, st.booleans())
def test_the_bytes_are_those_of_the_general_encoder(interaction, dataset, same):
    if same:
        interaction = interaction._replace(dataset=dataset)
    encoded = dataset_encoder(dataset)(interaction)
    assert encoded == encode_interaction(interaction)
    assert decode_interaction(encoded) == interaction


numbers = st.integers(0, 63).map(lambda bits: 1 << bits)


@settings(deadline=None)
@given(near=numbers, timestamp=numbers, offset=st.integers(-2, 2), length=st.integers(1, MAX_ID_BYTES))
def test_so_they_are_at_every_change_of_length(near, timestamp, offset, length):
    plain = PLAIN._replace(
        sequence=min(MAX_SEQUENCE, max(0, near + offset)),
        timestamp=min(MAX_TIMESTAMP, max(0, timestamp + offset)),
        user_id="u" * length,
        item_id="i" * (MAX_ID_BYTES + 1 - length),
    )
    assert dataset_encoder("ml-1m")(plain) == encode_interaction(plain)


WRONG = [
    {"user_id": ""},
    {"item_id": "x" * (MAX_ID_BYTES + 1)},
    {"user_id": "\ud800"},
    {"user_id": 12},
    {"rating": float("nan")},
    {"rating": "4"},
    {"timestamp": -1},
    {"timestamp": MAX_TIMESTAMP + 1},
    {"timestamp": "1"},
    {"sequence": -1},
    {"sequence": MAX_SEQUENCE + 1},
    {"dataset": "\ud800"},
    {"dataset": "d" * (MAX_ID_BYTES + 1)},
]


@pytest.mark.parametrize("changes", WRONG)
def test_what_the_general_encoder_refuses_is_refused_with_the_same_words(changes):
    wrong = PLAIN._replace(**changes)
    with pytest.raises(DecodeError) as general:
        encode_interaction(wrong)
    for dataset in ("ml-1m", wrong.dataset):
        with pytest.raises(DecodeError) as fast:
            dataset_encoder(dataset)(wrong)
        assert str(fast.value) == str(general.value)
