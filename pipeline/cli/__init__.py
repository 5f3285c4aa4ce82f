"""The command line: options → configuration → call; errors → exit codes. Nothing else sees producers and ops."""

from autoemb_pipeline.cli.main import main

__all__ = ["main"]
