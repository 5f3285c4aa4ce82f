from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autoemb_pipeline.rows import AnySpec, RowStore
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from tests.fastdisk import tmp_path

CACHES = {"large": 1 << 24, "small": 20_000, "one-row": 1}


@pytest.fixture(params=["memory", *CACHES])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Sequence[AnySpec]], RowStore]:
    """A store in memory, and over RocksDB with a large, a small and a one-row cache."""
    stores = []

    def build(specs: Sequence[AnySpec]) -> RowStore:
        if request.param == "memory":
            return MemoryRowStore(specs)
        store = RocksRowStore(RocksConfig(directory=tmp_path / f"live{len(stores)}", cache_bytes=CACHES[request.param]), specs)
        stores.append(store)
        request.addfinalizer(store.close)
        return store

    return build


__all__ = ["make", "tmp_path"]
