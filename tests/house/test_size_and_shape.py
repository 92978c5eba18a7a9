"""Code that fits in a head: small functions, small files, no hidden imports, no swallowed errors."""

import ast
from collections.abc import Iterator
from pathlib import Path

from house.project import PACKAGE, functions, place, sources, text_of, tree_of

from flashsale.ports import Ledger

LINES_OF_A_FUNCTION = 50
LINES_OF_A_FILE = 400

# "file function": why everything is swallowed there. Each one must turn the error into a report or a refusal.
MAY_SWALLOW_EVERYTHING: dict[str, str] = {
    "src/flashsale/worker.py _every": "a loop's outermost step: logged, and repeated at the next tick",
    "src/flashsale/backends/sqlite/ledger.py SqliteLedger._committed": "the writer's outermost step: halves",
    "src/flashsale/backends/kafka/deliveries.py KafkaDeliveries._serve": "a thread's outermost step: logged",
    "src/flashsale/flow/consume.py Consuming._drain": "a source's outermost step: logged, and asked again",
    "src/flashsale/flow/consume.py Consuming._work_off": "a batch's outermost step: logged, and worked on again",
    "src/flashsale/answering.py tell": "one asker's failure is not his neighbours': logged",
    "src/flashsale/flow/settle.py Settling._in_peace": "one payment's failure is not the others'",
    "src/flashsale/backends/batch.py deliver": "answers go out whatever the observer does",
    "src/flashsale/backends/postgres/ledger.py PostgresLedger._committed": "the writer's outermost step: halves",
    "src/flashsale/backends/postgres/ledger.py PostgresLedger._altered": "the writer's outermost step",
    "src/flashsale/backends/postgres/reading.py Reading._found": "a reader's outermost step",
    "src/flashsale/backends/postgres/reading.py Reading._refused": "a reader's outermost step",
    "src/flashsale/backends/sqlite/ledger.py SqliteLedger._read": "a reader's outermost step: its askers are told 503",
    "src/flashsale/backends/redis/breaker.py Breaker._is_well": "a probe that fails in any way has failed: logged",
}


def test_no_function_is_longer_than_50_lines():
    too_long = [
        place(path, node, f"{name} has {node.end_lineno - node.lineno + 1} lines")
        for path in sources()
        for name, node in functions(path)
        if node.end_lineno - node.lineno >= LINES_OF_A_FUNCTION
    ]
    assert too_long == []


def test_no_source_file_is_longer_than_400_lines():
    files = [*sources(), *PACKAGE.rglob("*.sql"), *PACKAGE.rglob("*.lua")]
    lengths = {place(path): len(text_of(path).splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FILE} == {}


def test_imports_stand_at_the_top_of_their_file():
    hidden = [
        place(path, inner, name)
        for path in sources()
        for name, node in functions(path)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_nobody_swallows_every_error_without_a_stated_reason():
    swallowing = {swallower for path in sources() for swallower in _swallowers(path)}
    unexpected = sorted(swallowing - MAY_SWALLOW_EVERYTHING.keys())
    assert unexpected == [], "catch what you expect, or state the reason in MAY_SWALLOW_EVERYTHING"


def test_every_permission_to_swallow_errors_is_still_used():
    swallowing = {swallower for path in sources() for swallower in _swallowers(path)}
    assert sorted(MAY_SWALLOW_EVERYTHING.keys() - swallowing) == []


def _swallowers(path: Path) -> Iterator[str]:
    """Functions that catch Exception or more and go on, as "file function"; code outside them has no name."""
    inside = {inner: name for name, node in functions(path) for inner in ast.walk(node)}
    for node in ast.walk(tree_of(path)):
        if any(_is_everything(caught) for caught in _caught_by(node)):
            yield place(path, name=inside.get(node, ""))


def _caught_by(node: ast.AST) -> list[ast.expr | None]:
    if isinstance(node, ast.ExceptHandler):
        cleans_up_only = isinstance(node.body[-1], ast.Raise)
        return [] if cleans_up_only else [node.type]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        return list(node.args)
    return []


def _is_everything(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_is_everything(one) for one in caught.elts)
    return caught is None or ast.unparse(caught).removeprefix("builtins.") in {"Exception", "BaseException"}


def test_the_ledger_has_at_most_ten_methods():
    named = [name for name, value in vars(Ledger).items() if callable(value) and not name.startswith("_")]
    assert len(named) <= 10, named
