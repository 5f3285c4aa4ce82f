"""Source: interactions from Kafka (or memory), decoded and merged by event time.

1. consumers: raw records of each partition, within bounded prefetch     -> Fetched
2. reader:    decode; duplicates and unusable records become a prefix    -> Block, Unusable beside it
3. merge:     the partitions' heads by merge key                         -> the same, in merged order
"""

from autoemb_pipeline.source.config import SourceConfig
from autoemb_pipeline.source.kafka import KafkaSource
from autoemb_pipeline.source.memory import MemoryLog, MemorySource
from autoemb_pipeline.source.merge import ColumnMerge
from autoemb_pipeline.source.merged import Fetcher, MergedSource
from autoemb_pipeline.source.reader import Chunk, ColumnReader, Fetched

__all__ = [
    "Chunk",
    "ColumnMerge",
    "ColumnReader",
    "Fetched",
    "Fetcher",
    "KafkaSource",
    "MemoryLog",
    "MemorySource",
    "MergedSource",
    "SourceConfig",
]
