"""`checkpoint ls|inspect|verify|export` on a real run's checkpoints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.numpy

from autoemb_pipeline.checkpoint.export import export_checkpoint
from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.cli.main import main
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import StateError
from autoemb_pipeline.learners.config import from_preset
from autoemb_pipeline.predict import checkpoint_trainer, tables_of
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.sink.prediction_log import read_predictions
from autoemb_pipeline.trainer import TrainerConfig
from tests.run.conftest import Stream, small_layers
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
DIMS = (2, 4, 8)
Train = Callable[..., RunConfig]


@pytest.fixture
def trained(make_stream: Callable[..., Stream]) -> Train:
    """trained(method, preset) -> a finished run with checkpoints of steps 5, 10 and more."""

    def make(method: str = "autoemb", preset: str = "paper-layernorm") -> RunConfig:
        stream = make_stream()
        stream.send(synthetic_stream(2_400, seed=51, users=90, items=70))
        learner = from_preset(preset, method=method, **{**small_layers(preset), "dims": DIMS})
        trainer = TrainerConfig(learner=learner, context=ContextConfig(spaces=3), prequential=PrequentialConfig(window=1000))
        config = stream.config(trainer=trainer)
        stream.train(config)
        return config

    return make


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """call(config, arguments...) -> exit code, stdout, stderr."""

    def run(config: RunConfig, name: str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["checkpoint", name, "--state-dir", str(config.state_dir), *arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_ls_inspect_and_verify(trained: Train, call: Callable[..., tuple[int, str, str]]) -> None:
    config = trained()
    store = CheckpointStore(config.state_dir)
    steps = store.list()
    code, out, _ = call(config, "ls")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, len(steps))
    assert all("complete" in line and " MB " in line and " UTC " in line for line in lines)
    assert lines[-1].startswith("step        12")

    code, out, _ = call(config, "inspect", "--step", str(steps[0]), "--json")
    assert (code, out.encode()) == (0, (store.path(steps[0]) / "manifest.json").read_bytes())
    code, out, _ = call(config, "inspect")
    assert "step 12, 2400 interactions" in out
    assert "next offsets: 0: 2400" in out
    assert "learner.dims = [2, 4, 8]" in out
    assert "tensors.safetensors" in out
    code, _, err = call(config, "inspect", "--step", "4711")
    assert (code, "no checkpoint of step 4711" in err) == (6, True)

    code, out, _ = call(config, "verify")
    assert (code, out.splitlines()) == (0, [f"step {s}: sound" for s in steps])


def test_damage_is_named_with_exit_code_6(trained: Train, call: Callable[..., tuple[int, str, str]]) -> None:
    config = trained()
    store = CheckpointStore(config.state_dir)
    first, *_, last = store.list()
    (sst, *_) = (store.path(first) / "rocksdb").glob("*.sst")
    sst.unlink()
    tensors = store.path(last) / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    code, out, err = call(config, "verify")
    assert code == 6
    assert f"step {first}: damaged" in out
    assert f"step {last}: damaged" in out
    assert f"rocksdb/{sst.name}: missing" in err
    assert "tensors.safetensors: SHA-256 differs" in err
    assert "sets damaged checkpoints aside" in err
    _, out, _ = call(config, "ls")
    assert f"damaged: rocksdb/{sst.name}" in out
    code, _, err = call(config, "export", "--step", str(last), "--output", str(config.state_dir.parent / "out"))
    assert (code, "tensors.safetensors" in err) == (6, True)


@pytest.mark.parametrize(
    ("method", "preset", "width"),
    [
        ("autoemb", "paper-layernorm", 14),
        ("fse", "paper", 14),
        ("darts", "paper-layernorm", 14),
        ("sam", "residual", 14),
        ("autoemb", "stream", 8),
    ],
)
def test_export_holds_every_id_with_what_training_knew(
    trained: Train, call: Callable[..., tuple[int, str, str]], tmp_path: Path, method: str, preset: str, width: int
) -> None:
    config = trained(method, preset)
    target = tmp_path / "export"
    code, out, _ = call(config, "export", "--output", str(target))
    assert (code, out) == (0, f"step 12: 90 users, 70 items, {width} numbers each, to {target}\n")
    log = read_predictions(config.state_dir / "predictions").collect()
    for side, plural, count in (("user", "users", 90), ("item", "items", 70)):
        frame = pl.read_parquet(target / plural)
        tensors = safetensors.numpy.load_file(target / f"{plural}.safetensors")
        seen = log.group_by(f"{side}_id").agg(pl.len().alias("n"), pl.col("^.*_weight_.*$").last())
        seen = seen.sort(pl.col(f"{side}_id"))
        assert frame["id"].to_list() == seen[f"{side}_id"].to_list() == sorted(frame["id"].to_list())
        assert frame["count"].to_list() == seen["n"].to_list() == tensors["count"].tolist()
        assert tensors["embedding"].shape == (count, width)
        assert np.array_equal(np.stack(frame["embedding"].to_numpy()), tensors["embedding"])
        if method == "fse":
            assert "weights" not in tensors
            continue
        columns = [f"{side}_weight_{d}" for d in DIMS]
        assert np.array_equal(tensors["weights"].astype(np.float32), seen.select(columns).to_numpy())
        assert np.array_equal(frame.select("weight_1", "weight_2", "weight_3").to_numpy(), tensors["weights"])
    with open_newest(CheckpointStore(config.state_dir), tables_of) as opened:
        ids = pl.read_parquet(target / "users")["id"].to_list()
        lent = opened.rows.lend("user", ids)
        rows = lent.slabs[1][lent.slots] if preset == "stream" else opened.rows.gather("embedding.user", ids)
        shared = min(rows.shape[1], width)
        assert np.array_equal(safetensors.numpy.load_file(target / "users.safetensors")["embedding"][:, :shared], rows[:, :shared])
        dense = safetensors.numpy.load_file(target / "model.safetensors")
        assert {f"learner.{name}" for name in dense} == {n for n in opened.loaded.tensors if n.startswith("learner.")}
    code, _, err = call(config, "export", "--output", str(target))
    assert (code, "is not empty" in err) == (StateError.exit_code, True)


def test_export_in_parts_is_the_export_in_one(trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = trained()
    monkeypatch.setattr("autoemb_pipeline.checkpoint.export.CHUNK", 7)
    with open_newest(CheckpointStore(config.state_dir), tables_of) as opened:
        learner = checkpoint_trainer(opened.loaded).learner
        export_checkpoint(opened, learner, tmp_path / "one")
        parts = export_checkpoint(opened, learner, tmp_path / "parts", rows_per_file=20)
    assert len([f for f in parts.files if f.startswith("users/")]) == 5
    assert pl.read_parquet(tmp_path / "one" / "users").equals(pl.read_parquet(tmp_path / "parts" / "users"))
    assert (tmp_path / "one" / "items.safetensors").read_bytes() == (tmp_path / "parts" / "items.safetensors").read_bytes()


def test_without_a_checkpoint(tmp_path: Path, call: Callable[..., tuple[int, str, str]], trained: Train) -> None:
    config = trained()
    (config.state_dir / "checkpoints").rename(tmp_path / "elsewhere")
    assert call(config, "ls")[:2] == (0, f"no checkpoint in {config.state_dir / 'checkpoints'}\n")
    for name in ("inspect", "verify"):
        assert call(config, name)[0] == 6
