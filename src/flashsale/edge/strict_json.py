"""Reading JSON strictly: msgspec does it, and what msgspec does not notice is added here: a key given twice, nesting
without end, a character that not every ledger can keep. What is wrong is said in a client's words.
"""

import json
import re
from typing import Any, TypeVar

import msgspec

from flashsale.core.refusal import Refused, invalid

DEPTH_MAX = 32
ECHO_MAX = 64
"""How much of a client's own text a message repeats."""

T = TypeVar("T")


def parse_json(body: bytes, shape: type[T]) -> T | Refused:
    """Reads any other body, strictly: depth, types, duplicate keys; unknown fields as `shape` says."""
    if _too_deep(body):
        return invalid("body", f"is nested deeper than {DEPTH_MAX} levels")
    if _NUL.search(body):
        return invalid("body", "must not contain the character U+0000")
    try:
        read = msgspec.json.decode(body, type=shape)
    except ValueError as trouble:
        return malformed(trouble, shape)
    return duplicate(body) or read


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""The one character that not every ledger can keep, escaped; unescaped, JSON itself refuses it."""
_BRACKET_OR_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def _too_deep(body: bytes) -> bool:
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return False
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(body):
        first = found[0][:1]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def duplicate(body: bytes) -> Refused | None:
    """Looks for a key that is given twice. The body is valid JSON of bounded depth."""
    tree = json.loads(body, object_pairs_hook=_Pairs, parse_int=len, parse_float=len)
    path = _twice(tree, "")
    return invalid(path, "is given twice") if path else None


class _Pairs(list[tuple[str, Any]]):
    """An object as its pairs, so that none is lost."""


def _twice(node: Any, path: str) -> str | None:
    if isinstance(node, _Pairs):
        seen = set()
        for name, value in node:
            inner = f"{path}.{name[:ECHO_MAX]}" if path else name[:ECHO_MAX]
            if name in seen:
                return inner or "body"
            seen.add(name)
            if found := _twice(value, inner):
                return found
    elif isinstance(node, list):
        for number, value in enumerate(node):
            if found := _twice(value, f"{path}[{number}]"):
                return found
    return None


_ABOUT_A_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected (.*?)(?:, got .*)?", re.DOTALL)
_STEP = re.compile(r"\[\d+\]|[^.\[\]]+")
_TYPE_NAME = re.compile(r"`([^`]*)`")
_PLAIN = {
    "int": "an integer", "str": "a string", "bool": "true or false", "float": "a number", "decimal": "a number",
    "array": "an array", "object": "an object", "null": "null", "datetime": "a time (RFC 3339)",
}  # fmt: skip


def malformed(trouble: ValueError, shape: Any = None) -> Refused:
    """Says in a client's words, with the JSON path, what msgspec says in its own."""
    if isinstance(trouble, UnicodeDecodeError):
        return invalid("body", "must be UTF-8")
    if not isinstance(trouble, msgspec.ValidationError):
        return invalid("body", "must be valid JSON: " + str(trouble).removeprefix("JSON is malformed: "))
    text, _, place = str(trouble).partition(" - at `$")
    path = place.rstrip("`").lstrip(".").removesuffix("[...]")
    if about := _ABOUT_A_FIELD.fullmatch(text):
        name = about[2][:ECHO_MAX]
        path = f"{path}.{name}" if path else name
        return invalid(path or "body", "is required" if about[1].startswith("missing") else "is not a known field")
    if expected := _EXPECTED.fullmatch(text):
        text = "must be " + _TYPE_NAME.sub(_in_plain_words, expected[1])
    elif text.startswith("Invalid enum value") and (choices := _choices(shape, path)):
        text = f"must be one of {', '.join(choices)}"
    elif text == "Number out of range":
        text = "has a number that is out of range"
    return invalid(path or "body", text)


def _choices(shape: Any, path: str) -> list[str]:
    """What a field may be that is one of a few texts; empty: that is not known."""
    nodes: tuple[Any, ...] = (msgspec.inspect.type_info(shape),)
    for step in _STEP.findall(path):
        nodes = tuple(inner for node in nodes for kind in _kinds(node) for inner in _inside(kind, step))
    kinds = [kind for node in nodes for kind in _kinds(node)]
    enums = [each.value for kind in kinds if isinstance(kind, msgspec.inspect.EnumType) for each in kind.cls]
    literals = [each for kind in kinds if isinstance(kind, msgspec.inspect.LiteralType) for each in kind.values]
    return [str(each) for each in enums + literals]


def _kinds(node: Any) -> tuple[Any, ...]:
    return node.types if isinstance(node, msgspec.inspect.UnionType) else (node,)


def _inside(kind: Any, step: str) -> list[Any]:
    if isinstance(kind, msgspec.inspect.StructType):
        return [field.type for field in kind.fields if field.encode_name == step]
    return [kind.item_type] if step.startswith("[") and hasattr(kind, "item_type") else []


def _in_plain_words(found: re.Match[str]) -> str:
    return " or ".join(_PLAIN.get(name, name) for name in found[1].split(" | "))
