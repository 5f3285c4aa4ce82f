"""`make bench`: every benchmark of this folder, each in a process of its own; `python -m tests.benchmarks NAME ...` runs one with options.

Ratios are taken within one run; nothing is asserted. `python -m tests.benchmarks --list` tells the names.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PREFIX = "bench_"


def names() -> list[str]:
    """Of all benchmarks."""
    return sorted(path.stem.removeprefix(PREFIX) for path in HERE.glob(f"{PREFIX}*.py"))


def run(name: str, *options: str) -> int:
    """One of them; its exit status."""
    print(f"\n== {name}", flush=True)  # noqa: T201
    done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{PREFIX}{name}", *options], check=False, cwd=HERE.parents[1])
    return done.returncode


def main() -> None:
    if sys.argv[1:] == ["--list"]:
        print("\n".join(names()))  # noqa: T201
        return
    if sys.argv[1:]:
        name, *options = sys.argv[1:]
        if name not in names():
            raise SystemExit(f"no benchmark {name!r}; there are {', '.join(names())}")
        raise SystemExit(run(name, *options))
    for name in names():
        run(name)


if __name__ == "__main__":
    main()
