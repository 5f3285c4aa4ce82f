"""The one place that turns domain errors into messages and exit codes."""

import click

from autoemb_pipeline.errors import AutoembError


def render(error: AutoembError) -> str:
    """What happened, why, and what mends it, each on its own line."""
    lines = [f"error: {error.what}"]
    if error.why:
        lines.append(f"  why: {error.why}")
    if error.remedy:
        first, *rest = error.remedy.splitlines()
        lines += [f"  try: {first}", *(f"       {line}" for line in rest)]
    return "\n".join(lines)


def report(error: AutoembError) -> int:
    """Prints the error to stderr and returns its exit code."""
    click.echo(render(error), err=True)
    return error.exit_code
