"""A trainer of the stream preset over a row store on disk, fed from memory: what benchmarks of the store share.

Shape legend: n interactions.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rocksdict

from autoemb_pipeline.columns import Block, MiniBatch, Texts
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.kernels import HELD
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.rows import AnySpec, RecordSpec
from autoemb_pipeline.state.codec import RowCodec, format_of
from autoemb_pipeline.state.files import count_key, format_key, open_database
from autoemb_pipeline.state.options import RocksConfig, RocksOptions
from autoemb_pipeline.state.rocks import RocksRowStore
from autoemb_pipeline.trainer import Trainer, TrainerConfig, trainer_tables

BATCH = 500
AT_ONCE = 20_000  # records of a write batch
DIGITS = 9


def config() -> TrainerConfig:
    """The preset stream as `train` has it."""
    learner = from_preset("stream")
    return TrainerConfig(learner=learner, context=ContextConfig(spaces=len(learner.dims)), prequential=PrequentialConfig())


def identifier(number: int) -> str:
    """Ids of one length, so that their order is that of the numbers."""
    return f"{number:0{DIGITS}d}"


def stored(directory: Path, records: int) -> float:
    """Makes a live database whose tables hold `records` ids together, numbered from 0 in each: new rows that hold every block.

    Returns:
        Seconds it took.
    """
    specs = trainer_tables(config())
    started = time.perf_counter()
    database = open_database(directory, [spec.name for spec in specs], RocksOptions())
    no_log = rocksdict.WriteOptions()
    no_log.disable_wal = True
    for spec in specs:
        handle, value, count = database.get_column_family_handle(spec.name), _value(spec), records // len(specs)
        for start in range(0, count, AT_ONCE):
            batch = rocksdict.WriteBatch(raw_mode=True)
            for number in range(start, min(count, start + AT_ONCE)):
                batch.put(identifier(number).encode(), value, handle)
            database.write(batch, no_log)
        batch = rocksdict.WriteBatch(raw_mode=True)
        batch.put(count_key(spec.name), count.to_bytes(8, "little"))
        batch.put(format_key(spec.name), format_of(spec))
        database.write(batch, no_log)
        database.get_column_family(spec.name).flush()
    database.flush()
    database.close()
    return time.perf_counter() - started


def _value(spec: AnySpec) -> bytes:
    codec = RowCodec(spec)
    record = codec.slabs(1)
    codec.fill_new(["0"], record, np.zeros(1, dtype=np.int64))
    if isinstance(spec, RecordSpec) and spec.held is not None:
        record[spec.held][:] = HELD
    return codec.encode(record)[0]


def trainer_over(source: Path | None, scratch: Path, cache_bytes: int) -> tuple[Trainer, RocksRowStore]:
    """A trainer whose rows lie in a copy (hard links) of `source`, or in an empty store."""
    live = Path(tempfile.mkdtemp(dir=scratch)) / "live"
    rows = RocksRowStore(RocksConfig(directory=live, source=source, cache_bytes=cache_bytes), trainer_tables(config()))
    return Trainer(config(), rows), rows


def mini_batch(step: int, users: Sequence[int], items: Sequence[int]) -> MiniBatch:
    """One of interactions between these, a second apart; labels follow from the ids."""
    count = len(users)
    numbers, nothing = np.arange(count), np.zeros(count, dtype=np.int64)
    liked = (np.asarray(users) * 7 + np.asarray(items) * 3) % 5 < 2
    ids = tuple(Texts.of([identifier(int(number)).encode() for number in side]) for side in (users, items))
    first = 1_500_000_000_000 + step * count * 1000
    block = Block(
        ids,
        1.0 + 4.0 * liked,
        first + numbers * 1000,
        step * count + numbers,
        nothing,
        ("bench",),
        nothing,
        numbers,
        nothing.astype(np.int8),
    )
    return MiniBatch(step=step, block=block, next_offsets={0: step})
