"""docs/metrics.md and docs/grafana.md say what is there, all of it, and nothing else."""

import re
from pathlib import Path

from autoemb_pipeline.ops.grafana.generate import rendered
from autoemb_pipeline.ops.metrics.reader import FORMATS
from autoemb_pipeline.schemas.vocabulary import METRICS
from tests.ops.metrics.metrics_reference import filled

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_tables_are_current() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert page == filled(page), "run: python -m tests.ops.metrics.metrics_reference docs/metrics.md"


def test_every_metric_and_every_field_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    for spec in METRICS:
        assert rows.count(spec.name) == 1
    for record_format in FORMATS.values():
        for field in record_format.schema["fields"]:
            assert any(row == field["name"] or row.startswith(f"{field['name']}_") for row in rows), field["name"]


def test_the_text_names_only_metrics_that_exist() -> None:
    known = {spec.name for spec in METRICS}
    for name in ("metrics.md", "grafana.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        assert set(re.findall(r"\bautoemb_(?!pipeline\b)[a-z_]+", text)) <= known


def test_pictures_and_dashboards_named_in_the_docs_are_there() -> None:
    for name in ("metrics.md", "grafana.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (DOCS / target).exists(), target
    assert set(rendered()) == set(re.findall(r"autoemb-\w+\.json", (DOCS / "grafana.md").read_text(encoding="utf-8")))
