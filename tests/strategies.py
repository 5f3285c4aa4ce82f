"""Hypothesis strategies of the whole suite, in one place."""

from hypothesis import strategies as st

from autoemb_pipeline.records import Interaction
from autoemb_pipeline.remembered import Chain, Remembered
from autoemb_pipeline.schemas.codec import MAX_ID_BYTES, MAX_SEQUENCE, MAX_TIMESTAMP

text = st.text(st.characters(exclude_categories=["Cs"]))
ids = text.filter(lambda s: 0 < len(s.encode()) <= MAX_ID_BYTES)
finite = st.floats(allow_nan=False, allow_infinity=False)

interactions = st.builds(
    Interaction,
    user_id=ids,
    item_id=ids,
    rating=finite,
    timestamp=st.integers(0, MAX_TIMESTAMP),
    dataset=st.none() | ids,
    sequence=st.none() | st.integers(0, MAX_SEQUENCE),
    features=st.none() | st.dictionaries(text, finite, max_size=4),
)

_doubles = st.none() | st.floats()
_dimensions = st.dictionaries(st.sampled_from(["2", "16", "128"]), _doubles)
_buckets = st.integers(0, 12).map(lambda power: str(2**power))

# Prequential metrics records: the required fields, any of the optional ones, NaN and infinity included.
metrics_records = st.fixed_dictionaries(
    {
        "run_id": text,
        "method": st.sampled_from(["fse", "autoemb"]),
        "task": st.sampled_from(["binary", "rating"]),
        "preset": text,
        "context_mode": st.sampled_from(["batch", "event", "strict"]),
        "step": st.integers(1, 2**40),
        "examples": st.integers(0, 2**50),
        "batch_examples": st.integers(0, 10_000),
        "next_offsets": st.dictionaries(st.integers(0, 40), st.integers(0, 2**62), max_size=5),
    },
    optional={
        "event_time": st.none() | st.integers(0, MAX_TIMESTAMP),
        "mse": _doubles,
        "cross_entropy_window": _doubles,
        "logistic_accuracy_fading": _doubles,
        "running_mean_mse": _doubles,
        "user_weight": st.none() | _dimensions,
        "item_weight": st.none() | _dimensions,
        "user_bucket_loss": st.none() | st.dictionaries(_buckets, _doubles, max_size=4),
        "item_bucket_count": st.none() | st.dictionaries(_buckets, st.integers(0, 2**40), max_size=4),
        "user_entropy": _doubles,
        "user_ids_of_space": st.none() | st.dictionaries(st.sampled_from(["0", "16"]), st.integers(0, 2**40)),
        "embedding_bytes": st.none() | st.integers(0, 2**50),
        "loss_given_up": _doubles,
        "unresolved": st.none() | st.booleans(),
        "late": st.integers(0, 2**40),
        "refused_offsets": st.none() | st.dictionaries(st.sampled_from(["0", "7"]), st.just("3,9-12")),
        "duplicates": st.integers(0, 2**40),
    },
)


def remembered_up_to(dataset: str, sequence: int, timestamp: int) -> Remembered:
    """All of the dataset up to a sequence and a time (ms) was trained."""
    return Remembered(dataset, (Chain((0,), (sequence,), (0,), (timestamp,)),))


@st.composite
def sequenced_streams(draw: st.DrawFn, *, max_size: int = 60) -> list[Interaction]:
    """A dataset in event-time order, ties included, its sequences dense from 0."""
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 1000]), max_size=max_size))
    timestamp = 1_000_000
    stream = []
    for sequence, gap in enumerate(gaps):
        timestamp += gap
        stream.append(Interaction(f"u{sequence % 7}", f"i{sequence % 5}", 3.5, timestamp, "set", sequence))
    return stream


@st.composite
def partition_logs(draw: st.DrawFn, *, dirty: bool, max_size: int = 60) -> tuple[list[Interaction], list[list[Interaction | bytes | None]]]:
    """(dataset, its partitions' records): each interaction in any partition; dirty: tombstones, rubbish and re-deliveries between them."""
    stream = draw(sequenced_streams(max_size=max_size))
    partitions: list[list[Interaction | bytes | None]] = [[] for _ in range(draw(st.integers(1, 5)))]
    dirt = st.sampled_from(["", "", "tombstone", "rubbish", "again"]) if dirty else st.just("")
    for interaction in [*stream, *[None] * len(partitions)]:  # None: dirt at a partition's end
        log = partitions[draw(st.integers(0, len(partitions) - 1))]
        for _ in range(draw(st.integers(0, 2)) if dirty else 0):
            kind = draw(dirt)
            delivered = [value for value in log if isinstance(value, Interaction)]
            if kind == "tombstone":
                log.append(None)
            elif kind == "rubbish":
                log.append(b"rubbish")
            elif kind == "again" and delivered:
                log.append(draw(st.sampled_from(delivered)))
        if interaction is not None:
            log.append(interaction)
    return stream, partitions
