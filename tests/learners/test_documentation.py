"""docs/algorithm.md names every learner setting with its default, and every test it promises exists."""

import re
from dataclasses import fields
from pathlib import Path

from autoemb_pipeline.learners.config import PRESETS
from autoemb_pipeline.learners.paper.config import PaperConfig, ResidualConfig

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
BY_OPTION = {"method", "task", "preset", "seed", "device"}


def shown(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_setting_is_listed_with_its_default_and_the_papers_value():
    rows = {}
    for line in TEXT.splitlines():
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if len(cells) == 4 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells
    for field in fields(PaperConfig):
        if field.name in BY_OPTION:
            continue
        _, default, paper, meaning = rows[field.name]
        assert default == shown(field.default), field.name
        assert paper == shown(PRESETS["paper"].get(field.name, field.default)), field.name
        assert len(meaning) > 10


def test_what_preset_residual_changes_is_listed_with_its_value():
    section = TEXT[TEXT.index("### Of preset `residual`") :]
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| `")]
    common = {field.name: field.default for field in fields(PaperConfig)}
    own = {f.name: f.default for f in fields(ResidualConfig) if f.name not in BY_OPTION and common.get(f.name) != f.default}
    assert {name.strip("` "): value for name, value, _ in cells} == {name: shown(default) for name, default in own.items()}


def test_every_named_test_exists():
    sources = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests" / "learners").rglob("test_*.py"))
    named = set(re.findall(r"\b(test_[a-z0-9_]+)(?:…)?`", TEXT)) - {
        "test_controller",
        "test_equations",
        "test_hypergradient",
        "test_reservoir",
    }
    assert len(named) > 12
    for name in named:
        assert f"def {name}" in sources, name
