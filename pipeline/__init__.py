"""Streaming training of recommendation models with online embedding-dimension search (AutoEmb)."""

import os

# Before numpy is imported, since its BLAS reads this once: more threads only wait for each other at the controllers' size, and their
# number decides the last bits of sums. Torch has its own (`--threads`).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
