"""The README: short, and its Python example runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_has_at_most_700_words() -> None:
    assert len(TEXT.split()) <= 700


def test_its_example_trains_and_predicts() -> None:
    example = re.search(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert example is not None
    done = subprocess.run([sys.executable, "-c", example[1]], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    steps = done.stdout.splitlines()
    assert [line.split()[0] for line in steps] == ["1", "2", "3", "4"]
    assert all(0.0 < float(line.split()[1]) < 0.5 for line in steps)


def test_every_document_it_links_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
