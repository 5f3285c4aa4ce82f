"""Writes docs/cli.md from the commands themselves: python -m tests.cli.cli_reference > docs/cli.md."""

import click

from autoemb_pipeline.cli.main import COMMANDS, cli

HEAD = """# Command line

Generated from the commands (`python -m tests.cli.cli_reference > docs/cli.md`); a test fails when it is not current.

Exit codes: 0 done, 1 other errors, 2 usage or configuration, 3 broker, 4 topic or offset, 5 dataset, 6 state directory or checkpoint, 130
stopped by Ctrl-C.
"""


def render() -> str:
    parts = [HEAD]
    context = click.Context(cli, info_name="autoemb-pipeline")
    for name in sorted(COMMANDS):
        command = cli.get_command(context, name)
        assert command is not None
        parts.append(_command(f"autoemb-pipeline {name}", command, context, 2))
    return "\n".join(parts)


def _command(path: str, command: click.Command, parent: click.Context, level: int) -> str:
    context = click.Context(command, info_name=command.name, parent=parent)
    lines = [f"{'#' * level} `{path}`", "", (command.help or "").strip(), ""]
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    if arguments:
        lines += ["Arguments: " + ", ".join(f"`{a.make_metavar(context)}`" for a in arguments), ""]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        lines += ["| option | meaning |", "| --- | --- |"]
        for option in options:
            record = option.get_help_record(context)
            assert record is not None
            names, text = record
            lines.append(f"| `{names.replace('|', '/')}` | {text.replace('|', '/')} |")
        lines.append("")
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            child = command.get_command(context, sub)
            assert child is not None
            lines.append(_command(f"{path} {sub}", child, context, level + 1))
    return "\n".join(lines)


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201
