"""A description tried on some records: how many are usable, what the rest lacks, and what the labels, ids and times are like."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from autoemb_pipeline.columns import Block, Integers, concat, distinct, events
from autoemb_pipeline.mapping.decoder import MappedDecoder
from autoemb_pipeline.mapping.description import StreamDescription
from autoemb_pipeline.mapping.sample import Sampled
from autoemb_pipeline.records import SKIPPED
from autoemb_pipeline.schemas.columnar import ColumnDecoder

_RARE = 0.02
_ADVICE = {
    "missing-field": "give another path for it, or leave such records to the dead-letter topic",
    "wrong-type": "give the path of a field of the right type",
    "bad-value": "if it is a time, look at [timestamp] unit; if a label, give positive_above or types of events under [label]",
    "unlisted-event": 'name the type under [label], or give others = "skip"',
    "bad-json": 'are these records of another format? give format = "avro", or another topic',
    "no-value": "tombstones hold nothing to learn from: nothing is to be done",
    "registry-needed": "start with --schema-registry URL",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a description makes of a sample.

    Attributes:
        records: looked at.
        block: the usable ones, partition by partition.
        skipped: left out by the description.
        refused: (reason, text without its examples) -> how many, and one whole text.
        threshold: above it a rating is positive.
        late: records whose time lies before an earlier one's of their partition.
        latest: by how many ms at most.
        ahead: records more than an hour ahead of the clock.
    """

    records: int
    block: Block
    skipped: int
    refused: dict[tuple[str, str], tuple[int, str]]
    threshold: float
    late: int
    latest: int
    ahead: int


def survey(stream: StreamDescription, decoder: MappedDecoder | ColumnDecoder, samples: Sequence[Sampled], *, now: int) -> Survey:
    """Reads the samples as a run would. now: ms since the epoch."""
    blocks: list[Block] = []
    refused: dict[tuple[str, str], tuple[int, str]] = {}
    skipped = late = latest = 0
    for sample in samples:
        times: Integers = np.array(sample.times, np.int64)
        decoded = decoder.decode(sample.values, lambda times=times: times)  # type: ignore[misc]
        blocks.append(decoded.block)
        lateness = np.maximum.accumulate(decoded.block.time) - decoded.block.time
        late, latest = late + int(np.count_nonzero(lateness)), max(latest, int(lateness.max(initial=0)))
        for _, reason, detail in decoded.refused:
            if reason == SKIPPED:
                skipped += 1
                continue
            key = reason, detail.split(" is ")[0].split(" has ")[0].split(":")[0]
            count, example = refused.get(key, (0, detail))
            refused[key] = count + 1, example
    block = concat(blocks)
    return Survey(
        records=sum(len(sample.values) for sample in samples),
        block=block,
        skipped=skipped,
        refused=refused,
        threshold=3.5 if stream.record is None else stream.record.label.threshold,
        late=late,
        latest=latest,
        ahead=int(np.count_nonzero(block.time > now + 3_600_000)),
    )


def report(surveyed: Survey) -> Iterator[str]:
    """The survey for people, a line each: what there is, and behind an arrow what to change."""
    usable = len(surveyed.block)
    share = usable / surveyed.records
    yield f"{surveyed.records:,} records: {usable:,} usable ({share:.1%}), {surveyed.skipped:,} left out by the description"
    for (reason, _), (count, example) in sorted(surveyed.refused.items(), key=lambda entry: -entry[1][0]):
        yield f"  {count:,} {reason}: {example}"
        yield f"    → {_ADVICE.get(reason, 'look at such a record; it goes to the dead-letter topic')}"
    if usable == 0:
        yield "nothing to train on → correct the paths above; `stream init` shows which fields the records have"
        return
    yield from _labels(surveyed)
    yield from _ids(surveyed)
    yield from _times(surveyed)


def _labels(surveyed: Survey) -> Iterator[str]:
    share = float(np.mean(surveyed.block.rating > surveyed.threshold))
    yield f"labels: {share:.1%} positive"
    if share in (0.0, 1.0):
        yield "    → nothing can be learnt from one class: look at [label]"
    elif min(share, 1 - share) < _RARE:
        yield "    → one class is rare: it takes many interactions to learn it"


def _ids(surveyed: Survey) -> Iterator[str]:
    usable = len(surveyed.block)
    users, items = (len(distinct(column).values) for column in surveyed.block.ids[:2])
    yield f"ids: {users:,} users ({usable / users:.1f} interactions each), {items:,} items ({usable / items:.1f} each)"
    for name, count in (("user", users), ("item", items)):
        if usable >= 100 and count > 0.95 * usable:  # noqa: PLR2004 - in fewer records ids seldom come back
            yield f"    → nearly every record has a {name} of its own: does [fields] {name} name an event instead?"
        if count == 1 and usable > 1:
            yield f"    → all records have one {name}: does [fields] {name} name something else?"
    known = events(surveyed.block)
    counted = Counter(known[known != 0].tolist())
    again = sum(counted.values()) - len(counted)
    if again:
        yield f"    {again:,} events were sent again; each is trained once, as long as its id is in the window"


def _times(surveyed: Survey) -> Iterator[str]:
    times, usable = surveyed.block.time, len(surveyed.block)
    yield f"times: {_moment(int(times.min()))} to {_moment(int(times.max()))}"
    if surveyed.late:
        share, most = surveyed.late / usable, surveyed.latest / 1000
        yield f"    {surveyed.late:,} records ({share:.1%}) lie before an earlier one of their partition, by {most:,.1f} s at most"
        yield "    → they are trained where they stand and counted as late; nothing is lost"
    else:
        yield "    in order within every partition"
    if surveyed.ahead:
        yield f"    {surveyed.ahead:,} records lie more than an hour ahead of the clock"
        yield "    → with --max-ahead (1 h) a live stream dead-letters them; is [timestamp] unit right?"


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
