"""The tables of docs/metrics.md, from the schemas, the exporter and the rules: ``python -m tests.ops.metrics.metrics_reference docs/metrics.md``."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoemb_pipeline.ops.metrics.reader import FORMATS
from autoemb_pipeline.schemas.avro import Schema
from autoemb_pipeline.schemas.vocabulary import METRICS

_RULES = Path(__file__).resolve().parents[3] / "ops" / "prometheus" / "rules" / "autoemb.yml"
# What the key of a map is called in the names of its flat JSON fields.
_KEYS = {
    "weight": "DIMENSION",
    "ids_of_space": "DIMENSION",
    "bucket_loss": "BUCKET",
    "bucket_count": "BUCKET",
    "bucket_dimension": "BUCKET",
    "bucket_weight": "BUCKET_DIMENSION",
    "next_offsets": "PARTITION",
    "refused_offsets": "PARTITION",
    "phase_seconds": "PHASE",
    "buffer_size": "BUFFER",
}


def field_table(schema: Schema) -> str:
    """Every field of a topic as it is named in flat JSON, with its type and meaning."""
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for spec in schema["fields"]:
        kind, nullable, is_map = _type(spec["type"])
        name = f"{spec['name']}_{_key(spec['name'])}" if is_map else spec["name"]
        rows.append(f"| `{name}` | {kind}{' or null' if nullable else ''} | {_meaning(spec)} |")
    return "\n".join(rows)


def prometheus_table() -> str:
    """Every metric of the endpoint."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    rows += [f"| `{spec.name}` | {spec.kind} | {', '.join(f'`{label}`' for label in spec.labels)} | {spec.help} |" for spec in METRICS]
    return "\n".join(rows)


def alert_table() -> str:
    """Every alert rule: its name and condition, as the file has them."""
    text = _RULES.read_text(encoding="utf-8")
    rows = ["| alert | condition | for |", "|---|---|---|"]
    for block in text.split("- alert: ")[1:]:
        expression = re.search(r"expr: (?:>-\n)?(.*?)\n\s+(?:for|labels):", block, re.DOTALL)
        duration = re.search(r"\n\s+for: (\S+)", block)
        condition = " ".join(expression[1].split()) if expression else ""
        rows.append(f"| `{block.splitlines()[0]}` | `{condition}` | {duration[1] if duration else 'at once'} |")
    return "\n".join(rows)


def filled(page: str) -> str:
    """The page with each table between its markers ``<!-- NAME -->`` and ``<!-- end -->`` made anew."""
    tables = {
        "metrics fields": field_table(FORMATS["metrics"].schema),
        "runtime fields": field_table(FORMATS["runtime"].schema),
        "prometheus metrics": prometheus_table(),
        "alerts": alert_table(),
    }
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = pattern.subn(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the page has {count} places for {name!r}")
    return page


def _type(kind: Any) -> tuple[str, bool, bool]:
    nullable = isinstance(kind, list) and "null" in kind
    bare = next(branch for branch in kind if branch != "null") if isinstance(kind, list) else kind
    if isinstance(bare, Mapping) and bare["type"] == "map":
        leaf, inner_nullable, _ = _type(bare["values"])
        return leaf, inner_nullable, True
    return str(bare["type"] if isinstance(bare, Mapping) else bare), nullable, False


def _key(name: str) -> str:
    return _KEYS.get(name) or _KEYS[name.partition("_")[2]]


def _meaning(spec: Mapping[str, Any]) -> str:
    logical = " Milliseconds since 1970, UTC." if "timestamp-millis" in str(spec["type"]) else ""
    return f"{spec.get('doc', '')}{logical}".replace("|", "\\|").strip()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(filled(target.read_text(encoding="utf-8")), encoding="utf-8")
