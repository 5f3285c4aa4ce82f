"""The files of RocksDB directories: cloning a checkpoint's without changing it, opening, and the meta records."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import rocksdict

from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.rows import AnySpec
from autoemb_pipeline.state.codec import format_of, spec_of
from autoemb_pipeline.state.options import RocksOptions
from autoemb_pipeline.state.validation import RESERVED_TABLE

_ROCKSDB_NAMES = re.compile(
    r"CURRENT|IDENTITY|LOCK|LOG(\.old\.\d+)?|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|\d+\.(sst|log|blob|dbtmp)|rocksdict-config\.json|archive|lost"
)
_REMEDY_FOREIGN = "Give another --state-dir, or remove the directory yourself if it is not needed."


def clear_scratch(directory: Path) -> None:
    """Removes a live database of an earlier process.

    Raises:
        StateError: the directory holds something that is not RocksDB's; nothing is removed then.
    """
    if not directory.exists():
        return
    foreign = [entry.name for entry in directory.iterdir() if not _ROCKSDB_NAMES.fullmatch(entry.name)]
    if foreign:
        raise StateError(
            f"{directory} is to hold scratch files, but holds {foreign[0]!r}.",
            why="It would be emptied at every start.",
            remedy=_REMEDY_FOREIGN,
        )
    shutil.rmtree(directory)


def clone(source: Path, target: Path, *, symlink: bool = False) -> None:
    """Makes `target` a copy of the RocksDB directory `source` that can be opened without changing a byte of `source`.

    SST files are immutable and are linked: hard (both directories on one file system, else they are copied), or by symbolic
    link for a reader that must not write beside the checkpoint. Everything else is copied, since RocksDB appends to it.

    Raises:
        CheckpointError: the source cannot be read or the target not be written.
    """
    try:
        target.mkdir(parents=True)
        for entry in sorted(source.iterdir()):
            copy = target / entry.name
            if entry.suffix != ".sst":
                shutil.copyfile(entry, copy)
            elif symlink:
                copy.symlink_to(entry.resolve())
            else:
                _link_or_copy(entry, copy)
    except OSError as error:
        raise CheckpointError(f"Cannot clone the rows {source} into {target}.", why=str(error)) from error


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or links to others' files are forbidden
        shutil.copyfile(source, target)


def open_database(directory: Path, tables: Iterable[str], options: RocksOptions, *, read_only: bool = False) -> Any:
    """An open `rocksdict.Rdict` in raw mode with one column family per table.

    Raises:
        CheckpointError: the tables in the directory are not those asked for.
        StateError: RocksDB cannot open it.
    """
    if (directory / "CURRENT").exists():
        present = set(rocksdict.Rdict.list_cf(str(directory))) - {RESERVED_TABLE}
        if present != set(tables):
            raise CheckpointError(
                f"The checkpoint holds the tables {sorted(present)}, this configuration needs {sorted(tables)}.",
                why="Method, dimensions or context were changed.",
                remedy="Use the checkpoint's configuration, or start with another --state-dir.",
            )
    access = rocksdict.AccessType.read_only(False) if read_only else rocksdict.AccessType.read_write()
    rocks = options.to_options()
    try:
        return rocksdict.Rdict(str(directory), rocks, column_families=dict.fromkeys(tables, rocks), access_type=access)
    except Exception as error:  # rocksdict raises plain Exception
        raise StateError(f"RocksDB cannot open {directory}.", why=str(error)) from error


def stored_specs(directory: Path, options: RocksOptions) -> list[AnySpec]:
    """Specs of the tables in a RocksDB directory that may be changed (a clone), in the order of their names; initial rows are zeros.

    Raises:
        CheckpointError: a table has no readable meta record.
    """
    names = sorted(set(rocksdict.Rdict.list_cf(str(directory))) - {RESERVED_TABLE})
    database = open_database(directory, names, options, read_only=True)
    try:
        formats = database.get([format_key(name) for name in names]) if names else []
    finally:
        database.close()
    specs = []
    for name, stored in zip(names, formats, strict=True):
        try:
            specs.append(spec_of(name, stored or b""))
        except (ValueError, KeyError, TypeError) as error:
            why = f"Its meta record is {stored!r}."
            raise CheckpointError(f"Table {name!r} of {directory} has no row format.", why=why) from error
    return specs


def keys_after(family: Any, after: str | None) -> Iterator[str]:
    """Ids in a column family behind this one, in byte order; all of them without one."""
    first = None if after is None else after.encode()
    return (key.decode() for key in family.keys(from_key=first) if key != first)


def format_key(table: str) -> bytes:
    """Key of `format_of` in the default column family."""
    return f"format/{table}".encode()


def count_key(table: str) -> bytes:
    """Key of the table's row count (8 bytes, little-endian) in the default column family."""
    return f"count/{table}".encode()


def read_counts(database: Any, specs: Mapping[str, AnySpec]) -> dict[str, int]:
    """Row counts as stored with the checkpoint; zero in a new database.

    Raises:
        CheckpointError: a table's rows have another width or dtype than its spec.
    """
    counts = {}
    for name, spec in specs.items():
        stored, count = database.get([format_key(name), count_key(name)])
        if stored is not None and stored != format_of(spec):
            raise CheckpointError(
                f"Rows of table {name!r} are stored as {stored.decode()}, this configuration needs {format_of(spec).decode()}.",
                why="Dimensions or optimiser were changed.",
                remedy="Use the checkpoint's configuration, or start with another --state-dir.",
            )
        counts[name] = 0 if count is None else int.from_bytes(count, "little")
    return counts
