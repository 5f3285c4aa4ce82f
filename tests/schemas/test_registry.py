"""The Confluent wire format against an in-process registry, and against confluent-kafka's own serialiser as the independent implementation."""

import builtins
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autoemb_pipeline.columns import Block
from autoemb_pipeline.errors import BrokerError, ConfigurationError, DecodeError
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.mapping.proposal import propose
from autoemb_pipeline.mapping.reading import parse_stream
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.avro import HEADER_BYTES, load_schema, schema_text
from autoemb_pipeline.schemas.codec import encode_interaction
from autoemb_pipeline.schemas.columnar import ColumnDecoder, encode_block
from autoemb_pipeline.schemas.metrics import PREQUENTIAL
from autoemb_pipeline.schemas.registry import InteractionDecoder, RegistryCodec
from tests.columns.test_columnar import check, mutated
from tests.strategies import interactions

VALID = Interaction("7", "42", 3.5, 1_000, "ml", 9, {"price": 2.5})


class Registry(ThreadingHTTPServer):
    """Schemas by id and subject, as the registry's REST interface serves them. `failing`: status that every request gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.schemas: dict[int, dict] = {}
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self.failing: int | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, subject: str, schema: dict) -> int:
        with self.lock:
            known = next((i for i, kept in self.schemas.items() if _meaning(kept) == _meaning(schema)), len(self.schemas) + 1)
            self.schemas[known] = schema
            versions = self.subjects.setdefault(subject, [])
            if known not in versions:
                versions.append(known)
            return known


def _meaning(schema: dict) -> object:
    """What a registry compares: not the text's white space."""
    try:
        return schema.get("schemaType", "AVRO"), json.loads(schema["schema"])
    except ValueError:
        return schema["schema"]


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self) -> list[str]:
        path = self.path.split("?")[0].strip("/")
        self.server.requests.append(f"{self.command} {path}")
        return path.split("/")

    def do_GET(self) -> None:
        match self._route():
            case _ if self.server.failing:
                self._answer(self.server.failing, {"error_code": 50001, "message": "store unavailable"})
            case ["schemas", "ids", number] if int(number) in self.server.schemas:
                self._answer(200, self.server.schemas[int(number)])
            case ["schemas", "ids", number]:
                self._answer(404, {"error_code": 40403, "message": f"Schema {number} not found"})
            case _:
                self._answer(404, {"error_code": 404, "message": "HTTP 404 Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        schema = {"schema": body["schema"], **({"schemaType": body["schemaType"]} if "schemaType" in body else {})}
        match self._route():
            case _ if self.server.failing:
                self._answer(self.server.failing, {"error_code": 50001, "message": "store unavailable"})
            case ["subjects", "refused-value", "versions"]:
                self._answer(409, {"error_code": 409, "message": "Schema being registered is incompatible"})
            case ["subjects", subject, "versions"]:
                self._answer(200, {"id": self.server.add(subject, schema)})
            case ["subjects", subject] if self.server.subjects.get(subject):
                self._answer(200, {"subject": subject, "id": self.server.add(subject, schema), "version": 1, **schema})
            case _:
                self._answer(404, {"error_code": 40401, "message": "Subject not found"})


@contextmanager
def serving() -> Iterator[Registry]:
    """A registry that answers while the block runs."""
    server = Registry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as server:
        yield server


@pytest.fixture
def codec(registry: Registry) -> Iterator[RegistryCodec]:
    opened = RegistryCodec({"url": registry.url, "max.retries": 1, "retries.wait.ms": 1})
    yield opened
    opened.close()


@pytest.fixture
def theirs(registry: Registry) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": registry.url}) as client:
        yield client


def written(codec: RegistryCodec, interaction: Interaction, topic: str = "t") -> bytes:
    """A record's value in the registry's format."""
    return codec.interaction_header(topic) + encode_interaction(interaction)[HEADER_BYTES:]


def test_the_schema_is_registered_under_the_topic_and_its_id_travels(registry: Registry, codec: RegistryCodec) -> None:
    registry.add("other-value", {"schema": '"string"'})
    payload = written(codec, VALID, "interactions")
    assert registry.subjects["interactions-value"] == [2]
    assert payload[:5] == b"\x00\x00\x00\x00\x02"
    assert payload[5:] == encode_interaction(VALID)[10:]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(interaction=interactions)
def test_interchange_with_confluents_serialiser(codec: RegistryCodec, theirs: SchemaRegistryClient, interaction: Interaction) -> None:
    context = SerializationContext("interactions", MessageField.VALUE)
    conf = {"subject.name.strategy.type": "TOPIC"}
    serialise = AvroSerializer(theirs, schema_text("interaction"), lambda i, _: i._asdict(), conf)
    deserialise = AvroDeserializer(theirs, schema_text("interaction"), conf=conf)
    theirs_written, ours_written = serialise(interaction, context), written(codec, interaction, "interactions")
    assert ours_written == theirs_written
    assert InteractionDecoder(registry=codec)(theirs_written) == interaction
    read = deserialise(ours_written, context)
    assert round(read["timestamp"].timestamp() * 1000) == interaction.timestamp  # their reader makes datetimes of timestamps
    assert read | {"timestamp": interaction.timestamp} == interaction._asdict()


def test_metrics_travel_by_registry_too(codec: RegistryCodec, theirs: SchemaRegistryClient) -> None:
    record = {
        "run_id": "r", "method": "fse", "task": "binary", "preset": "paper", "context_mode": "batch", "step": 1,
        "examples": 5, "batch_examples": 5, "mse": 0.25, "user_weight": {2: 0.5}, "next_offsets": {0: 5},
    }  # fmt: skip
    payload = codec.record_encoder("autoemb.metrics", PREQUENTIAL)(record)
    assert codec.decode_record(payload, PREQUENTIAL) == PREQUENTIAL.normalise(record)
    deserialise = AvroDeserializer(theirs, conf={"subject.name.strategy.type": "TOPIC"})
    read = deserialise(payload, SerializationContext("autoemb.metrics", MessageField.VALUE))
    assert (read["mse"], read["next_offsets"], read["user_weight"]) == (0.25, {"0": 5}, {"2": 0.5})


def test_the_decoder_takes_both_formats(codec: RegistryCodec) -> None:
    decode = InteractionDecoder(registry=codec)
    assert decode(encode_interaction(VALID)) == decode(written(codec, VALID)) == VALID


with_a_codec = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@with_a_codec
@given(records=st.lists(interactions, min_size=1, max_size=8))
def test_columns_are_written_as_confluents_serialiser_writes(
    codec: RegistryCodec, theirs: SchemaRegistryClient, records: list[Interaction]
) -> None:
    plain = [record._replace(features=None) for record in records]
    serialise = AvroSerializer(theirs, schema_text("interaction"), lambda i, _: i._asdict(), {"subject.name.strategy.type": "TOPIC"})
    context = SerializationContext("interactions", MessageField.VALUE)
    ours = encode_block(Block.of(plain), codec.interaction_header("interactions")).values()
    assert ours == [serialise(record, context) for record in plain]


def schemas_like_ours(registry: Registry) -> dict[str, bytes]:
    """Headers of schemas beside the current one, registered: which of them have its bodies says the name."""
    ours = load_schema("interaction")
    string = {"type": "string", "avro.java.string": "String"}
    like = {
        "documented": {**ours, "doc": "written by another team"},
        "of-java": {**ours, "fields": [{**field, "type": string} if field["type"] == "string" else field for field in ours["fields"]]},
        "shorter": {**ours, "fields": ours["fields"][:-1]},
        "turned": {**ours, "fields": [ours["fields"][1], ours["fields"][0], *ours["fields"][2:]]},
        "ending": {**ours, "fields": [*ours["fields"], {"name": "more", "type": "long"}]},
    }
    return {name: b"\x00" + registry.add("like", {"schema": json.dumps(schema)}).to_bytes(4, "big") for name, schema in like.items()}


HEADERS = st.sampled_from(["ours", "documented", "of-java", "shorter", "turned", "ending", "unknown"])


@with_a_codec
@given(values=st.lists(st.tuples(HEADERS, mutated() | interactions.map(encode_interaction)), max_size=8), between=st.binary(max_size=12))
@example(values=[(name, encode_interaction(VALID._replace(features=None))) for name in ("ours", "documented", "shorter")], between=b"")
def test_many_at_once_get_the_verdicts_of_one_by_one(
    registry: Registry, codec: RegistryCodec, values: list[tuple[str, bytes]], between: bytes
) -> None:
    headers = {"ours": codec.interaction_header("t"), **schemas_like_ours(registry), "unknown": b"\x00\x00\x00\x03\xe7"}
    framed = [headers[name] + value[HEADER_BYTES:] for name, value in values]
    decoder = InteractionDecoder(registry=codec)
    # the second time headers learnt in the first are plain
    for _ in range(2):
        check([*framed, between, None, encode_interaction(VALID)], decoder)
    assert {name for name, header in headers.items() if header in codec.plain_headers} <= {"ours", "documented", "of-java"}


def test_a_schema_once_known_as_ours_is_read_by_the_kernel(
    registry: Registry, codec: RegistryCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = VALID._replace(features=None)
    body = encode_interaction(plain)[HEADER_BYTES:]
    headers = {"ours": codec.interaction_header("t"), **schemas_like_ours(registry)}
    columns = ColumnDecoder(InteractionDecoder(registry=codec))
    for name in ("ours", "documented", "of-java"):
        assert columns.decode([headers[name] + body]).block.interactions() == [plain]
    asked: list[bytes] = []
    monkeypatch.setattr(codec, "decode_interaction", lambda value: asked.append(value) or plain)
    values = [headers["documented"] + body, headers["shorter"] + body[:-1], headers["of-java"] + body, headers["ours"] + body]
    assert columns.decode(values * 3).block.interactions() == [plain] * 12
    assert asked == [values[1]] * 3


def reason(decode: InteractionDecoder, payload: bytes | None) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(payload)
    return caught.value.reason


def test_without_a_registry_its_format_is_refused_by_name(codec: RegistryCodec) -> None:
    decode = InteractionDecoder()
    assert decode(encode_interaction(VALID)) == VALID
    assert reason(decode, written(codec, VALID)) == "registry-needed"
    assert reason(decode, None) == "empty"


def test_what_is_no_interaction_is_refused(registry: Registry, codec: RegistryCodec) -> None:
    decode = InteractionDecoder(registry=codec)
    good = written(codec, VALID)
    assert reason(decode, good[:3]) == "bad-magic"
    assert reason(decode, good[:9]) == "bad-avro"
    assert reason(decode, good + b"x") == "trailing-bytes"
    assert reason(decode, b"junk") == "bad-magic"
    strange = [
        {"schema": '"string"'}, {"schema": "not json"}, {"schema": '{"type": "unheard-of"}'}, {"schema": "message M {}", "schemaType": "PROTOBUF"},
        {"schema": '{"type": "record", "name": "Other", "fields": [{"name": "user_id", "type": "string"}]}'},
    ]  # fmt: skip
    for schema in strange:
        number = registry.add("strange", schema)
        assert reason(decode, b"\x00" + number.to_bytes(4, "big") + b"\x02a") == "unknown-schema"


def test_an_unknown_id_is_asked_for_once(registry: Registry, codec: RegistryCodec) -> None:
    decode = InteractionDecoder(registry=codec)
    for _ in range(3):
        assert reason(decode, b"\x00\x00\x00\x00\x63rest") == "unknown-schema"
    assert registry.requests.count("GET schemas/ids/99") == 1


@pytest.mark.parametrize("status", [500, 503, 401, 404])
def test_a_failing_registry_condemns_no_record(registry: Registry, codec: RegistryCodec, status: int) -> None:
    payload = written(codec, VALID)
    decode = InteractionDecoder(registry=codec)
    registry.failing = status
    with pytest.raises(BrokerError, match="did not give schema 1") as caught:
        decode(payload)
    assert registry.url in caught.value.what
    registry.failing = None
    assert decode(payload) == VALID


def test_an_absent_registry_is_a_broker_error_naming_it(registry: Registry) -> None:
    codec = RegistryCodec({"url": "http://127.0.0.1:9", "max.retries": 1, "retries.wait.ms": 1})
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9") as caught:
        codec.interaction_header("t")
    assert caught.value.remedy
    codec.close()
    codec.close()


def test_an_incompatible_subject_is_a_configuration_error(codec: RegistryCodec) -> None:
    with pytest.raises(ConfigurationError, match="refused") as caught:
        codec.interaction_header("refused")
    assert "incompatible" in caught.value.why


@pytest.mark.parametrize("config", ["no-url", {"url": "http://localhost", "nonsense": "1"}, {}])
def test_bad_settings_are_configuration_errors(config: str | dict) -> None:
    with pytest.raises(ConfigurationError):
        RegistryCodec(config)


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_the_extra(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("confluent_kafka.schema_registry"):
            raise ModuleNotFoundError("No module named 'authlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_the_extra)
    with pytest.raises(ConfigurationError) as caught:
        RegistryCodec("http://localhost:8081")
    assert caught.value.remedy == "pip install autoemb-pipeline[registry]"


def test_any_record_of_the_registry_is_an_interaction_by_its_description(registry: Registry, codec: RegistryCodec) -> None:
    schema = {
        "type": "record",
        "name": "Click",
        "fields": [
            {"name": "user", "type": {"type": "record", "name": "User", "fields": [{"name": "id", "type": "long"}]}},
            {"name": "sku", "type": ["null", "string"], "default": None},
            {"name": "bought", "type": "boolean"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
    serialise = AvroSerializer(SchemaRegistryClient({"url": registry.url}), json.dumps(schema))
    context = SerializationContext("clicks", MessageField.VALUE)
    events = [{"user": {"id": n}, "sku": sku, "bought": n > 1, "at": 1_000 + n} for n, sku in enumerate(["a", None, "b"])]
    values = [*(serialise(event, context) for event in events), b"\x00\x00\x00\x03\xe7junk", b"{}"]
    found = propose(["clicks"], [values[0], values[2]] * 10, registry=codec)
    assert 'user = "user.id"' in found.text
    assert found.missing == ()
    decoded = stream_decoder(parse_stream(found.text.replace('unit = "record"', 'field = "at"\nunit = "ms"')), codec).decode(values)
    assert decoded.block.interactions() == [("0", "a", 0.0, 1_000, None, None, None), ("2", "b", 1.0, 1_002, None, None, None)]
    assert [(r.row, r.reason) for r in decoded.refused] == [(1, "missing-field"), (3, "unknown-schema"), (4, "bad-magic")]
