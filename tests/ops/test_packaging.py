"""A fresh machine gets the versions that were tested: everything `make setup` installs is pinned, and the pins fit setup.py."""

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
INSTALLED_EXTRAS = {"broker", "test", "dev"}  # as in the Makefile


def pins() -> dict[str, Version]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements(distribution: str, extras: set[str]) -> list[Requirement]:
    declared = [Requirement(text) for text in importlib.metadata.requires(distribution) or []]
    wanted = [{"extra": extra} for extra in extras | {""}]
    return [r for r in declared if r.marker is None or any(r.marker.evaluate(environment) for environment in wanted)]


def test_everything_that_setup_installs_is_pinned() -> None:
    pinned, seen, missing = pins(), set(), set()
    todo = [("autoemb-pipeline", frozenset(INSTALLED_EXTRAS))]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for requirement in requirements(name, set(extras)):
            required = canonicalize_name(requirement.name)
            # Build tools that torch names; pip's own environment has them.
            if required not in pinned and required != "setuptools":
                missing.add(required)
            todo.append((required, frozenset(requirement.extras)))
    assert missing == set()


def test_pins_fit_what_setup_asks_for() -> None:
    pinned = pins()
    for requirement in requirements("autoemb-pipeline", INSTALLED_EXTRAS):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_makefile_installs_these_extras_with_the_constraints() -> None:
    done = subprocess.run(["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True)
    extras = re.search(r"-c constraints\.txt -e '\.\[([a-z,]+)\]'", done.stdout)
    assert extras is not None
    assert set(extras[1].split(",")) == INSTALLED_EXTRAS


def test_each_dependency_has_its_reason() -> None:
    lists = (ROOT / "setup.py").read_text().partition("REQUIRES = [")[2].partition("setup(")[0]
    named = [line for line in lists.splitlines() if '"' in line and not line.endswith("[")]
    assert len(named) > 15
    assert [line for line in named if not re.search(r",\s+# \S", line)] == []


def test_ci_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().splitlines()[-1] == "make test"
