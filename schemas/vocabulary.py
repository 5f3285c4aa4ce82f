"""The vocabulary of metrics, once: each metric's names, title, unit and help. Models, losses and averages: `scores`.

Prometheus, the dashboards, the live view, the summaries of `train` and `demo`, Table 2 and docs/metrics.md take them from here. What the
fields of the topics mean is said in the schemas beside this file, which other programs read.

Names and units of Prometheus follow https://prometheus.io/docs/practices/naming/: seconds, bytes, ratios from 0 to 1, `_total` on
counters. Losses have the unit of the task's loss (binary: squared error; rating: nats).
"""

from autoemb_pipeline.schemas.entry import Metric
from autoemb_pipeline.schemas.scores import ACCURACY

_LOSS_HELP = "binary task: squared error; rating task: cross-entropy in nats"

RUN_INFO = Metric(
    name="autoemb_run_info",
    topic="metrics",
    field="",
    title="Run",
    help="Always 1; the labels say which run this is.",
    labels=("run_id", "method", "task", "preset", "context_mode"),
)
INTERACTIONS = Metric(
    name="autoemb_interactions_total",
    kind="counter",
    topic="metrics",
    field="examples",
    title="Interactions",
    unit="interactions",
    help="Interactions predicted and trained on since the run began.",
)
STEPS = Metric(
    name="autoemb_steps_total",
    kind="counter",
    topic="metrics",
    field="step",
    title="Steps",
    help="Mini-batches since the run began.",
)
EVENT_TIME = Metric(
    name="autoemb_event_timestamp_seconds",
    topic="metrics",
    field="event_time",
    title="Event time",
    unit="s",
    help="Event time of the last interaction, Unix time.",
    scale=0.001,
)
POSITIVE_SHARE = Metric(
    name="autoemb_positive_labels_ratio",
    topic="metrics",
    field="positive_share",
    title="Positive labels",
    unit="ratio",
    help="Share of positive labels since the run began.",
)
LABEL_WARNING = Metric(
    name="autoemb_one_sided_labels",
    topic="metrics",
    field="label_warning",
    title="Labels of one class",
    help="1 where all of at least 2,000 labels are of one class, so that nothing is learnt; else 0.",
    is_text=True,
)
LOSS = Metric(
    name="autoemb_prequential_loss",
    topic="metrics",
    field="{model}{loss}{kind}",
    title="Prequential error",
    unit="loss",
    help=f"Mean loss of predictions made before learning ({_LOSS_HELP}).",
    labels=("model", "kind"),
)
ACCURACY_RATIO = Metric(
    name="autoemb_prequential_accuracy_ratio",
    topic="metrics",
    field=f"{{model}}{ACCURACY}{{kind}}",
    title="Accuracy",
    unit="ratio",
    help="Share of predictions with the right class, made before learning.",
    labels=("model", "kind"),
)
WEIGHT = Metric(
    name="autoemb_weight_ratio",
    topic="metrics",
    field="{side}_weight",
    title="Weights by dimension",
    unit="ratio",
    help="Mean controller weight of an embedding space in the last mini-batch. None for methods without controllers.",
    labels=("side", "dimension"),
)
ENTROPY = Metric(
    name="autoemb_weight_entropy_nats",
    topic="metrics",
    field="{side}_entropy",
    title="Entropy",
    unit="nats",
    help=(
        "Mean entropy of the controller weights in the last mini-batch: 0 is one dimension for certain, ln 3 = 1.1 is no preference among "
        "three."
    ),
    labels=("side",),
)
DIMENSION = Metric(
    name="autoemb_effective_dimension",
    topic="metrics",
    field="{side}_dimension",
    title="Effective dimension",
    unit="dimensions",
    help="Mean of weight times dimension, summed, in the last mini-batch.",
    labels=("side",),
)
BUCKET_INTERACTIONS = Metric(
    name="autoemb_bucket_interactions_total",
    kind="counter",
    topic="metrics",
    field="{side}_bucket_count",
    title="Interactions by popularity",
    unit="interactions",
    help="Interactions by popularity at the prediction (the bucket's lower bound).",
    labels=("side", "popularity"),
)
BUCKET_LOSS = Metric(
    name="autoemb_bucket_loss",
    topic="metrics",
    field="{side}_bucket_loss",
    title="Error by popularity",
    unit="loss",
    help=f"Mean loss over the run by popularity ({_LOSS_HELP}): the paper's Figure 6.",
    labels=("side", "popularity"),
)
BUCKET_DIMENSION = Metric(
    name="autoemb_bucket_dimension",
    topic="metrics",
    field="{side}_bucket_dimension",
    title="Effective dimension by popularity",
    unit="dimensions",
    help="Mean effective dimension over the run by popularity: large dimensions should come with popularity (Figure 7).",
    labels=("side", "popularity"),
)
BUCKET_WEIGHT = Metric(
    name="autoemb_bucket_weight_ratio",
    topic="metrics",
    field="{side}_bucket_weight",
    title="Weights by popularity",
    unit="ratio",
    help="Mean controller weight over the run by popularity.",
    labels=("side", "popularity", "dimension"),
)
IDS_OF_SPACE = Metric(
    name="autoemb_ids",
    topic="metrics",
    field="{side}_ids_of_space",
    title="Ids by dimension",
    unit="ids",
    help="Users or items that hold this dimension now; 0: no row yet. Preset stream, where dimensions are searched.",
    labels=("side", "dimension"),
)
REMOVED_IDS, REMOVED_BLOCKS = (
    Metric(
        name=f"autoemb_removed_{what}_total",
        kind="counter",
        topic="metrics",
        field=f"{{side}}_removed_{what}",
        title=title,
        help=text,
        labels=("side",),
    )
    for what, title, text in (
        ("ids", "Ids removed", "Users or items removed since the run began because their last event lies more than --ttl-days back."),
        ("blocks", "Blocks taken back", "Blocks taken back since the run began: not worth their price, or beyond the budget."),
    )
)
EMBEDDING_BYTES = Metric(
    name="autoemb_embedding_bytes",
    topic="metrics",
    field="embedding_bytes",
    title="Embeddings",
    unit="bytes",
    help="Bytes kept for embeddings: rows, variances, remembered interactions, ids, index.",
)
CONTEXT_BYTES = Metric(
    name="autoemb_context_bytes",
    topic="metrics",
    field="context_bytes",
    title="Context",
    unit="bytes",
    help="Bytes of the context rows kept beside them.",
)
BYTES_SHARE = Metric(
    name="autoemb_embedding_bytes_of_fixed_ratio",
    topic="metrics",
    field="bytes_share_of_fixed",
    title="Bytes of fixed size",
    unit="ratio",
    help="Bytes kept for embeddings over those of one embedding of the spaces' total width (FSE-146) in float32 for every id.",
)
TOTAL_SHARE = Metric(
    name="autoemb_total_bytes_of_fixed_ratio",
    topic="metrics",
    field="total_share_of_fixed",
    title="With context",
    unit="ratio",
    help="The same share with the context rows on both sides.",
)
GIVEN_UP = Metric(
    name="autoemb_loss_given_up",
    topic="metrics",
    field="loss_given_up",
    title="Loss given up",
    unit="loss",
    help=f"Estimated loss that smaller embeddings give up against the largest for all ({_LOSS_HELP}).",
)
GIVEN_UP_LOW = Metric(
    name="autoemb_loss_given_up_low",
    topic="metrics",
    field="loss_given_up_low",
    title="Low",
    unit="loss",
    help="Lower end of the 95% interval of the loss given up, clustered by user.",
)
GIVEN_UP_HIGH = Metric(
    name="autoemb_loss_given_up_high",
    topic="metrics",
    field="loss_given_up_high",
    title="High",
    unit="loss",
    help="Upper end of that interval.",
)
UNRESOLVED = Metric(
    name="autoemb_loss_given_up_unresolved",
    topic="metrics",
    field="unresolved",
    title="Unresolved",
    help="1 where half of that interval's width exceeds the tolerance; else 0.",
)
PRICE = Metric(
    name="autoemb_price_per_byte",
    topic="metrics",
    field="price_per_byte",
    title="Price per byte",
    unit="loss",
    help="Loss that a byte must save, over an id's expected future, to be held.",
)
LATE = Metric(
    name="autoemb_late_interactions_total",
    kind="counter",
    topic="metrics",
    field="late",
    title="Late",
    unit="interactions",
    help="Interactions before the merge frontier, trained all the same.",
)
DUPLICATES = Metric(
    name="autoemb_duplicates_total",
    kind="counter",
    topic="metrics",
    field="duplicates",
    title="Duplicates",
    unit="records",
    help="Re-delivered records, skipped.",
)
DEAD_LETTERS = Metric(
    name="autoemb_dead_letters_total",
    kind="counter",
    topic="metrics",
    field="dead_letters",
    title="Dead letters",
    unit="records",
    help="Records sent to the dead-letter topic: undecodable, or with an event time too far ahead.",
)
SKIPPED = Metric(
    name="autoemb_skipped_total",
    kind="counter",
    topic="metrics",
    field="skipped",
    title="Skipped",
    unit="records",
    help="Records that the stream's description leaves out, such as other types of event.",
)
NEXT_OFFSET = Metric(
    name="autoemb_next_offset",
    topic="metrics",
    field="next_offsets",
    title="Next offset",
    help="Offset of the first record not trained on.",
    labels=("partition",),
)
LAG = Metric(
    name="autoemb_lag_records",
    topic="runtime",
    field="lag",
    title="Lag",
    unit="records",
    help="Records not read yet, or read and still waiting in a partial mini-batch, over all partitions.",
)
WAITING_INTERACTIONS = Metric(
    name="autoemb_waiting_interactions",
    topic="runtime",
    field="waiting_interactions",
    title="Waiting in the mini-batch",
    unit="interactions",
    help="Interactions read that wait for their mini-batch to be closed.",
)
WAITING_DEAD_LETTERS = Metric(
    name="autoemb_waiting_dead_letters",
    topic="runtime",
    field="waiting_dead_letters",
    title="Dead letters in the mini-batch",
    unit="records",
    help="Records set aside that wait for their mini-batch to be closed.",
)
BATCH_CLOSES_IN = Metric(
    name="autoemb_batch_closes_in_seconds",
    topic="runtime",
    field="batch_closes_in_seconds",
    title="Mini-batch closes in",
    unit="s",
    help="Time until the clock closes the partial mini-batch; absent where nothing waits.",
)
HELD_BACK = Metric(
    name="autoemb_held_back",
    topic="runtime",
    field="held_back_by",
    title="Held back by",
    help="1 where partitions have waited for another's next record for at least a second (the log says for which); else 0.",
    is_text=True,
)
THROUGHPUT = Metric(
    name="autoemb_interactions_per_second",
    topic="runtime",
    field="interactions_per_second",
    title="Throughput",
    unit="interactions/s",
    help="Interactions trained over the last reporting interval (two seconds).",
)
STEP_LATENCY = Metric(
    name="autoemb_step_latency_seconds",
    kind="summary",
    topic="runtime",
    field="step_latency_{quantile}",
    title="Step latency",
    unit="s",
    help="Time of a mini-batch's step (context, prediction, update), of the last 512.",
    labels=("quantile",),
)
PHASES = Metric(
    name="autoemb_phase_seconds",
    topic="runtime",
    field="phase_seconds",
    title="Time by phase",
    unit="s",
    help="Time spent in a phase of the loop over the last reporting interval (two seconds).",
    labels=("phase",),
)
MEMORY = Metric(
    name="autoemb_resident_memory_bytes",
    topic="runtime",
    field="rss_bytes",
    title="Memory",
    unit="bytes",
    help="Resident memory of the trainer.",
)
CHECKPOINT_AGE = Metric(
    name="autoemb_checkpoint_age_seconds",
    topic="runtime",
    field="checkpoint_age_seconds",
    title="Checkpoint age",
    unit="s",
    help="Time since the newest checkpoint; goes on growing if the trainer hangs, and, without harm, while no interactions come.",
)
CHECKPOINT_SIZE = Metric(
    name="autoemb_checkpoint_size_bytes",
    topic="runtime",
    field="checkpoint_bytes",
    title="Checkpoint size",
    unit="bytes",
    help="Size of the newest checkpoint.",
)
BUFFERS = Metric(
    name="autoemb_buffer_entries",
    topic="runtime",
    field="buffer_size",
    title="Buffers",
    unit="records",
    help="Entries in a buffer now.",
    labels=("buffer",),
)
LAST_UPDATE = Metric(
    name="autoemb_last_update_timestamp_seconds",
    topic="runtime",
    field="wall_time",
    title="Last report",
    unit="s",
    help="When the trainer last reported, Unix time: two seconds ago, unless it hangs.",
    scale=0.001,
)

# All of the above, in order.
METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
