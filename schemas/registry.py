"""The Confluent wire format: 00, the schema's id in the registry (4 bytes, big-endian), the Avro body.

Source: Confluent documentation, "Wire format" of Schema Registry. The registry's client is an extra, imported when first needed.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from autoemb_pipeline.errors import AutoembError, BrokerError, ConfigurationError, DecodeError
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.redaction import keep_secret, keep_settings_secret
from autoemb_pipeline.schemas.avro import parse, read_body, same_bodies, schema_text, write_body
from autoemb_pipeline.schemas.codec import INTERACTION_SCHEMA, checked_interaction, decode_interaction
from autoemb_pipeline.schemas.metrics import RecordFormat

USER_INFO_VARIABLE = "AUTOEMB_SCHEMA_REGISTRY_USER_INFO"
REGISTRY_MAGIC = b"\x00"
HEADER_BYTES = 5
_NO_SUCH_SCHEMA = 40403  # the registry's own code: a bare 404 may come from a wrong URL and must not condemn records
_CONFLICTING = (409, 422)
_MOST_UNKNOWN_IDS = 10_000  # ids remembered as unknown, so that junk does not ask the registry once per record


class RegistryCodec:
    """Encodes with, and resolves by, schemas kept in a registry.

    Args:
        config: the registry's URL, or the settings of confluent_kafka's SchemaRegistryClient (``url``, ``basic.auth.user.info``,
            ``ssl.ca.location``, ...). Requests time out after 10 s and are tried 4 times unless it says otherwise. The URL holds no
            credentials: it is shown in messages.

    Raises:
        ConfigurationError: the extra is not installed, or the settings are refused.
    """

    def __init__(self, config: str | Mapping[str, Any]) -> None:
        settings = checked_settings({"url": config} if isinstance(config, str) else config)
        self.url = str(settings.get("url", ""))
        self._client = _open_client({"timeout": 10, "retries.wait.ms": 200, **settings})
        self._interaction = parse(INTERACTION_SCHEMA)
        self._writers: dict[int, Any] = {}
        self._plain: tuple[bytes, ...] = ()
        self._unknown: dict[int, str] = {}

    def interaction_header(self, topic: str) -> bytes:
        """Registers the schema for ``topic`` (subject ``<topic>-value``); what every value of the topic begins with (5 bytes).

        An interaction's body behind it is that of single-object encoding: `autoemb_pipeline.schemas.columnar.encode_block` writes both.
        """
        return self._register(topic, "interaction")

    def record_encoder(self, topic: str, record_format: RecordFormat) -> Callable[[Mapping[str, Any]], bytes]:
        """The same for a metrics record; the encoder raises as `RecordFormat.normalise`."""
        prefix = self._register(topic, record_format.name)
        parsed = parse(record_format.schema)
        return lambda record: write_body(prefix, parsed, record_format.normalise(record))

    def decode_interaction(self, payload: bytes) -> Interaction:
        """The interaction in a message of the registry's wire format.

        Raises:
            DecodeError: ``bad-magic``, ``unknown-schema`` (the registry has no such id, or it is no interaction's), ``bad-avro``,
                ``trailing-bytes`` or ``bad-value``.
            BrokerError: the registry does not answer: nothing is known about the record, so it is not condemned.
        """
        return checked_interaction(read_body(payload, HEADER_BYTES, self._writer(payload), self._interaction))

    @property
    def plain_headers(self) -> tuple[bytes, ...]:
        """What records begin with whose id, seen so far by `decode_interaction`, names this very version of the interaction's schema."""
        return self._plain

    def decode_any(self, payload: bytes) -> Any:
        """What a message holds, by the schema it was written with. Raises as `decode_interaction`, but for ``bad-value``."""
        return read_body(payload, HEADER_BYTES, self._writer(payload))

    def decode_record(self, payload: bytes, record_format: RecordFormat) -> dict[str, Any]:
        """The same for a metrics record, normalised."""
        return record_format.checked(read_body(payload, HEADER_BYTES, self._writer(payload), parse(record_format.schema)))

    def close(self) -> None:
        """Closes the connection to the registry. May be called twice."""
        self._client.close()

    def _register(self, topic: str, schema_name: str) -> bytes:
        from confluent_kafka.schema_registry import Schema as RegistrySchema  # noqa: PLC0415 - an extra

        subject = f"{topic}-value"
        schema = RegistrySchema(schema_text(schema_name), "AVRO")
        schema_id: int = self._ask(f"register {schema_name}.avsc as {subject}", lambda: self._client.register_schema(subject, schema))
        return REGISTRY_MAGIC + schema_id.to_bytes(4, "big")

    def _writer(self, payload: bytes) -> Any:
        if len(payload) < HEADER_BYTES or payload[:1] != REGISTRY_MAGIC:
            raise DecodeError("bad-magic", f"starts with {payload[:4].hex(' ')}, not with a registry header of {HEADER_BYTES} bytes")
        schema_id = int.from_bytes(payload[1:HEADER_BYTES], "big")
        if schema_id in self._unknown:
            raise DecodeError("unknown-schema", self._unknown[schema_id])
        writer = self._writers.get(schema_id)
        if writer is None:
            writer = self._writers[schema_id] = self._fetch(schema_id)
            if same_bodies(writer, self._interaction):
                self._plain = (*self._plain, payload[:HEADER_BYTES])
        return writer

    def _fetch(self, schema_id: int) -> Any:
        try:
            return _parsed(schema_id, self._ask(f"give schema {schema_id}", lambda: self._client.get_schema(schema_id)))
        except DecodeError as error:
            if len(self._unknown) >= _MOST_UNKNOWN_IDS:
                self._unknown.clear()
            self._unknown[schema_id] = error.what
            raise

    def _ask(self, what: str, request: Callable[[], Any]) -> Any:
        from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415 - an extra

        try:
            return request()
        except SchemaRegistryError as error:
            raise self._refusal(what, error) from error
        except Exception as error:  # the client lets its HTTP library's errors through, whichever that is
            raise BrokerError(
                f"The schema registry at {self.url} did not {what}.",
                why=f"{type(error).__name__}: {error}",
                remedy="Check that it is up and that --schema-registry names it; then start again: nothing was lost.",
            ) from error

    def _refusal(self, what: str, error: Any) -> AutoembError:
        if error.error_code == _NO_SUCH_SCHEMA:
            return DecodeError("unknown-schema", f"the registry at {self.url} has no such schema: {error.error_message}")
        why = f"It answered {error.http_status_code}, code {error.error_code}: {error.error_message}"
        if error.http_status_code in _CONFLICTING:
            return ConfigurationError(
                f"The schema registry at {self.url} refused to {what}.",
                why=why,
                remedy="Use a topic of its own, or relax the subject's compatibility level.",
            )
        return BrokerError(
            f"The schema registry at {self.url} did not {what}.", why=why, remedy="Check --schema-registry, its credentials and its log."
        )


def checked_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a registry's client; their secrets are hidden from now on wherever they would leave the process.

    Raises:
        ConfigurationError: the URL is none, or holds credentials.
    """
    keep_settings_secret(config)
    url = str(config.get("url", ""))
    if "@" in url:
        keep_secret(url.rpartition("@")[0].rpartition("://")[2])
        raise ConfigurationError(
            "The schema registry's URL holds credentials",
            why="`ps` shows them to every user of this machine, and messages name the URL",
            remedy=f"give the URL without them, and user:password in the environment variable {USER_INFO_VARIABLE},\n"
            "or as basic.auth.user.info in a file that only you can read: --schema-registry-config FILE",
        )
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is not the URL of a schema registry", remedy="give http://HOST:PORT")
    return dict(config)


def _open_client(settings: dict[str, Any]) -> Any:
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            "The schema registry's client is not installed.",
            why=f"--schema-registry needs an extra: {error}",
            remedy="pip install autoemb-pipeline[registry]",
        ) from error
    try:
        return SchemaRegistryClient(settings)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(
            "The schema registry's settings cannot be used.",
            why=str(error),
            remedy="Give --schema-registry a URL such as http://localhost:8081.",
        ) from error


def _parsed(schema_id: int, schema: Any) -> Any:
    if schema.schema_type != "AVRO":
        raise DecodeError("unknown-schema", f"schema {schema_id} is {schema.schema_type}, not Avro")
    try:
        return parse(json.loads(schema.schema_str))
    except Exception as error:  # whatever is stored there is not ours; fastavro names no set of errors
        raise DecodeError("unknown-schema", f"schema {schema_id} cannot be parsed: {type(error).__name__}: {error}") from error


class InteractionDecoder:
    """Decodes interactions in either wire format; what the source calls for every record.

    Args:
        registry: resolves the registry's format; None where no registry is configured.
    """

    def __init__(self, *, registry: RegistryCodec | None = None) -> None:
        self._registry = registry

    @property
    def plain_headers(self) -> tuple[bytes, ...]:
        """As `RegistryCodec.plain_headers`; none without a registry."""
        return () if self._registry is None else self._registry.plain_headers

    def __call__(self, payload: bytes | None) -> Interaction:
        """The interaction in a record's value.

        Raises:
            DecodeError: ``registry-needed`` (it is in the registry's format and none is configured), or as
                `autoemb_pipeline.schemas.codec.decode_interaction` and `RegistryCodec.decode_interaction`.
            BrokerError: the registry does not answer.
        """
        if not payload or payload[:1] != REGISTRY_MAGIC:
            return decode_interaction(payload)
        if self._registry is None:
            raise DecodeError("registry-needed", "written in the schema registry's wire format; start with --schema-registry URL")
        return self._registry.decode_interaction(payload)
