"""Options that several commands share, and the Kafka settings they add up to."""

import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path
from threading import Event
from types import NoneType
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
import structlog
from click.core import ParameterSource

from autoemb_pipeline.mapping.description import StreamDescription
from autoemb_pipeline.mapping.reading import read_stream
from autoemb_pipeline.ops.brokers.client import client_config
from autoemb_pipeline.ops.registry_settings import registry_settings
from autoemb_pipeline.records import StartAt
from autoemb_pipeline.redaction import redact_all
from autoemb_pipeline.schemas.codec import MAX_TIMESTAMP
from autoemb_pipeline.schemas.registry import RegistryCodec

F = TypeVar("F", bound=Callable[..., Any])


def field_option(
    kind: type[Any],
    name: str,
    flag: str | None = None,
    *,
    least: float | None = None,
    above: float | None = None,
    unset: bool = False,
    **attributes: Any,
) -> Callable[[F], F]:
    """The option of a configuration's field: type, default and text are those of the dataclass, so that they stand there alone.

    The command gets it under the field's name.

    Args:
        kind: the dataclass; its "Attributes:" are the texts.
        name: the field.
        flag: the option's name; None: the field's.
        least, above: bound on a number, included or not.
        unset: None where the option is not given, for a field that not every configuration has; the text then tells the default.
        attributes: of `click.option`, instead of what the field says.
    """
    default = default_of(kind, name)
    text = attribute_texts(kind)[name]
    if unset:
        text, default = f"{text} Default: {default}.", None
    declared = get_type_hints(kind)[name]
    if declared is bool:
        attributes = {"is_flag": True, "default": default, **attributes}
    else:
        own_type = _click_type(declared, least, above)
        attributes = {"type": own_type, "default": default, "show_default": default is not None, **attributes}
    return click.option(flag or f"--{name.replace('_', '-')}", name, **{"help": text, **attributes})


def default_of(kind: type[Any], name: str) -> Any:
    """The default of a dataclass's field; None where it has none."""
    default = next(field.default for field in fields(kind) if field.name == name)
    return None if default is MISSING else default


def _click_type(declared: Any, least: float | None, above: float | None) -> Any:
    kinds = [kind for kind in get_args(declared) if kind is not NoneType]
    if get_origin(declared) is Literal:
        return click.Choice(kinds)
    kind = kinds[0] if kinds else declared
    if least is None and above is None:
        return kind
    bounded = click.IntRange if kind is int else click.FloatRange
    return bounded(min=least if above is None else above, min_open=above is not None)  # type: ignore[arg-type]


def attribute_texts(kind: type[Any]) -> dict[str, str]:
    """Name -> text of the entries in the "Attributes:" section of a class's docstring, and of those of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = cleandoc(base.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for entry in re.split(r"\n(?! {5,})", section) if section else ():
            names, _, text = " ".join(entry.split()).partition(": ")
            texts |= dict.fromkeys(names.split(", "), text[:1].upper() + text[1:])
    return texts


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several options, listed in their order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def broker_options(command: F) -> F:
    """--bootstrap-servers and --kafka-config."""
    command = click.option(
        "--kafka-config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="librdkafka settings for every client: a file of key=value lines, or JSON (security, timeouts, ...).",
    )(command)
    return click.option(
        "--bootstrap-servers",
        metavar="HOST:PORT[,...]",
        help="Kafka brokers. Default: AUTOEMB_BOOTSTRAP_SERVERS, else localhost:9092 if it answers.",
    )(command)


def registry_option(command: F) -> F:
    """--schema-registry and --schema-registry-config."""
    command = _registry_config_option(command)
    return click.option(
        "--schema-registry",
        metavar="URL",
        help="Write Avro in the registry's wire format (and read both). Default: Avro single-object encoding, no registry.",
    )(command)


def reading_registry_option(command: F) -> F:
    """The same, for commands that only read metrics."""
    command = _registry_config_option(command)
    return click.option("--schema-registry", metavar="URL", help="For metrics that were written as Avro with a registry.")(command)


def _registry_config_option(command: F) -> F:
    return click.option(
        "--schema-registry-config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The registry client's settings (basic.auth.user.info, ssl.ca.location, url, ...): a file of key=value lines, or JSON. "
        "user:password may come from AUTOEMB_SCHEMA_REGISTRY_USER_INFO instead.",
    )(command)


def open_registry(url: str | None, config_file: Path | None) -> RegistryCodec | None:
    """The registry that the options name; None where they name none. Raises ConfigurationError."""
    settings = registry_settings(url, config_file, os.environ)
    return None if settings is None else RegistryCodec(settings)


def given_options(context: click.Context, options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The options; of these names only what the user has given, so that a stream's description goes before a default."""
    defaulted = {name for name in names if context.get_parameter_source(name) is ParameterSource.DEFAULT}
    return {name: value for name, value in options.items() if name not in defaulted}


def logging_options(command: F) -> F:
    """--log-format."""
    return click.option(
        "--log-format",
        type=click.Choice(["auto", "console", "json"]),
        default="auto",
        show_default=True,
        help="Log lines on stderr: console on a terminal, JSON otherwise.",
    )(command)


class EventTime(click.ParamType[int]):
    """ISO 8601 date or time (UTC unless it says otherwise), or seconds since the epoch; as milliseconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch."""
        if isinstance(value, int):
            return value
        text = str(value)
        try:
            return round(float(text) * 1000)
        except (ValueError, OverflowError):  # infinity is as little a time as a word
            pass
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is neither an ISO 8601 time (2005-03-01, 2005-03-01T12:00:00Z) nor seconds since the epoch", param, ctx)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class StartTime(click.ParamType[StartAt]):
    """The beginning of the topics, their ends, or a time; as `autoemb_pipeline.records.StartAt`."""

    name = "beginning|latest|TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> StartAt:
        """None for the beginning."""
        if value == "beginning":
            return None
        if value == "latest":
            return "latest"
        time = EventTime().convert(value, param, ctx)
        if not 0 <= time <= MAX_TIMESTAMP:  # Kafka takes -1 and -2 for the end and the beginning
            self.fail(f"{str(value)[:64]!r} is not between 1970 and the year 9999", param, ctx)
        return time


class StreamFile(click.ParamType[StreamDescription]):
    """A stream's description in TOML."""

    name = "file"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> StreamDescription:
        """Read and validated. Raises ConfigurationError."""
        del param, ctx
        return value if isinstance(value, StreamDescription) else read_stream(Path(str(value)))


class Duration(click.ParamType[float]):
    """Seconds, or a number with a unit: 90, 90s, 15m, 12h, 2d."""

    name = "duration"
    _seconds: ClassVar = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, above 0."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is no duration above 0 (90, 90s, 15m, 12h, 2d)", param, ctx)
        return float(match[1]) * self._seconds[match[2]]


def outage_option(command: F) -> F:
    """--longest-outage."""
    return click.option(
        "--longest-outage",
        type=Duration(),
        help="How long a trainer may be away (12h, 2d, or seconds): a topic that keeps its records for less is refused.",
    )(command)


def kafka_settings(bootstrap_servers: str | None, kafka_config: Path | None) -> dict[str, str]:
    """librdkafka settings incl. bootstrap.servers, of a broker that answers (`ops.brokers.client.client_config` lists the errors)."""
    return client_config(bootstrap_servers, kafka_config, os.environ)


def configure_logging(log_format: str) -> None:
    """structlog to stderr: for people on a terminal, JSON for machines."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer(pad_event_to=24) if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
            lambda _logger, _method, event: redact_all(event),
            renderer,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the stderr of the moment: tests and pagers replace it
        cache_logger_on_first_use=False,
    )


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set once; a second signal gets the default treatment, for those in a hurry."""
    stopping = Event()

    def request(number: int, frame: object) -> None:
        del frame
        stopping.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
