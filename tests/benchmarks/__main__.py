"""`make bench`: every benchmark of this folder, each in a process of its own. Ratios are taken within one run; nothing is asserted."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    for path in sorted(HERE.glob("bench_*.py")):
        print(f"\n== {path.name}", flush=True)  # noqa: T201
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{path.stem}"], check=False, cwd=HERE.parents[1])


if __name__ == "__main__":
    main()
