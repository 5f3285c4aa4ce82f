"""The prediction log: exactly once over crashes, bounded on disk."""

import threading
from pathlib import Path

import numpy as np
import pytest

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.records import Interaction, LearnerInputs, Predictions, SideContext
from autoemb_pipeline.sink.prediction_log import PredictionLog, read_predictions


def add(log: PredictionLog, step: int, size: int = 4, *, weights: bool = True) -> None:
    blank = np.zeros(size)
    side = SideContext(count=blank + step, previous_weights=np.zeros((size, 2)), previous_loss=blank, fading_loss=blank)
    records = [Interaction(f"u{step}", f"i{k}", 3.5, step * 1000 + k) for k in range(size)]
    inputs = LearnerInputs(
        user_ids=["u"] * size, item_ids=["i"] * size, features=np.zeros((size, 16)), users=side, items=side, global_loss=0.2
    )
    mixture = np.tile([0.25, 0.75], (size, 1)) if weights else None
    predictions = Predictions(probabilities=np.full(size, step / 10), user_weights=mixture, item_weights=mixture)
    log.add(
        MiniBatch.of(step=step, records=records, next_offsets={0: step}), {"method": np.stack([blank + step, blank])}, predictions, inputs
    )


def log_of(folder: Path, limit: int = 10_000) -> PredictionLog:
    return PredictionLog(folder, dims=(2, 16), task="binary", limit=limit)


def test_segments_read_back_in_order(tmp_path: Path) -> None:
    log = log_of(tmp_path / "p")
    for step in range(1, 6):
        add(log, step)
        if step in (2, 5):
            log.close_segment(step)
    frame = read_predictions(tmp_path / "p").collect()
    assert frame["step"].to_list() == [s for s in range(1, 6) for _ in range(4)]
    assert frame["prediction"].to_list() == [s / 10 for s in range(1, 6) for _ in range(4)]
    assert frame["user_weight_16"].unique().to_list() == [0.75]
    assert frame["method_loss"].sum() == 60


def test_a_crash_between_segment_and_checkpoint_doubles_nothing(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    add(log, 1)
    log.close_segment(1)
    add(log, 2)
    log.close_segment(2)
    (tmp_path / "steps-000000003-000000003.tmp").write_bytes(b"torn")
    resumed = log_of(tmp_path)
    resumed.truncate_to(1)
    assert read_predictions(tmp_path).collect()["step"].to_list() == [1] * 4
    add(resumed, 2)
    add(resumed, 3)
    resumed.close_segment(3)
    assert read_predictions(tmp_path).collect()["step"].to_list() == [1] * 4 + [2] * 4 + [3] * 4
    assert not list(tmp_path.glob("*.tmp"))


def test_the_oldest_segments_go_beyond_the_limit(tmp_path: Path) -> None:
    log = log_of(tmp_path, limit=8)
    for step in range(1, 9):
        add(log, step)
        log.close_segment(step)
    assert read_predictions(tmp_path).collect()["step"].to_list() == [7] * 4 + [8] * 4


def test_a_taken_segment_is_written_elsewhere_while_steps_go_on(tmp_path: Path) -> None:
    beside, alone = log_of(tmp_path / "beside"), log_of(tmp_path / "alone")
    writes = []
    for step in range(1, 7):
        for log in (beside, alone):
            add(log, step)
        if step % 3 == 0:
            writes.append(beside.take_segment(step))
            assert not list((tmp_path / "beside").iterdir()), "nothing is written before somebody writes it"
            alone.close_segment(step)
    thread = threading.Thread(target=lambda: [write() for write in writes])
    thread.start()
    thread.join()
    written = {path.name: path.read_bytes() for path in (tmp_path / "beside").iterdir()}
    assert len(written) == 2
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}


def test_switched_off_writes_nothing(tmp_path: Path) -> None:
    log = log_of(tmp_path / "p", limit=0)
    add(log, 1)
    log.close_segment(1)
    assert not (tmp_path / "p").exists()
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "p")
