"""Ids in their order, for a table of millions: entering or leaving costs a search and a move within one small bucket.

The order follows from the ids alone, so a hand that goes through them is at the same place after a restart.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

BUCKET = 512  # ids; a bucket twice as large is split


class OrderedIds:
    """A set of distinct ids in ascending order, which is the byte order of their UTF-8.

    Args:
        ids: ascending.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        every = list(ids)
        self._buckets = [every[k : k + BUCKET] for k in range(0, len(every), BUCKET)]
        self._firsts = [bucket[0] for bucket in self._buckets]  # lower bounds: an id that left may still be named

    def __iter__(self) -> Iterator[str]:
        return (identifier for bucket in self._buckets for identifier in bucket)

    def __contains__(self, identifier: str) -> bool:
        if not self._buckets:
            return False
        bucket = self._buckets[self._at(identifier)]
        at = bisect_left(bucket, identifier)
        return at < len(bucket) and bucket[at] == identifier

    def add(self, identifier: str) -> None:
        """Enters an id that is not there."""
        if not self._buckets:
            self._buckets, self._firsts = [[identifier]], [identifier]
            return
        k = self._at(identifier)
        bucket = self._buckets[k]
        bucket.insert(bisect_left(bucket, identifier), identifier)
        self._firsts[k] = min(self._firsts[k], identifier)
        if len(bucket) > 2 * BUCKET:
            self._buckets[k : k + 1] = [bucket[:BUCKET], bucket[BUCKET:]]
            self._firsts.insert(k + 1, bucket[BUCKET])

    def remove(self, identifier: str) -> None:
        """Takes out an id that is there.

        Raises:
            KeyError: it is not.
        """
        if identifier not in self:
            raise KeyError(identifier)
        k = self._at(identifier)
        bucket = self._buckets[k]
        del bucket[bisect_left(bucket, identifier)]
        if not bucket:
            del self._buckets[k], self._firsts[k]

    def after(self, identifier: str, count: int) -> list[str]:
        """The next ids behind one that need not be there, at most `count`."""
        found: list[str] = []
        k = self._at(identifier)
        while k < len(self._buckets) and len(found) < count:
            bucket = self._buckets[k]
            start = bisect_right(bucket, identifier)
            found += bucket[start : start + count - len(found)]
            k += 1
        return found

    def _at(self, identifier: str) -> int:
        """The bucket that holds an id or would; 0 when there is none."""
        return max(bisect_right(self._firsts, identifier) - 1, 0)
