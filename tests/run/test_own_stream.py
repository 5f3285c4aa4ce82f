"""Streams of the user's own, from the real broker to the metrics."""

import json
import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer

from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.errors import CheckpointError
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.mapping.reading import parse_stream
from autoemb_pipeline.ops.topics import topic_id
from autoemb_pipeline.producers.partitioner import partition_of
from autoemb_pipeline.records import Interaction
from tests.conftest import TestBroker
from tests.run.conftest import MakeStream, Stream, trainer_config
from tests.run.crash_scene import PARTITIONS, crash_scene
from tests.run.crash_zygote import Zygote
from tests.run.kafka_reading import metrics_of, read_all
from tests.run.outcome import assert_same
from tests.source.topics import IN_ORDER, write
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka

RECORDS = synthetic_stream(900, seed=5, users=40, items=30)
FIELDS = """
[fields]
user = "user.id"
item = "payload.item"
sequence = "n"
[timestamp]
field = "at"
unit = "s"
[label]
field = "stars"
positive_above = 3.5
"""
WITH_ID = FIELDS.replace('sequence = "n"', 'id = "event"')
# What says where records lie, who the run is, or how they were coded: not what was learnt of them.
OF_THE_TOPIC = {"run_id", "next_offsets", "refused_offsets"}


def value_of(record: Interaction, **changes: Any) -> bytes:
    """The interaction as somebody else's JSON."""
    document = {
        "user": {"id": record.user_id, "country": "DE"},
        "payload": {"item": record.item_id, "list": [1, None]},
        "stars": record.rating,
        "at": record.timestamp / 1000,
        "n": record.sequence,
        "event": f"e-{record.sequence}",
    }
    return json.dumps({**document, **changes}).encode()


def describe(stream: Stream, text: str = FIELDS, *, form: str = "json", topics: Iterable[str] = (), **changes: Any) -> RunConfig:
    """The stream's configuration with this description."""
    named = [stream.topic, *topics]
    described = parse_stream(f'[input]\ntopics = {json.dumps(named)}\nformat = "{form}"\n{text}')
    return stream.config(**{"stream": described, **changes})


def train(stream: Stream, config: RunConfig) -> list[dict[str, Any]]:
    """Trains to the end; the run's metrics."""
    identity = ",".join(topic_id(stream.kafka, topic) for topic in config.topics)
    summary = stream.train(config, decoder=stream_decoder(config.stream, None), topic_id=identity)
    return metrics_of(stream.kafka, config.metrics_topic, summary.run_id)


def learnt(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in OF_THE_TOPIC and not k.startswith("next_offsets")} for record in metrics]


def send(stream: Stream, values: list[bytes | None], users: list[str], partitions: int) -> None:
    """Each in the partition of its user."""
    write(stream.kafka, stream.topic, values, lambda n: partition_of(users[n].encode(), partitions))


@pytest.mark.parametrize("partitions", [1, 3])
def test_json_gives_the_bits_of_the_projects_avro(make_stream: MakeStream, partitions: int) -> None:
    avro = make_stream(3)
    avro.send(RECORDS, 3)
    wanted = train(avro, describe(avro, "", form="autoemb"))
    own = make_stream(partitions)
    send(own, [value_of(r) for r in RECORDS], [r.user_id for r in RECORDS], partitions)
    assert learnt(train(own, describe(own))) == learnt(wanted)


@pytest.mark.parametrize("partitions", [1, 3])
def test_events_sent_again_are_trained_once(make_stream: MakeStream, partitions: int) -> None:
    records = [r._replace(timestamp=r.timestamp + n) for n, r in enumerate(RECORDS)]  # no ties: an id orders nothing
    clean, dirty = make_stream(1), make_stream(partitions)
    send(clean, [value_of(r) for r in records], [r.user_id for r in records], 1)
    wanted = learnt(train(clean, describe(clean, WITH_ID)))
    sent: list[tuple[bytes, str]] = []
    for n, record in enumerate(records):
        sent.append((value_of(record), record.user_id))
        if n % 9 == 4:
            sent.append(sent[-1])
        if n % 50 == 49:  # sent again much later, by a producer without a key: on any partition
            sent += [(value_of(again, at=record.timestamp / 1000), f"u{n}") for again in records[n - 40 : n - 30]]
    send(dirty, [value for value, _ in sent], [user for _, user in sent], partitions)
    config = describe(dirty, WITH_ID)
    found = learnt(train(dirty, config))
    assert found[-1].pop("duplicates") == len(sent) - len(records) > 250
    assert wanted[-1].pop("duplicates") == 0
    assert found[-1] == wanted[-1]
    send(dirty, [value for value, _ in sent[-200:]], [user for _, user in sent[-200:]], partitions)
    again = learnt(train(dirty, config))  # goes on from its checkpoint, the window with it
    assert (again[-1]["examples"], again[-1]["duplicates"]) == (len(records), len(sent) - len(records) + 200)


def test_every_unusable_record_goes_to_the_dead_letters_and_says_why(make_stream: MakeStream) -> None:
    stream = make_stream(1)
    good = RECORDS[:300]
    bad = [
        (value_of(good[0], user={}), "missing-field", "user.id is missing"),
        (value_of(good[1], user={"id": 1.5}), "wrong-type", "user.id is a number, not an id: a text or an integer"),
        (value_of(good[2], payload="x"), "wrong-type", "payload is a text, not an object with item"),
        (value_of(good[3], stars=float("nan")), "bad-value", "stars is not finite"),
        (value_of(good[4], at="2024-01-01"), "wrong-type", "at is a text, not a number"),
        (b"{", "bad-json", "not JSON: Input data was truncated"),
        (None, "no-value", "the record has no value (a tombstone)"),
    ]
    values: list[bytes | None] = []
    for n, record in enumerate(good):
        values += [bad[n // 40][0]] if n % 40 == 20 and n // 40 < len(bad) else []
        values.append(value_of(record))
    write(stream.kafka, stream.topic, values)
    metrics = train(stream, describe(stream))
    assert (metrics[-1]["examples"], metrics[-1]["dead_letters"]) == (300, len(bad))
    letters = read_all(stream.kafka, f"{stream.topic}.dlq")
    headers = [dict(letter.headers()) for letter in letters]
    assert [(letter.value(), h["reason"].decode(), h["detail"].decode()) for letter, h in zip(letters, headers, strict=True)] == bad
    assert headers[0]["topic"].decode() == stream.topic
    assert letters[0].key().decode() == f"{stream.topic}:0:20"


def test_other_types_of_events_are_counted_and_left_out(make_stream: MakeStream) -> None:
    stream = make_stream(2)
    rule = FIELDS.partition("[label]")[0] + '[label]\nfield = "type"\npositive = ["buy"]\nnegative = ["view"]\n'
    kinds = ["view", "buy", "search"]
    values = [value_of(r, type=kinds[n % 3], **({"payload": None} if n % 3 == 2 else {})) for n, r in enumerate(RECORDS)]
    send(stream, values, [r.user_id for r in RECORDS], 2)
    last = train(stream, describe(stream, rule, trainer=replace(trainer_config(), positive_above=0.5)))[-1]
    assert (last["examples"], last["skipped"], last["dead_letters"], last["positive_share"]) == (600, 300, 0, 0.5)


def test_several_topics_of_one_shape_are_one_stream(make_stream: MakeStream) -> None:
    one, first, second = make_stream(3), make_stream(1), make_stream(2)
    send(one, [value_of(r) for r in RECORDS], [r.user_id for r in RECORDS], 3)
    wanted = learnt(train(one, describe(one)))
    parts = [[r for r in RECORDS if partition_of(r.user_id.encode(), 3) == p] for p in range(3)]
    write(first.kafka, first.topic, [value_of(r) for r in parts[0]])
    write(second.kafka, second.topic, [value_of(r) for r in parts[1]] + [b"rubbish"])
    config = describe(first, topics=[second.topic])
    stopped = replace(config, until_end=True, checkpoint_every=1)
    partial = learnt(train(first, stopped))
    assert partial[-1]["examples"] == len(parts[0]) + len(parts[1])
    assert [letter.key().decode() for letter in read_all(first.kafka, config.dead_letter_topic)] == [f"{second.topic}:0:{len(parts[1])}"]
    write(second.kafka, second.topic, [value_of(r) for r in parts[2]], lambda _: 1)
    whole = describe(first, topics=[second.topic], state_dir=config.state_dir.with_name("whole"))
    found = learnt(train(first, whole))
    assert found[-1].pop("dead_letters") == 1
    assert wanted[-1].pop("dead_letters") == 0
    assert found[-1] == wanted[-1]
    assert train(first, stopped)[-1]["examples"] == len(RECORDS)  # the first run goes on, over both topics


def test_a_run_begins_where_it_is_told_and_only_there(make_stream: MakeStream) -> None:
    stream = make_stream(1)
    producer = Producer({**stream.kafka, **IN_ORDER})
    for n, record in enumerate(RECORDS[:400]):
        producer.produce(stream.topic, value_of(record), partition=0, timestamp=1_000_000 + n)
    producer.flush(30)

    def begun(start: Any) -> RunConfig:
        return describe(stream, start_at=start, state_dir=stream.directory / str(start))

    assert train(stream, begun(1_000_150))[-1]["examples"] == 250
    config = begun("latest")
    assert train(stream, config) == []
    write(stream.kafka, stream.topic, [value_of(r) for r in RECORDS[400:500]])
    assert train(stream, config)[-1]["examples"] == 100  # it had begun at the end as it was then
    with pytest.raises(CheckpointError, match="start_at was 'latest', is None"):
        train(stream, replace(config, start_at=None))


def test_what_the_description_says_is_who_the_run_is(make_stream: MakeStream) -> None:
    stream = make_stream(1)
    write(stream.kafka, stream.topic, [value_of(r) for r in RECORDS[:200]])
    train(stream, describe(stream))
    with pytest.raises(CheckpointError, match=r"stream.record.label.positive_above was 3.5, is 4.0"):
        train(stream, describe(stream, FIELDS.replace("3.5", "4")))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_again_and_again_a_json_stream_with_ids_gives_the_same_bits(broker: TestBroker) -> None:
    values: list[bytes | None] = []
    for n, record in enumerate(RECORDS):
        values += [None, b"{}", value_of(record, stars="x")][n % 60 : n % 60 + 1]
        values.append(value_of(record))
        values += [values[-1]] if n % 9 == 4 else [values[n // 2]] if n % 31 == 30 else []
    with crash_scene(broker.kafka, zygotes=1, records=[]) as scene:
        write(scene.kafka, scene.topic, values, lambda n: n % PARTITIONS)
        text = f'[input]\ntopics = "{scene.topic}"\nformat = "json"\n{WITH_ID.replace("[timestamp]", "id_window = 150" + chr(10) + "[timestamp]")}'
        undisturbed = scene.finish(scene.config("own", stream=text))
        last = json.loads(undisturbed["metrics"][-1][1])
        assert last["examples"] + last["duplicates"] + last["dead_letters"] == len(values)
        assert last["duplicates"] > 0
        assert "position.events" in undisturbed["tensors"]
        config = scene.config("own-killed", stream=text)
        for failpoint in ("step:3", "emit:7", "rename-before:1", "rename-after:2"):
            assert scene.start(config, failpoint=failpoint) == -signal.SIGKILL
        assert_same(scene.finish(config), undisturbed)


@pytest.mark.slow
def test_what_the_clock_refused_of_the_second_topic_stays_refused(make_stream: MakeStream) -> None:
    first, second = make_stream(1), make_stream(1)
    soon = time.time() + 3_000
    values = [value_of(r, **({"at": soon} if n in (7, 300) else {})) for n, r in enumerate(RECORDS[450:])]
    write(first.kafka, first.topic, [value_of(r) for r in RECORDS[:450]])
    write(second.kafka, second.topic, values)
    text = f'[input]\ntopics = ["{first.topic}", "{second.topic}"]\nformat = "json"\n{FIELDS}'
    outputs = {
        "metrics_topic": f"{first.topic}.metrics",
        "runtime_topic": f"{first.topic}.runtime",
        "dead_letter_topic": f"{first.topic}.dlq",
    }
    live = {"until_end": False, "idle_timeout": 0.2, "batch_timeout": 0.3, "max_ahead": 1.0, "checkpoint_every": 1_000}
    config = {"topic": first.topic, "stream": text, **outputs, **live, "batch_size": 40, "state_dir": str(first.directory / "ahead")}
    with Zygote(1) as zygote:
        assert zygote.run(first.kafka, config, failpoint="emit:16").returncode == -signal.SIGKILL
        ended = zygote.run(first.kafka, {**config, "until_end": True, "max_ahead": None})
        assert ended.returncode == 0, ended.output
    letters = [letter.key().decode() for letter in read_all(first.kafka, outputs["dead_letter_topic"])]
    assert letters == [f"{second.topic}:0:7"]  # the other one was first read when nothing was refused any more
    metrics = metrics_of(first.kafka, outputs["metrics_topic"])
    assert [m["refused_offsets_1000000"] for m in metrics if "refused_offsets_1000000" in m] == ["7"]
    assert metrics[-1]["examples"] == len(RECORDS) - 1
