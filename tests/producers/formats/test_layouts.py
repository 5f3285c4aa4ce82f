from pathlib import Path

import pytest

from autoemb_pipeline.errors import DatasetError
from autoemb_pipeline.producers.datasets.sorting import sort_source
from autoemb_pipeline.producers.formats.layouts import find_source
from autoemb_pipeline.records import Interaction

ROWS = [("196", "242", 3.0, 881250949), ("186", "302", 4.5, 891717742), ("22", "377", 0.5, 878887116)]
TABS = "".join(f"{u}\t{i}\t{r:g}\t{t}\n" for u, i, r, t in ROWS)
COLONS = TABS.replace("\t", "::")
CSV = "userId,movieId,rating,timestamp\n" + TABS.replace("\t", ",")
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + TABS
LAYOUTS = {"u.data": TABS, "ratings.dat": COLONS, "ratings.csv": CSV, "ml-100k.inter": INTER}


def read(tmp_path: Path, name: str, content: str | bytes) -> list[Interaction]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(sort_source(find_source(path), name="d", cache_dir=tmp_path / "cache").interactions())


def rows(interactions: list[Interaction]) -> list[tuple[str, str, float, int]]:
    return [(i.user_id, i.item_id, i.rating, i.timestamp // 1000) for i in interactions]


BY_TIME = sorted(ROWS, key=lambda row: row[3])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_the_same_interactions(tmp_path, name):
    assert rows(read(tmp_path, name, LAYOUTS[name])) == BY_TIME


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="crlf"),
        pytest.param(lambda text: text.removesuffix("\n"), id="no-final-newline"),
        pytest.param(lambda text: text.replace("\n", "\r\n").removesuffix("\r\n"), id="crlf-no-final-newline"),
        pytest.param(lambda text: "\ufeff" + text, id="byte-order-mark"),
        pytest.param(lambda text: text + "\n\n", id="empty-lines-at-the-end"),
        pytest.param(lambda text: "\n" + text, id="empty-line-at-the-start"),
        pytest.param(lambda text: "\ufeff" + text.replace("\n", "\r\n") + "\r\n", id="all-of-windows"),
    ],
)
def test_line_ends_marks_and_empty_lines_do_not_matter(tmp_path, name, variant):
    assert rows(read(tmp_path, name, variant(LAYOUTS[name]))) == BY_TIME


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_found_in_a_folder_and_in_a_folders_only_folder(tmp_path, name):
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    (folder / name).write_text(LAYOUTS[name])
    (folder / "README.txt").write_text("about")
    for path in (folder, folder.parent):
        assert find_source(path).files == (folder / name,)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_found_by_its_content_whatever_the_files_name(tmp_path, name):
    assert rows(read(tmp_path, "anything.txt", LAYOUTS[name])) == BY_TIME


MALFORMED = {
    "u.data": [
        "1\t2\t3",
        "1\t2\t3\t4\t5",
        "1\t2\tx\t4",
        "1\t2\t3\tnow",
        "1\t2\t3\t4.5",
        "1\t\t3\t4",
        "\t2\t3\t4",
        "1\t2\tnan\t4",
        "1\t2\t3\t-4",
        "junk",
    ],
    "ratings.dat": ["1::2::3", "1::2::3::4::5", "1::2::x::4", "1::2::inf::4", "::2::3::4", "1\t2\t3\t4"],
    "ratings.csv": ["1,2,3", "1,2,3,4,5", "1,2,,4", "1,2,3,", '"1,2,3,4', "1,2,3,99999999999999", "1;2;3;4", "x" * 1025 + ",2,3,4"],
    "ml-100k.inter": ["1\t2\t3", "1\t2\t3\tnan", "1\t2\t3\t-1", "1\t2\t3\t1e300", "1\t2\tgood\t4"],
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in MALFORMED.items() for line in lines])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_malformed_line_is_named_by_file_and_number(tmp_path, name, line, newline):
    # behind an empty line, which counts
    lines = [*LAYOUTS[name].splitlines(), "", line, LAYOUTS[name].splitlines()[-1], line]
    with pytest.raises(DatasetError) as raised:
        read(tmp_path, name, newline.join(lines))
    assert f"{tmp_path / name}, line {len(lines) - 2}:" in raised.value.what
    assert repr(line)[1:20].rstrip("'") in raised.value.what
    assert raised.value.why
    assert raised.value.remedy


def test_quoted_csv_fields_may_hold_commas_quotes_and_nothing_else_changes(tmp_path):
    content = 'userId,movieId,rating,timestamp\r\n"a,b","say ""hi""","4.5","10"\r\nplain,2,"3",11\r\n'
    assert rows(read(tmp_path, "ratings.csv", content)) == [("a,b", 'say "hi"', 4.5, 10), ("plain", "2", 3.0, 11)]


def test_csv_columns_are_found_by_name_and_further_ones_ignored(tmp_path):
    content = '"timestamp","rating","note","userId","movieId"\n10,4.5,"x, y",1,2\n11,3,,3,4\n'
    assert rows(read(tmp_path, "ratings.csv", content)) == [("1", "2", 4.5, 10), ("3", "4", 3.0, 11)]


def test_recbole_columns_are_found_by_name_and_times_may_be_fractions_or_milliseconds(tmp_path):
    content = "item_id:token\ttimestamp:float\tuser_id:token\trating:float\tage:float\n"
    content += "2\t881250949.25\t1\t4\t7\n2\t8.8125095E8\t1\t4\t7\n2\t881250951123\t1\t4\t7\n"
    assert [i.timestamp for i in read(tmp_path, "x.inter", content)] == [881250949250, 881250950000, 881250951123]


@pytest.mark.parametrize("missing", ["rating:float", "timestamp:float"])
def test_recbole_without_ratings_or_times_is_refused(tmp_path, missing):
    with pytest.raises(DatasetError, match=f"no column {missing}"):
        read(tmp_path, "x.inter", INTER.replace(missing, "other:token"))


def test_latin_1_ids_stay_apart_and_are_the_same_as_in_utf_8(tmp_path):
    text = "josé::2::3::10\njosè::2::3::11\n"
    assert rows(read(tmp_path, "ratings.dat", text.encode("latin-1"))) == [("josé", "2", 3.0, 10), ("josè", "2", 3.0, 11)]
    assert rows(read(tmp_path, "ratings.dat", text.encode())) == [("josé", "2", 3.0, 10), ("josè", "2", 3.0, 11)]


def test_csv_that_is_not_utf_8_is_refused_by_line(tmp_path):
    with pytest.raises(DatasetError, match="line 3: not UTF-8"):
        read(tmp_path, "ratings.csv", b"userId,movieId,rating,timestamp\n1,2,3,4\njos\xe9,2,3,4\n")


@pytest.mark.parametrize(
    ("content", "match"), [("", "in no known layout"), ("some words\n", "some words"), (b"\xff\xfe1\x00\t\x00", "no known layout")]
)
def test_an_unknown_file_is_refused_with_its_first_line(tmp_path, content, match):
    with pytest.raises(DatasetError) as raised:
        read(tmp_path, "x", content)
    assert match in f"{raised.value.what} {raised.value.why}"


@pytest.mark.parametrize("name", ["ratings.csv", "x.inter"])
def test_a_header_without_interactions_is_refused(tmp_path, name):
    header = (CSV if name == "ratings.csv" else INTER).splitlines()[0]
    with pytest.raises(DatasetError, match="empty"):
        read(tmp_path, name, header)


def test_a_missing_path_an_empty_folder_and_an_ambiguous_one_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no dataset at"):
        find_source(tmp_path / "absent")
    with pytest.raises(DatasetError, match="no dataset in the folder"):
        find_source(tmp_path)
    for name in ("a.inter", "b.inter"):
        (tmp_path / name).write_text(INTER)
    with pytest.raises(DatasetError, match="holds 2 datasets"):
        find_source(tmp_path)


def test_the_real_ml_latest_small_reads_whole(ml_latest_small, tmp_path):
    dataset = sort_source(find_source(ml_latest_small), name="ml-latest-small", cache_dir=tmp_path)
    interactions = list(dataset.interactions())
    assert len(interactions) == len(dataset) == 100_836
    assert len({i.user_id for i in interactions}) == 610
    assert len({i.item_id for i in interactions}) == 9_724
    assert sum(i.rating % 1 != 0 for i in interactions) == 30_398
    assert interactions[0].timestamp == 828_124_615_000
    assert interactions[-1].timestamp == 1_537_799_250_000


def test_the_real_ml_100k_reads_whole(ml_100k, tmp_path):
    dataset = sort_source(find_source(ml_100k), name="ml-100k", cache_dir=tmp_path)
    interactions = list(dataset.interactions())
    assert len(interactions) == 100_000
    assert (len({i.user_id for i in interactions}), len({i.item_id for i in interactions})) == (943, 1682)
