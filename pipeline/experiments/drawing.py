"""Line panels as inline SVG or picture files (matplotlib, extra ``report``). Inline, colours are CSS variables of the page: light and dark.

Series differ by colour, dash and marker, so that no reader depends on colours alone.
"""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from autoemb_pipeline.experiments.curves import Curve, Panel

SERIES_COLOURS = 8
# Colours that occur nowhere else: each is replaced by a CSS variable once the SVG is written.
_TEXT, _AXIS, _GRID, _BARS = "#010001", "#010002", "#010003", "#010004"
_SERIES = [f"#0101{number:02x}" for number in range(SERIES_COLOURS)]
_REFERENCE = ["#010201", "#010202"]
_VARIABLES = {
    _TEXT: "--text",
    _AXIS: "--axis",
    _GRID: "--grid",
    _BARS: "--bars",
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES)},
    **{colour: f"--reference-{number}" for number, colour in enumerate(_REFERENCE)},
}
# The same for picture files, on white: Okabe and Ito's colours, told apart without seeing colours.
_PRINT = {
    **dict(zip((_TEXT, _AXIS, _GRID, _BARS), ("#1a1a1a", "#6b6b6b", "#e3e3e3", "#ededed"), strict=True)),
    **dict(
        zip(
            _SERIES,
            ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#4d4d9a"),
            strict=True,
        )
    ),
    **dict(zip(_REFERENCE, ("#4d4d4d", "#8a8a8a"), strict=True)),
}
Ink = Callable[[str], str]
_LEGEND_COLUMNS = 5
_MARKERS = "osD^vPX*"
_HATCHES = ["", "//", "..", "xx", "--"]
_DASHES = ["-", (0, (6, 1.5)), (0, (4, 1, 1, 1)), (0, (2, 1))]
_REFERENCE_DASHES = [(0, (7, 3)), (0, (1.5, 1.8))]
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and scaled
    "svg.hashsalt": "autoemb",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _AXIS,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _AXIS,
    "ytick.color": _AXIS,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
}


def draw(name: str, panels: Sequence[Panel], *, description: str) -> str:
    """One figure of panels side by side with one legend, as an ``<svg>`` element for an HTML page.

    Args:
        name: prefix of all ids in it; lines are ``<g id="NAME-pP-sS">``, panel P, line S.
        panels: left to right; all carry the same lines' names.
        description: for those who cannot see it.
    """
    with mpl.rc_context(_STYLE):
        figure = _figure(name, panels, _same)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_html(target.getvalue(), name, description)


def save(path: Path, panels: Sequence[Panel], *, title: str) -> None:
    """Writes the figure as ``path.png`` (200 dpi) and ``path.svg``, on white."""
    ink = _PRINT.__getitem__
    style = {name: _PRINT.get(value, value) if isinstance(value, str) else value for name, value in _STYLE.items()}
    with mpl.rc_context(style):
        figure = _figure(path.name, panels, ink)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            figure.savefig(path.with_name(f"{path.name}.{ending}"), dpi=200, facecolor="white", metadata=metadata)


def _same(colour: str) -> str:
    return colour


def _figure(name: str, panels: Sequence[Panel], ink: Ink) -> Figure:
    figure = Figure(figsize=(10.4, 4.3), layout=ConstrainedLayoutEngine(h_pad=0.12))
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw_panel(axes, panel, f"{name}-p{number}", ink)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels) if len(labels) <= _LEGEND_COLUMNS else 4,
        frameon=False,
        handlelength=3.2,
    )
    return figure


def _draw_panel(axes: Axes, panel: Panel, prefix: str, ink: Ink) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(visible=True, axis="y")
    if panel.bars:
        _draw_bars(axes, panel.bars, f"{prefix}-bars", ink)
    if panel.stacked:
        _draw_stacked(axes, panel.curves, prefix, ink)
    else:
        _draw_lines(axes, panel, prefix, ink)
    if panel.ticks:
        axes.set_xticks(list(panel.ticks), list(panel.ticks.values()), fontsize=9)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if panel.y_range:
        axes.set_ylim(*panel.y_range)


def _draw_stacked(axes: Axes, curves: Sequence[Curve], prefix: str, ink: Ink) -> None:
    bottom = np.zeros(len(curves[0].x))
    for number, curve in enumerate(curves):
        colour, hatch = (ink(_BARS), "") if number == 0 else (ink(_SERIES[number - 1]), _HATCHES[number % len(_HATCHES)])
        bars = axes.bar(curve.x, curve.y, bottom=bottom, width=0.86, color=colour, edgecolor=ink(_GRID), hatch=hatch, label=curve.name)
        for place, bar in enumerate(bars):
            bar.set_gid(f"{prefix}-s{number}-{place}")
        bottom = bottom + curve.y


def _draw_lines(axes: Axes, panel: Panel, prefix: str, ink: Ink) -> None:
    own = 0
    reference = 0
    for number, curve in enumerate(panel.curves):
        if curve.reference:
            style: dict[str, Any] = {
                "color": ink(_REFERENCE[reference % 2]),
                "linestyle": _REFERENCE_DASHES[reference % 2],
                "linewidth": 1.8,
                "zorder": 2,
            }
            reference += 1
        else:
            style = {"color": ink(_SERIES[own % SERIES_COLOURS]), "linestyle": _DASHES[own % len(_DASHES)], "linewidth": 2.2, "zorder": 3}
            if panel.ticks:
                style |= {"marker": _MARKERS[own % len(_MARKERS)], "markersize": 5.5}
            own += 1
        (line,) = axes.plot(curve.x, curve.y, label=curve.name, **style)
        line.set_gid(f"{prefix}-s{number}")
        if curve.low is not None and curve.high is not None:
            band = axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.18, linewidth=0)
            band.set_gid(f"{prefix}-b{number}")


def _draw_bars(axes: Axes, bars: dict[int, int], gid: str, ink: Ink) -> None:
    background = axes.twinx()
    background.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
    drawn = background.bar(list(bars), list(bars.values()), width=0.8, color=ink(_BARS))
    for number, bar in enumerate(drawn):
        bar.set_gid(f"{gid}{number}")
    background.set_ylim(0, 3.2 * max(bars.values()))  # the lower third: behind the lines, not among them
    background.set_axis_off()


def _for_html(svg: str, name: str, description: str) -> str:
    """Without XML prologue; colours as variables; ids that stay unique beside other figures; a text for screen readers."""
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(rf'\bid="(?!{re.escape(name)}-)([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(rf"(url\(#|href=\"#)(?!{re.escape(name)}-)", rf"\1{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("'DejaVu Sans', sans-serif", "system-ui, 'DejaVu Sans', sans-serif").replace("'DejaVu Sans'", "system-ui, sans-serif")
    opening = svg[: svg.index(">") + 1]
    opening_sized = re.sub(r' (width|height)="[^"]*pt"', "", opening)[:-1] + f' role="img" aria-labelledby="{name}-title">'
    return opening_sized + f'<title id="{name}-title">{escape(description)}</title>' + svg[len(opening) :]
