"""Figures as files: pictures that hold every line, and the numbers beside them."""

from pathlib import Path

import polars as pl
import pytest

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.experiments import figures
from autoemb_pipeline.experiments.cells import Stream, run_cell
from autoemb_pipeline.experiments.figure1 import Figure1Config
from autoemb_pipeline.experiments.figure1 import run as run_figure1
from tests.run.conftest import trainer_config
from tests.streams import synthetic_stream

RECORDS = synthetic_stream(1_200, seed=10)
STREAM = Stream(name="synthetic-test", fingerprint="f", length=len(RECORDS), open=lambda: RECORDS)
PNG = b"\x89PNG\r\n\x1a\n"


def cells(tmp_path: Path, methods: tuple[str, ...] = ("fse", "autoemb"), context: str = "event") -> list[Path]:
    folders = []
    for method in methods:
        for seed in range(2):
            folders.append(tmp_path / f"{method}-{context}-{seed}")
            run_cell(folders[-1], trainer_config(method, context=context, seed=seed), STREAM, batch_size=100)
    return folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return cells(tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize(
    ("figure", "lines"),
    [
        (6, {"FSE", "AutoEmb", "running user + item mean", "online logistic"}),
        (7, {"dimension 2", "dimension 4", "dimension 8"}),
        (8, {"FSE", "AutoEmb", "running user + item mean", "online logistic"}),
    ],
)
def test_a_figure_has_two_panels_with_every_line(tmp_path: Path, trained: list[Path], figure: int, lines: set[str]) -> None:
    pytest.importorskip("matplotlib")
    panels = figures.panels_of(figure, figures.one_group(trained))
    figures.write(tmp_path / "out" / "figure", panels, title="synthetic-test")
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(PNG)
    svg = (tmp_path / "out" / "figure.svg").read_text(encoding="utf-8")
    numbers = pl.read_parquet(tmp_path / "out" / "figure.parquet")
    assert set(numbers["line"]) == lines
    assert numbers["panel"].n_unique() == 2
    assert all(line in svg for line in lines)
    assert "#0100" not in svg  # no placeholder colour is left


def test_figure1_has_loss_and_accuracy_against_ratings(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = Figure1Config(dims=(2, 4), ratings=(2, 10), test_ratings=5, epochs=1, batch_size=50, seeds=2)
    results = run_figure1(STREAM, trainer_config("fse").learner, config)
    figures.write(tmp_path / "figure1", figures.figure1_panels(results, "squared error"), title="synthetic-test")
    numbers = pl.read_parquet(tmp_path / "figure1.parquet")
    assert set(numbers["x"]) == {"2", "10"}
    assert set(numbers["line"]) == {"dimension 2", "dimension 4"}
    mean = results.filter((pl.col("ratings") == 10) & (pl.col("dimension") == 4))["loss"].mean()
    (drawn,) = numbers.filter((pl.col("x") == "10") & (pl.col("line") == "dimension 4") & (pl.col("panel") == "Mean squared error"))["y"]
    assert drawn == pytest.approx(mean)


def test_what_may_not_be_compared_is_not_drawn_together(tmp_path: Path, trained: list[Path]) -> None:
    folders = [*trained[:2], *cells(tmp_path, ("fse",), context="batch")]
    with pytest.raises(ConfigurationError, match="2 groups"):
        figures.one_group(folders)
    with pytest.raises(ConfigurationError, match="Figure 7"):
        figures.panels_of(7, figures.one_group(folders[:2]))
