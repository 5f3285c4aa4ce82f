"""The command group. Commands load on use, so that `replay` does not wait for torch."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

import click

from autoemb_pipeline import __version__
from autoemb_pipeline.cli.errors import report
from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.redaction import redact

COMMANDS = {
    "broker": ("autoemb_pipeline.cli.broker", "Run a broker on this machine: Apache Kafka from KAFKA_HOME, else the embedded one."),
    "checkpoint": ("autoemb_pipeline.cli.checkpoint", "List, show, check and export a run's checkpoints."),
    "demo": ("autoemb_pipeline.cli.demo", "Broker, replay, training and live metrics in one command."),
    "doctor": ("autoemb_pipeline.cli.doctor", "Examine what a run needs; each line is ok, or the command that mends it."),
    "metrics": ("autoemb_pipeline.cli.metrics", "The metrics topic as a file: metrics export."),
    "experiment": ("autoemb_pipeline.cli.experiment", "The paper's tables and figures, resumable cell by cell."),
    "predict": ("autoemb_pipeline.cli.predict", "Predict pairs of users and items from a run's newest checkpoint."),
    "replay": ("autoemb_pipeline.cli.replay", "Publish a dataset's interactions to a topic in event-time order."),
    "report": ("autoemb_pipeline.cli.report", "Write an HTML page of runs: the paper's Figures 6 to 8, a comparison with intervals."),
    "stream": ("autoemb_pipeline.cli.stream", "Describe a JSON or Avro topic of your own, and try a description on it."),
    "train": ("autoemb_pipeline.cli.train", "Train on a topic of interactions, emitting prequential metrics."),
    "watch": ("autoemb_pipeline.cli.watch", "Watch a running trainer in the terminal."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in alphabetical order."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's own module holds it as `command`."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="autoemb-pipeline")
def cli() -> None:
    """Streaming training of recommendation models on Kafka, with embedding dimensions chosen online (AutoEmb)."""


def _print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A programming error's traceback may quote settings too."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code; the one place where an error becomes a message."""
    sys.excepthook = _print_redacted
    try:
        code = cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except AutoembError as error:
        sys.exit(report(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) is gone; Python would complain about stdout at exit
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)
