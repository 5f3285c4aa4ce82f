import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.producers.datasets.sorted_dataset import MANIFEST, SortedDataset
from autoemb_pipeline.producers.datasets.sorting import sort_source
from autoemb_pipeline.producers.formats.layouts import Source, find_source
from autoemb_pipeline.records import Interaction

HEADER = "userId,movieId,rating,timestamp\n"


def write(path: Path, rows: list[tuple[int, int, int]]) -> Path:
    path.write_text(HEADER + "".join(f"{u},{i},3,{t}\n" for u, i, t in rows))
    return path


def sort(path: Path, cache: Path, **settings) -> SortedDataset:
    return sort_source(find_source(path), name="d", cache_dir=cache, **settings)


events = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(events, st.integers(1, 70))
def test_the_order_is_that_of_a_stable_sort_whatever_the_run_length(rows, run_rows):
    with tempfile.TemporaryDirectory() as folder:
        dataset = sort(write(Path(folder) / "ratings.csv", rows), Path(folder), run_rows=run_rows)
        expected = [Interaction(str(u), str(i), 3.0, t * 1000, "d", n) for n, (u, i, t) in enumerate(sorted(rows, key=lambda row: row[2]))]
        assert list(dataset.interactions()) == expected
        assert len(dataset) == len(rows)
        assert all(part.rows for part in dataset.parts)


@settings(deadline=None, max_examples=60)
@given(events, st.integers(1, 20), st.data())
def test_slices_are_slices_of_the_whole(rows, run_rows, data):
    with tempfile.TemporaryDirectory() as folder:
        dataset = sort(write(Path(folder) / "ratings.csv", rows), Path(folder), run_rows=run_rows)
        everything = list(dataset.interactions())
        first, last = sorted(data.draw(st.tuples(st.integers(0, len(rows) + 2), st.integers(0, len(rows) + 2))))
        assert list(dataset.interactions(range(first, last))) == everything[first:last]
        assert [i for block in dataset.blocks(range(first, last)) for i in block.interactions()] == everything[first:last]
        low, high = sorted(data.draw(st.tuples(st.integers(0, 13_000), st.integers(0, 13_000))))
        limit = data.draw(st.none() | st.integers(0, 70))
        chosen = dataset.select(limit=limit, from_ms=low, until_ms=high)
        assert list(dataset.interactions(chosen)) == [i for i in everything if low <= i.timestamp < high][:limit]


def test_iteration_steps_over_row_groups_and_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("autoemb_pipeline.producers.datasets.sorting.ROW_GROUP", 16)
    monkeypatch.setattr("autoemb_pipeline.producers.datasets.sorted_dataset.ROW_GROUP", 16)
    dataset = sort(write(tmp_path / "ratings.csv", [(n % 7, n, n) for n in range(500)]), tmp_path, run_rows=150)
    assert len(dataset.parts) == 4
    assert [i.sequence for i in dataset.interactions()] == list(range(500))
    assert [i.sequence for i in dataset.interactions(range(117, 300))] == list(range(117, 300))
    assert max(frame.height for _, frame in dataset.batches()) == 16


def test_files_of_one_dataset_keep_their_order_within_a_timestamp(tmp_path):
    first = write(tmp_path / "b.csv", [(1, 1, 5), (2, 2, 3)])
    second = write(tmp_path / "a.csv", [(3, 3, 5), (4, 4, 3)])
    source = Source(layout=find_source(first).layout, files=(first, second))
    assert [i.user_id for i in sort_source(source, name="d", cache_dir=tmp_path).interactions()] == ["2", "4", "1", "3"]


def test_the_fingerprint_follows_content_and_layout_not_name_or_place(tmp_path):
    rows = [(1, 1, 5), (2, 2, 3)]
    (tmp_path / "elsewhere").mkdir()
    original = sort(write(tmp_path / "ratings.csv", rows), tmp_path)
    moved = sort_source(find_source(write(tmp_path / "elsewhere" / "r.csv", rows)), name="other", cache_dir=tmp_path)
    changed = sort(write(tmp_path / "changed.csv", [*rows, (1, 1, 6)]), tmp_path)
    tabs = tmp_path / "u.data"
    tabs.write_text("1\t1\t3\t5\n2\t2\t3\t3\n")
    assert original.fingerprint == moved.fingerprint
    assert moved.name == "other"
    assert len({original.fingerprint, changed.fingerprint, sort(tabs, tmp_path).fingerprint}) == 3


def test_sorted_data_is_kept_and_used_again(tmp_path):
    path = write(tmp_path / "ratings.csv", [(1, 1, 5), (2, 2, 3)])
    stages: list[str] = []
    once = sort(path, tmp_path, report=lambda stage, _done, _total: stages.append(stage))
    assert stages[-1] == "sort"
    stages.clear()
    again = sort(path, tmp_path, report=lambda stage, _done, _total: stages.append(stage))
    assert set(stages) == {"read"}
    assert again == once
    assert [p.name for p in (tmp_path / "sorted").iterdir()] == [once.fingerprint]


@pytest.mark.parametrize("damage", ["manifest", "torn-manifest", "part", "torn-part"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    path = write(tmp_path / "ratings.csv", [(1, 1, 5), (2, 2, 3)])
    dataset = sort(path, tmp_path)
    expected = list(dataset.interactions())
    victim = dataset.folder / (MANIFEST if "manifest" in damage else dataset.parts[0].file)
    if damage.startswith("torn"):
        victim.write_bytes(victim.read_bytes()[:-5])
    else:
        victim.unlink()
    assert list(sort(path, tmp_path).interactions()) == expected


def test_a_failed_sort_leaves_nothing_in_the_cache(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text(HEADER + "1,2,3,4\n1,2,x,4\n")
    with pytest.raises(DatasetError):
        sort(path, tmp_path / "cache")
    assert list((tmp_path / "cache" / "sorted").iterdir()) == []


def test_what_a_killed_sort_left_is_removed_after_a_day(tmp_path):
    path = write(tmp_path / "ratings.csv", [(1, 1, 5)])
    dataset = sort(path, tmp_path)
    old, new = (dataset.folder.parent / f".{name}-x" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "part-00000.parquet").write_bytes(b"x")
    os.utime(old, (0, 0))
    write(path, [(1, 1, 6)])
    sort(path, tmp_path)
    assert not old.exists()
    assert new.exists()


def test_an_unwritable_cache_is_a_clear_error(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DatasetError, match="cannot write to the cache") as raised:
        sort(write(tmp_path / "ratings.csv", [(1, 1, 5)]), blocker / "cache")
    assert "--cache-dir" in raised.value.remedy


def test_impossible_selections_are_refused(tmp_path):
    dataset = sort(write(tmp_path / "ratings.csv", [(1, 1, 5)]), tmp_path)
    with pytest.raises(ConfigurationError, match="limit"):
        dataset.select(limit=-1)
    with pytest.raises(ConfigurationError, match="time range"):
        dataset.select(from_ms=5, until_ms=4)


def test_what_another_process_made_meanwhile_is_not_replaced_under_its_readers(tmp_path):
    path = write(tmp_path / "ratings.csv", [(1, 1, 5), (2, 2, 3)])
    made: list[SortedDataset] = []
    inodes: list[int] = []

    def meanwhile(stage: str, _done: int, _total: int | None) -> None:
        if stage == "sort" and not made:
            made.append(sort(path, tmp_path))

    sort(path, tmp_path, report=lambda *progress: (meanwhile(*progress), inodes.extend(d.folder.stat().st_ino for d in made)))
    assert len(set(inodes)) == 1
    assert len(list(made[0].interactions())) == 2
    assert sort(path, tmp_path).folder.stat().st_ino == inodes[0]
    assert [p.name for p in (tmp_path / "sorted").iterdir()] == [made[0].fingerprint]
