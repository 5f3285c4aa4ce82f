"""Where a run's own records lie in its output topics, and whether any can lie beyond its newest checkpoint.

A checkpoint says where its successors' records begin. Retention may delete that position while the trainer is away. After a clean stop
nothing lies beyond, so nothing can be missing: ``outputs.json`` says so, durably, until the next start takes that back, durably too, before
it can emit anything.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from autoemb_pipeline.durable import replace_synced
from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.schemas.registry import RegistryCodec
from autoemb_pipeline.sink.recover import topic_ranges, wait_for_ranges

OUTPUTS_FILE = "outputs.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputTopics:
    """Where a run's metrics and dead letters go, and how to read them back."""

    kafka: Mapping[str, str]
    metrics: str
    dead_letters: str
    registry: RegistryCodec | None = None

    def ends(self) -> tuple[int, int]:
        """(metrics, dead letters): where the topics go on now. Raises as `topic_ranges`."""
        metrics, letters = topic_ranges(self.kafka, (self.metrics, self.dead_letters))
        return metrics[1], letters[1]

    def wait_for_ends(self) -> tuple[int, int]:
        """As `ends`, waiting for a broker that is away."""
        metrics, letters = wait_for_ranges(self.kafka, (self.metrics, self.dead_letters))
        return metrics[1], letters[1]

    def nearest(self, offsets: tuple[int, int]) -> tuple[int, int]:
        """The positions themselves, or the topics' first ones where those are no longer (or not yet) in the topics."""
        ranges = topic_ranges(self.kafka, (self.metrics, self.dead_letters))
        metrics, letters = (offset if low <= offset <= high else low for offset, (low, high) in zip(offsets, ranges, strict=True))
        return metrics, letters


@dataclass(frozen=True, kw_only=True, slots=True)
class Emission:
    """What a run has sent out beyond a checkpoint.

    Attributes:
        run_id: whose.
        step: the checkpoint's.
        since: (metrics, dead letters) positions at or above which everything sent after that step lies; None: nothing was sent, and nothing
            will be before this is replaced.
    """

    run_id: str
    step: int
    since: tuple[int, int] | None

    def write(self, state_dir: Path) -> None:
        """Durably. Raises StateError when it cannot be written."""
        try:
            replace_synced(state_dir / OUTPUTS_FILE, (json.dumps(asdict(self), sort_keys=True) + "\n").encode())
        except OSError as error:
            raise StateError(f"{state_dir / OUTPUTS_FILE} cannot be written.", why=str(error), remedy="Free space on its disk.") from error


def read_emission(state_dir: Path, run_id: str, step: int) -> Emission | None:
    """What is said of the checkpoint of this run and step; None when nothing is.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = state_dir / OUTPUTS_FILE
    try:
        fields = json.loads(path.read_bytes())
        since = fields.pop("since")
        emission = Emission(**fields, since=None if since is None else (int(since[0]), int(since[1])))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be used",
            why=str(error),
            remedy="remove it: the run then goes on if the metrics topic still holds what it wrote since its checkpoint",
        ) from error
    return emission if (emission.run_id, emission.step) == (run_id, step) else None
