"""`python -m autoemb_pipeline.kernels`: compiles the kernels into the user's cache and shows how far it is."""

import sys
import time

from autoemb_pipeline.kernels.compiling import cache_directory
from autoemb_pipeline.kernels.warm import compile_all


def main() -> None:
    """Compiles all; a second call only loads them."""
    started = time.perf_counter()

    def show(done: int, total: int, name: str) -> None:
        if name:
            sys.stderr.write(f"compiling kernels {done + 1}/{total}: {name} ({time.perf_counter() - started:.0f} s)\n")

    sys.stderr.write("The first time this takes about a minute.\n")
    compile_all(show)
    sys.stderr.write(f"kernels are ready in {cache_directory()} ({time.perf_counter() - started:.1f} s)\n")


if __name__ == "__main__":
    main()
