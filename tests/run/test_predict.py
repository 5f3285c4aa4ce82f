"""`predict`: the bits of training's own predictions, from a checkpoint that nobody changes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.cli.main import main
from autoemb_pipeline.cli.predict import read_pairs
from autoemb_pipeline.config import RunConfig, trainer_of
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import CheckpointError, DatasetError
from autoemb_pipeline.learners.config import PRESETS, from_preset
from autoemb_pipeline.predict import Pair, Predictor, tables_of
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.sink.prediction_log import read_predictions
from autoemb_pipeline.trainer import TrainerConfig
from tests.run.conftest import MakeStream, small_layers, trainer_config
from tests.streams import synthetic_stream

kafka = pytest.mark.kafka
BATCH = 200


def logged(config: RunConfig, step: int) -> pl.DataFrame:
    return read_predictions(config.state_dir / "predictions").filter(pl.col("step") == step).collect()


def pairs_of(log: pl.DataFrame) -> list[Pair]:
    return [Pair(*row) for row in log.select("user_id", "item_id", "timestamp").iter_rows()]


def rounds(count: int) -> Callable[[], bool]:
    left = iter(range(count))
    return lambda: next(left, None) is None


@kafka
@pytest.mark.parametrize(
    ("method", "preset", "task", "context"),
    [
        ("autoemb", "paper-layernorm", "binary", "batch"),
        ("autoemb", "paper", "binary", "batch"),
        ("darts", "paper-layernorm", "rating", "batch"),
        ("fse", "paper-layernorm", "binary", "strict"),
        ("autoemb", "residual", "binary", "event"),
        ("fse", "residual", "rating", "strict"),
        ("autoemb", "stream", "binary", "batch"),
        ("autoemb", "stream", "binary", "event ttl"),
        ("autoemb", "paper-layernorm", "binary", "batch ttl"),
    ],
)
def test_the_next_mini_batch_from_the_checkpoint_is_what_training_then_predicted(
    make_stream: MakeStream, method: str, preset: str, task: str, context: str
) -> None:
    stream = make_stream(2)
    stream.send(synthetic_stream(6 * BATCH, seed=41, users=300, items=100, ties=1), 2)
    trainer = small(method, preset, task, context)
    config = stream.config(trainer=trainer, batch_size=BATCH)
    while stream.train(config, stop=rounds(4)).step < 3:  # a clean stop leaves a checkpoint of its last step
        pass
    with open_newest(CheckpointStore(config.state_dir), tables_of) as opened:
        predictor = Predictor(opened)
        assert predictor.config == trainer
        stream.train(config)  # goes on beside the open checkpoint
        log = logged(config, opened.loaded.step + 1)
        assert len(log) == BATCH
        assert 0 in log["user_count"].to_list(), "a new id among them"
        foreseen = predictor.predict(pairs_of(log), consecutive=True)
        again = predictor.predict(pairs_of(log), consecutive=True)
    known = slice(None) if context.startswith("batch") else slice(0, 1)  # later ones knew labels of the same mini-batch
    if "ttl" in context:
        counts = read_predictions(config.state_dir / "predictions").group_by("user_id").agg((pl.col("user_count") == 0).sum()).collect()
        assert counts["user_count"].max() > 1, "some came back as new ones"
    found = foreseen.predictions
    assert foreseen.user_counts.tolist() == log["user_count"].to_list()
    if task == "binary":
        assert found.probabilities[known].tobytes() == log["prediction"].to_numpy()[known].tobytes()
    else:
        own = found.probabilities[np.arange(BATCH), np.clip(np.ceil(log["rating"].to_numpy()).astype(int) - 1, 0, 4)]
        assert (-np.log(own))[known].tobytes() == log["method_loss"].to_numpy()[known].tobytes()
    if found.user_weights is not None:
        columns = [f"user_weight_{d}" for d in trainer.learner.dims]
        assert found.user_weights.astype(np.float32).tolist() == log.select(columns).to_numpy().tolist()
    assert again.predictions.probabilities.tobytes() == found.probabilities.tobytes()


def small(method: str, preset: str, task: str, context: str) -> TrainerConfig:
    config = from_preset(preset, method=method, task=task, **small_layers(preset))
    mode, _, ttl = context.partition(" ")
    return TrainerConfig(
        learner=config,
        context=ContextConfig(mode=mode, spaces=3, with_classes=task == "rating", ttl_days=150 / 86_400 if ttl else None),
        prequential=PrequentialConfig(task=task, window=1000),
    )


@pytest.fixture
def trained(make_stream: MakeStream) -> RunConfig:
    stream = make_stream()
    stream.send(synthetic_stream(1_000, seed=42))
    config = stream.config(trainer=trainer_config("autoemb"))
    stream.train(config)
    return config


def predict(config: RunConfig, text: str, *options: str) -> str:
    command = [
        sys.executable,
        "-c",
        "from autoemb_pipeline.cli.main import main; main()",
        "predict",
        "--state-dir",
        str(config.state_dir),
        *options,
    ]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@kafka
def test_questions_are_independent_of_each_other(trained: RunConfig) -> None:
    with open_newest(CheckpointStore(trained.state_dir), tables_of) as opened:
        predictor = Predictor(opened)
        before = {p: p.read_bytes() for p in opened.loaded.directory.rglob("*") if p.is_file()}
        asked = [Pair("u1", "i1"), Pair("u1", "i2"), Pair("nobody", "i1"), Pair("u1", "i1")]
        foreseen = predictor.predict(asked)
        swapped = predictor.predict(asked[::-1])
        consecutive = predictor.predict(asked, consecutive=True)
    scores = foreseen.predictions.probabilities
    assert scores[0] == pytest.approx(scores[3], rel=1e-6)
    assert np.allclose(scores, swapped.predictions.probabilities[::-1], rtol=1e-6)
    assert foreseen.user_counts[2] == 0
    assert foreseen.user_counts[0] == foreseen.user_counts[1] > 0
    assert consecutive.user_counts.tolist() == [foreseen.user_counts[0], foreseen.user_counts[0] + 1, 0, foreseen.user_counts[0] + 2]
    assert {p: p.read_bytes() for p in before} == before


@kafka
def test_command_reads_any_form_and_writes_both(trained: RunConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    forms = {
        "csv": "user_id,item_id,timestamp\nu1,i1,1000000400000\nu2,i3\n",
        "tsv": "u1\ti1\t1000000400000\nu2\ti3\t\n",
        "jsonl": '{"user_id": "u1", "item_id": "i1", "timestamp": 1000000400000}\n\n{"user_id": "u2", "item_id": "i3"}\n',
    }
    printed = []
    for name, text in forms.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(SystemExit) as ended:
            main(["predict", "--state-dir", str(trained.state_dir), "--output", "jsonl", str(path)])
        assert ended.value.code == 0
        printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert printed[0] == printed[1] == printed[2]
    first = printed[0][0]
    assert list(first) == ["user_id", "item_id", "score", "user_dimension", "item_dimension", "user_count", "item_count"]
    assert 0 < first["score"] < 1
    assert first["user_dimension"] in (2, 4, 8)


@kafka
def test_command_as_a_process_from_stdin(trained: RunConfig) -> None:
    rows = predict(trained, "u1,i1\nsomebody,something\n").splitlines()
    assert rows[0] == "user_id,item_id,score,user_dimension,item_dimension,user_count,item_count"
    assert rows[2].startswith("somebody,something,")
    assert rows[2].endswith(",0,0")


def test_no_checkpoint_is_an_error_with_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--state-dir", str(tmp_path)])
    assert ended.value.code == CheckpointError.exit_code == 6
    assert "train --state-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("u1", "1 column"),
        ("u1,i1,2,3", "4 columns"),
        ("u1,", "an id is empty"),
        ('{"user_id": "u1"}', "no item_id"),
        ("{", "Expecting property name"),
        ("u1,i1,soon", "invalid literal"),
        ("u1,i1,99999999999999999999", "more than 64 bits"),
        ('{"user_id": null, "item_id": "i"}', "no user_id"),
        ('{"user_id": 7.5, "item_id": "i"}', "neither a string nor a whole number"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line: str, why: str) -> None:
    with pytest.raises(DatasetError, match="stdin, line 2, is no pair") as caught:
        list(read_pairs(["u1,i1", line], name="stdin"))
    assert why in caught.value.why
    assert "user_id,item_id" in caught.value.remedy


def test_ids_keep_commas_quotes_and_spaces() -> None:
    lines = ['"a,b","say ""x""",5', "a b\tc,d\t", '{"user_id": 7, "item_id": "ü"}']
    assert list(read_pairs(lines, name="x")) == [Pair("a,b", 'say "x"', 5), Pair("a b", "c,d"), Pair("7", "ü")]


@pytest.mark.parametrize("offline", [None, OfflineStage(count=10), OfflineStage(until_ms=5)])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_configuration_survives_the_manifest(preset: str, offline: OfflineStage | None, tmp_path: Path) -> None:
    learner = from_preset(preset, dims=(3, 5), controller_hidden=(7,), seed=9)
    trainer = TrainerConfig(
        learner=learner,
        context=ContextConfig(mode="strict", spaces=2),
        prequential=PrequentialConfig(window=17, fading=0.9),
        positive_above=2.5,
        offline=offline,
    )
    flat: dict[str, Any] = json.loads(json.dumps(RunConfig(topic="t", state_dir=tmp_path, trainer=trainer).bits()))
    assert trainer_of(flat, device="cpu") == trainer


def test_a_field_of_another_version_is_named(tmp_path: Path) -> None:
    flat = RunConfig(topic="t", state_dir=tmp_path, trainer=trainer_config()).bits()
    with pytest.raises(CheckpointError) as caught:
        trainer_of({**flat, "learner.telepathy": 1}, device="cpu")
    assert "telepathy" in caught.value.why
    del flat["learner.seed"]
    assert trainer_of(flat, device="cpu").learner.seed == 0
