"""The place of a database in its ledger: which shard it is, and whether it stands where the settings say.

A ledger in several databases is a list of URLs, and the list is an order: a sale that was put on the third database
is looked for on the third. So each database carries its number and the name of its ledger, given by `flashsale migrate`
and checked whenever a ledger is opened; the first one also knows how many there are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.rows import SHARDS
from flashsale.ports import SchemaUnknown


class Place(NamedTuple):
    """What a database says of itself."""

    shard_id: int
    ledger_id: str | None
    """None: it stands alone, or nobody has claimed it yet."""
    shards: int
    used: bool
    """Whether there is, or was, a sale in it."""


async def place_of(db: Connection) -> Place:
    (row,) = await db.fetch(SHARDS["place"])
    return Place(*row)


class Seat(NamedTuple):
    """What a database has to be: number `shard_id` of a list of `shards`."""

    shard_id: int
    shards: int
    ledger_id: str | None = None
    """None: whichever ledger the first database says."""

    async def require(self, db: Connection) -> Connection:
        """Raises SchemaUnknown when this is another database."""
        if wrong := self.fault(await place_of(db)):
            raise SchemaUnknown(wrong)
        return db

    def fault(self, place: Place) -> str | None:
        """What is wrong with a database that is here, and what to do; None when it is the right one."""
        if place.shards > self.shards:
            return (
                f"the ledger is in {place.shards} databases, and FLASHSALE_LEDGER names {self.shards}: "
                "name all of them, in the order of their shards"
            )
        if self.shards == 1:
            return self._not_alone(place)
        here = f"URL {self.shard_id + 1} of FLASHSALE_LEDGER"
        if place.ledger_id is None and (self.shard_id == 0 or not place.used):
            return f"{here} names a database that is not part of this ledger yet: run `flashsale migrate`"
        if place.ledger_id is None or place.ledger_id != (self.ledger_id or place.ledger_id):
            return f"{here} names a database of another ledger: name the one that is shard {self.shard_id}"
        if place.shard_id != self.shard_id:
            return (
                f"{here} names the database that is shard {place.shard_id} (URL {place.shard_id + 1}), not "
                f"shard {self.shard_id}: put the list back into its order"
            )
        if self.shard_id == 0 and place.shards < self.shards:
            return (
                f"FLASHSALE_LEDGER names {self.shards} databases, the ledger has {place.shards}: "
                "run `flashsale migrate`"
            )
        return None

    def _not_alone(self, place: Place) -> str | None:
        if place.shard_id == 0:
            return None
        return (
            f"this database is shard {place.shard_id} of a ledger: name all its databases in FLASHSALE_LEDGER, "
            "in the order of their shards"
        )


ALONE = Seat(0, 1)


def joining(places: Sequence[Place]) -> list[str]:
    """What keeps these databases from being one ledger, in this order; those that may join are no fault."""
    first = places[0]
    if first.shards > len(places):
        return [fault for fault in (Seat(0, len(places)).fault(first),) if fault]
    faults = []
    for shard_id, place in enumerate(places):
        here = f"URL {shard_id + 1} of FLASHSALE_LEDGER"
        if place.ledger_id is not None or (shard_id == 0 and place.shard_id == 0):
            seat = Seat(shard_id, len(places), first.ledger_id or "none yet")
            found = seat.fault(place._replace(shards=len(places), ledger_id=place.ledger_id or "none yet"))
        elif place.used:
            found = f"{here} names a database that holds a ledger of its own: name an empty one"
        elif shard_id < first.shards:
            found = (
                f"{here} names an empty database, but shard {shard_id} of this ledger holds sales: name that one, "
                "or restore it"
            )
        else:
            found = None
        faults += [found] if found else []
    return faults
