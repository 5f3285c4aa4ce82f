"""River's BiasedMF beside the cells: what it may know is what they may know."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from autoemb_pipeline.experiments.cells import Stream, online_log
from autoemb_pipeline.experiments.river_reference import is_installed, run_river_cell
from autoemb_pipeline.records import Interaction, OfflineStage
from autoemb_pipeline.sink.prediction_log import read_predictions
from tests.streams import synthetic_stream

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs the extra `experiments`")
RECORDS = synthetic_stream(400, seed=5)
SETTINGS = {"batch_size": 50, "offline": OfflineStage(count=280), "epochs": 1, "positive_above": 3.5}


def stream_of(records: list[Interaction]) -> Stream:
    return Stream(name="s", fingerprint=str(hash(tuple(records))), length=len(records), open=lambda: records)


def losses(folder: Path, records: list[Interaction], **changes) -> list[float]:
    run_river_cell(folder, stream_of(records), **{**SETTINGS, **changes})
    return read_predictions(folder / "predictions").collect()["method_loss"].to_list()


def flipped(index: int) -> list[Interaction]:
    changed = list(RECORDS)
    changed[index] = changed[index]._replace(rating=1.0 if changed[index].rating > 3.5 else 5.0)
    return changed


@pytest.mark.parametrize("mode", ["event", "strict", "batch"])
@pytest.mark.parametrize("index", [100, 125, 149])
def test_a_flipped_label_changes_only_predictions_that_may_know_it(tmp_path, mode, index):
    before, after = losses(tmp_path / "a", RECORDS, mode=mode), losses(tmp_path / "b", flipped(index), mode=mode)
    changed = [n for n, (x, y) in enumerate(zip(before, after, strict=True)) if x != y]
    time = RECORDS[index].timestamp
    first = {
        "event": index + 1,
        "strict": next(n for n, r in enumerate(RECORDS) if r.timestamp > time),
        "batch": 150,
    }[mode]
    # its own loss is measured against its own label
    assert changed[0] == index
    # the global mean is in every later prediction
    assert changed[1] == first


def test_with_batches_of_one_batch_mode_is_event_mode(tmp_path):
    assert losses(tmp_path / "a", RECORDS, mode="batch", batch_size=1) == losses(tmp_path / "b", RECORDS, mode="event")


def test_it_learns(tmp_path):
    values = losses(tmp_path / "a", synthetic_stream(4_000, seed=5), mode="event", offline=None)
    labels = [r.rating > 3.5 for r in synthetic_stream(4_000, seed=5)]
    share = sum(labels) / len(labels)
    assert sum(values[2_000:]) / 2_000 < share * (1 - share)


def test_further_passes_train_and_are_not_scored(tmp_path):
    once, twice = (losses(tmp_path / str(n), RECORDS, mode="event", epochs=n) for n in (1, 2))
    assert len(twice) == 400
    assert once[:280] == twice[:280]
    assert once[281:] != twice[281:]


def test_a_finished_one_is_not_done_again_and_a_changed_one_is(tmp_path):
    opened: list[int] = []
    stream = replace(stream_of(RECORDS), open=lambda: opened.append(1) or RECORDS)
    told: list[int] = []
    first = run_river_cell(tmp_path, stream, mode="event", **SETTINGS, progress=told.append)
    assert run_river_cell(tmp_path, stream, mode="event", **SETTINGS) == first
    assert len(opened) == 1
    run_river_cell(tmp_path, stream, mode="strict", **SETTINGS)
    assert len(opened) == 2
    assert online_log(tmp_path, SETTINGS["offline"]).select(pl.len()).collect().item() == 120
    assert first["examples"] == 400
