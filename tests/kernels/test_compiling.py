"""Where compiled code is kept: an edited source is noticed wherever it is, and what `compile_all` compiled is not compiled again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from autoemb_pipeline.kernels import cache_directory, fingerprint
from autoemb_pipeline.method import compile_kernels

PACKAGE = Path(__file__).parents[2] / "autoemb_pipeline" / "kernels"
MISSES = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from autoemb_pipeline.kernels import compile_all, is_compiled
from tests.kernels.loop import Columns, Settings, whole

modules = [module for name, module in sys.modules.items() if name.startswith("autoemb_pipeline.kernels")]
kernels = {k for m in modules for k in vars(m).values() if isinstance(k, Dispatcher) and k.stats.cache_path}
compile_all(lambda done, total, name: None)
ahead = {kernel: list(kernel.overloads) for kernel in kernels}
rng = np.random.default_rng(0)
columns = Columns(
    ids=[rng.integers(0, 9, 300), rng.integers(0, 20, 300)],
    names=[[str(k) for k in range(9)], [str(k) for k in range(20)]],
    times=np.sort(rng.integers(0, 200, 300)),
    ratings=rng.integers(1, 6, 300).astype(float),
)
for settings in (Settings(batch=50), Settings(batch=50, task="rating", mode="strict"), Settings(batch=50, dims=(146,), searched=False, mode="batch")):
    whole(settings, columns)
print(is_compiled(), len(kernels) > 20, [kernel.__name__ for kernel in kernels if list(kernel.overloads) != ahead[kernel]])
"""


def python(code: str, root: Path, **environment: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_an_edited_callee_of_another_module_is_compiled_anew(tmp_path):
    """`newton_descend` calls `dot` of sums.py, which adds what is left over one by one; numba alone would go on with the old one."""
    root, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(PACKAGE, root / "autoemb_pipeline" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "autoemb_pipeline" / "__init__.py").touch()
    (root / "autoemb_pipeline" / "kernels" / "__init__.py").write_text("")
    code = """
import numpy as np
from autoemb_pipeline.kernels.newton import newton_descend
weights = np.zeros((1, 2))
newton_descend(weights, np.array([[4.0, 2.0], [2.0, 5.0]]), np.array([[4.0, 8.0]]))
print(weights.tolist(), sum(newton_descend.stats.cache_hits.values()))
"""
    assert python(code, root, NUMBA_CACHE_DIR=cache) == "[[-0.25, -1.5]] 0"
    assert python(code, root, NUMBA_CACHE_DIR=cache) == "[[-0.25, -1.5]] 1"
    # The same sources elsewhere, as a link leads to them or a wheel installs them: compiled once is compiled.
    other = tmp_path / "elsewhere"
    other.symlink_to(root)
    assert python(code, other, NUMBA_CACHE_DIR=cache) == "[[-0.25, -1.5]] 1"
    sums = root / "autoemb_pipeline" / "kernels" / "sums.py"
    source = sums.read_text()
    edited = source.replace("total += np.float64(x[k]) * np.float64(y[k])", "total += 0.0")
    assert edited != source
    sums.write_text(edited)
    answer, hits = python(code, root, NUMBA_CACHE_DIR=cache).rsplit(" ", 1)
    assert (answer != "[[-0.25, -1.5]]", hits) == (True, "0")


@pytest.mark.slow
def test_what_was_compiled_ahead_serves_every_call_of_a_run():
    assert python(MISSES, PACKAGE.parents[1]) == "True True []"


def test_the_directory_is_the_users_and_named_by_the_sources(tmp_path):
    assert cache_directory().name == fingerprint()
    code = "from autoemb_pipeline.kernels import cache_directory, is_compiled; print(cache_directory().parent, is_compiled())"
    assert python(code, PACKAGE.parents[1], NUMBA_CACHE_DIR=tmp_path) == f"{tmp_path} False"


def test_a_directory_that_cannot_be_written_is_not_used(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    code = "from autoemb_pipeline.kernels.compiling import cache_directory; print(cache_directory().parent)"
    found = python(code, PACKAGE.parents[1], NUMBA_CACHE_DIR=blocked / "x", XDG_CACHE_HOME=tmp_path)
    assert found == str(tmp_path / "autoemb-pipeline" / "kernels")


@pytest.mark.parametrize("compiled", [True, False])
def test_a_start_that_must_compile_says_so_and_how_far_it_is(monkeypatch, compiled):
    def compile_all(progress):
        progress(0, 1, "a kernel")
        progress(1, 1, "")

    monkeypatch.setattr("autoemb_pipeline.method.is_compiled", lambda: compiled)
    monkeypatch.setattr("autoemb_pipeline.method.compile_all", compile_all)
    with capture_logs() as logs:
        compile_kernels()
    assert [(line["done"], line["of"], line["now"]) for line in logs] == ([] if compiled else [(0, 1, "a kernel"), (1, 1, "ready")])
