"""SQL lives in files of its own; each statement there has a name: `-- name: put_sale`."""

import re
from importlib.resources import files

_MIGRATION = re.compile(r"(\d{4})_\w+\.sql$")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_queries(path: str) -> dict[str, str]:
    """The statements of a file below `backends/sql/`, by name."""
    _, *parts = _NAME.split(read_sql(path))
    return {name: _without_comments(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def read_sql(path: str) -> str:
    return files("flashsale.backends").joinpath("sql", path).read_text(encoding="utf-8")


def migrations(folder: str) -> dict[int, str]:
    """The migrations in a folder below `backends/sql/`: their numbers and file names, in order."""
    names = (entry.name for entry in files("flashsale.backends").joinpath("sql", folder).iterdir())
    found = ((_MIGRATION.match(name), name) for name in names)
    return dict(sorted((int(match[1]), name) for match, name in found if match))


def _without_comments(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("--"))
    return "\n".join(lines).strip().rstrip(";")
