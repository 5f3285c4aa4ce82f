"""How kernels are compiled, and where the compiled code is kept.

Numba notices an edited kernel, but not an edited function of another module that the kernel calls. So the cache directory is named by a
hash of all that machine code follows from: every source file of this package, numba, Python, numpy and the processor.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core.caching import UserProvidedCacheLocator

Function = TypeVar("Function", bound=Callable[..., Any])

HERE = Path(__file__).parent
# No fastmath: sums keep their written order. Numpy's rule for x / 0 spares the kernels a branch at every division.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class Locator(UserProvidedCacheLocator):  # type: ignore[misc]
    """Keeps a kernel's compiled code in the cache directory itself.

    Numba's own adds a folder named by the path of the source file: a checkout and the link that leads to it, an installed wheel and the
    programs of the tests would each compile again what is compiled. The directory's name says already which sources these are.
    """

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        """No folder below the cache directory."""
        del py_file
        return ""


def helper(function: Function) -> Function:
    """Compiles a function that only kernels call; LLVM puts it into theirs."""
    return cast("Function", numba.njit(_nrt=False, forceinline=True, **OPTIONS)(function))


def allocating(function: Function) -> Function:
    """A helper that may make arrays."""
    return cast("Function", numba.njit(**OPTIONS)(function))


def kernel(function: Function) -> Function:
    """Compiles a function that Python calls, at its first call with new types or from the cache."""
    before = numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES
    # Numba reads them when it wraps a function, and only then.
    numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES = str(cache_directory()), f"{__name__}.{Locator.__name__}"
    try:
        return cast("Function", numba.njit(cache=True, **OPTIONS)(function))
    finally:
        numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES = before


@cache
def cache_directory() -> Path:
    """Where this version's compiled code is kept on this machine: below NUMBA_CACHE_DIR, else below the user's cache directory.

    Where neither can be written, below the directory for temporary files.
    """
    name = fingerprint()
    given = os.environ.get("NUMBA_CACHE_DIR")
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoemb-pipeline" / "kernels"
    for base in (Path(given) if given else own, own):
        try:
            (base / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(base / name, os.W_OK):
            return base / name
    user = getattr(os, "getuid", int)()
    fallback = Path(tempfile.gettempdir()) / f"autoemb-pipeline-{user}" / name
    fallback.mkdir(parents=True, exist_ok=True)
    return fallback


def fingerprint() -> str:
    """A hash of the kernels' sources, numba, Python, numpy and the processor: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(HERE.glob("*.py")):
        digest.update(path.name.encode() + b"\x00" + path.read_bytes() + b"\x00")
    features = llvm.get_host_cpu_features().flatten()
    for part in (numba.__version__, sys.version, np.__version__, llvm.get_host_cpu_name(), features):
        digest.update(part.encode() + b"\x00")
    return digest.hexdigest()
