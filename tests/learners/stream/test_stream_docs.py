"""docs/stream.md lists every setting of the stream preset with its default."""

from dataclasses import fields
from pathlib import Path

from pipeline.learners.config import PRESETS
from pipeline.learners.stream.config import StreamOptions

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "stream.md").read_text(encoding="utf-8")


def shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_setting_is_listed_with_its_default():
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| `")]
    listed = {cells[0].strip("` "): cells[1] for cells in rows}
    assert listed == {f.name: shown(PRESETS["stream"].get(f.name, f.default)) for f in fields(StreamOptions)}


def test_the_preset_changes_what_the_page_says():
    assert PRESETS["stream"] == {"architecture": "stream", "controller_hidden": (64,), "controller_rate": 1e-3}
