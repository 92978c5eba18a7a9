"""SQL lives in files of its own; each statement there has a name: `-- name: put_sale`."""

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_queries(path: str) -> dict[str, str]:
    """The statements of a file below `backends/sql/`, by name."""
    _, *parts = _NAME.split(read_sql(path))
    return {name: _without_comments(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def read_sql(path: str) -> str:
    return files("flashsale.backends").joinpath("sql", path).read_text(encoding="utf-8")


def _without_comments(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("--"))
    return "\n".join(lines).strip().rstrip(";")
