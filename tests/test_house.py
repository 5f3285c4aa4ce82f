"""The rules of the house that no linter knows: sizes, names of variables, and citations."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "schemas", "producers", "ops")
MODULES = sorted(p.relative_to(ROOT) for room in ROOMS for p in (ROOT / room).rglob("*.py"))  # rglob does not follow links
MAX_LINES, MAX_FUNCTION = 400, 50
MAX_KERNEL = 90  # a compiled loop over bytes or heads, in which every call that is not inlined costs

NO_NAMES = {"at", "of", "found", "wanted", "by", "to", "on", "into", "up", "over", "under", "behind", "beyond"}
"""Prepositions and participles, which say nothing of a value."""

SOURCES = {path: (ROOT / path).read_text(encoding="utf-8") for path in MODULES}


def bound_names(source: str) -> Iterator[tuple[str, int]]:
    """(name, line) of every variable and parameter."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def long_functions(source: str, limit: int) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [f"{f.name} has {length} lines" for f in functions if (length := (f.end_lineno or f.lineno) - f.lineno + 1) > limit]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(SOURCES[path].splitlines()) <= MAX_LINES
    limit = MAX_KERNEL if path.parent.name == "kernels" else MAX_FUNCTION
    assert long_functions(SOURCES[path], limit) == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_variables_are_nouns(path: Path) -> None:
    assert [(name, line) for name, line in bound_names(SOURCES[path]) if name in NO_NAMES] == []


def test_every_room_is_looked_at() -> None:
    for room in ROOMS:
        assert sum(path.parts[0] == room for path in MODULES) > 3, room


@pytest.mark.parametrize(
    ("source", "names"), [("for of in x:\n    at = [found for found in of]", ["of", "at", "found"]), ("def f(*, wanted): ...", ["wanted"])]
)
def test_the_rules_find_what_they_are_for(source: str, names: list[str]) -> None:
    assert [name for name, _ in bound_names(source) if name in NO_NAMES] == names
    assert long_functions("def f():\n" + "    x = 1\n" * MAX_FUNCTION, MAX_FUNCTION) == [f"f has {MAX_FUNCTION + 1} lines"]


CITATION = re.compile(r"(?P<document>\S+?),\s+(?P<word>invariants?(?= \d)|Honesty|Layers)\b(?P<numbers>[ 0-9,]*(?:and \d+)?)")


def cited() -> Iterator[tuple[Path, str, str, str]]:
    tests = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    for path, source in {**SOURCES, **tests}.items():
        if path != Path(__file__):
            for match in CITATION.finditer(source):
                yield path, match["document"].lstrip('("'), match["word"], match["numbers"]


def test_every_invariant_that_code_cites_stands_numbered_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("\n## Invariants\n")[2].partition("\n## ")[0]
    numbered = set(re.findall(r"^(\d+)\. \*\*", section, flags=re.MULTILINE))
    assert numbered == {str(number) for number in range(1, 9)}
    citations = list(cited())
    assert len(citations) > 10
    for path, document, word, numbers in citations:
        assert document == "docs/architecture.md", f"{path} cites {document}"
        if word.startswith("invariant"):
            assert set(re.findall(r"\d+", numbers)) <= numbered, f"{path} cites invariant {numbers}"
        else:
            assert f"\n## {word}\n" in text, f"{path} cites a section {word}"


def test_nothing_cites_a_document_outside_the_repository() -> None:
    tests = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)}
    documents = {path: path.read_text(encoding="utf-8") for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md")}
    for path, text in {**SOURCES, **tests, **documents}.items():
        assert not re.search(
            r"\(design\b|\bdesign(?:, | )(?:invariant|Honesty|Layers|Topics|Brokers)|\bDesign, |design\.md|findings\.md", text
        ), path
        for name in re.findall(r"\bdocs/[\w/-]+\.md", text):
            assert (ROOT / name).exists(), f"{path} cites {name}"


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    way = text.partition("\n## The way of an interaction\n")[2].partition("\n## ")[0]
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.py)`", way)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "pipeline" / name).exists()] == []
