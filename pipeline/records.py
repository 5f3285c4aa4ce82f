"""What travels between the stages. Leaves: of the rest of the project they know only what was delivered.

Per-message types are NamedTuples (built in a fifth of a frozen dataclass's time, once per record); per-batch types are frozen dataclasses.

Shape legend: B interactions of a mini-batch, N embedding spaces, C classes, F context features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoemb_pipeline.offsets import TOPIC_STRIDE
from autoemb_pipeline.remembered import Remembered

FloatArray = NDArray[np.float64]
Task = Literal["binary", "rating"]
ContextMode = Literal["batch", "event", "strict"]
StartAt = Literal["latest"] | int | None
"""A new run begins at its topics' ends, at the first record from a time on (Kafka's, ms since the epoch), at the beginning (None)."""

RATING_CLASSES = 5
CONTEXT_FEATURES = 16  # x0..x15 of docs/algorithm.md

AHEAD = "too-far-ahead"  # reason of a dead letter whose event time lay more than --max-ahead beyond the clock
SKIPPED = "skipped"  # what a stream's description leaves out on purpose: counted, no dead letter


class Interaction(NamedTuple):
    """One rating of one item by one user: the value of a record of the interactions topic.

    ``timestamp`` is the event time in milliseconds since the epoch; ``sequence`` the position in the sorted dataset.
    """

    user_id: str
    item_id: str
    rating: float
    timestamp: int
    dataset: str | None = None
    sequence: int | None = None
    features: Mapping[str, float] | None = None


class DeadLetter(NamedTuple):
    """A record that is no interaction, with all that is needed to look at it again. partition: counted over all topics (`TOPIC_STRIDE`)."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None

    @property
    def id(self) -> str:
        """``topic:partition:offset``, the key in the dead-letter topic."""
        return f"{self.topic}:{self.partition % TOPIC_STRIDE}:{self.offset}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SideContext:
    """What is known of each row's user (or item) before its label. Labels in it are of earlier mini-batches only.

    Attributes:
        count: [B] interactions of this id before this one (popularity; holds no label, always fresh).
        previous_weights: [B, N] weights at the id's last occurrence in an earlier mini-batch (new id: 1/N each).
        previous_loss: [B] mean loss over the id's occurrences in the last earlier mini-batch that held it; NaN for a new id.
        fading_loss: [B] the id's fading mean loss; NaN for a new id.
    """

    count: FloatArray
    previous_weights: FloatArray
    previous_loss: FloatArray
    fading_loss: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerInputs:
    """All a learner may know when it predicts. There is no label in this type, on purpose (docs/architecture.md, invariant 1).

    Attributes:
        user_ids, item_ids: B ids each.
        features: [B, F] context features x0..x15 of docs/algorithm.md, in the run's context mode. x0 is the running mean's logit.
        users, items: what the controllers see.
        global_loss: fading mean loss of the run, of earlier mini-batches; NaN before the first.
        class_probabilities: [B, C] user x item Dirichlet estimate, for the rating task.
        held_out: [B] True where the label enters neither the parameters nor any statistic (validation source `holdout`).
        offset: [B, C] logits that the learner's output is added to; None: nothing.
        reread: these interactions were learnt in an earlier epoch of the offline stage: no new evidence, only to be trained on again.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    features: FloatArray
    users: SideContext
    items: SideContext
    global_loss: float
    class_probabilities: FloatArray | None = None
    held_out: NDArray[np.bool_] | None = None
    offset: FloatArray | None = None
    reread: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """A learner's output for one mini-batch, made before its labels were seen.

    Attributes:
        probabilities: binary task: [B], P(positive); rating task: [B, C], one row a distribution over the classes.
        user_weights, item_weights: [B, N] the controllers' weights; None for methods without dimension search.
    """

    probabilities: FloatArray
    user_weights: FloatArray | None = None
    item_weights: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The targets of one mini-batch.

    Attributes:
        binary: [B] 1.0 where the rating is above the threshold (3.5 unless configured), else 0.0.
        classes: [B] ceil(rating) - 1, clipped to 0..C-1.
    """

    binary: FloatArray
    classes: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineStage:
    """The part of a stream that is the paper's offline parameter estimation (section 2.5); what follows is its online inference.

    Attributes:
        count: so many interactions; None: not bounded by number.
        until_ms: interactions before this event time; None: not bounded by time.
    """

    count: int | None = None
    until_ms: int | None = None

    def is_over(self, examples: int, timestamp: int) -> bool:
        """Whether the interaction after `examples` earlier ones, with this event time (ms), belongs to the online stage."""
        return (self.count is None or examples >= self.count) and (self.until_ms is None or timestamp >= self.until_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class RereadPosition:
    """Where an epoch of the offline stage after the first one stands.

    Attributes:
        epoch: its number: 2 for the first one that reads again.
        next_offsets, deliveries, events: as `RunPosition`, in this epoch.
    """

    epoch: int
    next_offsets: Mapping[int, int]
    deliveries: Mapping[int, tuple[Remembered, ...]] = field(default_factory=dict)
    events: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPosition:
    """Where a run stands in its stream: all that the source needs to go on from a checkpoint.

    Attributes:
        next_offsets: partition -> offset to read next, for the first time.
        deliveries: partition -> what was released of it, for finding duplicates; see `autoemb_pipeline.deliveries`.
        frontier: greatest (timestamp, dataset, sequence) released, for finding late records; None before the first.
        first_offsets: partition -> offset of the run's first record.
        offline_end: `next_offsets` as they were when the offline stage had been read once and a further epoch began; None before, and
            in a run of one epoch.
        reread: the further epoch; None while the run reads for the first time.
        events: the newest events trained, in order, for finding re-deliveries by their own ids; see `autoemb_pipeline.recent`.
        refused: partition -> offsets of records that the clock refused (`AHEAD`) and that will be read again: those of an offline stage
            with further epochs. A source also takes those that the metrics topic records.
    """

    next_offsets: Mapping[int, int] = field(default_factory=dict)
    deliveries: Mapping[int, tuple[Remembered, ...]] = field(default_factory=dict)
    frontier: tuple[int, str, int] | None = None
    first_offsets: Mapping[int, int] = field(default_factory=dict)
    offline_end: Mapping[int, int] | None = None
    reread: RereadPosition | None = None
    refused: Mapping[int, frozenset[int]] = field(default_factory=dict)
    events: bytes = b""
