"""The demo shows a run as `watch` does, from what an observer of the loop is told."""

import io

from rich.console import Console
from rich.live import Live

from autoemb_pipeline.cli.demo import DemoView
from tests.ops.recorded import RUN_ID, recorded


def shown(*, terminal: bool) -> str:
    metrics, runtime = recorded()
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        view = DemoView(console, live)
        view({}, runtime)
        view(metrics, runtime)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{metrics['mse']:.4f}" in text
    return text


def test_a_picture_on_a_terminal() -> None:
    text = shown(terminal=True)
    for expected in (RUN_ID, "no interactions yet", "running mean", "held, rare → popular", "given up", "lag, records"):
        assert expected in text


def test_one_line_in_a_pipe_once_there_are_interactions() -> None:
    (line,) = shown(terminal=False).strip().splitlines()
    assert line.startswith(f"{RUN_ID}  step 6")
