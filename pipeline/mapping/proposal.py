"""A description of a topic, written from some of its records, with what was seen as comments."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoemb_pipeline.errors import ConfigurationError, DecodeError
from autoemb_pipeline.mapping.description import Format, LabelRule, Path, Unit
from autoemb_pipeline.mapping.formats import read_json
from autoemb_pipeline.mapping.names import (
    ITEMS,
    TYPES,
    USERS,
    Seen,
    event_types,
    find_event_id,
    find_id,
    find_label,
    find_sequence,
    find_time,
    is_id,
    numbers_of,
    paths_of,
    usual,
)
from autoemb_pipeline.mapping.rules import rating_of, value_at
from autoemb_pipeline.schemas.avro import MAGIC
from autoemb_pipeline.schemas.registry import REGISTRY_MAGIC, InteractionDecoder, RegistryCodec

_MOST = 0.9
_WIDTH = 44  # of a line before its comment


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A description's text. missing: what must be added to it by hand, in words; empty where it can be trained on as it is."""

    text: str
    missing: tuple[str, ...] = ()


def propose(
    topics: Sequence[str],
    values: Iterable[bytes | None],
    *,
    registry: RegistryCodec | None = None,
    schema: tuple[str, Callable[[bytes], Any]] | None = None,
) -> Proposal:
    """The description of these topics.

    Args:
        topics: their names.
        values: of some records.
        registry: resolves values in the schema registry's wire format.
        schema: the path of an Avro schema, as the description is to name it, and what reads a value by it.

    Raises:
        ConfigurationError: the values are of no format that can be described.
    """
    sample = [value for value in values if value]
    if not sample:
        raise ConfigurationError(
            f"The newest records of {', '.join(topics)} hold no value",
            why="they are tombstones, or empty",
            remedy="look at more of them with --records, or write some records",
        )
    if schema is None and _share(sample, InteractionDecoder(registry=registry)) >= _MOST:
        return Proposal(text=f"{_head(topics, len(sample))}{_input(topics, 'autoemb')}")
    form, read = _format(sample, registry, None if schema is None else schema[1])
    records = [record for value in sample if isinstance(record := _or_none(read, value), Mapping)]
    if len(records) < len(sample) / 2:
        raise ConfigurationError(
            f"{len(sample) - len(records)} of {len(sample)} records of {', '.join(topics)} cannot be read as {form.upper()} objects",
            why=f"the first begins with {sample[0][:16]!r}",
            remedy="JSON objects and Avro records can be described; for Avro without a registry give --schema FILE",
        )
    return _described(topics, records, form, None if schema is None else schema[0])


def _format(
    sample: Sequence[bytes], registry: RegistryCodec | None, by_schema: Callable[[bytes], Any] | None
) -> tuple[Format, Callable[[bytes], Any]]:
    if by_schema is not None:
        return "avro", by_schema
    if sample and all(value[:1] == REGISTRY_MAGIC for value in sample):
        if registry is None:
            raise ConfigurationError(
                "The records are in the schema registry's wire format",
                why="their first byte is 0, and no registry was named",
                remedy="start with --schema-registry URL",
            )
        return "avro", registry.decode_any
    if sample and all(value[:2] == MAGIC for value in sample):
        raise ConfigurationError(
            "The records are Avro of a schema that is not known here",
            why="they are in single-object encoding, which names its schema by a fingerprint only",
            remedy="give the schema: --schema FILE",
        )
    return "json", read_json


def _described(topics: Sequence[str], records: Sequence[Mapping[str, Any]], form: Format, schema: str | None) -> Proposal:
    everything = paths_of(records)
    label = find_label(everything, len(records))
    trained = [record for record in records if label is None or _is_listed(label, record)]  # what is left out may lack all else
    count, seen = len(trained), paths_of(trained)
    user, item, time = find_id(seen, USERS, count), find_id(seen, ITEMS, count), find_time(seen, count)
    event, sequence = find_event_id(seen, count), find_sequence(seen, count)
    missing = [name for name, field in (("fields.user", user), ("fields.item", item), ("label.field", label)) if field is None]
    used = {s.path for s in (user, item, event, sequence, time and time[0]) if s} | ({label.field} if label else set())
    text = "\n".join(
        [
            f"{_head(topics, len(records))}{_input(topics, form, schema)}",
            "[fields]",
            _id_line("user", user, seen, count),
            _id_line("item", item, seen, count),
            _optional("id", event, "the event's own id: an event that is sent again is trained once"),
            _optional("sequence", sequence, "orders events of equal time"),
            "",
            *_timestamp(time, count),
            "",
            *_label(label, everything, len(records)),
            *_rest([s for s in seen.values() if s.path not in used], count),
        ]
    )
    return Proposal(text=f"{text}\n", missing=tuple(missing))


def _is_listed(label: LabelRule, record: Mapping[str, Any]) -> bool:
    try:
        return rating_of(label, value_at(record, label.field)) is not None
    except DecodeError:
        return False


def _head(topics: Sequence[str], count: int) -> str:
    return f"# {', '.join(topics)}: a description proposed from {count} of its records. Check it: autoemb-pipeline stream check\n\n"


def _input(topics: Sequence[str], form: Format, schema: str | None = None) -> str:
    own = "this project's own schema: nothing else is to be described" if form == "autoemb" else "autoemb | json | avro"
    lines = ["[input]", f"topics = {_json(list(topics))}", _line(f'format = "{form}"', own)]
    return "\n".join([*lines, *([] if schema is None else [f"schema = {_json(schema)}"]), ""])


def _id_line(name: str, field: Seen | None, seen: Mapping[Path, Seen], count: int) -> str:
    if field is not None:
        return _line(f"{name} = {_path(field.path)}", _saw(field, count))
    candidates = [_path(s.path) for s in seen.values() if s.share(count, is_id) >= _MOST]
    return f"# {name} =  TO BE GIVEN: none has a usual name. Of ids are, it seems: {', '.join(candidates[:12]) or 'none'}"


def _optional(name: str, field: Seen | None, what: str) -> str:
    return f'# {name} = "…"  {what}' if field is None else _line(f"{name} = {_path(field.path)}", what)


def _timestamp(time: tuple[Seen, Unit] | None, count: int) -> list[str]:
    if time is None:
        return ["[timestamp]", _line('unit = "record"', "no field of times was recognised: the time that Kafka keeps of each record")]
    seen, unit = time
    field = _line(f"field = {_path(seen.path)}", _saw(seen, count))
    return ["[timestamp]", field, _line(f'unit = "{unit}"', "ms | s | us | iso8601 | record")]


def _label(rule: LabelRule | None, seen: Mapping[Path, Seen], count: int) -> list[str]:
    if rule is None:
        kinds = usual(seen, TYPES, lambda s: s.share(count, lambda v: isinstance(v, str)) >= _MOST)
        hint = [] if kinds is None else [f"# field = {_path(kinds.path)}   # {_counts(kinds)}", '# positive = ["…"]', '# negative = ["…"]']
        return ["[label]", "# field =  TO BE GIVEN: a flag (0 or 1), a number with positive_above, or types of events", *hint]
    field = seen[rule.field]
    if rule.positive:
        types = event_types(field) or ((), ())
        left_out = sorted({value for value in field.values if isinstance(value, str)} - {*types[0], *types[1]})
        others = f"left out and counted: {', '.join(map(_json, left_out[:12]))}" if left_out else "none was seen"
        return [
            "[label]",
            _line(f"field = {_path(rule.field)}", _counts(field)),
            f"positive = {_json(list(rule.positive))}",
            f"negative = {_json(list(rule.negative))}",
            _line('others = "skip"', f"{others}; or dead-letter"),
        ]
    if rule.is_number:
        numbers = numbers_of(field)
        above = sum(value > rule.threshold for value in numbers) / len(numbers)
        return [
            "[label]",
            _line(f"field = {_path(rule.field)}", f"from {min(numbers):g} to {max(numbers):g}"),
            _line(f"positive_above = {rule.threshold!r}", f"then {above:.0%} are positive"),
        ]
    return ["[label]", _line(f"field = {_path(rule.field)}", f"0 or 1: {_counts(field)}")]


def _rest(seen: Sequence[Seen], count: int) -> list[str]:
    lines = [f"#   {_path(s.path)}: {_saw(s, count)}" for s in seen[:20]]
    return ["", "# Fields that are not used:", *lines] if lines else []


def _line(code: str, comment: str) -> str:
    return f"{code:<{_WIDTH}} # {comment}"


def _path(path: Path) -> str:
    """As TOML."""
    has_points = any("." in key for key in path)
    return _json(list(path) if has_points else ".".join(path))


def _saw(seen: Seen, count: int) -> str:
    example = _json(seen.values[0])
    return f"in {len(seen.values) / count:.0%} of the records, {seen.distinct} different, such as {example[:40]}"


def _counts(seen: Seen) -> str:
    return ", ".join(f"{_json(value)} {n}" for value, n in Counter(map(str, seen.values)).most_common(8))


def _json(value: Any) -> str:
    """As TOML takes it too."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007F")


def _share(sample: Sequence[bytes], read: Callable[[bytes], Any]) -> float:
    return sum(_or_none(read, value) is not None for value in sample) / len(sample) if sample else 0.0


def _or_none(read: Callable[[bytes], Any], value: bytes) -> Any:
    try:
        return read(value)
    except DecodeError:
        return None
