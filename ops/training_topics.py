"""Which topics may be trained on: no compacted one; and where records are kept for a while only, it is said for how long."""

import math
from collections.abc import Mapping

import structlog

from autoemb_pipeline.kafka.errors import ForbiddenError
from autoemb_pipeline.kafka.settings import quiet_admin
from autoemb_pipeline.ops.topics import KEEP_RULES, SettingProblem, existing_topic, problems_of, refuse, topic_settings

_log = structlog.get_logger()
_DELETING = {"cleanup.policy", "retention.ms", "retention.bytes"}


def check_for_training(kafka: Mapping[str, str], topic: str, *, longest_outage: float | None = None) -> None:
    """Refuses a topic with `training_problems`, and says once how long another one keeps its records.

    Raises:
        TopicError: it has problems, or is not there; the remedy is the command that mends it.
        BrokerError: the broker does not answer.
    """
    settings = deleting_settings(kafka, topic)
    refuse(kafka["bootstrap.servers"], topic, training_problems(settings, longest_outage=longest_outage))
    if int(settings.get("retention.ms", "-1")) >= 0:
        _log.info(
            "the topic deletes old records",
            topic=topic,
            kept=kept_for(settings),
            retention_ms=int(settings["retention.ms"]),
            longest_outage=None if longest_outage is None else in_words(longest_outage),
            hint="after a longer absence the trainer stops at the gap and does not skip it",
        )
    if int(settings.get("retention.bytes", "-1")) >= 0:
        _log.warning(
            "the topic deletes old records by size",
            topic=topic,
            retention_bytes=int(settings["retention.bytes"]),
            hint="a size cannot be compared with how long a trainer may be away: that depends on the rate of records",
        )


def deleting_settings(kafka: Mapping[str, str], topic: str) -> dict[str, str]:
    """The topic's settings; empty, and logged as unchecked, where the broker does not let this client read them (many a reader's rights).

    Raises:
        TopicError: there is no such topic.
        BrokerError: the broker does not answer.
    """
    admin = quiet_admin(kafka)
    existing_topic(admin, topic)
    try:
        return topic_settings(admin, topic, [rule for rule in KEEP_RULES if rule.setting in _DELETING])
    except ForbiddenError as error:
        _log.warning("topic settings not checked", topic=topic, settings=sorted(_DELETING), why=error.why)
        return {}


def training_problems(settings: Mapping[str, str], *, longest_outage: float | None = None) -> list[SettingProblem]:
    """Settings with which training on a topic could lose records unseen; empty when all is well.

    Less strict than `setting_problems`, which speaks for a replayed history. Compaction is refused: it drops records that stand between two
    others, so no offset ever shows the loss. Retention deletes from the beginning only, which a run notices and refuses to skip, so it is
    accepted. message.timestamp.type is not looked at: the merge goes by the event time in the value, and the record's own time decides
    nothing but the retention; nor are the limits on timestamps: of what they refuse the producer is told.

    Args:
        settings: from `deleting_settings`.
        longest_outage: seconds that a trainer may be away; a shorter retention by time is a problem then. None: none is.
    """
    policy = settings.get("cleanup.policy", "delete")
    if "compact" in policy:
        # Without "delete" in it the policy keeps the retention from acting; the mended topic must not begin to delete by it.
        rules = [rule for rule in KEEP_RULES if rule.setting == "cleanup.policy" or (policy == "compact" and "retention" in rule.setting)]
        return problems_of(settings, rules)
    retention = int(settings.get("retention.ms", "-1"))
    if longest_outage is None or retention < 0 or retention >= longest_outage * 1000:
        return []
    return [
        SettingProblem(
            setting="retention.ms",
            value=str(retention),
            required=str(math.ceil(longest_outage * 1000)),
            harm=f"the broker deletes records after {in_words(retention / 1000)}, and a trainer may be away for {in_words(longest_outage)}",
        )
    ]


def kept_for(settings: Mapping[str, str]) -> str:
    """How long the topic keeps its records, in words."""
    retention, size = (int(settings.get(name, "-1")) for name in ("retention.ms", "retention.bytes"))
    duration = in_words(retention / 1000) if retention >= 0 else "for ever"
    return duration if size < 0 else f"{duration}, and at most {size:,} bytes a partition"


def in_words(seconds: float) -> str:
    """A duration in the unit that reads best."""
    size, unit = next(((size, unit) for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")) if seconds >= size), (1, "s"))
    return f"{seconds / size:.4g} {unit}"
