"""By user: how the ledger finds what somebody holds in a sale, and an earlier request by its key.

Users come in no order. An index over them is touched at a random page for each reservation, and in a large
ledger that page, written to the log and from there to the file, costs more than all the rest of the
reservation. So entries are gathered before they are spread, as in a log-structured merge tree:

    level 0   the newest entries, few enough that a batch fills whole pages of them
    level 1   some more
    level 2   everything older

Each commit moves as many entries down as it has added: one slice of the range of places at a time, so that
what is moved lies together in both levels and no commit is longer than another. A level is a prefix of one
table's key. Moving is part of the writer's transaction: a crash undoes it with the rest, and readers see an
entry in exactly one level.

An entry is a place and the row it leads to. The place is a hash, which keeps entries small; whoever looks up
compares the row itself, so two users in one place cost time and nothing else. A reservation stands in one
place only: that of its user while it counts against his limit, afterwards that of its request. Then a
signpost (row 0) is left in the user's place, so that one look tells whether a user is known at all. However
often somebody reserves and cancels, what has to be read for his next attempt does not grow.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.write import write
from flashsale.core.reservation import CLAIMING, Reservation, Status

LEVELS = ((4_096, 16), (65_536, 64))
"""For each level but the last: how many entries it holds, and into how many slices its places are cut."""
PLACES = 2**64
SIGNPOST = 0

Entry = tuple[int, int]
"""`(place, seq of the reservation)`."""

SQL = load_queries("sqlite/by_user.sql")


def place(*words: str) -> int:
    """Where to look: of a user `(user_id, sale_id)`, of a request `(user_id, sale_id, request_key)`."""
    digest = blake2b("\0".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def entries(reservation: Reservation, status: Status, seq: int) -> list[Entry]:
    """Where a reservation can be found while it has this status."""
    user = place(reservation.user_id, reservation.sale_id)
    if status in CLAIMING:
        return [(user, seq)]
    if reservation.request_key is None:
        return []
    return [(place(reservation.user_id, reservation.sale_id, reservation.request_key), seq), (user, SIGNPOST)]


def known(db: sqlite3.Connection, places: Iterable[int]) -> set[int]:
    """Those of the places in which something stands."""
    asked = f"[{','.join(map(str, places))}]"
    return {found for (found,) in db.execute(SQL["known"], (asked,))}


class ByUser:
    """The writer's hand on the entries: adds and removes them, and keeps the levels within their bounds."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._slice = [0] * len(LEVELS)
        self.count()

    def count(self) -> None:
        """Counts anew: at the start, and after a transaction that was rolled back."""
        self._sizes = [self._db.execute(SQL["size"], (level,)).fetchone()[0] for level in range(len(LEVELS))]

    def add(self, new: Sequence[Entry]) -> None:
        self._sizes[0] += write(self._db, SQL["add"], [(0, *entry) for entry in sorted(new)])

    def move(self, before: Sequence[Entry], after: Sequence[Entry]) -> None:
        """A reservation's status has changed. Signposts stay."""
        for entry in before:
            if entry[1] != SIGNPOST and entry not in after:
                self._remove(entry)
        self.add([entry for entry in after if entry not in before])

    def _remove(self, entry: Entry) -> None:
        for (level,) in self._db.execute(SQL["remove"], entry).fetchall():
            if level < len(LEVELS):
                self._sizes[level] -= 1

    def sink(self) -> None:
        """Moves entries down until no level holds more than it may."""
        for level, (size_max, slices) in enumerate(LEVELS):
            while self._sizes[level] > size_max:
                self._sink_slice(level, slices)

    def _sink_slice(self, level: int, slices: int) -> None:
        width = PLACES // slices
        lowest = self._slice[level] * width - PLACES // 2
        bounds = (level, lowest, lowest + width - 1)
        self._slice[level] = (self._slice[level] + 1) % slices
        arrived = self._db.execute(SQL["sink"], bounds).rowcount
        self._sizes[level] -= self._db.execute(SQL["sunk"], bounds).rowcount
        if level + 1 < len(LEVELS):
            self._sizes[level + 1] += arrived
