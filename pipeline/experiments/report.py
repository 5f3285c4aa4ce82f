"""One self-contained HTML page of finished or running runs: the paper's Figures 6, 7 and 8, a comparison with intervals, configurations."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from itertools import combinations
from pathlib import Path
from string import Template

import numpy as np
import polars as pl

from autoemb_pipeline import __version__
from autoemb_pipeline.errors import ConfigurationError, StateError
from autoemb_pipeline.experiments.curves import LEAST_IN_BUCKET, Curve, Panel, user_sums
from autoemb_pipeline.experiments.kept import kept_of, mean_of
from autoemb_pipeline.experiments.panels import error_panels, stream_panels, weight_panels
from autoemb_pipeline.experiments.runs import REFERENCE_TITLES, Group, Run, Variant, comparable, open_run
from autoemb_pipeline.experiments.statistics import RESAMPLES, Interval, holm, interval_of_sums, spread
from autoemb_pipeline.records import FloatArray

Row = Sequence[str]


def write_report(state_dirs: Sequence[Path], output: Path) -> int:
    """Writes the page; returns the number of groups of comparable runs on it.

    Raises:
        ConfigurationError: no directories, one named twice, or matplotlib is not installed.
        StateError, CheckpointError: a directory holds no run, or no readable predictions; or the page cannot be written.
    """
    if not state_dirs or len({path.resolve() for path in state_dirs}) < len(state_dirs):
        raise ConfigurationError("a report of no runs, or of one run twice", remedy="name each state directory once")
    groups = comparable([open_run(path) for path in state_dirs])
    page = render(groups)
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StateError(f"The report cannot be written to {output}", why=str(error), remedy="give another --output") from error
    return len(groups)


def render(groups: Sequence[Group]) -> str:
    """The page, UTF-8 HTML that needs nothing else."""
    runs = [run for group in groups for run in group.runs]
    template = Template(resources.files("autoemb_pipeline.experiments").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{len(runs)} run{'s' * (len(runs) > 1)}: {', '.join(sorted({run.method for run in runs}))}"),
        notices=_notices(groups),
        sections="\n".join(_section(number, group, count=len(groups)) for number, group in enumerate(groups, start=1)),
        configuration=_configuration(runs),
        version=escape(__version__),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _notices(groups: Sequence[Group]) -> str:
    notices = []
    if any(run.synthetic for group in groups for run in group.runs):
        notices.append("<strong>Synthetic data.</strong> These runs were trained on generated interactions, not on those of people.")
    if len(groups) > 1:
        notices.append(
            f"<strong>{len(groups)} groups that must not be compared.</strong> The runs differ in regime (task, threshold, what a "
            "prediction may know) or in the interactions they scored; each group has its own figures and table."
        )
    return "".join(f'<p class="notice">{notice}</p>' for notice in notices)


def _section(number: int, group: Group, *, count: int) -> str:
    run = group.runs[0]
    heading = f"Group {number} of {count}" if count > 1 else "Results"
    regime = ", ".join(f"{name} {value}" for name, value in run.regime)
    unequal = any(len(other.events) != group.length for other in group.runs)
    cut = " (what all of these runs have seen)" if unequal else ""
    data = ", ".join(run.datasets) or "of a dataset that the log does not name"
    span = f"; their log begins at step {run.first_step}, what came before was dropped" if run.first_step > 1 else ""
    times = run.log.head(group.length).select(pl.col("timestamp").min().alias("a"), pl.col("timestamp").max().alias("b")).collect()
    dates = [datetime.fromtimestamp(times[name][0] / 1000, UTC).strftime("%Y-%m-%d") for name in ("a", "b")]
    synthetic = "Synthetic data. " if run.synthetic else ""
    return (
        f'<section id="group-{number}"><h2>{heading}</h2>'
        f"<p>{synthetic}{group.length:,} interactions{cut}, {escape(data)}, {dates[0]} to {dates[1]}{span}. "
        f"Regime: {escape(regime)}. {_stages(group)}Every prediction was made before its label was learned from.</p>"
        f"{_comparison(group)}{_figures(number, group)}</section>"
    )


def _stages(group: Group) -> str:
    if group.scored_from:
        return (
            f"The first {group.scored_from:,} interactions are the offline stage: tables, Figure 6 and Figure 7 are of the online stage "
            "behind it, Figure 8 is of both. "
        )
    return "All of it is the offline stage. " if group.runs[0].online_from else ""


def _comparison(group: Group) -> str:
    """The table of methods and references, and the one of their differences."""
    sums = {run.run_id: user_sums(group, run) for run in group.runs}
    first = sums[group.runs[0].run_id]
    counts, total = first["interactions"].to_numpy(), group.length - group.scored_from
    kept = {variant.name: mean_of([kept_of(group.scored(run)) for run in variant.runs]) for variant in group.variants}
    with_bytes = any(own.bytes_share is not None for own in kept.values())
    losses = {variant.name: _mean_over_seeds(variant, sums, "method_loss") for variant in group.variants}
    references = {name: _column(first, f"{model}_loss") for model, name in REFERENCE_TITLES.items() if f"{model}_loss" in first.columns}
    rows = []
    for variant in group.variants:
        per_seed = spread([float(sums[run.run_id]["method_loss"].sum()) / total for run in variant.runs])
        hits = _mean_over_seeds(variant, sums, "method_hit").sum() / total
        differences = [interval_of_sums(losses[variant.name] - reference, counts) for reference in references.values()]
        error = f"{per_seed.mean:.4f}" + (f" ± {per_seed.deviation:.4f}" if per_seed.count > 1 else "")
        beside = [_small(kept[variant.name].bytes_text, "("), _small(kept[variant.name].given_up_text, "[")] if with_bytes else []
        rows.append([escape(variant.name), str(per_seed.count), error, *beside, f"{hits:.2%}", *map(_difference, differences)])
    for model, name in REFERENCE_TITLES.items():
        if name in references:
            hits = _column(first, f"{model}_hit").sum() / total
            blank = ["–"] * len(references)
            beside = ["–", "–"] if with_bytes else []
            rows.append([f"<em>{escape(name)}</em>", "–", f"{references[name].sum() / total:.4f}", *beside, f"{hits:.2%}", *blank])
    beside = ["Bytes of fixed size", "Loss given up"] if with_bytes else []
    head = ["Model", "Runs", f"Mean {group.runs[0].loss_name}", *beside, "Accuracy", *(f"Δ to {name}" for name in references)]
    caption = (
        "Mean over the interactions, each predicted before it was learned from; ± standard deviation over seeds. Δ: difference of mean "
        f"errors on the same interactions (below 0: better than the reference), with a 95 % interval over users "
        f"({RESAMPLES:,} resamples of whole users, {len(counts):,} users); better or worse where it excludes 0."
    )
    if with_bytes:
        caption += _BYTES_CAPTION
    return _table("comparison", head, rows, caption) + _pairs(group.variants, losses, counts)


_BYTES_CAPTION = (
    " Bytes: kept for embeddings at the end, as a share of one embedding of all spaces' total width in float32 for every id; in brackets "
    "with the context rows on both sides. Loss given up: the search's own estimate, against the largest embedding for all, mean over the "
    "interactions, with its 95 % interval."
)


def _pairs(variants: Sequence[Variant], losses: dict[str, FloatArray], counts: FloatArray) -> str:
    pairs = [(a.name, b.name) for a, b in combinations(variants, 2)]
    if not pairs:
        return ""
    intervals = [interval_of_sums(losses[a] - losses[b], counts) for a, b in pairs]
    p_values = [interval.p_value for interval in intervals]
    adjusted = holm(p_values) if all(math.isfinite(p) for p in p_values) else [math.nan] * len(pairs)
    rows = [
        [f"{escape(a)} − {escape(b)}", _difference(interval), f"{p:.4f}" if math.isfinite(p) else "–"]
        for (a, b), interval, p in zip(pairs, intervals, adjusted, strict=True)
    ]
    caption = f"Methods against one another, on the same interactions. p adjusted for their number, {len(pairs)} (Holm)."
    return _table("pairs", ["Pair", "Difference of mean errors, 95 % interval", "Adjusted p"], rows, caption)


def _figures(number: int, group: Group) -> str:
    panels6 = error_panels(group)
    sheets6 = [_curve_table(panel.title, "bucket", list((panel.ticks or {}).values()), panel.curves) for panel in panels6]
    many = " Shaded: range over seeds." if any(len(variant.runs) > 1 for variant in group.variants) else ""
    caption = (
        f"Error by popularity at the time of the prediction. Bars: share of interactions in each bucket; buckets of fewer than "
        f"{LEAST_IN_BUCKET} interactions are left out.{many}"
    )
    parts = [_figure(f"g{number}-figure-6", "Figure 6", caption, panels6, "".join(sheets6))]
    parts += [_weights_figure(number, place, group, variant) for place, variant in enumerate(group.variants)]
    panels8 = stream_panels(group)
    ends = [f"{end:,.0f}" for end in panels8[0].curves[0].x]
    sheets8 = "".join(_curve_table(panel.title, panel.x_label, ends, panel.curves) for panel in panels8)
    caption = (
        "Prequential error over the stream, each prediction made before its label was learned from. The first stretches may lie outside "
        f"the axis; the table has them.{many}"
    )
    return "".join([*parts, _figure(f"g{number}-figure-8", "Figure 8", caption, panels8, sheets8)])


def _weights_figure(number: int, place: int, group: Group, variant: Variant) -> str:
    panels = weight_panels(group, variant)
    if not panels:
        return f"<p>{escape(variant.name)} has no controllers, hence no weights for a Figure 7.</p>"
    sheets = [_curve_table(panel.title, "bucket", list((panel.ticks or {}).values()), panel.curves) for panel in panels]
    chosen = "which dimension the ids of the interactions held, by popularity at the prediction."
    weighed = "what share the controllers give each embedding dimension, by popularity. The weights of an id sum to 1."
    caption = f"{escape(variant.name)}: {chosen if variant.runs[0].searches else weighed}"
    return _figure(f"g{number}-figure-7-{place}", f"Figure 7 · {escape(variant.name)}", caption, panels, "".join(sheets))


def _figure(name: str, label: str, caption: str, panels: Sequence[Panel], sheets: str) -> str:
    svg = _draw(name, panels, description=f"{label}. {caption}")
    return (
        f'<figure id="{name}"><h3>{label}</h3>{svg}<figcaption>{caption}</figcaption>'
        f"<details><summary>Numbers</summary>{sheets}</details></figure>"
    )


def _draw(name: str, panels: Sequence[Panel], description: str) -> str:
    try:
        from autoemb_pipeline.experiments.drawing import draw  # noqa: PLC0415  # matplotlib is an extra
    except ImportError as error:
        raise ConfigurationError(
            "The report's figures need matplotlib", why=str(error), remedy="pip install 'autoemb-pipeline[report]'"
        ) from error
    return draw(name, panels, description=description)


def _curve_table(title: str, x_name: str, x: Sequence[str], curves: Sequence[Curve]) -> str:
    rows = [[x_text, *(f"{curve.y[n]:.4f}" for curve in curves)] for n, x_text in enumerate(x)]
    return _table("numbers", [x_name, *(escape(curve.name) for curve in curves)], rows, title)


def _configuration(runs: Sequence[Run]) -> str:
    """Settings that differ first, then the rest: one column per run."""
    keys = sorted({key for run in runs for key in run.configuration})
    values = {key: [_value(run.configuration.get(key)) for run in runs] for key in keys}
    differing = [key for key in keys if len(set(values[key])) > 1]
    head = ["Setting", *(escape(run.run_id) for run in runs)]
    rows = [["<em>state directory</em>", *(escape(str(run.path)) for run in runs)]]
    rows += [[f"<strong>{escape(key)}</strong>", *values[key]] for key in differing]
    rows += [[escape(key), *values[key]] for key in keys if key not in differing]
    return _table("configuration", head, rows, "Bold: where the runs differ.")


def _value(value: object) -> str:
    return "–" if value is None else escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _table(kind: str, head: Row, rows: Sequence[Row], caption: str) -> str:
    header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    inner = f"<caption>{caption}</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table class="{kind}">{inner}</table></div>'


def _difference(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{_signed(interval.estimate)} (one user: no interval)"
    mark = ""
    if interval.excludes_zero:
        verdict = "better" if interval.estimate < 0 else "worse"
        mark = f' <span class="{verdict}">{verdict}</span>'
    return f"{_signed(interval.estimate)} <small>[{_signed(interval.low)}, {_signed(interval.high)}]</small>{mark}"


def _small(text: str, bracket: str) -> str:
    """With what is in brackets in small print."""
    head, opening, rest = text.partition(bracket)
    return f"{head}<small>{opening}{rest}</small>" if opening else text


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _mean_over_seeds(variant: Variant, sums: dict[str, pl.DataFrame], column: str) -> FloatArray:
    return np.asarray(np.mean([_column(sums[run.run_id], column) for run in variant.runs], axis=0), dtype=np.float64)


def _column(table: pl.DataFrame, name: str) -> FloatArray:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)
