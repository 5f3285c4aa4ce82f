"""Options made from the fields of configurations."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import click
import pytest
from click import BadParameter
from click.testing import CliRunner

from autoemb_pipeline.cli.options import StartTime, attribute_texts, field_option, together
from autoemb_pipeline.cli.run_options import storage_options, stream_options, train_options
from autoemb_pipeline.config import RunConfig, run_config, with_offline_stage
from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.mapping.reading import parse_stream
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.trainer import TrainerConfig


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        colour: of the
            paint.
    """

    colour: Literal["red", "blue"] = "red"


@dataclass(frozen=True)
class Wall(Base):
    """A wall.

    Attributes:
        height, width: metres.
        wet: still.

    Nothing else: no attribute.
    """

    height: int = 3
    width: float | None = 2.5
    wet: bool = False


@click.command()
@together(
    field_option(Wall, "colour"),
    field_option(Wall, "height", "--metres", least=1),
    field_option(Wall, "width", above=0, unset=True),
    field_option(Wall, "wet"),
)
def paint(**options: object) -> None:
    click.echo(options)


def invoke(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(paint, arguments)


def test_type_default_and_text_are_the_fields() -> None:
    assert attribute_texts(Wall) == {"colour": "Of the paint.", "height": "Metres.", "width": "Metres.", "wet": "Still."}
    assert invoke().output == "{'colour': 'red', 'height': 3, 'width': None, 'wet': False}\n"
    assert (
        invoke("--colour", "blue", "--metres", "4", "--width", "1", "--wet").output
        == "{'colour': 'blue', 'height': 4, 'width': 1.0, 'wet': True}\n"
    )
    shown = invoke("--help").output
    for text in ("--colour [red|blue]", "[default: 3; x>=1]", "Metres. Default: 2.5.", "[x>0]"):
        assert text in shown


@pytest.mark.parametrize("wrong", [("--colour", "green"), ("--metres", "0"), ("--width", "0"), ("--metres", "tall")])
def test_what_the_field_cannot_be_is_refused(wrong: tuple[str, str]) -> None:
    assert invoke(*wrong).exit_code == 2


def test_a_run_without_options_has_the_defaults_of_its_fields() -> None:
    made: list[RunConfig] = []

    @click.command()
    @field_option(RunConfig, "topic")
    @together(train_options, storage_options, stream_options)
    def command(**options: object) -> None:
        made.append(run_config(options))

    result = CliRunner().invoke(command, ["--device", "cpu"])
    assert result.exception is None, result.output
    (config,) = made
    learner = config.trainer.learner
    assert learner == StreamConfig()
    assert config.trainer.prequential == PrequentialConfig()
    plain = TrainerConfig(learner=learner, context=config.trainer.context, prequential=config.trainer.prequential)
    expected = RunConfig(state_dir=config.state_dir, trainer=plain)
    assert {f.name: getattr(config, f.name) for f in fields(RunConfig)} == {f.name: getattr(expected, f.name) for f in fields(RunConfig)}


def test_an_option_of_its_own_goes_before_a_setting_and_needs_a_preset_that_has_it() -> None:
    made: list[RunConfig] = []

    @click.command()
    @together(train_options)
    def command(**options: object) -> None:
        made.append(run_config(options))

    CliRunner().invoke(command, ["--memory-budget", "7000000", "--set", "memory_budget=9000000"])
    assert made[0].trainer.learner.memory_budget == 7_000_000
    refused = CliRunner().invoke(command, ["--preset", "paper", "--memory-budget", "7000000"])
    assert "memory_budget" in str(refused.exception)


def test_the_tolerance_is_an_option_of_its_own() -> None:
    made: list[RunConfig] = []

    @click.command()
    @together(train_options)
    def command(**options: object) -> None:
        made.append(run_config(options))

    for arguments in ((), ("--tolerance", "3e-4")):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert [config.trainer.learner.tolerance for config in made] == [StreamConfig().tolerance, 3e-4]  # type: ignore[union-attr]
    assert CliRunner().invoke(command, ["--tolerance", "0"]).exit_code == 2


def test_a_budget_that_one_user_and_one_item_exceed_is_refused_by_name() -> None:
    @click.command()
    @together(train_options)
    def command(**options: object) -> None:
        run_config(options)

    refused = CliRunner().invoke(command, ["--memory-budget", "77"]).exception
    assert isinstance(refused, ConfigurationError)
    assert refused.what == "--memory-budget 77 cannot be kept: one user and one item with 2 dimensions take 78 bytes"
    assert "--memory-budget at least 78" in str(refused.remedy)
    assert CliRunner().invoke(command, ["--memory-budget", "78"]).exception is None


@pytest.mark.parametrize(("text", "start"), [("beginning", None), ("latest", "latest"), ("2024-01-02T03:04:05Z", 1_704_164_645_000)])
def test_where_a_run_begins(text: str, start: object) -> None:
    assert StartTime().convert(text, None, None) == start


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e30", "-1", "-0.002", "1969-12-31"])
def test_what_is_no_time_that_records_can_have_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        StartTime().convert(text, None, None)


@pytest.mark.parametrize("rule", ["", 'positive = ["buy"]\nnegative = ["view"]'])
def test_a_threshold_is_only_for_labels_that_are_numbers(rule: str, tmp_path: Path) -> None:
    fields = '[fields]\nuser = "u"\nitem = "i"\n[timestamp]\nunit = "record"\n[label]\nfield = "l"\n'
    stream = parse_stream(f'[input]\ntopics = "t"\nformat = "json"\n{fields}{rule}')
    with pytest.raises(ConfigurationError, match="--positive-above 3 with the label 'l'"):
        run_config({"preset": "stream", "stream": stream, "positive_above": 3.0, "state_dir": tmp_path})


def test_a_part_of_the_topic_is_not_known_where_a_run_begins_later(tmp_path: Path) -> None:
    config = run_config({"preset": "stream", "start_at": "latest", "until_end": True, "state_dir": tmp_path})
    with pytest.raises(ConfigurationError, match="cannot be used with --from"):
        with_offline_stage(config, until=None, fraction=0.5, epochs=1, record_count=lambda: 10)
