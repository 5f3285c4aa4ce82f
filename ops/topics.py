"""Topics: created with the settings that keep a replayed history, and refused when theirs would lose or reorder it.

With Kafka's defaults the broker deletes a replayed history within minutes, because its event times lie years back (docs/operations.md).
Existence is always asked through DescribeTopics: an ordinary metadata request can itself create the topic, with the wrong settings.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from confluent_kafka import KafkaError, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

from autoemb_pipeline.errors import BrokerError, TopicError
from autoemb_pipeline.kafka.errors import BAD_TOPIC_NAME, TOPIC_EXISTS, UNKNOWN_TOPIC, attempt, request_error
from autoemb_pipeline.kafka.settings import quiet_admin

BrokerKind = Literal["apache", "tansu", "unknown"]

_log = structlog.get_logger()
_REQUEST_SECONDS = 10.0
_APPEAR_SECONDS = 15.0
_POLL_SECONDS = 0.2
_NEVER = "9223372036854775807"  # Kafka's largest long
_WEEK_MS = str(7 * 24 * 3600 * 1000)
# Event times belong to the data: neither old ones nor ones ahead of the broker's clock are for the broker to judge. Rolling
# segments by time would make one of every week of history (1,125 for ml-latest-small).
_ANY_EVENT_TIME = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": _NEVER,
    "message.timestamp.after.max.ms": _NEVER,
    "segment.ms": _NEVER,
}
_FOR_EVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", **_ANY_EVENT_TIME}
# Compaction leaves one record a key: what a resumed run sends again. It never touches the open segment, hence the smaller ones.
_METRICS = {"cleanup.policy": "compact,delete", "retention.ms": "-1", "segment.bytes": str(64 << 20), **_ANY_EVENT_TIME}
_RUNTIME = {**_METRICS, "retention.ms": _WEEK_MS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A setting that decides whether records stay: what it should be, what is accepted, and what harm the rest does."""

    setting: str
    required: str
    accepts: Callable[[str], bool]
    harm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingProblem:
    """A topic's setting that would lose or reorder data.

    Attributes:
        setting: its name; value: what the topic has; required: what it must have; harm: what happens otherwise.
    """

    setting: str
    value: str
    required: str
    harm: str


KEEP_RULES = (
    Rule(setting="cleanup.policy", required="delete", accepts=lambda v: v == "delete", harm="compaction drops all but a key's last record"),
    Rule(
        setting="retention.ms",
        required="-1",
        accepts=lambda v: v == "-1",
        harm="the broker deletes records whose event time is older than this: a replayed history within minutes",
    ),
    Rule(
        setting="retention.bytes", required="-1", accepts=lambda v: v == "-1", harm="the broker deletes the oldest records beyond this size"
    ),
    Rule(
        setting="message.timestamp.type",
        required="CreateTime",
        accepts=lambda v: v == "CreateTime",
        harm="the broker overwrites each record's event time with its time of arrival",
    ),
    Rule(
        setting="message.timestamp.before.max.ms",
        required=_NEVER,
        accepts=lambda v: int(v) >= int(time.time() * 1000),
        harm="the broker refuses records whose event time is older than this",
    ),
)


def ensure_interactions_topic(kafka: Mapping[str, str], topic: str, partitions: int | None = None) -> int:
    """Creates the interactions topic for ever-kept records in event time, or checks the one that is there.

    Args:
        kafka: librdkafka settings of the client.
        topic: its name.
        partitions: None accepts any existing count and creates one.

    Returns:
        The number of partitions.

    Raises:
        TopicError: an existing topic would lose or reorder data (the remedy is the command that mends it), or has another number of
            partitions.
        BrokerError: the broker does not answer or refuses.
    """
    return _ensure(quiet_admin(kafka), topic, partitions, _FOR_EVER, KEEP_RULES, servers=kafka["bootstrap.servers"])


def ensure_metrics_topics(kafka: Mapping[str, str], metrics: str, runtime: str, dead_letters: str) -> None:
    """Creates the three output topics with one partition each, or checks those that are there.

    `metrics` and `runtime` are compacted and may be given a retention (`runtime` starts with a week); dead letters are kept for ever.

    Raises:
        TopicError: an existing one has more than one partition, or would lose dead letters.
        BrokerError: the broker does not answer or refuses.
    """
    admin, servers = quiet_admin(kafka), kafka["bootstrap.servers"]
    _ensure(admin, metrics, 1, _METRICS, (), servers=servers)
    _ensure(admin, runtime, 1, _RUNTIME, (), servers=servers)
    _ensure(admin, dead_letters, 1, _FOR_EVER, KEEP_RULES, servers=servers)


def topic_id(kafka: Mapping[str, str], topic: str) -> str:
    """The topic's id (KIP-516): another one under the same name means that the topic was deleted and made anew.

    Raises:
        TopicError: there is no such topic.
        BrokerError: the broker does not answer or refuses.
    """
    return str(existing_topic(quiet_admin(kafka), topic).topic_id)


def partition_count(kafka: Mapping[str, str], topic: str) -> int | None:
    """The topic's number of partitions; None when there is no such topic.

    Raises:
        TopicError: no topic can have this name.
        BrokerError: no broker answers.
    """
    description = _describe(quiet_admin(kafka), topic)
    return None if description is None else len(description.partitions)


def record_count(kafka: Mapping[str, str], topic: str) -> int:
    """Offsets between the topic's beginning and its end, over all partitions; transaction markers count as records.

    Raises:
        TopicError: there is no such topic.
        BrokerError: the broker does not answer or refuses.
    """
    admin = quiet_admin(kafka)
    partitions = [TopicPartition(topic, p) for p in range(len(existing_topic(admin, topic).partitions))]
    asked = {}
    for name, spec in (("low", OffsetSpec.earliest()), ("high", OffsetSpec.latest())):
        asked[name] = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=_REQUEST_SECONDS)
    what = f"The offsets of topic {topic!r} could not be read"
    return sum(_result(asked["high"][p], what).offset - _result(asked["low"][p], what).offset for p in partitions)


def wait_for_topic(kafka: Mapping[str, str], topic: str, stop: Callable[[], bool], timeout: float | None = None) -> int | None:
    """Waits until the topic exists and every partition of it has a leader. Never creates it.

    Args:
        kafka: librdkafka settings of the client.
        topic: its name.
        stop: asked several times a second; True ends the wait.
        timeout: seconds; None waits until the topic is there or `stop` says so.

    Returns:
        The number of partitions; None when stopped.

    Raises:
        TopicError: not there within `timeout` seconds.
        BrokerError: the broker does not answer or refuses.
    """
    admin = quiet_admin(kafka)
    deadline = None if timeout is None else time.monotonic() + timeout
    while not stop():
        description = _describe(admin, topic)
        if description is not None and _has_leaders(description):
            return len(description.partitions)
        if deadline is not None and time.monotonic() >= deadline:
            raise TopicError(
                f"Topic {topic!r} is not there after {timeout:g} s",
                why="nobody has created it; reading never does",
                remedy=f"write to it first: autoemb-pipeline replay --dataset ml-latest-small --topic {topic}",
            )
        time.sleep(_POLL_SECONDS)
    return None


def broker_kind(kafka: Mapping[str, str]) -> BrokerKind:
    """What answers at the bootstrap servers: Apache Kafka (or a build of it), the embedded Tansu, or something else compatible.

    Raises:
        BrokerError: nothing answers.
    """
    admin = quiet_admin(kafka)
    cluster = _result(admin.describe_cluster(request_timeout=_REQUEST_SECONDS), "The cluster could not be described")
    if str(cluster.cluster_id).startswith("tansu"):
        return "tansu"
    if not cluster.nodes:
        return "unknown"
    resource = ConfigResource(ConfigResource.Type.BROKER, str(cluster.nodes[0].id))
    future = admin.describe_configs([resource], request_timeout=_REQUEST_SECONDS)[resource]
    settings = attempt(future.result, _REQUEST_SECONDS)
    if isinstance(settings, KafkaError):
        return "unknown"
    return "apache" if "process.roles" in settings or "zookeeper.connect" in settings else "unknown"


def setting_problems(kafka: Mapping[str, str], topic: str) -> list[SettingProblem]:
    """Settings of an existing topic of interactions or dead letters that would lose or reorder data; empty when all is well.

    Raises:
        TopicError: there is no such topic.
        BrokerError: the broker does not answer or refuses.
    """
    admin = quiet_admin(kafka)
    existing_topic(admin, topic)
    return problems_of(topic_settings(admin, topic, KEEP_RULES), KEEP_RULES)


def mending_command(bootstrap_servers: str, topic: str, problems: Sequence[SettingProblem]) -> str:
    """The kafka-configs.sh call that sets what `problems` want."""
    settings = ",".join(f"{p.setting}={p.required}" for p in problems)
    entity = f"--entity-type topics --entity-name {topic}"
    return f"kafka-configs.sh --bootstrap-server {bootstrap_servers} --alter {entity} --add-config {settings}"


def _ensure(
    admin: AdminClient, topic: str, partitions: int | None, settings: Mapping[str, str], rules: Sequence[Rule], *, servers: str
) -> int:
    if _describe(admin, topic) is None:
        _create(admin, topic, partitions or 1, settings)
    description = existing_topic(admin, topic)
    count = len(description.partitions)
    if partitions is not None and count != partitions:
        raise TopicError(
            f"Topic {topic!r} has {count} partitions, not {partitions}",
            why="a key's records would move to another partition in the middle of the stream",
            remedy=f"use {count} partitions, or another topic",
        )
    problems = problems_of(topic_settings(admin, topic, rules), rules)
    refuse(servers, topic, problems)
    return count


def refuse(servers: str, topic: str, problems: Sequence[SettingProblem]) -> None:
    """Raises TopicError, with the command that mends them, where there are problems."""
    if problems:
        raise TopicError(
            f"Topic {topic!r} would lose or reorder data",
            why="; ".join(f"{p.setting}={p.value}: {p.harm}" for p in problems),
            remedy=f"{mending_command(servers, topic, problems)}\n(changes these settings of this topic, at once and without a restart; "
            "what was already deleted does not come back: if the topic is not empty, rather replay into a new one)",
        )


def _create(admin: AdminClient, topic: str, partitions: int, settings: Mapping[str, str]) -> None:
    # Replication -1: the broker's own default, so that a real cluster replicates and a single node does not have to.
    new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=dict(settings))
    refusal = _answer(admin.create_topics([new], request_timeout=_REQUEST_SECONDS)[topic])
    # Where it exists already, another process was faster; the caller checks its topic like any other.
    if isinstance(refusal, KafkaError) and refusal.code() != TOPIC_EXISTS:
        raise request_error(f"Topic {topic!r} could not be created", refusal)
    deadline = time.monotonic() + _APPEAR_SECONDS
    while (description := _describe(admin, topic)) is None or not _has_leaders(description):
        if time.monotonic() > deadline:
            raise BrokerError(
                f"Topic {topic!r} was created but has no leader after {_APPEAR_SECONDS:.0f} s",
                remedy="see the broker's log, then try again",
            )
        time.sleep(_POLL_SECONDS)


def problems_of(settings: Mapping[str, str], rules: Sequence[Rule]) -> list[SettingProblem]:
    """Settings that the rules do not accept; those that a broker does not report are passed over."""
    return [
        SettingProblem(setting=r.setting, value=settings[r.setting], required=r.required, harm=r.harm)
        for r in rules
        if r.setting in settings and not r.accepts(settings[r.setting])
    ]


def topic_settings(admin: AdminClient, topic: str, rules: Sequence[Rule]) -> dict[str, str]:
    """The topic's settings that the broker reports; logs which of the rules' settings it does not, so that they go unchecked."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    outcome = _result(
        admin.describe_configs([resource], request_timeout=_REQUEST_SECONDS)[resource], f"The settings of topic {topic!r} could not be read"
    )
    settings = {name: str(entry.value) for name, entry in outcome.items()}
    unknown = [rule.setting for rule in rules if rule.setting not in settings]
    if unknown:
        _log.warning("topic settings not checked", topic=topic, settings=unknown, why="this broker does not report them")
    return settings


def _describe(admin: AdminClient, topic: str) -> Any | None:
    answer = _answer(admin.describe_topics(TopicCollection([topic]), request_timeout=_REQUEST_SECONDS)[topic])
    if not isinstance(answer, KafkaError):
        return answer
    if answer.code() in UNKNOWN_TOPIC:
        return None
    if answer.code() == BAD_TOPIC_NAME:
        raise TopicError(
            f"{topic!r} is no name for a topic",
            why="Kafka takes letters, digits, '.', '_' and '-', at most 249 of them",
            remedy="correct the name",
        )
    raise request_error(f"Topic {topic!r} could not be described", answer)


def existing_topic(admin: AdminClient, topic: str) -> Any:
    """The topic's description; raises TopicError where there is none, and BrokerError."""
    description = _describe(admin, topic)
    if description is None:
        raise TopicError(f"There is no topic {topic!r}", remedy=f"autoemb-pipeline replay --dataset ml-latest-small --topic {topic}")
    return description


def _has_leaders(description: Any) -> bool:
    return bool(description.partitions) and all(p.leader is not None and p.leader.id >= 0 for p in description.partitions)


def _result(future: "Future[Any]", what: str) -> Any:
    answer = _answer(future)
    if isinstance(answer, KafkaError):
        raise request_error(what, answer)
    return answer


def _answer(future: "Future[Any]") -> Any:
    return attempt(future.result, _REQUEST_SECONDS + 5)
