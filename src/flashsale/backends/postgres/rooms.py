"""Waiting rooms on PostgreSQL: what changes one is a transaction of its own under the room's lock.

So the numbers of tickets rise in the order of commits and none is left out, and two processes that both believe that
it is their turn to let people in do it one after the other. Reservations take no part in that lock: a pass that two of
them bring at once collides in its unique row.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from flashsale.backends.postgres.alone import Altered
from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.moves import storable
from flashsale.backends.postgres.rows import RowChanged, sale_of
from flashsale.backends.queries import load_queries
from flashsale.core import waiting_room
from flashsale.core.questions import AdmissionOf, DrawnOrder, EntrantsOf, FindRooms, FindTickets
from flashsale.core.sale import Sale
from flashsale.core.waiting_room import (
    Drawn,
    DrawStep,
    Figures,
    Joining,
    Room,
    Ticket,
    Turn,
    Turned,
    limits_active,
    parted,
)
from flashsale.ports import Clock

SQL = load_queries("postgres/rooms.sql")


def _room(row: Any) -> Room:
    return msgspec.convert(tuple(row), Room)


def _ticket(row: Any) -> Ticket:
    return msgspec.convert(tuple(row), Ticket)


async def _one(db: Connection, sale_id: str) -> Room | None:
    for known in storable(sale_id):
        row = await db.fetchrow(SQL["room"], known)
        return _room(row) if row else None
    return None


async def _locked(db: Connection, clock: Clock, sale_id: str) -> tuple[Sale | None, Room | None, int]:
    """The sale, its room and the time, now that nobody else can change the room."""
    ((_, told_ms),) = await db.fetch(SQL["lock_room"], sale_id)
    row = await db.fetchrow(SQL["room_and_terms"], sale_id)
    if row is None:
        return None, None, clock.hear(told_ms)
    *values, terms = row
    return sale_of(terms), _room(values), clock.hear(told_ms)


async def _put(db: Connection, room: Room) -> None:
    values = (room.arrivals, room.entrants, room.phase, room.root, room.head, room.full_at_us, room.sold_out)
    await db.execute(SQL["put_room"], room.sale_id, *values, room.pace)


async def join(clock: Clock, sale_id: str, wanted: Sequence[Joining], db: Connection) -> Altered:
    sale, room, now_ms = await _locked(db, clock, sale_id)
    found = await db.fetch(SQL["tickets_of_users"], sale_id, [*{each.user_id for each in wanted}])
    newest = {row[2]: _ticket(row) for row in found}
    answers = []
    new = []
    back = []
    for each in wanted:
        earlier = newest.get(each.user_id)
        given = waiting_room.join(sale, room, each, earlier, now_ms)
        if isinstance(given, Ticket) and given is not earlier:
            newest[each.user_id] = given
            if earlier is not None and given.number == earlier.number:
                back.append(given.number)
            else:
                new.append((given.sale_id, given.number, given.user_id, given.at_ms, given.told_ms))
        answers.append(given)
    if back:
        await db.execute(SQL["come_back"], sale_id, back)
    if room is not None and new:
        columns = ("sale_id", "number", "user_id", "at_ms", "told_ms")
        await db.copy_records_to_table("ticket", records=new, columns=columns)
        await _put(db, room)
    return Altered(answers, changed=bool(new or back))


async def leave(sale_id: str, number: int, db: Connection) -> Altered:
    await lock(db, sale_id)
    await db.execute(SQL["left"], sale_id, number)
    await db.execute(SQL["give_pass_up"], sale_id, number)
    return Altered(None, changed=True)


async def draw(clock: Clock, sale_id: str, step: DrawStep, db: Connection) -> Altered:
    sale, room, now_ms = await _locked(db, clock, sale_id)
    if sale is None or room is None or not waiting_room.take_step(sale, room, step, now_ms):
        return Altered(room)
    if isinstance(step, Drawn):
        for part, numbers in enumerate(parted(step.numbers)):
            await db.execute(SQL["put_part"], sale_id, part, numbers)
    await _put(db, room)
    return Altered(room, changed=True)


async def admit(clock: Clock, turn: Turn, db: Connection) -> Altered:
    sale, room, now_ms = await _locked(db, clock, turn.sale_id)
    if sale is None or room is None:
        return Altered(Turned([], 0))
    figures = await _figures(db, turn.sale_id, now_ms, limits_active(sale))
    known = {each.number: each for each in await _tickets(db, turn.sale_id, turn.numbers)}
    before = msgspec.structs.asdict(room)
    turned = waiting_room.admit(sale, room, figures, *turn.of(known), now_ms)
    room.pace = turn.pace or room.pace
    if turned.admitted:
        numbers, until_ms = [each.number for each in turned.admitted], turned.admitted[0].pass_until_ms
        if len(await db.fetch(SQL["let_in"], turn.sale_id, numbers, until_ms)) != len(numbers):
            raise RowChanged(f"a ticket of {turn.sale_id} no longer waits")
    changed = msgspec.structs.asdict(room) != before
    if changed:
        await _put(db, room)
    return Altered(turned, changed=changed)


async def _figures(db: Connection, sale_id: str, now_ms: int, active: bool) -> Figures:
    (counted,) = await db.fetch(SQL["figures"], sale_id, now_ms, active)
    return Figures(*counted)


async def _tickets(db: Connection, sale_id: str, numbers: Iterable[int]) -> list[Ticket]:
    return [_ticket(row) for row in await db.fetch(SQL["tickets"], sale_id, list(numbers))]


async def lock(db: Connection, sale_id: str) -> None:
    await db.fetch(SQL["lock_room"], sale_id)


async def open_room(db: Connection, sale: Sale) -> None:
    """A sale gets its room, and with it the seed of its draw, when its terms first want one."""
    if sale.waiting_room is not None:
        await db.execute(SQL["open_room"], sale.sale_id, os.urandom(waiting_room.SEED_BYTES))


async def delete_room(db: Connection, sale_id: str) -> None:
    for name in ("delete_room", "delete_tickets", "delete_passes", "delete_parts"):
        await db.execute(SQL[name], sale_id)


# Questions


async def rooms(db: Connection, query: FindRooms) -> list[Room]:
    return [_room(row) for row in await db.fetch(SQL["rooms"], [*query.sale_ids])]


async def tickets(db: Connection, query: FindTickets) -> tuple[Room | None, list[Ticket]]:
    """The room first: whoever is let in between the two is shown as such, with a head that is lower than it is."""
    room = await _one(db, query.sale_id)
    return room, await _tickets(db, query.sale_id, query.numbers) if room else []


async def entrants(db: Connection, query: EntrantsOf) -> list[tuple[int, str]]:
    return [(row[0], row[1]) for row in await db.fetch(SQL["entrants"], query.sale_id, query.after, query.limit)]


async def drawn(db: Connection, query: DrawnOrder) -> bytes:
    return b"".join([row[0] for row in await db.fetch(SQL["parts"], query.sale_id)])


async def admission(db: Connection, query: AdmissionOf) -> tuple[Room, Figures] | None:
    room = await _one(db, query.sale_id)
    return (room, await _figures(db, query.sale_id, query.now_ms, query.active)) if room else None
