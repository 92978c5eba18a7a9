"""core/ holds rules: the same arguments give the same answer, today and in a replay."""

import ast
import builtins

from house.project import PACKAGE, place, sources, tree_of

PURE_MODULES = {
    "abc", "array", "base64", "binascii", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json", "math", "operator",
    "re", "string", "struct", "types", "typing", "unicodedata", "zoneinfo", "__future__",
    "msgspec",
}  # fmt: skip
PURE_PARTS = {
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.ed25519",  # the same key and text give the same signature
}
CHANCE = {"generate", "urandom", "token_bytes", "random", "uuid4"}
CLOCKS = {"now", "utcnow", "today"}
WINDOWS_TO_THE_WORLD = {"open", "print", "input", "exec", "eval", "compile", "breakpoint", "id", "hash", "__import__"}


def test_the_rules_import_only_pure_modules_and_each_other():
    impure = [
        place(path, node, module)
        for path in sources(PACKAGE / "core")
        for node in ast.walk(tree_of(path))
        for module in _imported(node)
        if module.partition(".")[0] not in PURE_MODULES
        and module not in PURE_PARTS
        and not module.startswith("flashsale.core")
    ]
    assert impure == []


def test_the_rules_read_no_clock():
    clocks = [
        place(path, node, ast.unparse(node))
        for path in sources(PACKAGE / "core")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and "date" in ast.unparse(node.value)
    ]
    assert clocks == [], "time is an argument"


def test_the_rules_draw_no_lots():
    lots = [
        place(path, node, ast.unparse(node))
        for path in sources(PACKAGE / "core")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in CHANCE
    ]
    assert lots == [], "chance is an argument"


def test_the_rules_touch_no_file_no_terminal_and_nothing_that_differs_between_runs():
    assert vars(builtins).keys() >= WINDOWS_TO_THE_WORLD
    touched = [
        place(path, node, ast.unparse(node))
        for path in sources(PACKAGE / "core")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WINDOWS_TO_THE_WORLD
    ]
    assert touched == []


def test_the_rules_hold_no_coroutines():
    coroutines = [
        place(path, node, node.name)
        for path in sources(PACKAGE / "core")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert coroutines == [], "waiting is for flow/ and the backends"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["." * node.level + (node.module or "")]
    return []
