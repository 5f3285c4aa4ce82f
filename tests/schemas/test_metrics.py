"""Metrics records: flat JSON and Avro are pure functions of the record, and give it back."""

import json
import math
import random
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError, DecodeError
from autoemb_pipeline.schemas.metrics import PREQUENTIAL, RUNTIME, metrics_to_avro, metrics_to_json, parse_metrics
from tests.strategies import metrics_records

REQUIRED = {
    "run_id": "r1", "method": "fse", "task": "binary", "preset": "stream", "context_mode": "event",
    "step": 3, "examples": 1500, "batch_examples": 500, "next_offsets": {0: 12, 10: 7},
}  # fmt: skip


@given(metrics_records)
def test_both_forms_give_the_same_record_back(record: dict) -> None:
    expected = PREQUENTIAL.normalise(record)
    assert parse_metrics(metrics_to_json(record)) == expected
    assert parse_metrics(metrics_to_avro(record)) == expected
    assert expected["next_offsets"] == {str(partition): offset for partition, offset in record["next_offsets"].items()}


@given(metrics_records, st.randoms(use_true_random=False))
def test_bytes_do_not_depend_on_the_order_of_insertion(record: dict, rng: random.Random) -> None:
    def shuffled(mapping: dict) -> dict:
        keys = list(mapping)
        rng.shuffle(keys)
        return {key: shuffled(value) if isinstance(value, dict) else value for key, value in ((key, mapping[key]) for key in keys)}

    again = shuffled(record)
    assert metrics_to_json(again) == metrics_to_json(record)
    assert metrics_to_avro(again) == metrics_to_avro(record)


@given(metrics_records)
def test_json_is_flat_sorted_strict_and_free_of_nan(record: dict) -> None:
    pairs = json.loads(metrics_to_json(record), object_pairs_hook=list, parse_constant=pytest.fail)
    names = [name for name, _ in pairs]
    assert names == sorted(set(names))
    assert all(value is None or isinstance(value, str | int | float) for _, value in pairs)


def test_maps_flatten_to_scalars_and_come_back() -> None:
    flat = json.loads(metrics_to_json(REQUIRED | {"user_weight": {16: 0.5, 2: math.nan}, "item_bucket_count": {"64": 3}}))
    assert (flat["user_weight_16"], flat["user_weight_2"], flat["item_bucket_count_64"]) == (0.5, None, 3)
    assert (flat["next_offsets_0"], flat["next_offsets_10"]) == (12, 7)
    assert parse_metrics(json.dumps(flat).encode())["next_offsets"] == {"0": 12, "10": 7}


def test_what_the_search_says_comes_back() -> None:
    told = {"unresolved": True, "loss_given_up": 1e-4, "user_ids_of_space": {0: 5, 128: 2}}
    flat = json.loads(metrics_to_json(REQUIRED | told))
    assert (flat["unresolved"], flat["loss_given_up"], flat["user_ids_of_space_128"]) == (True, 1e-4, 2)
    for encode in (metrics_to_json, metrics_to_avro):
        back = parse_metrics(encode(REQUIRED | told))
        assert (back["unresolved"], back["user_ids_of_space"]) == (True, {"0": 5, "128": 2})


def test_numpy_numbers_count_as_the_numbers_they_are() -> None:
    typed = REQUIRED | {"step": np.int64(3), "mse": np.float64(0.1), "accuracy": np.float32(0.5), "late": np.int32(2)}
    assert metrics_to_json(typed) == metrics_to_json(REQUIRED | {"mse": 0.1, "accuracy": 0.5, "late": 2})
    assert metrics_to_json(REQUIRED | {"mse": np.float32("nan")}) == metrics_to_json(REQUIRED)


def test_no_flattened_name_can_be_mistaken_for_another_field() -> None:
    for kind in (PREQUENTIAL, RUNTIME):
        names = [spec["name"] for spec in kind.schema["fields"]]
        maps = [spec["name"] for spec in kind.schema["fields"] if '"map"' in json.dumps(spec["type"])]
        assert maps
        assert not [(a, b) for a in maps for b in names if b.startswith(f"{a}_")]


def test_every_metric_has_its_reference_and_its_three_means() -> None:
    names = {spec["name"] for spec in PREQUENTIAL.schema["fields"]}
    for prefix in ("", "running_mean_", "logistic_"):
        for metric in ("mse", "cross_entropy", "accuracy"):
            assert {f"{prefix}{metric}{suffix}" for suffix in ("", "_window", "_fading")} <= names


@pytest.mark.parametrize(
    "change",
    [
        {"mae": 1.0}, {"step": None}, {"step": 1.5}, {"step": 2**63}, {"run_id": 3}, {"run_id": "\ud800"}, {"mse": "0.2"},
        {"mse": 10**400}, {"user_weight": [0.5]}, {"next_offsets": {0: None}, "late": "x"}, {"user_bucket_count": {"1": 0.5}}, {"unresolved": 1}, {"unresolved": "true"},
    ],
)  # fmt: skip
def test_a_record_that_misfits_the_schema_is_an_error_at_the_emitter(change: dict) -> None:
    with pytest.raises(ConfigurationError):
        metrics_to_json(REQUIRED | change)


def test_a_missing_required_field_is_named() -> None:
    for name in REQUIRED:
        with pytest.raises(ConfigurationError, match=name):
            metrics_to_json({key: value for key, value in REQUIRED.items() if key != name})


def test_unknown_keys_of_a_newer_writer_are_ignored() -> None:
    flat = json.loads(metrics_to_json(REQUIRED)) | {"auc": 0.7, "nested": {"a": 1}}
    assert parse_metrics(json.dumps(flat).encode()) == PREQUENTIAL.normalise(REQUIRED)


def reason_of(payload: bytes) -> str | None:
    """Why the payload is refused; None where it parses. Any other error fails the test."""
    try:
        parse_metrics(payload)
    except DecodeError as error:
        return error.reason
    return None


@given(st.binary(max_size=120) | st.builds(lambda t: t.encode(errors="replace"), st.text()))
def test_parsing_raises_decode_errors_only(payload: bytes) -> None:
    for attempt in (payload, metrics_to_avro(REQUIRED)[:10] + payload):
        assert reason_of(attempt) != ""


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_in_any_field_parses_or_is_refused(value: object) -> None:
    for name in ("step", "run_id", "mse", "user_weight", "next_offsets_0", "user_bucket_count_8"):
        assert reason_of(json.dumps(json.loads(metrics_to_json(REQUIRED)) | {name: value}).encode()) in {None, "bad-json", "bad-value"}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{", "bad-json"),
        (b"[1]", "bad-json"),
        (b"[" * 100_000, "bad-json"),
        (b"{}", "bad-value"),
        (b"\xc3\x01" + bytes(9), "unknown-schema"),
    ],
)
def test_parse_reasons(payload: bytes | None, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_metrics(payload)
    assert caught.value.reason == reason


def test_runtime_records_take_the_same_two_forms() -> None:
    record = {
        "run_id": "r1",
        "step": 4,
        "wall_time": 1_700_000_000_000,
        "lag": 12,
        "phase_seconds": {"predict": 0.25},
        "buffer_size": {"source": 3},
    }
    assert RUNTIME.parse(RUNTIME.to_json(record)) == RUNTIME.parse(RUNTIME.to_avro(record)) == RUNTIME.normalise(record)
    assert json.loads(RUNTIME.to_json(record))["phase_seconds_predict"] == 0.25


def test_avro_bytes_are_the_same_for_any_order_of_map_keys() -> None:
    weights = {2: 0.25, 16: 0.5, 128: 0.25}
    assert len({metrics_to_avro(REQUIRED | {"user_weight": dict(order)}) for order in permutations(weights.items())}) == 1
