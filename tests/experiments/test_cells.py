"""Cells: the same mini-batches and bits as `train` through Kafka, resumable, and a table that tells what they hold."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.experiments import table1, table2
from autoemb_pipeline.experiments.cells import Stream, mini_batches, online_log, run_cell
from autoemb_pipeline.experiments.jobs import run_jobs
from autoemb_pipeline.experiments.statistics import clustered_interval
from autoemb_pipeline.records import Interaction, OfflineStage
from autoemb_pipeline.schemas.scores import LOSSES
from autoemb_pipeline.sink.prediction_log import read_predictions
from autoemb_pipeline.trainer import TrainerConfig
from tests.run.conftest import trainer_config
from tests.streams import synthetic_stream

RECORDS = synthetic_stream(900, seed=8)


def stream_of(records: list[Interaction] = RECORDS, name: str = "synthetic-test") -> Stream:
    return Stream(name=name, fingerprint="f", length=len(records), open=lambda: records)


@given(
    length=st.integers(0, 120),
    size=st.integers(1, 50),
    count=st.none() | st.integers(0, 150),
    until=st.none() | st.integers(0, 60),
)
def test_mini_batches_hold_everything_once_and_none_straddles_the_stages(
    length: int, size: int, count: int | None, until: int | None
) -> None:
    records = [Interaction("u", "i", 1.0, 1_000_000_000_000 + 500 * k) for k in range(length)]
    until_ms = None if until is None else 1_000_000_000_000 + until * 1000
    offline = None if count is None and until is None else OfflineStage(count=count, until_ms=until_ms)
    batches = list(mini_batches(lambda: records, size, offline))
    assert [r for b in batches for r in b.records] == records
    assert [b.step for b in batches] == list(range(1, len(batches) + 1))
    assert all(0 < len(b.records) <= size for b in batches)
    seen = 0
    for batch in batches:
        stages = {offline.is_over(seen + i, r.timestamp) for i, r in enumerate(batch.records)} if offline else {True}
        assert len(stages) == 1
        seen += len(batch.records)
        assert batch.next_offsets == {0: seen}


@pytest.mark.parametrize("offline", [None, OfflineStage(count=450), OfflineStage(until_ms=RECORDS[600].timestamp)], ids=str)
def test_a_cell_keeps_every_prediction_and_scores_the_online_stage(tmp_path: Path, offline: OfflineStage | None) -> None:
    config = replace(trainer_config("autoemb"), offline=offline)
    result = run_cell(tmp_path / "cell", config, stream_of(), batch_size=100)
    log = read_predictions(tmp_path / "cell" / "predictions").collect()
    assert log["user_id"].to_list() == [r.user_id for r in RECORDS]
    online = online_log(tmp_path / "cell", offline).collect()
    first = 900 - len(online)
    assert first == (0 if offline is None else next(i for i, r in enumerate(RECORDS) if offline.is_over(i, r.timestamp)))
    assert result["mse"] == pytest.approx(online["method_loss"].mean(), rel=1e-12)
    assert result["scored_examples"] == len(online)
    assert result["examples"] == 900
    assert result["stage"] == "online"


def test_a_finished_cell_is_not_trained_again_and_a_changed_one_is(tmp_path: Path) -> None:
    told: list[int] = []
    opened: list[int] = []
    stream = replace(stream_of(), open=lambda: opened.append(1) or RECORDS)
    first = run_cell(tmp_path / "cell", trainer_config(), stream, batch_size=100, progress=told.append)
    assert run_cell(tmp_path / "cell", trainer_config(), stream, batch_size=100) == first
    assert len(opened) == 1
    changed = run_cell(tmp_path / "cell", trainer_config(), stream, batch_size=90)
    assert len(opened) == 2
    assert changed["step"] == 10
    assert read_predictions(tmp_path / "cell" / "predictions").collect().height == 900


def test_a_cell_cut_off_begins_anew(tmp_path: Path) -> None:
    class CutOff(Exception):  # noqa: N818
        pass

    def broken() -> list[Interaction]:
        raise CutOff

    with pytest.raises(CutOff):
        run_cell(tmp_path / "cell", trainer_config(), replace(stream_of(), open=broken), batch_size=100)
    assert run_cell(tmp_path / "cell", trainer_config(), stream_of(), batch_size=100)["examples"] == 900


def table_of(
    tmp_path: Path, task: str = "binary", name: str = "synthetic-test", preset: str = "paper"
) -> tuple[list[TrainerConfig], list[Path], list[table2.Row]]:
    stream = stream_of(name=name)
    offline = table2.offline_stage(stream, 0.7)
    configs = [replace(trainer_config(m, task=task, seed=s, preset=preset), offline=offline) for m in ("fse", "autoemb") for s in range(2)]
    folders = [table2.cell_folder(tmp_path, stream, config) for config in configs]
    run_jobs(table2.cell_jobs(stream, configs, folders, batch_size=100))
    return configs, folders, table2.rows(stream, configs, folders)


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_table2_says_what_the_cells_hold(tmp_path: Path, task: str) -> None:
    configs, folders, rows = table_of(tmp_path, task)
    assert [r.model for r in rows] == ["fse", "autoemb", "running mean", "online logistic"]
    losses = {}
    for config, folder in zip(configs, folders, strict=True):
        done = json.loads((folder / "done.json").read_text())
        losses.setdefault(config.learner.method, []).append(done[LOSSES[task].field])
    fse, autoemb = rows[0], rows[1]
    assert fse.loss.mean == pytest.approx(np.mean(losses["fse"]), rel=1e-9)
    assert autoemb.loss.deviation == pytest.approx(np.std(losses["autoemb"], ddof=1), rel=1e-6)
    assert autoemb.against_fse is not None
    assert autoemb.against_fse.estimate == pytest.approx(autoemb.loss.mean - fse.loss.mean, rel=1e-9)
    assert fse.against_fse is None
    logs = [online_log(f, configs[0].offline).collect() for f in folders]
    difference = (logs[2]["method_loss"] + logs[3]["method_loss"]) / 2 - logs[2]["logistic_loss"]
    expected = clustered_interval(difference.to_numpy(), logs[2]["user_id"].to_numpy())
    assert autoemb.against_logistic == pytest.approx(expected) or autoemb.against_logistic.low == pytest.approx(expected.low)
    assert rows[-1].loss.mean == pytest.approx(logs[0]["logistic_loss"].mean(), rel=1e-12)


def test_table2_has_bytes_and_the_loss_given_up_beside_the_error(tmp_path: Path) -> None:
    configs, folders, rows = table_of(tmp_path, preset="stream")
    ends = [json.loads((folder / "done.json").read_text()) for folder in folders]
    fse, autoemb, *references = rows
    assert fse.kept.bytes_share == pytest.approx(np.mean([end["bytes_share_of_fixed"] for end in ends[:2]]), rel=1e-6)
    assert autoemb.kept.total_share == pytest.approx(np.mean([end["total_share_of_fixed"] for end in ends[2:]]), rel=1e-6)
    lost = [online_log(folder, configs[0].offline).collect()["loss_given_up"].mean() for folder in folders[2:]]
    assert autoemb.kept.given_up == pytest.approx(np.mean(lost), rel=1e-6)
    assert fse.kept.given_up is None
    assert {row.kept.bytes_share for row in references} == {None}
    text = table2.as_markdown(rows, regime="", fraction=0.7)
    assert f"| {autoemb.kept.bytes_text} | {autoemb.kept.given_up_text} |" in text
    assert f"| {fse.kept.bytes_text} |  |" in text
    assert table2.as_frame(rows)["bytes_share"].to_list()[0] == fse.kept.bytes_share


def test_table2_prints_the_papers_figures_beside_ours(tmp_path: Path) -> None:
    _, _, rows = table_of(tmp_path, name="ml-20m")
    text = table2.as_markdown(rows, regime="Regime batch-100.", fraction=0.7)
    assert "the last 30%" in text
    (line,) = [x for x in text.splitlines() if "autoemb" in x]
    assert line.endswith("| 0.1803 | 0.7259 |")
    frame = table2.as_frame(rows)
    assert frame["paper_loss"].to_list() == [0.1840, 0.1803, None, None]
    assert frame.schema["against_fse_low"] == pl.Float64


def test_table1_counts() -> None:
    counts = table1.count(stream_of())
    assert (counts.users, counts.items, counts.interactions) == (12, 20, 900)
    text = table1.as_markdown([counts, counts._replace(dataset="ml-20m")])
    assert "| synthetic-test | 12 | 20 | 900 |" in text
    assert "138,493, 27,278, 20,000,263" in text
    assert "138,493" in table1.as_markdown([counts._replace(dataset="ml-20m+shuffled")])
    assert "138,493" not in table1.as_markdown([counts._replace(dataset="ml-20m+shuffled (first 900)")])
    assert table1.as_frame([counts])["users"].item() == 12


def test_one_user_makes_no_interval_but_a_table(tmp_path: Path) -> None:
    stream = stream_of([r._replace(user_id="only") for r in RECORDS])
    offline = table2.offline_stage(stream, 0.7)
    configs = [replace(trainer_config(m), offline=offline) for m in ("fse", "autoemb")]
    folders = [tmp_path / config.learner.method for config in configs]
    for folder, config in zip(folders, configs, strict=True):
        run_cell(folder, config, stream, batch_size=100)
    rows = table2.rows(stream, configs, folders)
    assert all(row.p_holm is None for row in rows)
    assert "nan" in table2.as_markdown(rows, regime="", fraction=0.7)
