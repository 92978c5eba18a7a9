"""What every gate does with a call before it looks anything up: sort it by product, and keep shared settings small."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from flashsale.core.books import Line
from flashsale.core.permits import Synchronised

SHARED_SETTINGS_MAX = 100
SHARED_TEXT_MAX = 1000
"""Of a name and its value together."""
VERSION_NAME = "version"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def by(things: Sequence[V], key: Callable[[V], K]) -> dict[K, list[int]]:
    """The places of things that belong together, in order."""
    groups: dict[K, list[int]] = {}
    for place, thing in enumerate(things):
        groups.setdefault(key(thing), []).append(place)
    return groups


def settlements(
    lines: Sequence[tuple[Line, Sequence[str]]], synchronised: Sequence[Synchronised]
) -> dict[Line, tuple[list[str], Synchronised | None]]:
    """What `settle` is told, by product: all ids, and the newest of what the ledger says."""
    found: dict[Line, tuple[list[str], Synchronised | None]] = {}
    for line, ids in lines:
        found.setdefault(line, ([], None))[0].extend(ids)
    for row in synchronised:
        ids_of, known = found.get(row.line, ([], None))
        if known is None or row.sku_seq >= known.sku_seq:
            found[row.line] = ids_of, row
    return found


def shown(versions: dict[str, tuple[int, str]]) -> dict[str, str]:
    """Shared settings as the port gives them."""
    if not versions:
        return {}
    newest = max(version for version, _ in versions.values())
    return {name: value for name, (_, value) in versions.items()} | {VERSION_NAME: str(newest)}


def require_small(changes: dict[str, str], names: int) -> None:
    """Raises ValueError for shared settings that are too many, too long or misnamed."""
    for name, value in changes.items():
        if not name or name == VERSION_NAME or len(name) + len(value) > SHARED_TEXT_MAX:
            limit = f"more than {SHARED_TEXT_MAX} characters"
            raise ValueError(f"shared setting {name[:64]!r} has no name of its own, or {limit}")
    if names > SHARED_SETTINGS_MAX:
        raise ValueError(f"there may be {SHARED_SETTINGS_MAX} shared settings at most")
