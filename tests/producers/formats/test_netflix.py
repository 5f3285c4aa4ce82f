"""The Netflix Prize's files as they were given out: one per movie, or joined; CRLF; sparse customers; days."""

import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.datasets.sorted_dataset import SortedDataset
from autoemb_pipeline.producers.datasets.sorting import sort_source
from autoemb_pipeline.producers.datasets.ties import Ties
from autoemb_pipeline.producers.formats.layouts import find_source

MOVIES = {
    1: [("1488844", 3, "2005-09-06"), ("822109", 5, "2005-05-13"), ("2649429", 4, "2005-09-06")],
    2: [("6", 2, "1999-11-11"), ("1488844", 1, "2005-09-06")],
    17770: [("2649429", 5, "2005-12-31")],
}
DAY = 86_400_000


def text_of(movie: int, newline: str = "\n") -> str:
    return newline.join([f"{movie}:", *(f"{u},{r},{d}" for u, r, d in MOVIES[movie])]) + newline


def one_per_movie(folder: Path, newline: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for movie in MOVIES:
        (folder / f"mv_{movie:07d}.txt").write_bytes(text_of(movie, newline).encode())
    return folder


def combined(folder: Path, newline: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "combined_data_1.txt").write_bytes((text_of(1, newline) + text_of(2, newline)).encode())
    (folder / "combined_data_2.txt").write_bytes(text_of(17770, newline).encode())
    return folder


def read(path: Path, cache: Path, **how) -> SortedDataset:
    return sort_source(find_source(path), name="netflix", cache_dir=cache, **how)


def rows(dataset: SortedDataset) -> list[tuple[str, str, float, str]]:
    return [
        (i.user_id, i.item_id, i.rating, datetime.fromtimestamp(i.timestamp / 1000, UTC).date().isoformat()) for i in dataset.interactions()
    ]


EXPECTED = sorted(((u, str(m), float(r), d) for m, ratings in MOVIES.items() for u, r, d in ratings), key=lambda row: (row[3], row))


@pytest.mark.parametrize("write", [one_per_movie, combined])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("form", ["as-is", "byte-order-mark", "no-final-newline", "empty-lines"])
def test_both_forms_read_the_same_interactions(tmp_path, write, newline, form):
    folder = write(tmp_path / "netflix", newline)
    for path in folder.iterdir():
        content = path.read_bytes()
        changed = {
            "as-is": content,
            "byte-order-mark": b"\xef\xbb\xbf" + content,
            "no-final-newline": content.removesuffix(newline.encode()),
            "empty-lines": newline.encode() + content + 2 * newline.encode(),
        }[form]
        path.write_bytes(changed)
    dataset = read(folder, tmp_path / "cache")
    assert sorted(rows(dataset), key=lambda row: (row[3], row)) == EXPECTED
    assert [i.timestamp for i in dataset.interactions()] == sorted(i.timestamp for i in dataset.interactions())


def test_what_lies_beside_the_ratings_in_the_archive_is_not_read(tmp_path):
    folder = combined(tmp_path / "netflix")
    (folder / "movie_titles.csv").write_bytes("1,2003,Dinosaur Plan\xe8te\n".encode("latin-1"))
    (folder / "qualifying.txt").write_text("1:\n1046323,2005-12-19\n")
    (folder / "probe.txt").write_text("1:\n30878\n")
    assert len(read(folder, tmp_path / "cache")) == 6
    for name in ("qualifying.txt", "probe.txt"):
        with pytest.raises(DatasetError, match="in no known layout"):
            find_source(folder / name)


def test_a_folder_with_both_forms_is_read_once(tmp_path):
    folder = combined(one_per_movie(tmp_path / "netflix"))
    assert len(read(folder, tmp_path / "cache")) == 6


def test_the_archives_folder_and_a_data_directory_are_called_netflix(tmp_path):
    one_per_movie(tmp_path / "download" / "training_set")
    combined(tmp_path / "data" / "netflix")
    options = DatasetOptions(cache_dir=tmp_path / "cache", data_dir=tmp_path / "data")
    assert load_dataset(str(tmp_path / "download" / "training_set"), options).name == "netflix"
    assert load_dataset("netflix", options).name == "netflix"
    assert (
        load_dataset("netflix", DatasetOptions(cache_dir=tmp_path, data_dir=tmp_path / "data", ties=Ties(kind="file"))).name
        == "netflix+ties-file"
    )


@pytest.mark.parametrize(
    "line",
    [
        "1488844,3",
        "1488844,3,2005-09-06,x",
        "1488844,x,2005-09-06",
        "1488844,3,2005-13-01",
        "1488844,3,06.09.2005",
        ",3,2005-09-06",
        "2x:",
        "junk",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, line, newline):
    folder = combined(tmp_path / "netflix", newline)
    path = folder / "combined_data_2.txt"
    path.write_bytes((text_of(2, newline) + line + newline + text_of(17770, newline)).encode())
    with pytest.raises(DatasetError) as raised:
        read(folder, tmp_path / "cache")
    assert f"{path}, line 4:" in raised.value.what
    assert repr(line) in raised.value.what


def test_a_rating_above_the_first_movie_is_named(tmp_path):
    path = combined(tmp_path / "netflix") / "combined_data_1.txt"
    source = find_source(path)
    path.write_text("6,2,1999-11-11\n" + path.read_text())
    with pytest.raises(DatasetError, match=r"line 1: .*6,2,1999-11-11"):
        sort_source(source, name="netflix", cache_dir=tmp_path / "cache")


def test_a_movie_without_ratings_takes_none_of_its_neighbours(tmp_path):
    path = tmp_path / "combined_data_1.txt"
    path.write_text("1:\n6,2,1999-11-11\n2:\n3:\n7,4,1999-11-12\n4:\n")
    assert rows(read(path, tmp_path / "cache")) == [("6", "1", 2.0, "1999-11-11"), ("7", "3", 4.0, "1999-11-12")]


def test_days_are_mixed_by_the_hash_whatever_the_files_order(tmp_path):
    movies, users = range(1, 41), range(1, 26)
    pairs = [(m, u) for m in movies for u in users]

    def write(folder: Path, order: list[tuple[int, int]]) -> Path:
        folder.mkdir()
        by_movie: dict[int, list[int]] = {}
        for m, u in order:
            by_movie.setdefault(m, []).append(u)
        text = "".join(f"{m}:\n" + "".join(f"{u},3,2005-09-06\n" for u in us) for m, us in by_movie.items())
        (folder / "combined_data_1.txt").write_text(text)
        return folder

    shuffled = random.Random(1).sample(pairs, len(pairs))
    datasets = [read(write(tmp_path / n, o), tmp_path / "cache", run_rows=300) for n, o in (("a", pairs), ("b", shuffled))]
    orders = [[(i.user_id, i.item_id) for i in d.interactions()] for d in datasets]
    assert orders[0] == orders[1]
    # in file order all of a movie's ratings would follow one another; mixed, a neighbour has the same movie once in forty
    same = sum(a[1] == b[1] for a, b in zip(orders[0], orders[0][1:], strict=False))
    assert same < 60
    other = read(tmp_path / "a", tmp_path / "cache", ties=Ties(kind="hash", seed=7))
    assert other.name == "netflix+ties-hash-7"
    assert [(i.user_id, i.item_id) for i in other.interactions()] != orders[0]
    in_file_order = read(tmp_path / "a", tmp_path / "cache", ties=Ties(kind="file"))
    assert [(i.item_id, i.user_id) for i in in_file_order.interactions()] == [(str(m), str(u)) for m, u in pairs]
    assert len({datasets[0].fingerprint, other.fingerprint, in_file_order.fingerprint}) == 3


FROZEN = "7/17770 7/1 6/17770 6/1 2649429/17770 822109/1 2649429/1 822109/17770 1488844/17770 1488844/1"


def test_the_hash_is_the_same_for_ever(tmp_path):
    folder = combined(tmp_path / "netflix")
    lines = "".join(f"{u},3,2005-09-06\n" for u in (6, 7, 822109, 1488844, 2649429))
    (folder / "combined_data_1.txt").write_text(f"1:\n{lines}17770:\n{lines}")
    order = [(i.user_id, i.item_id) for i in read(folder / "combined_data_1.txt", tmp_path / "cache").interactions()]
    assert [f"{user}/{item}" for user, item in order] == FROZEN.split()


def test_many_files_are_read_in_their_order(tmp_path):
    folder = tmp_path / "training_set"
    folder.mkdir()
    for movie in range(1, 601):
        (folder / f"mv_{movie:07d}.txt").write_text(f"{movie}:\n{movie * 4001},3,2005-09-06\n")
    dataset = read(folder, tmp_path / "cache", ties=Ties(kind="file"))
    assert [(i.item_id, i.user_id) for i in dataset.interactions()] == [(str(m), str(m * 4001)) for m in range(1, 601)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2_649_429), st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=60),
    st.integers(1, 30),
)
def test_every_rating_is_read_once(ratings, run_rows):
    day = datetime(1999, 11, 11, tzinfo=UTC)
    by_movie: dict[int, list[str]] = {}
    for movie, user, rating, days in ratings:
        by_movie.setdefault(movie, []).append(f"{user},{rating},{(day + timedelta(days)).date()}\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "combined_data_1.txt"
        path.write_text("".join(f"{m}:\n" + "".join(lines) for m, lines in by_movie.items()))
        found = [
            (int(i.item_id), int(i.user_id), int(i.rating), i.timestamp) for i in read(path, Path(folder), run_rows=run_rows).interactions()
        ]
    start = round(day.timestamp() * 1000)
    assert sorted(found) == sorted((m, u, r, start + d * DAY) for m, u, r, d in ratings)
    assert [t for *_, t in found] == sorted(t for *_, t in found)


def test_all_480_189_customers_and_17_770_movies_are_kept_apart(tmp_path):
    customers = [*sorted(random.Random(3).sample(range(1, 2_649_429), 480_188)), 2_649_429]
    per_movie = len(customers) // 17_770
    for number in range(4):
        with (tmp_path / f"combined_data_{number + 1}.txt").open("w") as out:
            for movie in range(1 + number, 17_771, 4):
                own = customers[(movie - 1) * per_movie : movie * per_movie if movie < 17_770 else None]
                out.write(f"{movie}:\n" + "".join(f"{c},4,2004-07-{1 + c % 31:02d}\n" for c in own))
    users, items = set(), set()
    for interaction in read(tmp_path, tmp_path / "cache").interactions():
        users.add(interaction.user_id)
        items.add(interaction.item_id)
    assert users == {str(c) for c in customers}
    assert len(items) == 17_770
