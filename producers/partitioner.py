"""Which partition a key belongs to: Java's murmur2, as Kafka's own clients compute it.

librdkafka's default partitioner (``consistent_random``, a CRC-32) puts keys elsewhere than Java's. We compute the partition ourselves, so
that a record has its place whatever client wrote it.
"""

from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF
_CACHE_LIMIT: Final = 1 << 20


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with Kafka's seed, as a signed number (``org.apache.kafka.common.utils.Utils.murmur2``).

    Args:
        data: the key's bytes.

    Returns:
        -2**31 .. 2**31 - 1.
    """
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h > _POSITIVE else h


def partition_of(key: bytes, partitions: int) -> int:
    """The partition Kafka's Java producer sends a record with this key to: ``toPositive(murmur2(key)) % partitions``."""
    return (murmur2(key) & _POSITIVE) % partitions


class Partitioner:
    """`partition_of` for user ids, remembering the ids it has seen.

    A replay asks for the same few users again and again (sessions). The memory is bounded: at about a million ids it starts anew, which
    costs time and never a different answer.

    Args:
        partitions: number of partitions of the topic, at least 1.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._known: dict[str, int] = {}

    def __call__(self, user_id: str) -> int:
        """The partition of this user's records."""
        partition = self._known.get(user_id)
        if partition is None:
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()
            partition = self._known[user_id] = partition_of(user_id.encode(), self._partitions)
        return partition
