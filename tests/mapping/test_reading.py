"""The description's file: everything that is wrong with one is said with its key."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from autoemb_pipeline.checkpoint.identity import flatten
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.mapping.reading import parse_stream, read_stream

GOOD = """
[input]
topics = ["clicks", "clicks-eu"]
format = "json"
[fields]
user = "user.id"
item = ["payload", "item.id"]
id = "event_id"
id_window = 1000
[timestamp]
field = "ts"
unit = "iso8601"
[label]
field = "type"
positive = ["buy"]
negative = ["view"]
"""


def test_a_stream_is_read_whole() -> None:
    stream = parse_stream(GOOD)
    assert stream.topics == ("clicks", "clicks-eu")
    assert stream.events_kept == 1000
    assert stream.record is not None
    assert stream.record.item == ("payload", "item.id")
    flat = flatten({"stream": asdict(stream)})
    assert json.loads(json.dumps(flat)) == flat  # as a run's identity holds it
    assert flat["stream.record.label.positive"] == ["buy"]


def test_this_projects_own_records_need_no_fields() -> None:
    assert parse_stream('[input]\ntopics = "interactions"\nformat = "autoemb"').record is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('user = "user.id"', 'usr = "user.id"', r"\[fields\] has an unknown key 'usr'"),
        ("[label]", "[labels]", r"unknown table \[labels\]"),
        ('user = "user.id"', "", r"\[fields\] lacks user"),
        ('user = "user.id"', 'user = "user..id"', r"\[fields\] user is 'user..id'"),
        ('user = "user.id"', "user = 3", r"\[fields\] user is 3"),
        ('user = "user.id"', 'user = ["payload"]', "leads through 'payload'"),
        ('user = "user.id"', 'user = ["payload", "item.id"]', "user and item are both"),
        ('format = "json"', 'format = "xml"', r"\[input\] format is 'xml'"),
        ('format = "json"', "", r"\[input\] lacks format"),
        ('format = "json"', 'format = "autoemb"', "do not go with"),
        ('format = "json"', 'format = "json"\nschema = "x.avsc"', "has a schema"),
        ('format = "json"', 'format = "avro"\nschema = "nowhere.avsc"', "no Avro schema"),
        ('topics = ["clicks", "clicks-eu"]', "topics = []", r"topics is \[\]"),
        ('topics = ["clicks", "clicks-eu"]', 'topics = ["a", "a"]', "names one twice"),
        ('unit = "iso8601"', 'unit = "hours"', r"\[timestamp\] unit is 'hours'"),
        ('unit = "iso8601"', 'unit = "record"', "has a field and unit"),
        ('field = "ts"', "", 'has unit = "iso8601" and no field'),
        ('negative = ["view"]', "", "positive types of events only"),
        ('negative = ["view"]', "negatives = 4", "negatives is not part of this version"),
        ('negative = ["view"]', 'negative = ["buy"]', "as positive and as negative"),
        ('positive = ["buy"]', "", "no positive ones"),
        ('positive = ["buy"]', "positive_above = 3", "both positive_above and types"),
        ('positive = ["buy"]', "positive = [1]", r"\[label\] positive is \[1\]"),
        ("id_window = 1000", "id_window = 0", "id_window is 0"),
        ("id_window = 1000", "id_window = true", "id_window is True"),
        ("[input]", "[input", "is no TOML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse_stream(GOOD.replace(old, new), name="my.toml")
    assert caught.value.what.startswith("my.toml")


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_stream(GOOD.replace("[fields]", '[fields]\ncategorical = ["country"]'))
    assert caught.value.why == "known are: user, item, id, id_window, sequence"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        read_stream(tmp_path / "stream.toml")
    assert "stream init" in caught.value.remedy


def test_a_schema_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "click.avsc").write_text('{"type": "record", "name": "C", "fields": [{"name": "u", "type": "long"}]}')
    file = tmp_path / "stream.toml"
    file.write_text(GOOD.replace('format = "json"', 'format = "avro"\nschema = "click.avsc"'))
    record = read_stream(file).record
    assert record is not None
    assert json.loads(record.schema or "")["name"] == "C"
