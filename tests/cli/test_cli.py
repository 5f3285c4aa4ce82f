"""The commands as a user meets them: help, messages, exit codes."""

import inspect
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from autoemb_pipeline import errors
from autoemb_pipeline.cli.errors import render
from autoemb_pipeline.cli.main import COMMANDS, cli, main
from autoemb_pipeline.cli.options import Duration, EventTime
from autoemb_pipeline.cli.replay import Speed
from autoemb_pipeline.config import learner_config
from autoemb_pipeline.errors import AutoembError, ConfigurationError
from autoemb_pipeline.learners.factory import resolve_device
from autoemb_pipeline.learners.paper.config import PaperConfig
from autoemb_pipeline.ops.brokers.process import free_port
from tests.cli.cli_reference import render as render_reference

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    names = {"KAFKA_HOME", "AUTOEMB_BOOTSTRAP_SERVERS", "AUTOEMB_DATA_DIR"}
    env = {k: v for k, v in os.environ.items() if k not in names}
    code = "import sys; from autoemb_pipeline.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False, env={**env, **environment}
    )


def commands() -> list[tuple[str, click.Command]]:
    context = click.Context(cli)
    found = []
    for name in sorted(COMMANDS):
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", child) for sub, child in command.commands.items()]
    return found


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == render_reference()


@pytest.mark.parametrize(("name", "command"), commands(), ids=[n for n, _ in commands()])
def test_every_command_and_option_says_what_it_is_for(name: str, command: click.Command) -> None:
    assert command.help
    assert command.name == name.rsplit(maxsplit=1)[-1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name}: {parameter.opts}"


def test_the_listed_texts_need_no_torch() -> None:
    code = "import sys; from autoemb_pipeline.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def test_no_broker_is_an_error_within_five_seconds_that_names_the_three_ways() -> None:
    started = time.monotonic()
    done = run("replay", "--dataset", "synthetic", "--bootstrap-servers", f"127.0.0.1:{free_port()}")
    assert time.monotonic() - started < 15  # a loaded CI machine's Python start included
    assert done.returncode == 3
    for way in ("docker compose up -d", "autoemb-pipeline broker", "--bootstrap-servers"):
        assert way in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["replay", "--dataset", "no-such-thing", "--bootstrap-servers", "x:y"], 2, "host:port"),
        (["train", "--set", "colour=red"], 2, "no such setting"),
        (["train", "--set", "drift=fast"], 2, "not a float"),
        (["train", "--method", "magic"], 2, "is not one of"),
        (["train", "--preset", "paper", "--device", "cuda"], 2, "no CUDA device"),
        (["train", "--device", "cuda"], 2, "does not compute on device"),
        (["train", "--precision", "bf16"], 2, "precision 'bf16' is unknown"),
        (["broker", "--port", "0"], 2, "1<=x<=65535"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    if text == "no CUDA device" and resolve_device("auto") == "cuda":
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    assert text in capsys.readouterr().err


def test_every_error_has_a_message_and_an_exit_code() -> None:
    tree = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AutoembError)]
    assert len(tree) > 8
    for kind in tree:
        error = kind("slug", "what") if kind is errors.DecodeError else kind("what", why="why", remedy="first\nsecond")
        assert 0 < kind.exit_code < 126
        assert render(error).startswith("error: what\n")
    assert render(AutoembError("a", why="b", remedy="c\nd")) == "error: a\n  why: b\n  try: c\n       d"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("964982703.5", 964982703500), ("2000-01-01", 946684800000), ("2000-01-01T01:00:00+01:00", 946684800000)],
)
def test_event_times(text: str, milliseconds: int) -> None:
    assert EventTime().convert(text, None, None) == milliseconds


def test_speeds_and_unreadable_values() -> None:
    assert Speed().convert("max", None, None) is None
    assert Speed().convert("60", None, None) == 60.0
    for kind in (EventTime(), Speed()):
        with pytest.raises(click.BadParameter):
            kind.convert("soon", None, None)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("15m", 900), ("12h", 43_200), ("2d", 172_800)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "2 weeks", "d", ""])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no duration"):
        Duration().convert(text, None, None)


def test_a_learner_is_configured_by_its_presets_settings() -> None:
    options = {"method": "fse", "seed": 3, "settings": ("embedding_std=0.01",)}
    config = learner_config({**options, "preset": "paper"})
    assert isinstance(config, PaperConfig)
    assert (config.embedding_std, config.seed) == (0.01, 3)
    with pytest.raises(ConfigurationError, match="preset stream has no such setting"):
        learner_config({**options, "preset": "stream"})


def test_documents_and_remedies_name_only_commands_that_exist() -> None:
    known = {name.split()[0] for name, _ in commands()}
    pattern = re.compile(r"autoemb-pipeline ([a-z][a-z0-9-]*)")
    sources = [p for folder in ("pipeline", "ops", "producers", "schemas") for p in (ROOT / folder).rglob("*.py")]
    for path in [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *sources]:
        for name in pattern.findall(path.read_text(encoding="utf-8")):
            assert name in known | {"in"}, f"{path.relative_to(ROOT)}: autoemb-pipeline {name}"
