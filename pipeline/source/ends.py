"""Where partitions end for a committed reader, and how much stands hidden behind that end.

A committed reader is shown a partition up to its last stable offset: the first record of the oldest transaction still open. Its end of
partition lies there, the high watermark lies behind whatever follows. Markers and aborted records do not confuse the two: a reader's
position passes over them, so its end equals the high watermark unless a transaction is open (KIP-98).
"""

from collections.abc import Mapping

import structlog

from autoemb_pipeline.errors import BrokerError
from autoemb_pipeline.kafka.stalls import Throttle

_log = structlog.get_logger()

SURE_SECONDS = 2.0  # a high watermark heard of with a newer answer than the end's own lies ahead of it for a moment
_SECONDS_BETWEEN_WARNINGS = 60.0


class PartitionEnds:
    """What is known of the ends of a topic's partitions.

    Args:
        topic: its name.
        patience: seconds that `check` lets a transaction stay open.
    """

    def __init__(self, topic: str, *, patience: float) -> None:
        self._topic = topic
        self._patience = patience
        self._ends: dict[int, int] = {}
        self._targets: dict[int, int] = {}
        self._hidden: dict[int, int] = {}
        self._since: dict[int, float] = {}
        self._throttle = Throttle(_SECONDS_BETWEEN_WARNINGS)

    def told(self, partition: int, end: int, high: int | None, now: float) -> bool:
        """The partition's end was told while its high watermark was `high`.

        Returns:
            Whether that is the end of all that the partition held when an end of it was first told.
        """
        if self._ends.get(partition) != end:
            self.moved(partition)
        self._ends[partition] = end
        self.look(partition, high, now)
        return end >= self._targets.setdefault(partition, max(end, high or 0))

    def moved(self, partition: int) -> None:
        """Records came: the end told before is none any more."""
        for known in (self._ends, self._hidden, self._since):
            known.pop(partition, None)

    def look(self, partition: int, high: int | None, now: float) -> None:
        """Compares the end told last with the high watermark as it is now; warns of what stays hidden, once a minute."""
        hidden = self.behind(partition, high)
        if hidden == 0:
            self._hidden.pop(partition, None)
            self._since.pop(partition, None)
            return
        self._hidden[partition] = hidden
        since = self._since.setdefault(partition, now)
        if now - since >= SURE_SECONDS and self._throttle.due(partition, now):
            _log.warning(
                "records wait behind an open transaction",
                topic=self._topic,
                partition=partition,
                offset=self._ends[partition],
                records=hidden,
                hint="they are read when its producer commits or aborts, at the latest after its transaction.timeout.ms",
            )

    def behind(self, partition: int, high: int | None) -> int:
        """Offsets between the end told last and the high watermark; 0 where no end is known."""
        end = self._ends.get(partition)
        return 0 if end is None or high is None else max(0, high - end)

    def hidden(self, now: float) -> Mapping[int, int]:
        """Partition -> offsets that surely stand behind an open transaction, markers included."""
        return {p: count for p, count in sorted(self._hidden.items()) if now - self._since[p] >= SURE_SECONDS}

    def check(self, now: float) -> None:
        """For a stream that has an end. Raises BrokerError where a transaction has hidden a partition's end for `patience` seconds."""
        for partition, since in self._since.items():
            if now - since >= self._patience:
                raise BrokerError(
                    f"The end of {self._topic} was not reached within {self._patience:g} s",
                    why=f"partition {partition} hides {self._hidden[partition]} records from offset {self._ends[partition]} on "
                    "behind a transaction that its producer left open",
                    remedy="let its producer end it; a dead one's is aborted after its transaction.timeout.ms: then start again",
                )
