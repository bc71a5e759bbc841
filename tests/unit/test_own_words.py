"""What the product itself says passes through `masked` unchanged: a remedy that reads `***` helps nobody."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.masking import MASK, masked

ROOT = Path(__file__).parents[2]
FOLDERS = ("ingest", "processors", "sinks", "schemas", "pilothouse")
VALUE = "acme"  # stands for what is put into a sentence
EXAMPLES = ("PASSWORD", "TOKEN", "BASE64", "KEY", "PATH", "Bearer%20TOKEN", VALUE)
"""What stands for a secret in an example or a setting. It may be masked: what is to be written there is clear all the same."""


def sentences() -> Iterator[tuple[str, str]]:
    """Every text of the code with a blank in it, docstrings and patterns apart, with what is put in."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        if path.name == "masking.py" or "generated" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(one) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for one in node.values}
        apart = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            text = written(node) if id(node) not in inner | apart else ""
            if " " in text.strip() and not text.startswith(("SELECT", "CREATE", "ALTER", "WITH", "INSERT")):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text  # type: ignore[attr-defined]


def written(node: ast.AST) -> str:
    """The text of a constant or of an f-string, a value in every place of the latter."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else VALUE for one in node.values)
    return ""


def test_what_the_product_says_stays_readable() -> None:
    unreadable = [
        f"{where}: {text!r} -> {shown!r}"
        for where, text in sentences()
        if (shown := masked(text)) != text and not any(text == shown.replace(MASK, one) for one in EXAMPLES)
    ]
    assert unreadable == []


@pytest.mark.parametrize("version", ["17.0", "18.0", "19.0"])
def test_real_lines_of_odoo_stay_as_they_are(version: str) -> None:
    lines = (ROOT / f"tests/golden/odoo_log/{version}.log").read_text(encoding="utf-8").splitlines()
    changed = [line for line in lines if masked(line) != line]
    assert changed == []
