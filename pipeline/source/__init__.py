"""Source: interactions from Kafka (or memory), decoded and merged by event time.

1. consumers: raw records of each partition, within bounded prefetch     -> Fetched
2. reader:    decode; duplicates and unusable records become a prefix    -> ConsumedRecord | Remainder
3. merge:     the partitions' heads by merge key                         -> the same, in merged order
"""

from pipeline.source.config import SourceConfig
from pipeline.source.kafka import KafkaSource
from pipeline.source.memory import MemoryLog, MemorySource
from pipeline.source.merge import EventTimeMerge
from pipeline.source.merged import Fetcher, MergedSource
from pipeline.source.reader import Fetched, Item, PartitionReader

__all__ = [
    "EventTimeMerge",
    "Fetched",
    "Fetcher",
    "Item",
    "KafkaSource",
    "MemoryLog",
    "MemorySource",
    "MergedSource",
    "PartitionReader",
    "SourceConfig",
]
