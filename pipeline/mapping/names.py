"""The usual names of fields, and which fields of some records they are. Names are compared without case, ``_``, ``-`` and points."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoemb_pipeline.mapping.description import LabelRule, Path, Unit
from autoemb_pipeline.mapping.rules import NUMBERS, is_finite, iso_milliseconds

_MOST = 0.9  # of the records must have the field, and of its type
_DEEPEST, _MOST_PATHS = 6, 300


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


USERS = _words(
    """
    userid user uid visitorid visitor customerid customer memberid member clientid accountid account buyerid viewerid
    readerid listenerid profileid personid fullvisitorid anonymousid deviceid sessionid session
    """
)
ITEMS = _words(
    """
    itemid item iid productid product movieid movie articleid article clickarticleid contentid content trackid track
    songid videoid video adid bookid listingid offerid sku asin newsid docid documentid placeid businessid gameid
    recipeid hotelid postid pageid
    """
)
TIMES = _words(
    """
    eventtime eventtimestamp timestamp timestampms ts time clicktimestamp clicktime datetime occurredat createdat at
    servertime unixtime utc date
    """
)
FLAGS = _words("label clicked click isclick isclicked converted conversion purchased bought target liked like ordered watched isbuy")
NUMBERED = _words("rating stars score grade overall label target value")
TYPES = _words("eventtype event type action activity behaviortype behavior interactiontype interaction eventname kind verb")
IDS = _words("eventid messageid uuid insertid requestid impressionid recordid id")
SEQUENCES = _words("sequence sequencenumber seq seqno eventnumber")
POSITIVE = frozenset(
    _words(
        """
    buy purchase purchased order ordered transaction checkout click clicked like liked addtocart cart addtowishlist
    favorite fav play complete completed subscribe conversion convert rent share save download install follow book
    """
    )
)
NEGATIVE = frozenset(
    _words(
        """
    view viewed impression impressions show shown display pv pageview exposure skip skipped dislike dislikes dismiss
    ignore ignored hide seen noclick
    """
    )
)
_WEAKEST = ("click", "clicked", "play", "cart", "addtocart")  # negative beside stronger ones where nothing weaker is written


def plain(name: str) -> str:
    """A name as names are compared."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


@dataclass(slots=True)
class Seen:
    """What was seen of one path: its values that are not null."""

    path: Path
    values: list[Any] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        """How many different ones."""
        return len(set(map(repr, self.values)))

    def share(self, count: int, fits: Callable[[Any], bool]) -> float:
        """Share of all records that have the field with a value that fits."""
        return sum(map(fits, self.values)) / count if count else 0.0


def paths_of(records: Sequence[Mapping[str, Any]]) -> dict[Path, Seen]:
    """Every path that leads to a value that is no object, in order of first occurrence."""
    seen: dict[Path, Seen] = {}
    for record in records:
        for path, value in _leaves(record, ()):
            if path in seen or len(seen) < _MOST_PATHS:
                seen.setdefault(path, Seen(path)).values.append(value)
    return seen


def _leaves(record: Mapping[str, Any], above: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in record.items():
        path = (*above, key)
        if not key:  # no path of a description has it
            continue
        if isinstance(value, Mapping):
            if len(path) < _DEEPEST:
                yield from _leaves(value, path)
        elif value is not None:
            yield path, value


def usual(seen: Mapping[Path, Seen], names: Sequence[str], fits: Callable[[Seen], bool]) -> Seen | None:
    """The field that has the earliest of these names; of several the one nearest to the root."""
    ranked = [(rank, len(s.path), s) for s in seen.values() if (rank := _rank(s.path, names)) is not None and fits(s)]
    return min(ranked, key=lambda rank: rank[:2])[2] if ranked else None


def _rank(path: Path, names: Sequence[str]) -> int | None:
    """Of a path's last key, or its last keys together (``user.id`` is a userid); a bare ``id`` is its own only at the root."""
    written = {plain("".join(path[depth:])) for depth in range(len(path))}
    if len(path) > 1:
        written.discard("id")
    ranks = [names.index(name) for name in written if name in names]
    return min(ranks, default=None)


def is_id(value: Any) -> bool:
    """Whether it can be an id."""
    return type(value) is int or (isinstance(value, str) and bool(value))


def find_id(seen: Mapping[Path, Seen], names: Sequence[str], count: int) -> Seen | None:
    """A field of ids."""
    return usual(seen, names, lambda s: s.share(count, is_id) >= _MOST)


def find_event_id(seen: Mapping[Path, Seen], count: int) -> Seen | None:
    """A field that is another one in nearly every record."""
    return usual(seen, IDS, lambda s: s.share(count, is_id) >= _MOST and s.distinct >= _MOST * len(s.values))


def find_sequence(seen: Mapping[Path, Seen], count: int) -> Seen | None:
    """A field of whole numbers, none twice."""
    return usual(seen, SEQUENCES, lambda s: s.share(count, lambda v: type(v) is int and v >= 0) >= _MOST and s.distinct == len(s.values))


def find_time(seen: Mapping[Path, Seen], count: int) -> tuple[Seen, Unit] | None:
    """A field of times, and its unit by their size."""
    times = usual(seen, TIMES, lambda s: _unit(s, count) is not None)
    unit = None if times is None else _unit(times, count)
    return None if times is None or unit is None else (times, unit)


def _unit(seen: Seen, count: int) -> Unit | None:
    if seen.share(count, _is_iso) >= _MOST:
        return "iso8601"
    units: tuple[tuple[Unit, float, float], ...] = (("s", 1e8, 1e11), ("ms", 1e11, 1e14), ("us", 1e14, 1e17))
    return next((u for u, low, high in units if seen.share(count, lambda v: type(v) in NUMBERS and low <= v < high) >= _MOST), None)  # noqa: B023


def _is_iso(value: Any) -> bool:
    try:
        return isinstance(value, str) and iso_milliseconds(value) is not None
    except (ValueError, OverflowError):
        return False


def find_label(seen: Mapping[Path, Seen], count: int) -> LabelRule | None:
    """A flag, else a number with a threshold, else types of events of which some are known as positive and some as negative."""
    flag = usual(seen, FLAGS, lambda s: s.share(count, lambda v: isinstance(v, bool) or (type(v) in NUMBERS and v in (0, 1))) >= _MOST)
    if flag is not None:
        return LabelRule(field=flag.path)
    number = usual(seen, NUMBERED, lambda s: len(numbers_of(s)) >= _MOST * count)
    if number is not None:
        return LabelRule(field=number.path, positive_above=_threshold(numbers_of(number)))
    kinds = usual(seen, TYPES, lambda s: s.share(count, lambda v: isinstance(v, str)) >= _MOST and event_types(s) is not None)
    types = None if kinds is None else event_types(kinds)
    return None if kinds is None or types is None else LabelRule(field=kinds.path, positive=types[0], negative=types[1])


def numbers_of(seen: Seen) -> list[float]:
    """The values that a numeric label can have: finite ones."""
    return [value for value in seen.values if type(value) in NUMBERS and is_finite(value)]


def event_types(seen: Seen) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(positive, negative) types among the values; None without both."""
    written = sorted({value for value in seen.values if isinstance(value, str)})
    positive = [name for name in written if plain(name) in POSITIVE]
    negative = [name for name in written if plain(name) in NEGATIVE]
    for weakest in _WEAKEST:
        if not negative and len(positive) > 1:
            negative = [name for name in positive if plain(name) == weakest]
            positive = [name for name in positive if name not in negative]
    return (tuple(positive), tuple(negative)) if positive and negative else None


def _threshold(values: Sequence[float]) -> float:
    """What is usual for a scale of stars, of tens or of percent; the median for any other."""
    highest = max(values)
    scales = ((1, 0.5), (5, 3.5), (10, 7.0), (100, 70.0))
    usual_one = next((threshold for top, threshold in scales if highest <= top and min(values) >= 0), None)
    return float(sorted(values)[len(values) // 2]) if usual_one is None else usual_one
