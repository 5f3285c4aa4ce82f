# ruff: noqa: T201 - a command that prints its results
"""Random search for the ladder: the same number of trials for every rung, scored on the first 40% of both MovieLens sets and on nothing else.

    python -m tests.benchmarks.ladder_search run --log FILE.csv [--rungs autoemb-tuned,fse-146] [--trials 30] [--part 0/2]
    python -m tests.benchmarks.ladder_search run --log IDEA.csv --rungs autoemb --trials 0 --set panel=0.1
    python -m tests.benchmarks.ladder_search best --log FILE.csv > tuned.json

Trial k draws the same shared hyperparameters for every rung, so rungs differ by what they are, not by luck. A trial's score is the mean of
its squared errors less the logistic reference's, averaged over both sets, in units of 1e-4; it is a line of the log. Trial -1 is the preset.
"""

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoemb_pipeline.learners.config import parse_settings
from tests.benchmarks.ladder import RUNGS, load, train

SETS = ("ml-latest-small", "ml-100k")
PART = 0.4
SEED = 2026
SAME_AS_AUTOEMB = ("autoemb", "sam")
SEARCHED = tuple(rung for rung in RUNGS if rung not in SAME_AS_AUTOEMB)
COLUMNS = ("rung", "trial", *SETS, "mean", "options")


def drawn(rung: str, trial: int) -> dict[str, Any]:
    """The trial's options of a rung: shared ones from one generator per trial, the rung's own from another."""
    random = np.random.Generator(np.random.Philox(key=[SEED, trial]))

    def log_uniform(low: float, high: float) -> float:
        return float(f"{np.exp(random.uniform(np.log(low), np.log(high))):.3g}")

    options: dict[str, Any] = {
        "user_variance": log_uniform(0.3, 2.0),
        "item_variance": log_uniform(0.08, 0.5),
        "user_std": log_uniform(0.02, 0.12),
        "item_std": log_uniform(0.012, 0.04),
        "user_bias_variance": log_uniform(0.01, 0.1),
        "item_bias_variance": log_uniform(0.002, 0.02),
        "drift": log_uniform(3e-7, 3e-5),
        "rank": float(random.choice([4, 8, 16])),
        "quadratic_ridge": float(random.choice([10, 30, 100])),
        "gain_ridge": float(random.choice([10, 30, 100])),
    }
    own = {
        "thresholds": [(2, 16), (4, 32), (8, 64), (16, 128)][int(random.integers(4))],
        "tolerance": log_uniform(1e-5, 1e-3),
        "panel": log_uniform(0.02, 0.2),
        "logit_rate": log_uniform(0.01, 0.2),
    }
    of_rung = {"count-thresholds": ("thresholds",), "autoemb-tuned": ("tolerance", "panel"), "darts": ("logit_rate",)}
    return options | {name: own[name] for name in of_rung.get(rung, ())}


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {(row["rung"], int(row["trial"])) for row in _rows(arguments.log)}
    streams = {name: load(name, None) for name in SETS}
    streams = {name: stream[: int(PART * len(stream))] for name, stream in streams.items()}
    everywhere = parse_settings("stream", arguments.set)
    part, parts = (int(n) for n in arguments.part.split("/"))
    for trial in range(-1, arguments.trials):
        for rung in arguments.rungs.split(","):
            if (rung, trial) in done or trial % parts != part:
                continue
            options = {**(drawn(rung, trial) if trial >= 0 else {}), **everywhere}
            scores = {}
            for name, stream in streams.items():
                cell = train(stream, rung, 0, options)
                scores[name] = float((cell.losses - cell.references).mean() * 1e4)
            _append(arguments.log, rung, trial, scores, options)


def _append(log: Path, rung: str, trial: int, scores: Mapping[str, float], options: Mapping[str, Any]) -> None:
    row = [rung, trial, *(f"{scores[name]:.2f}" for name in SETS), f"{np.mean(list(scores.values())):.2f}", json.dumps(options)]
    with log.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(row)
    print(*row, flush=True)


def _rows(log: Path) -> list[dict[str, str]]:
    if not log.exists():
        log.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with log.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def best(arguments: argparse.Namespace) -> None:
    """The best drawn trial of every rung as JSON; rungs that share AutoEmb's settings keep the preset's."""
    rows = [row for row in _rows(arguments.log) if int(row["trial"]) >= 0]
    rungs = sorted({row["rung"] for row in rows})
    winners = {rung: min((r for r in rows if r["rung"] == rung), key=lambda r: float(r["mean"])) for rung in rungs}
    print(json.dumps({rung: json.loads(row["options"]) for rung, row in winners.items()}, indent=1))


def table(arguments: argparse.Namespace) -> None:
    rows = _rows(arguments.log)
    print("| rung | trials | preset | best | ml-latest-small / ML-100K of the best | median |\n|---|---|---|---|---|---|")
    for rung in RUNGS:
        mine = [row for row in rows if row["rung"] == rung]
        trials = sorted((row for row in mine if int(row["trial"]) >= 0), key=lambda r: float(r["mean"]))
        preset = next((row["mean"] for row in mine if row["trial"] == "-1"), "")
        if trials:
            first = trials[0]
            median = np.median([float(row["mean"]) for row in trials])
            print(f"| {rung} | {len(trials)} | {preset} | {first['mean']} | {first[SETS[0]]} / {first[SETS[1]]} | {median:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "best", "table"])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--rungs", default=",".join(SEARCHED))
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--part", default="0/1", help="K/N: the trials whose number leaves K when divided by N.")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of the learner, in every trial.")
    arguments = parser.parse_args()
    {"run": run, "best": best, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
