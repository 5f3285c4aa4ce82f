"""`autoemb-pipeline report`."""

from pathlib import Path

import click

from autoemb_pipeline.experiments.report import write_report

DEFAULT_OUTPUT = Path("autoemb-report.html")


@click.command("report")
@click.argument(
    "state_dirs", nargs=-1, required=True, metavar="STATE_DIR...", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_OUTPUT, show_default=True, help="The page, overwritten."
)
def command(state_dirs: tuple[Path, ...], output: Path) -> None:
    """Write one self-contained HTML page about the runs in STATE_DIR... (their state directories, running or finished).

    It holds the paper's Figure 6 (error by popularity), Figure 7 (weights by popularity) and Figure 8 (error over the stream), a table of
    the methods beside the references with intervals over users, and the configurations. Runs of different regimes or streams stand apart.

    Needs matplotlib: pip install 'autoemb-pipeline[report]'.
    """
    groups = write_report(state_dirs, output)
    apart = f"; {groups} groups that must not be compared" if groups > 1 else ""
    click.echo(f"{output}: {len(state_dirs)} run{'s' * (len(state_dirs) > 1)}{apart}")
