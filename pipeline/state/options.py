"""RocksDB settings as one typed object, translated at one place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rocksdict

from autoemb_pipeline.errors import ConfigurationError

_MIB = 1 << 20
Compression = Literal["none", "lz4", "zstd"]
_COMPRESSION = {
    "none": rocksdict.DBCompressionType.none,
    "lz4": rocksdict.DBCompressionType.lz4,
    "zstd": rocksdict.DBCompressionType.zstd,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RocksOptions:
    """Settings of the live database. Sizes in bytes, over all tables together unless said otherwise.

    Attributes:
        write_buffer_bytes: memtables; evicted rows wait there until RocksDB flushes them.
        block_cache_bytes: decoded blocks of SST files, with their index and filter blocks.
        sst_bytes: target size of one SST file. A compaction rewrites whole files, and a checkpoint hashes every new one.
        bloom_bits: per key; 10 spare 99% of the reads for ids that a file does not hold.
        compression: rows of float noise hardly compress, hence none.
        background_jobs: threads for flushes and compactions.
        manifest_bytes: RocksDB's own manifest is copied into each checkpoint, so it is rolled over early.
    """

    write_buffer_bytes: int = 64 * _MIB
    block_cache_bytes: int = 32 * _MIB
    sst_bytes: int = 16 * _MIB
    bloom_bits: int = 10
    compression: Compression = "none"
    background_jobs: int = 2
    manifest_bytes: int = _MIB

    def __post_init__(self) -> None:
        """Raises ConfigurationError on sizes that RocksDB cannot work with."""
        for name in ("write_buffer_bytes", "block_cache_bytes", "sst_bytes", "manifest_bytes"):
            if getattr(self, name) < 64 << 10:
                raise ConfigurationError(f"RocksDB option {name} is {getattr(self, name)}.", remedy="Give at least 65536 bytes.")
        if self.bloom_bits < 1 or self.background_jobs < 1:
            raise ConfigurationError("RocksDB options bloom_bits and background_jobs must be at least 1.")
        if self.compression not in _COMPRESSION:
            raise ConfigurationError(f"Compression {self.compression!r} is unknown.", remedy="One of " + ", ".join(_COMPRESSION) + ".")

    def to_options(self) -> rocksdict.Options:
        """The same settings as rocksdict takes them, for the database and for each column family."""
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_atomic_flush(True)
        options.set_db_write_buffer_size(self.write_buffer_bytes)
        options.set_write_buffer_size(self.write_buffer_bytes)
        options.set_max_background_jobs(self.background_jobs)
        options.set_compression_type(_COMPRESSION[self.compression]())
        options.set_target_file_size_base(self.sst_bytes)
        # Reading ids in order passes over those removed: files with many are compacted at once.
        options.add_compact_on_deletion_collector_factory(256, 128, 0.5)
        options.set_level_compaction_dynamic_level_bytes(True)
        options.set_max_manifest_file_size(self.manifest_bytes)
        # -1 keeps every file open: a reader then survives the pruning of the checkpoint it reads.
        options.set_max_open_files(-1)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(_MIB)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_block_cache(rocksdict.Cache(self.block_cache_bytes))
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
        blocks.set_bloom_filter(self.bloom_bits, False)
        options.set_block_based_table_factory(blocks)
        return options


@dataclass(frozen=True, kw_only=True, slots=True)
class RocksConfig:
    """Where the live database lies and how much memory the write-back cache may take.

    Attributes:
        directory: the live database; scratch, emptied and rebuilt at every start.
        source: the ``rocksdb`` folder of a checkpoint to start from; None: empty tables.
        cache_bytes: rows with their index over all tables, rows being written by a checkpoint, and evicted rows waiting for it.
            RocksDB's own buffers (`RocksOptions`) come on top.
        options: RocksDB's settings.
    """

    directory: Path
    source: Path | None = None
    cache_bytes: int = 256 * _MIB
    options: RocksOptions = RocksOptions()

    def __post_init__(self) -> None:
        """Raises ConfigurationError on a cache without room."""
        if self.cache_bytes < 1:
            raise ConfigurationError(f"The row cache has {self.cache_bytes} bytes.", remedy="Raise --cache-mb.")
