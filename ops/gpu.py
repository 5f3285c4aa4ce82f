"""Whether torch could compute on a GPU, told without importing torch, which takes seconds."""

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """What the NVIDIA driver shows this process.

    Attributes:
        name: the first GPU's.
        cuda: the newest CUDA version that the driver runs, as (major, minor).
    """

    name: str
    cuda: tuple[int, int]


def gpu() -> Gpu | None:
    """The first GPU, by the CUDA driver API (cuInit, cuDeviceGetCount, cuDeviceGetName, cuDriverGetVersion); None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    refused = driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device)
    if refused or driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return Gpu(name=name.value.decode(), cuda=(version.value // 1000, version.value % 1000 // 10))


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for; None for a CPU build, or where there is no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    built = re.search(r"""^cuda\b[^=]*=\s*['"]([\d.]+)['"]""", text, re.MULTILINE)
    return built[1] if built else None


def why_no_cuda(card: Gpu | None, built: str | None) -> str | None:
    """Why torch cannot use CUDA here; None when it can. A driver runs what was built for its major version or an earlier one."""
    if built is None:
        return "this torch is a CPU build"
    if card is None:
        return "there is no GPU, or no driver for it"
    if card.cuda[0] < int(built.split(".")[0]):
        return f"the driver runs CUDA {card.cuda[0]}.{card.cuda[1]}, and torch is built for {built}"
    return None
