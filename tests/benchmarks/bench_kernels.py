"""Cost of each part of the kernels' loop: `python -m tests.benchmarks.bench_kernels [RATINGS.csv]`. CPU time of one thread; a first run compiles."""

import os
import sys
from pathlib import Path

from tests.kernels.loop import Settings, figures, read_ratings, whole


def main() -> None:
    given = Path(os.environ.get("AUTOEMB_DATA_DIR", "data")) / "ml-latest-small" / "ratings.csv"
    columns = read_ratings(Path(sys.argv[1]) if len(sys.argv) > 1 else given)
    count = len(columns.times)
    for name, settings in (
        ("FSE-146", Settings(dims=(146,), searched=False)),
        ("autoemb", Settings()),
        ("autoemb rating", Settings(task="rating")),
    ):
        whole(settings, columns)
        loop = whole(settings, columns)
        parts = "  ".join(f"{part} {1e6 * seconds / count:.2f}" for part, seconds in loop.seconds.items())
        loss, last = figures(loop.losses)
        print(f"{name:15} {loss:.5f}/{last:.5f}  µs per interaction: {parts}  all {1e6 * sum(loop.seconds.values()) / count:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
