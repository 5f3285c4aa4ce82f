"""Tables with a header: columns by name, separators, times in seconds, milliseconds and ISO 8601, CSV and Parquet."""

import zipfile
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.producers.datasets.catalogue import DatasetOptions, load_dataset
from autoemb_pipeline.producers.datasets.sorting import sort_source
from autoemb_pipeline.producers.formats.layouts import find_source
from autoemb_pipeline.producers.formats.named import Columns
from autoemb_pipeline.records import Interaction

ROWS = [("u1", "i9", 4.0, 1_000_000_000_000), ("u2", "i8", 2.5, 1_000_000_001_500)]


def read(path: Path, cache: Path, columns: str | None = None) -> list[Interaction]:
    source = find_source(path, Columns.parse(columns) if columns else None)
    return list(sort_source(source, name="d", cache_dir=cache).interactions())


def rows(interactions: list[Interaction]) -> list[tuple[str, str, float, int]]:
    return [(i.user_id, i.item_id, i.rating, i.timestamp) for i in interactions]


def csv_of(header: list[str], times: list[str], separator: str = ",") -> str:
    lines = [[u, i, f"{r:g}", t] for (u, i, r, _), t in zip(ROWS, times, strict=True)]
    return "".join(separator.join(fields) + "\n" for fields in (header, *lines))


HEADERS = [
    ["user_id", "item_id", "rating", "timestamp"],
    ["userId", "movieId", "Rating", "Time"],
    ["User ID", "ASIN", "overall", "unixReviewTime"],
    ["customer_id", "product_id", "stars", "date"],
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_usual_names_are_recognised_whatever_the_separator(tmp_path, header, separator, newline):
    path = tmp_path / "mine.csv"
    text = csv_of(header, ["1000000000", "1000000001.5"], separator)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", newline).encode())
    assert rows(read(path, tmp_path / "cache")) == ROWS


TIMES = {
    "seconds": ["1000000000", "1000000001.5"],
    "milliseconds": ["1000000000000", "1000000001500"],
    "ISO, UTC": ["2001-09-09T01:46:40Z", "2001-09-09T01:46:41.5Z"],
    "ISO, space": ["2001-09-09 01:46:40", "2001-09-09 01:46:41.500"],
    "ISO, offset": ["2001-09-09T03:46:40+02:00", "2001-09-08T20:46:41.5-0500"],
}


@pytest.mark.parametrize("form", TIMES)
def test_times_may_be_seconds_milliseconds_or_iso_8601(tmp_path, form):
    path = tmp_path / "mine.csv"
    path.write_text(csv_of(["user", "item", "rating", "timestamp"], TIMES[form]))
    assert rows(read(path, tmp_path / "cache")) == ROWS
    pl.read_csv(path, schema_overrides={"timestamp": pl.String}).write_parquet(tmp_path / "mine.parquet")
    assert rows(read(tmp_path / "mine.parquet", tmp_path / "cache")) == ROWS


def test_dates_without_a_time_are_the_days_beginning_in_utc(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("user\titem\trating\tdate\na\tb\t1\t2005-12-31\n")
    assert read(path, tmp_path / "cache")[0].timestamp == round(datetime(2005, 12, 31, tzinfo=UTC).timestamp() * 1000)


def test_named_columns_overrule_the_usual_names_and_others_are_ignored(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('who,user,what,"how, much",when\nu1,x,i9,4,1000000000\nu2,y,i8,2.5,1000000001.5\n')
    # the name with a comma cannot be given; its column is found by no usual name either
    with pytest.raises(DatasetError, match="surely the rating"):
        read(path, tmp_path / "cache", "user=who,item=what,timestamp=when")
    path.write_text(path.read_text().replace('"how, much"', "much"))
    assert rows(read(path, tmp_path / "cache", "user=who,item=what,rating=much,timestamp=when")) == ROWS
    assert [i.user_id for i in read(path, tmp_path / "cache", "item=what,rating=much,timestamp=when")] == ["x", "y"]


def test_other_columns_are_another_dataset(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b,rating,timestamp\nu,i,4,10\n")
    prints = [
        sort_source(find_source(path, Columns.parse(c)), name="d", cache_dir=tmp_path / "cache").fingerprint
        for c in ("user=a,item=b", "user=b,item=a")
    ]
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("columns", "match", "why"),
    [
        ("user=nobody", "no column 'nobody'", "it has user_id, customer, item, rating, ts"),
        (None, "no column that is surely the user", "user_id and customer may all be it"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_or_ambiguous_column_is_told_with_the_way_out(tmp_path, columns, match, why, kind):
    path = tmp_path / f"mine.{kind}"
    frame = pl.DataFrame({"user_id": ["a"], "customer": ["b"], "item": ["c"], "rating": [1.0], "ts": [10]})
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    with pytest.raises(DatasetError, match=match) as raised:
        read(path, tmp_path / "cache", columns)
    assert why in raised.value.why
    assert "--columns user=NAME" in raised.value.remedy
    assert rows(read(path, tmp_path / "cache", "user=customer")) == [("b", "c", 1.0, 10_000)]


def test_a_table_with_unknown_columns_is_refused_with_the_option_that_helps(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("who,what,much,when\na,b,1,10\n")
    with pytest.raises(DatasetError, match="in no known layout") as raised:
        read(path, tmp_path / "cache")
    assert "--columns user=" in raised.value.remedy


@pytest.mark.parametrize(
    "line", ["a,b,1", "a,b,1,2,3", "a,b,x,10", "a,b,nan,10", ",b,1,10", "a,,1,10", "a,b,1,yesterday", "a,b,1,-1", 'a,"b,1,10']
)
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "mine.csv"
    path.write_text(f"user,item,rating,time\na,b,1,10\n\n{line}\na,b,1,10\n")
    with pytest.raises(DatasetError) as raised:
        read(path, tmp_path / "cache")
    assert f"{path}, line 4:" in raised.value.what
    assert repr(line) in raised.value.what


MOMENT = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
COLUMN_TYPES = {
    "int ids, float ratings": ({"user": [7], "item": [9], "rating": [4.0], "timestamp": [1_000_000_000]}, 1_000_000_000_000),
    "float ids": ({"user": [7.0], "item": [9.0], "rating": [4.0], "timestamp": [1_000_000_000.0]}, 1_000_000_000_000),
    "int rating, ms": ({"user": ["7"], "item": ["9"], "rating": [4], "timestamp": [1_000_000_000_123]}, 1_000_000_000_123),
    "naive datetime": ({"user": ["7"], "item": ["9"], "rating": [4], "timestamp": [MOMENT.replace(tzinfo=None)]}, 1_000_000_000_000),
    "zoned datetime": (
        {"user": ["7"], "item": ["9"], "rating": [4], "timestamp": [MOMENT.astimezone(timezone(timedelta(hours=2)))]},
        1_000_000_000_000,
    ),
    "date": ({"user": ["7"], "item": ["9"], "rating": [4], "timestamp": [date(2001, 9, 9)]}, 999_993_600_000),
}


@pytest.mark.parametrize("form", COLUMN_TYPES)
def test_parquet_columns_of_every_type(tmp_path, form):
    columns, time = COLUMN_TYPES[form]
    pl.DataFrame(columns).write_parquet(tmp_path / "x.parquet")
    assert rows(read(tmp_path / "x.parquet", tmp_path / "cache")) == [("7", "9", 4.0, time)]


def test_the_files_of_a_parquet_folder_are_one_dataset(tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    for n in (1, 0):
        pl.DataFrame({"user": [n], "item": [n], "rating": [1], "ts": [10]}).write_parquet(folder / f"part-{n}.parquet")
    assert [i.user_id for i in read(folder, tmp_path / "cache")] == ["0", "1"]


@pytest.mark.parametrize(
    "bad", [{"user": [None, "a"]}, {"rating": [float("nan"), 1.0]}, {"ts": [-1, 1]}, {"item": ["", "b"]}, {"user": [1.5, 2.0]}]
)
def test_a_malformed_row_of_a_parquet_file_is_named(tmp_path, bad):
    columns = {"user": ["a", "b"], "item": ["a", "b"], "rating": [1.0, 2.0], "ts": [1, 2]} | {k: v[::-1] for k, v in bad.items()}
    path = tmp_path / "x.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(DatasetError, match="line 2: not an interaction"):
        read(path, tmp_path / "cache")


def test_a_torn_parquet_file_is_a_clear_error(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"user": ["a"], "item": ["b"], "rating": [1.0], "ts": [1]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        read(path, tmp_path / "cache")


@pytest.mark.parametrize("text", ["", "user", "user=", "who=a", "user=a,user=b", "user=a,,item=b", "=a"])
def test_wrong_column_options_are_refused(text):
    with pytest.raises(ConfigurationError, match="columns"):
        Columns.parse(text)


def test_a_zip_archive_with_a_table_is_read_and_one_with_ratings_only_of_them(tmp_path):
    options = DatasetOptions(cache_dir=tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("mine/table.csv", "user,item,rating,time\na,b,1,10\n")
    assert [i.user_id for i in load_dataset(str(tmp_path / "mine.zip"), options).interactions()] == ["a"]
    with zipfile.ZipFile(tmp_path / "known.zip", "w") as archive:
        archive.writestr("ml/ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n")
        archive.writestr("ml/tags.csv", "userId,movieId,tag,timestamp\n1,2,fun,4\n")
    assert len(load_dataset(str(tmp_path / "known.zip"), options)) == 1
    unpacked = [p.name for p in (tmp_path / "cache" / "unpacked").rglob("*.csv")]
    assert sorted(unpacked) == ["ratings.csv", "table.csv"]


ids = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters='"'), min_size=1, max_size=8)


@given(st.lists(st.tuples(ids, ids, st.integers(0, 10), st.integers(0, 10**12)), min_size=1, max_size=20))
def test_quoted_csv_and_parquet_read_alike(tmp_path_factory, ratings):
    tmp_path = tmp_path_factory.mktemp("alike")
    frame = pl.DataFrame(ratings, schema=["user", "item", "rating", "timestamp"], orient="row")
    frame.write_csv(tmp_path / "x.csv", quote_style="always")
    frame.write_parquet(tmp_path / "x.parquet")
    found = [rows(read(tmp_path / f"x.{kind}", tmp_path / "cache")) for kind in ("csv", "parquet")]
    assert found[0] == found[1]
    assert len(found[0]) == len(ratings)
