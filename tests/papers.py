"""What stands in the project's papers: the code blocks that are to run."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {"accelerate", "lightning", "transformers"}  # packages that only some recipes need


def text(paper: str) -> str:
    """A paper, by its path from the root."""
    return (ROOT / paper).read_text(encoding="utf-8")


def blocks(paper: str, language: str) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", text(paper), flags=re.DOTALL)


def recipes() -> dict[str, str]:
    """The code of docs/recipes.md under each of its headings."""
    parts = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text("docs/recipes.md"), flags=re.DOTALL | re.MULTILINE)
    found = {heading: re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL) for heading, part in parts}
    assert all(len(code) == 1 for code in found.values()), "one block to a heading"
    return {heading: code[0] for heading, code in found.items()}


def extras_of(code: str) -> set[str]:
    """The packages that a block imports and that are extras."""
    nodes = list(ast.walk(ast.parse(code)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    from_them = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | from_them} & EXTRAS


def absent(code: str) -> list[str]:
    """The extras that a block needs and that are not installed."""
    return sorted(name for name in extras_of(code) if importlib.util.find_spec(name) is None)
