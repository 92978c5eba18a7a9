"""The project as the house tests read it: its files and its syntax trees."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "flashsale"
FOLDERS = [".ci", ".github", "bench", "deploy", "docs", "examples", "scripts", "src", "tests"]
NOT_OURS = {"__pycache__", ".cache", "vendor", "flashsale.egg-info"}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path), filename=place(path))


@cache
def project_files() -> list[Path]:
    """Every text file that somebody wrote by hand."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.suffix != ".lock"]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(path for path in found if not NOT_OURS.intersection(path.parts) and is_text(path))


def is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def sources(folder: Path = PACKAGE) -> list[Path]:
    """The Python files of the package, or of one part of it."""
    return sorted(folder.rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, FunctionNode]]:
    """Every function of a file with its dotted name, the nested ones included."""
    yield from _functions(tree_of(path), "")


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionNode]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield prefix + child.name, child
        name = f"{prefix}{child.name}." if isinstance(child, FunctionNode | ast.ClassDef) else prefix
        yield from _functions(child, name)


def place(path: Path, node: ast.AST | None = None, name: str = "") -> str:
    """Where to look, as an editor opens it: src/flashsale/engine.py:12 Engine.open"""
    line = f":{node.lineno}" if isinstance(node, ast.stmt | ast.expr | ast.excepthandler) else ""
    return f"{path.relative_to(ROOT).as_posix()}{line} {name}".rstrip()
