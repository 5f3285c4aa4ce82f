# ruff: noqa: T201 - a command that prints its table
"""Error against bytes: the searched dimensions under a memory budget, fixed dimensions and count thresholds of the same size.

    python -m tests.benchmarks.ladder_bytes run --out DIR --stream synthetic-b:seed=11,session_length=1.01
    python -m tests.benchmarks.ladder_bytes table|picture --out DIR --stream ... [--picture FILE.png]

A share is of the bytes of FSE-146: rows (means, variances) and index of all ids of the stream. AutoEmb knows its budget only. Fixed
dimensions and count thresholds (t and 8t; 1 and 4 or 2 where those leave room) are fitted to the share with the whole stream in hindsight,
which favours them. Where not even
two dimensions of every id fit, FSE-2 has the same budget: who comes first is served.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.experiments.statistics import holm
from pipeline.learners.budget import INDEX_ENTRY_BYTES
from pipeline.records import FloatArray, Interaction
from tests.benchmarks.ladder import _shown, _wider, load, run_cell
from tests.benchmarks.ladder_report import Tail

SHARES = (5, 10, 20, 40, 100)
FULL, LARGEST = 146, 128
RATIO = 8
METHODS = ("fse", "count-thresholds", "autoemb")


class Sizes:
    """Bytes of a stream's rows, by method.

    Args:
        stream: all of it.
    """

    def __init__(self, stream: Sequence[Interaction]) -> None:
        sides = [np.unique([getattr(r, side) for r in stream], return_counts=True) for side in ("user_id", "item_id")]
        self._index = INDEX_ENTRY_BYTES + np.concatenate([[len(i.encode()) for i in ids] for ids, _ in sides]).astype(float)
        self._counts = np.concatenate([counts for _, counts in sides])

    def fixed(self, dimension: int) -> float:
        """FSE: one row of means, variance, bias and its variance per id."""
        return float((4.0 * (dimension + 3) + self._index).sum())

    def thresholds(self, first: int, ratio: int, dims: Sequence[int] = (2, 16, 128)) -> float:
        """A row per space that an id reaches: it is used from the interaction after `first` on, the largest after `ratio` times that."""
        total = self.fixed(dims[0])
        for least, width in ((first, dims[1] - dims[0]), (first * ratio, dims[2] - dims[1])):
            total += float((4.0 * (width + 1) + self._index)[self._counts > least].sum())
        return total

    def fitted(self, share: int) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Rung and options of each method at a share in percent."""
        limit = share / 100.0 * self.fixed(FULL)
        fits = [d for d in range(2, FULL + 1) if self.fixed(d) <= limit]
        fixed = {"dims": (fits[-1],)} if fits else {"dims": (2,), "memory_budget": int(limit)}
        smallest = [(t, RATIO) for t in range(1, 5000)] if self.thresholds(1, RATIO) > limit else [(1, 2), (1, 4), (1, RATIO)]
        first, ratio = next(((t, r) for t, r in smallest if self.thresholds(t, r) <= limit), (None, RATIO))
        cells: dict[str, tuple[str, Mapping[str, Any]]] = {"fse": ("fse-2", fixed)}
        if first is not None:
            cells["count-thresholds"] = ("count-thresholds", {"thresholds": (first, first * ratio)})
        cells["autoemb"] = ("autoemb", {"memory_budget": int(limit)})
        return cells


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    stream = load(arguments.stream, None)
    sizes = Sizes(stream)
    base = arguments.out / arguments.stream.replace(":", "_")
    for seed in range(arguments.seeds):
        for share in SHARES:
            for method, (rung, options) in sizes.fitted(share).items():
                _cell(base / str(share) / method / str(seed), stream, rung, seed, options, sizes)
        _cell(base / "largest" / "fse" / str(seed), stream, f"fse-{LARGEST}", seed, {}, sizes)


def _cell(folder: Path, stream: Sequence[Interaction], rung: str, seed: int, options: Mapping[str, Any], sizes: Sizes) -> None:
    if (folder / "cell.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    run_cell(folder, stream, rung, seed, options)
    cell = json.loads((folder / "cell.json").read_text())
    cell["share"] = cell["bytes"] / sizes.fixed(FULL)
    (folder / "cell.json").write_text(json.dumps(cell))
    losses = np.load(folder / "losses.npy")
    print(folder, options, f"{cell['share']:.1%}", f"{losses[int(0.7 * len(losses)) :].mean():.5f}", flush=True)


def found(arguments: argparse.Namespace) -> dict[tuple[str, str], tuple[float, FloatArray, Mapping[str, Any]]]:
    """(share, method) -> what it used of FSE-146's bytes, losses of the last 30% averaged over seeds, options."""
    base = arguments.out / arguments.stream.replace(":", "_")
    result = {}
    for share in ("largest", *(str(s) for s in SHARES)):
        for method in METHODS:
            folders = sorted((base / share / method).glob("*/cell.json"))
            if folders:
                read = [json.loads(f.read_text()) for f in folders]
                losses = np.mean([np.load(f.with_name("losses.npy")).astype(np.float64) for f in folders], axis=0)
                used = float(np.mean([c["share"] for c in read]))
                result[share, method] = (used, losses[int(0.7 * len(losses)) :], read[0]["options"])
    return result


def table(arguments: argparse.Namespace) -> None:
    cells, users = found(arguments), Tail.of(arguments.stream).users
    pairs = [(str(s), m) for s in SHARES for m in METHODS[:2] if (str(s), m) in cells and (str(s), "autoemb") in cells]
    intervals = {pair: _wider(cells[pair[0], "autoemb"][1] - cells[pair][1], users) for pair in pairs}
    adjusted = dict(zip(pairs, holm([intervals[p].p_value for p in pairs]), strict=True))
    print("| share | FSE-d | count thresholds | AutoEmb | − FSE-d | − thresholds | − FSE-128 |\n|---|---|---|---|---|---|---|")
    for share in (str(s) for s in SHARES):
        shown = [_described(cells.get((share, m)), m) for m in METHODS]
        shown += [_shown(intervals[share, m], adjusted[share, m]) if (share, m) in intervals else "" for m in METHODS[:2]]
        both = cells.get((share, "autoemb")), cells.get(("largest", "fse"))
        shown.append(_shown(_wider(both[0][1] - both[1][1], users), 1.0) if both[0] and both[1] else "")
        print(f"| {share}% | {' | '.join(shown)} |")
    if ("largest", "fse") in cells:
        print(f"\nFSE-{LARGEST}: {cells['largest', 'fse'][1].mean():.5f}")


def _described(cell: tuple[float, FloatArray, Mapping[str, Any]] | None, method: str) -> str:
    if cell is None:
        return ""
    used, losses, options = cell
    what = {"fse": f"d = {options['dims'][0]}" if "dims" in options else "", "count-thresholds": f"from {options.get('thresholds')}"}.get(
        method
    )
    return f"{losses.mean():.5f} ({what + ', ' if what else ''}uses {used:.0%})"


def picture(arguments: argparse.Namespace) -> None:
    """The curve: bytes really used, log scale, against the error."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    cells = found(arguments)
    names = {"fse": "FSE-d", "count-thresholds": "count thresholds", "autoemb": "AutoEmb under a budget"}
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150)
    for (method, label), mark in zip(names.items(), ("s", "^", "o"), strict=True):
        points = sorted((used, losses.mean()) for (_, m), (used, losses, _) in cells.items() if m == method)
        if points:
            axes.plot(*zip(*points, strict=True), marker=mark, label=label)
    axes.set_xscale("log")
    axes.set_xticks([s / 100 for s in SHARES], [f"{s}%" for s in SHARES])
    axes.minorticks_off()
    axes.set_xlabel("bytes used, share of FSE-146")
    axes.set_ylabel("MSE, last 30%")
    axes.set_title(f"Synthetic stream B ({arguments.stream})", fontsize=9)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(arguments.picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "table", "picture"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--picture", type=Path, default=Path("bytes.png"))
    arguments = parser.parse_args()
    {"run": run, "table": table, "picture": picture}[arguments.command](arguments)


if __name__ == "__main__":
    main()
