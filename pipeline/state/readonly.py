"""Rows of a checkpoint for readers that run beside a trainer and must not change one byte of it."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.rows import AnySpec, Lent, Record, Rows
from autoemb_pipeline.state.codec import RowCodec
from autoemb_pipeline.state.files import clone, keys_after, open_database, read_counts, stored_specs
from autoemb_pipeline.state.options import RocksOptions
from autoemb_pipeline.state.validation import check_distinct, checked_specs, plain


class ReadOnlyRows:
    """`autoemb_pipeline.rows.RowStore` over a checkpoint's ``rocksdb`` folder, without `scatter` and `remove`.

    The folder itself is never opened: a temporary directory gets symbolic links to the SST files and copies of the rest. All
    files are opened at once, so a trainer may prune the checkpoint while it is being read.

    Args:
        directory: the ``rocksdb`` folder of a checkpoint.
        specs: the tables; None: as stored, with zeros for unknown ids.
        options: RocksDB's settings.

    Raises:
        CheckpointError: the folder cannot be read (pruned meanwhile: take the newest again), or holds other tables or formats.
        StateError: RocksDB cannot open it.
    """

    def __init__(self, directory: Path, specs: Sequence[AnySpec] | None = None, *, options: RocksOptions | None = None) -> None:
        options = options or RocksOptions()
        self._folder = tempfile.TemporaryDirectory(prefix="autoemb-rows-")
        try:
            copy = Path(self._folder.name) / "rocksdb"
            clone(directory, copy, symlink=True)
            self._specs = checked_specs(stored_specs(copy, options) if specs is None else specs)
            self._codecs = {name: RowCodec(spec) for name, spec in self._specs.items()}
            self._database: Any = open_database(copy, self._specs, options, read_only=True)
            try:
                self._counts = read_counts(self._database, self._specs)
                self._families = {name: self._database.get_column_family(name) for name in self._specs}
            except CheckpointError:
                self._database.close()
                raise
        except BaseException:
            self._folder.cleanup()
            raise

    @property
    def specs(self) -> tuple[AnySpec, ...]:
        """The tables."""
        return tuple(self._specs.values())

    def gather(self, table: str, ids: Sequence[str]) -> Rows:
        """See `RowStore.gather`. ValueError when ids repeat, KeyError on an unknown table, StateError once closed."""
        check_distinct(table, ids)
        plain(self._specs[table])
        return self.lend(table, ids).slabs[0]

    def lend(self, table: str, ids: Sequence[str]) -> Lent:
        """See `RowStore.lend`: copies, which nobody keeps. Raises as `gather`."""
        check_distinct(table, ids)
        self._check_open()
        codec = self._codecs[table]
        slabs = codec.slabs(len(ids))
        values = self._families[table].get([i.encode() for i in ids]) if ids else []
        hits = [k for k, value in enumerate(values) if value is not None]
        new = [k for k, value in enumerate(values) if value is None]
        if hits:
            codec.decode([ids[k] for k in hits], [values[k] for k in hits], slabs, np.array(hits))
        if new:
            codec.fill_new([ids[k] for k in new], slabs, np.array(new))
        return Lent(slabs, np.arange(len(ids)), ids, own=False)

    def keep(self, table: str, lent: Lent) -> NoReturn:
        """Refused, as `scatter`."""
        self.scatter(table, lent.ids, lent.slabs[0])

    def scatter(self, table: str, ids: Sequence[str], rows: Rows) -> NoReturn:
        """Refused.

        Raises:
            StateError: always.
        """
        del ids, rows
        raise StateError(f"Rows of table {table!r} are open for reading only.", why="A checkpoint is never changed.")

    def remove(self, table: str, ids: Sequence[str]) -> NoReturn:
        """Refused, as `scatter`."""
        self.scatter(table, ids, np.zeros(0))

    def ids_after(self, table: str, after: str | None, limit: int) -> Sequence[str]:
        """See `RowStore.ids_after`."""
        self._check_open()
        return list(islice(keys_after(self._families[table], after), limit))

    def items(self, table: str) -> Iterator[tuple[str, Rows]]:
        """See `RowStore.items`."""
        plain(self._specs[table])
        return ((i, row[0]) for i, row in self.records(table))

    def records(self, table: str) -> Iterator[tuple[str, Record]]:
        """See `RowStore.records`."""
        self._check_open()
        return self._codecs[table].rows_of(self._families[table].items())

    def count(self, table: str) -> int:
        """Ids ever scattered, as counted by the trainer at the checkpoint."""
        return self._counts[table]

    def close(self) -> None:
        """Removes the temporary directory."""
        if self._database is not None:
            self._families.clear()
            self._database.close()
            self._database = None
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._database is None:
            raise StateError("The rows of the checkpoint are closed.")
