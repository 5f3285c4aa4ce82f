"""docs/stream.md lists every setting of the stream preset with its default."""

from dataclasses import fields
from pathlib import Path

from autoemb_pipeline.learners.search.config import SearchConfig
from autoemb_pipeline.learners.stream.config import StreamConfig

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "stream.md").read_text(encoding="utf-8")
BY_OPTION = {"preset"}


def shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_setting_is_listed_with_its_default():
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| `")]
    listed = {cells[0].strip("` "): cells[1] for cells in rows}
    shared = {field.name: field.default for field in fields(SearchConfig)}  # docs/algorithm.md has those that are the same here
    own = {f.name: f.default for f in fields(StreamConfig) if f.name not in BY_OPTION and shared.get(f.name) != f.default}
    assert listed == {name: shown(default) for name, default in own.items()}
