"""A state directory holds one run; whatever would change its bits is named and refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from autoemb_pipeline.checkpoint.identity import (
    FORMAT,
    RunIdentity,
    environment,
    environment_changes,
    flatten,
    new_run_id,
    open_identity,
    read_identity,
)
from autoemb_pipeline.config import RunConfig, trainer_of
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import CheckpointError, StateError
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.trainer import TrainerConfig

WANTED = RunIdentity(
    run_id="fresh",
    configuration=flatten({"batch_size": 500, "learner": {"dims": (2, 16)}}),
    topic_id="T1",
    metrics_start=0,
    dead_letters_start=0,
)


def opened(path: Path, wanted: RunIdentity = WANTED, *, run_id: str | None = None, new_run: bool = False) -> RunIdentity:
    return open_identity(path, wanted, explicit_run_id=run_id, new_run=new_run, outputs=lambda: (7, 3))


def test_a_new_run_is_written_and_found_again(tmp_path: Path) -> None:
    identity = opened(tmp_path)
    assert not identity.begun
    assert (identity.metrics_start, identity.dead_letters_start) == (7, 3)
    assert identity.configuration == {"batch_size": 500, "learner.dims": [2, 16]}
    again = opened(tmp_path, replace(WANTED, run_id="another"))
    assert again == identity == read_identity(tmp_path)


def test_changed_fields_are_named(tmp_path: Path) -> None:
    opened(tmp_path)
    changed = replace(WANTED, configuration={"batch_size": 400, "learner.dims": [2, 16], "added": True})
    with pytest.raises(CheckpointError, match=r"added was None, is True; batch_size was 500, is 400") as caught:
        opened(tmp_path, changed)
    assert "--new-run" in caught.value.remedy


def test_a_recreated_topic_and_another_run_id_are_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(StateError, match="recreated"):
        opened(tmp_path, replace(WANTED, topic_id="T2"))
    with pytest.raises(StateError, match="holds run fresh, not other"):
        opened(tmp_path, run_id="other")


def test_new_run_puts_the_old_one_aside(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    identity = opened(tmp_path, replace(WANTED, run_id="second", topic_id="T2"), new_run=True)
    assert not identity.begun
    assert identity.run_id == "second"
    assert not (tmp_path / "checkpoints").exists()
    kept = next((tmp_path / "old-runs").iterdir())
    assert (kept / "run.json").exists()
    assert (kept / "checkpoints" / "step-1").exists()


def test_a_run_of_a_version_that_did_not_note_its_beginning_may_have_trained(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / "run.json"
    fields = json.loads(path.read_text())
    del fields["begun"]
    path.write_text(json.dumps(fields))
    assert opened(tmp_path).begun


def test_checkpoints_without_an_identity_are_not_replaced_by_a_new_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-000000007"
    checkpoint.mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no run\.json") as caught:
            opened(tmp_path)
        assert "--new-run" in caught.value.remedy
        assert checkpoint.exists()
    opened(tmp_path, new_run=True)
    assert not checkpoint.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "surprise": 2}'])
def test_an_unreadable_identity_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        opened(tmp_path)


def test_state_of_another_format_is_refused_and_its_reader_named(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    with pytest.raises(CheckpointError, match=f"format 1; this program reads format {FORMAT}") as refused:
        opened(tmp_path)
    assert "commit 605c1f6" in refused.value.remedy
    assert not opened(tmp_path, new_run=True).begun


def test_a_checkpoint_from_before_the_configurations_parted_is_refused_and_its_reader_named() -> None:
    learner = from_preset("paper")
    bits = RunConfig(
        topic="t",
        state_dir=Path(),
        trainer=TrainerConfig(learner=learner, context=ContextConfig(spaces=3), prequential=PrequentialConfig()),
    ).bits()
    assert trainer_of(bits, device="cpu").learner == learner
    with pytest.raises(CheckpointError, match="cannot be used") as refused:
        trainer_of({**bits, "learner.architecture": "paper"}, device="cpu")
    assert "605c1f6" in refused.value.remedy


def test_run_ids_are_unique() -> None:
    assert len({new_run_id("fse", "binary") for _ in range(50)}) > 45


def test_environment_differences_are_named() -> None:
    now = environment(from_preset("paper"))
    assert environment_changes(now, now) == []
    assert environment_changes({**now, "threads": 99}, now) == [f"threads: 99 -> {now['threads']}"]


def test_threads_of_numpys_sums_are_part_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = environment(from_preset("stream"))
    assert before["blas_threads"] == 3
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")  # goes before the other
    assert environment_changes(before, environment(from_preset("stream"))) == ["blas_threads: 3 -> 2"]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name)
    assert 1 <= int(environment(from_preset("stream"))["blas_threads"]) <= (os.cpu_count() or 1)
