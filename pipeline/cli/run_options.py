"""Options of commands that train: `train`, `demo` and `experiment`."""

from pathlib import Path

import click

from autoemb_pipeline.cli.options import EventTime, default_of, field_option, together
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.learners.config import PRESETS
from autoemb_pipeline.learners.paper.config import PaperConfig
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.prequential.metrics import PrequentialConfig
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.trainer import TrainerConfig


class CountOrTime(click.ParamType[OfflineStage]):
    """A number of interactions, or an ISO 8601 event time."""

    name = "count|time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> OfflineStage:
        """The stage that ends there."""
        if isinstance(value, OfflineStage):
            return value
        text = str(value)
        return OfflineStage(count=int(text)) if text.isdigit() else OfflineStage(until_ms=EventTime().convert(text, param, ctx))


preset_option = field_option(StreamConfig, "preset", type=click.Choice(sorted(PRESETS)), help="See docs/algorithm.md.")
task_option = field_option(StreamConfig, "task")
context_option = field_option(ContextConfig, "mode", "--context")
batch_size_option = field_option(RunConfig, "batch_size", least=1)
epochs_option = field_option(TrainerConfig, "offline_epochs", least=1)
device_option = field_option(
    StreamConfig,
    "device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where a step computes: auto is CUDA where there is one; preset stream computes on the CPU.",
)
tolerance_option = field_option(StreamConfig, "tolerance", above=0, unset=True, metavar="LOSS")
settings_option = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A learner setting of docs/algorithm.md; repeatable."
)

train_options = together(
    field_option(StreamConfig, "method", help="How embedding dimensions are chosen."),
    task_option,
    preset_option,
    batch_size_option,
    context_option,
    field_option(StreamConfig, "seed"),
    device_option,
    field_option(PaperConfig, "precision", unset=True),
    field_option(TrainerConfig, "positive_above"),
    tolerance_option,
    field_option(StreamConfig, "memory_budget", least=0, unset=True, metavar="BYTES"),
    field_option(ContextConfig, "ttl_days", above=0, metavar="DAYS"),
    settings_option,
    field_option(PrequentialConfig, "window", least=1),
    field_option(PrequentialConfig, "fading"),
    field_option(RunConfig, "threads", least=1),
)
"""The options that decide a run's bits; `demo` shares them."""

storage_options = together(
    field_option(
        RunConfig,
        "state_dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Checkpoints and state of one run. Default: autoemb-state/TOPIC/METHOD-TASK.",
    ),
    field_option(RunConfig, "run_id"),
    field_option(RunConfig, "new_run"),
    field_option(RunConfig, "checkpoint_every", least=1),
    field_option(RunConfig, "checkpoint_seconds", above=0),
    field_option(RunConfig, "checkpoints_kept", "--keep-checkpoints", least=1),
    field_option(
        RunConfig,
        "cache_bytes",
        "--cache-mb",
        type=click.IntRange(min=1),
        default=default_of(RunConfig, "cache_bytes") >> 20,
        callback=lambda _context, _option, mebibytes: mebibytes << 20,
        help="Memory of the row cache, MiB.",
    ),
    field_option(RunConfig, "predictions_kept", "--keep-predictions", least=0),
)
"""Where a run lives and how it is kept."""

stream_options = together(
    field_option(RunConfig, "metrics_topic"),
    field_option(RunConfig, "runtime_topic"),
    field_option(
        RunConfig, "dead_letter_topic", default=None, show_default=False, help="Records that are no interactions. Default: TOPIC.dlq."
    ),
    field_option(RunConfig, "metrics_format"),
    field_option(RunConfig, "exactly_once", "--exactly-once-metrics"),
    click.option(
        "--offline-until",
        type=CountOrTime(),
        help="The paper's offline stage ends there: after N interactions, or at an ISO 8601 time; online metrics begin anew behind it.",
    ),
    field_option(
        RunConfig,
        "offline_fraction",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="The same, as a part of what the topic holds now; with --until-end.",
    ),
    epochs_option,
    field_option(RunConfig, "until_end"),
    field_option(RunConfig, "batch_timeout", above=0),
    field_option(RunConfig, "idle_timeout", least=0),
    field_option(RunConfig, "max_ahead", least=0, metavar="SECONDS"),
)
"""What a run reads and writes, and where it ends."""
