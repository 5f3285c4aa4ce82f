"""One table of the store over RocksDB: what of it lies where, until the database has it all."""

from typing import Any

from sortedcontainers import SortedList

from autoemb_pipeline.rows import AnySpec
from autoemb_pipeline.state.cache import Leaving, RowCache
from autoemb_pipeline.state.codec import RowCodec


class RocksTable:
    """One table: its cache, its column family, and the rows that wait for a checkpoint under way.

    Of an id removed meanwhile, None waits. `fresh` are ids that the database may lack, in order; None until somebody asks for ids in order.
    """

    def __init__(self, spec: AnySpec, *, capacity: int, count: int, database: Any) -> None:
        self.spec = spec
        self.codec = RowCodec(spec)
        self.row_bytes = self.codec.row_bytes
        self.cache = RowCache(self.codec.slabs(capacity))
        self.pending: dict[str, bytes | None] = {}
        self.fresh: SortedList[str] | None = None
        self.count = count
        self.family = database.get_column_family(spec.name)
        self.handle = database.get_column_family_handle(spec.name)

    def put(self, batch: Any, leaving: Leaving) -> None:
        """Adds rows to a write batch."""
        for identifier, value in zip(leaving.ids, self.codec.encode(leaving.rows), strict=True):
            batch.put(identifier.encode(), value, self.handle)

    def put_pending(self, batch: Any) -> None:
        """Adds to a write batch what waited for a checkpoint."""
        for identifier, value in self.pending.items():
            if value is None:
                batch.delete(identifier.encode(), self.handle)
            else:
                batch.put(identifier.encode(), value, self.handle)
        self.pending.clear()
        if self.fresh is not None:
            self.fresh = SortedList(self.cache.dirty_of(self.fresh))
