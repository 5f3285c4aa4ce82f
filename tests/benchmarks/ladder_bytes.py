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

from autoemb_pipeline.experiments.statistics import holm
from autoemb_pipeline.learners.stream.holdings import INDEX_ENTRY_BYTES
from autoemb_pipeline.records import FloatArray, Interaction
from tests.benchmarks.ladder import FIXED, _shown, _wider, load, run_cell
from tests.benchmarks.ladder_report import Tail

SHARES = (5, 10, 20, 40, 100)
FULL, LARGEST = 146, 128
RATIO = 8
METHODS = ("fse", "fse-tuned", "count-thresholds", "count-thresholds-tuned", "autoemb")
OTHERS = METHODS[:-1]


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

    def fitted(self, share: int, tuned: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Rung and options of each method at a share in percent; tuned: options by rung, for the methods of that name."""
        limit = share / 100.0 * self.fixed(FULL)
        fits = [d for d in range(2, FULL + 1) if self.fixed(d) <= limit]
        fixed = {"dims": (fits[-1],)} if fits else {"dims": (2,), "memory_budget": int(limit)}
        smallest = [(t, RATIO) for t in range(1, 5000)] if self.thresholds(1, RATIO) > limit else [(1, 2), (1, 4), (1, RATIO)]
        first, ratio = next(((t, r) for t, r in smallest if self.thresholds(t, r) <= limit), (None, RATIO))
        cells: dict[str, tuple[str, Mapping[str, Any]]] = {"fse": ("fse-2", fixed)}
        if first is not None:
            cells["count-thresholds"] = ("count-thresholds", {"thresholds": (first, first * ratio)})
        for method, like in (("fse", f"fse-{_nearest(fixed['dims'][0])}"), ("count-thresholds", "count-thresholds")):
            if method in cells and like in tuned:
                cells[f"{method}-tuned"] = (cells[method][0], {**tuned[like], **cells[method][1]})
        cells["autoemb"] = ("autoemb", {"memory_budget": int(limit)})
        return cells


def _nearest(dimension: int) -> int:
    return min(FIXED, key=lambda d: abs(np.log(d / dimension)))


def run(arguments: argparse.Namespace) -> None:
    tuned = json.loads(arguments.tuned.read_text()) if arguments.tuned else {}
    torch.set_num_threads(1)
    stream = load(arguments.stream, None)
    sizes = Sizes(stream)
    base = arguments.out / arguments.stream.replace(":", "_")
    for seed in range(arguments.seeds):
        for share in (int(s) for s in arguments.shares.split(",")):
            for method, (rung, options) in sizes.fitted(share, tuned).items():
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
    pairs = [(str(s), m) for s in SHARES for m in OTHERS if (str(s), m) in cells and (str(s), "autoemb") in cells]
    intervals = {pair: _wider(cells[pair[0], "autoemb"][1] - cells[pair][1], users) for pair in pairs}
    adjusted = dict(zip(pairs, holm([intervals[p].p_value for p in pairs]), strict=True))
    largest = cells.get(("largest", "fse"))
    print("| share | method | last 30% | bytes used | AutoEmb − it |\n|---|---|---|---|---|")
    for share in (str(s) for s in SHARES):
        for method in METHODS:
            if (share, method) in cells:
                used, losses, options = cells[share, method]
                shown = _shown(intervals[share, method], adjusted[share, method]) if (share, method) in intervals else ""
                print(f"| {share}% | {_described(method, options)} | {losses.mean():.5f} | {used:.1%} | {shown} |")
        if largest and (share, "autoemb") in cells:
            shown = _shown(_wider(cells[share, "autoemb"][1] - largest[1], users), 1.0)
            print(f"| | FSE-{LARGEST}, no bound | {largest[1].mean():.5f} | {largest[0]:.1%} | {shown} |")


def _described(method: str, options: Mapping[str, Any]) -> str:
    tuned = ", tuned" if method.endswith("-tuned") else ""
    if method.startswith("fse"):
        return f"FSE, d = {options['dims'][0]}{tuned}" + (", first come" if "memory_budget" in options else "")
    return f"thresholds {', '.join(map(str, options['thresholds']))}{tuned}" if "thresholds" in options else "AutoEmb under a budget"


def picture(arguments: argparse.Namespace) -> None:
    """The curve: bytes really used, log scale, against the error."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    cells = found(arguments)
    names = dict(
        zip(METHODS, ("FSE-d", "FSE-d, tuned", "count thresholds", "count thresholds, tuned", "AutoEmb under a budget"), strict=True)
    )
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150)
    for (method, label), mark in zip(names.items(), ("s", "D", "^", "v", "o"), strict=True):
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
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="run: in percent.")
    parser.add_argument("--tuned", type=Path, help="run: options by rung, as `ladder_search best` writes them.")
    parser.add_argument("--picture", type=Path, default=Path("bytes.png"))
    arguments = parser.parse_args()
    {"run": run, "table": table, "picture": picture}[arguments.command](arguments)


if __name__ == "__main__":
    main()
