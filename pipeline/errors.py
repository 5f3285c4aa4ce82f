"""Every error a user can meet, as one tree.

Each error says what happened, why, and the command that mends it; `autoemb_pipeline.cli` alone turns it into a message and an exit code.
"""

from autoemb_pipeline.redaction import redact


class AutoembError(Exception):
    """Root of the tree.

    Args:
        what: what happened, one sentence.
        why: the cause, as far as it is known.
        remedy: the command or change that mends it.

    Secrets are taken out of all three: errors go to logs, terminals and dead letters.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        self.what, self.why, self.remedy = redact(what), redact(why), redact(remedy)
        super().__init__(self.what)


class ConfigurationError(AutoembError):
    """An option or a configuration file cannot be used as it is."""

    exit_code = 2


class BrokerError(AutoembError):
    """No broker answers, or it refuses what was asked of it."""

    exit_code = 3


class TopicError(AutoembError):
    """A topic is missing, was recreated, or its settings would lose or reorder data."""

    exit_code = 4


class OffsetError(TopicError):
    """A position the run needs is no longer in the topic."""


class DeliveryError(BrokerError):
    """The broker did not accept a record; everything before it was accepted, nothing after it was sent."""


class DatasetError(AutoembError):
    """A dataset cannot be found, downloaded, verified or read."""

    exit_code = 5


class StateError(AutoembError):
    """The state directory cannot be used: locked, foreign, or on an unfit file system."""

    exit_code = 6


class CheckpointError(StateError):
    """A checkpoint is torn, corrupted or of another configuration."""


class DecodeError(AutoembError):
    """One record's bytes are not an interaction. A value to dead-letter, never a reason to stop.

    Args:
        reason: a short, stable slug for counting, e.g. ``bad-magic``.
        detail: what exactly was wrong with this record.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail, why=reason)
        self.reason = reason
