"""The wheel installs one package, `autoemb_pipeline`, complete, and lives beside PyPI's own `ops`."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "autoemb_pipeline"
FOLDERS = {"": "pipeline", "schemas": "schemas", "producers": "producers", "ops": "ops"}
pytestmark = pytest.mark.slow


def run(*command: str | Path) -> str:
    """Outside of the checkout and of what the session's environment puts on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=kept, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building writes into its source."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (NAME, *FOLDERS.values()):
        if (ROOT / name).is_symlink():
            (copy / name).symlink_to((ROOT / name).readlink())
        else:
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy)
    (built,) = out.glob("*.whl")
    return built


def test_one_package_with_every_module_and_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {NAME}
    for part, folder in FOLDERS.items():
        inside = [file.relative_to(ROOT / folder) for kind in ("*.py", "*.avsc", "*.html", "*.yml") for file in (ROOT / folder).rglob(kind)]
        expected = {(Path(NAME) / part / file).as_posix() for file in inside}
        assert expected
        assert expected <= names, expected - names


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-first", "ours-last"])
def test_installed_beside_the_ops_of_pypi_both_import_and_the_command_runs(wheel: Path, tmp_path: Path, *, ours_first: bool) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Our dependencies as they are installed here; an editable install of ours does not come along, and the venv's own packages go first.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    for what in [["--no-deps", wheel], ["ops"]][:: 1 if ours_first else -1]:
        try:
            run(*install, *what)
        except AssertionError as error:
            if "No matching distribution" not in str(error):
                raise
            pytest.skip("needs PyPI")
    code = (
        "import ops, importlib.metadata as m, autoemb_pipeline.ops.topics as ours; from autoemb_pipeline.schemas.metrics import PREQUENTIAL;"
        "print(ops.CharmBase.__name__, ops.__file__, ours.__file__, PREQUENTIAL.schema['name'], m.version('autoemb-pipeline'))"
    )
    charm, theirs, own, schema, version = run(python, "-c", code).split()
    assert (charm, theirs, own) == ("CharmBase", str(site / "ops" / "__init__.py"), str(site / NAME / "ops" / "topics.py"))
    assert (schema, version) == ("PrequentialMetrics", "0.1.0")
    command = tmp_path / "venv" / "bin" / "autoemb-pipeline"
    assert "Publish a dataset's interactions" in run(command, "--help")
    assert "--state-dir" in run(command, "train", "--help")
