"""Over RocksDB with a small cache: the same predictions as in memory, and the same bits after a restart from a checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.trainer import Trainer, trainer_tables
from tests.learners.stream.running import SEARCHING, config, everything, replayed, search_of, steps, trainer
from tests.streams import taste_stream

STREAM = taste_stream(320, seed=21, users=50, items=70)
OPTIONS = [
    {},
    SEARCHING,
    {"method": "sam", "row_precision": "float32", **SEARCHING},
    {"method": "darts"},
    {"context": "strict", "task": "rating", **SEARCHING},
    {"memory_budget": 5000, "panel": 0.3},
    {"ttl_days": 20 / 86_400, **SEARCHING},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_run_over_rocksdb_is_the_run_in_memory_also_across_a_restart(options: dict[str, Any], tmp_path: Path) -> None:
    of = config(**options)
    straight, memory = trainer(of)
    whole = steps(straight, STREAM, 40)
    store = RocksRowStore(RocksConfig(directory=tmp_path / "live", cache_bytes=20_000), trainer_tables(of))
    first = Trainer(of, store)
    before = steps(first, STREAM[:160], 40)
    tensors, payload = first.tensors(), first.payload()
    store.persist(store.capture(), tmp_path / "checkpoint")
    steps(first, STREAM[:200], 40, first=160)  # goes on while the checkpoint waits, then is lost
    store.close()
    again = RocksRowStore(RocksConfig(directory=tmp_path / "again", cache_bytes=20_000, source=tmp_path / "checkpoint"), trainer_tables(of))
    second = Trainer(of, again)
    second.restore(tensors, payload)
    after, learnt_late = [], 0
    for start in range(160, len(STREAM), 40):
        after.append(steps(second, STREAM[: start + 40], 40, first=start))
        learnt_late += replayed(second) if "tolerance" in options else 0
    assert learnt_late or "tolerance" not in options
    np.testing.assert_array_equal(np.concatenate([before, *after]), whole)
    mine, theirs = everything(second, again, of), everything(straight, memory, of)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    if "method" not in options or options["method"] == "sam":
        for own, other in zip(search_of(second).holdings, search_of(straight).holdings, strict=True):
            assert (own.bytes, own.ids, own.holders.tolist()) == (other.bytes, other.ids, other.holders.tolist())
    if "ttl_days" in options:
        assert straight._method.report()["item_removed_ids"] > 50
    again.close()
