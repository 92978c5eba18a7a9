"""Waiting rooms on SQLite: the writer's moves, and what is asked of them."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.moves import Desk
from flashsale.backends.sqlite.rows import RowChanged, array
from flashsale.backends.sqlite.write import write
from flashsale.core import waiting_room
from flashsale.core.questions import AdmissionOf, DrawnOrder, EntrantsOf, FindRooms, FindTickets
from flashsale.core.refusal import Refused
from flashsale.core.sale import Sale
from flashsale.core.waiting_room import (
    SEED_BYTES,
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

SQL = load_queries("sqlite/rooms.sql")


def _room(row: Any) -> Room:
    return msgspec.convert(row, Room, strict=False)


def _ticket(row: Any) -> Ticket:
    return msgspec.convert(row, Ticket, strict=False)


def _one(db: sqlite3.Connection, sale_id: str) -> Room | None:
    row = db.execute(SQL["room"], (sale_id,)).fetchone()
    return _room(row) if row else None


def _put(desk: Desk, room: Room) -> None:
    desk.wrote = True
    desk.db.execute(SQL["put_room"], (
        room.sale_id, room.arrivals, room.entrants, room.phase.value, room.root, room.head, room.full_at_us,
        room.sold_out, room.pace,
    ))  # fmt: skip


def open_room(db: sqlite3.Connection, sale: Sale) -> None:
    """A sale gets its room, and with it the seed of its draw, when its terms first want one."""
    if sale.waiting_room is not None:
        db.execute(SQL["open_room"], (sale.sale_id, os.urandom(SEED_BYTES)))


def delete_room(db: sqlite3.Connection, sale_id: str) -> None:
    for name in ("delete_room", "delete_tickets", "delete_passes", "delete_parts"):
        db.execute(SQL[name], (sale_id,))


def join(desk: Desk, sale_id: str, wanted: Sequence[Joining]) -> list[Ticket | Refused]:
    sale, room, now_ms = desk.sales.get(sale_id), _one(desk.db, sale_id), desk.clock.now_ms()
    newest: dict[str, Ticket] = {}
    answers: list[Ticket | Refused] = []
    new: list[Ticket] = []
    for each in wanted:
        earlier = newest.get(each.user_id) or _of_user(desk.db, sale_id, each.user_id)
        given = waiting_room.join(sale, room, each, earlier, now_ms)
        if isinstance(given, Ticket) and given is not earlier:
            newest[each.user_id] = given
            if earlier is not None and given.number == earlier.number:
                desk.wrote = True
                desk.db.execute(SQL["come_back"], (sale_id, given.number))
            else:
                new.append(given)
        answers.append(given)
    if room is not None and new:
        write(desk.db, SQL["new_ticket"], [(t.sale_id, t.number, t.user_id, t.at_ms, t.told_ms) for t in new])
        _put(desk, room)
    return answers


def _of_user(db: sqlite3.Connection, sale_id: str, user_id: str) -> Ticket | None:
    row = db.execute(SQL["ticket_of_user"], (sale_id, user_id)).fetchone()
    return _ticket(row) if row else None


def leave(desk: Desk, sale_id: str, number: int) -> None:
    desk.wrote = True
    desk.db.execute(SQL["left"], (sale_id, number))
    desk.db.execute(SQL["give_pass_up"], (sale_id, number))


def draw(desk: Desk, sale_id: str, step: DrawStep) -> Room | None:
    sale, room = desk.sales.get(sale_id), _one(desk.db, sale_id)
    if sale is None or room is None or not waiting_room.take_step(sale, room, step, desk.clock.now_ms()):
        return room
    if isinstance(step, Drawn):
        desk.db.executemany(SQL["put_part"], [(sale_id, part, each) for part, each in enumerate(parted(step.numbers))])
    _put(desk, room)
    return room


def admit(desk: Desk, turn: Turn) -> Turned:
    sale, room, now_ms = desk.sales.get(turn.sale_id), _one(desk.db, turn.sale_id), desk.clock.now_ms()
    if sale is None or room is None:
        return Turned([], 0)
    figures = _figures(desk.db, turn.sale_id, now_ms, limits_active(sale))
    known = {each.number: each for each in _tickets(desk.db, turn.sale_id, turn.numbers)}
    before = msgspec.structs.asdict(room)
    turned = waiting_room.admit(sale, room, figures, *turn.of(known), now_ms)
    room.pace = turn.pace or room.pace
    for ticket in turned.admitted:
        if not desk.db.execute(SQL["let_in"], (turn.sale_id, ticket.number, ticket.pass_until_ms)).fetchall():
            raise RowChanged(f"ticket {ticket.number} of {turn.sale_id} no longer waits")
    if msgspec.structs.asdict(room) != before:
        _put(desk, room)
    return turned


def _figures(db: sqlite3.Connection, sale_id: str, now_ms: int, active: bool) -> Figures:
    return Figures(*db.execute(SQL["figures"], (sale_id, now_ms, active)).fetchone())


def _tickets(db: sqlite3.Connection, sale_id: str, numbers: Iterable[int]) -> list[Ticket]:
    return [_ticket(row) for row in db.execute(SQL["tickets"], (sale_id, array(numbers)))]


# Questions


def rooms(db: sqlite3.Connection, query: FindRooms) -> list[Room]:
    return [_room(row) for row in db.execute(SQL["rooms"], (array(query.sale_ids),))]


def tickets(db: sqlite3.Connection, query: FindTickets) -> tuple[Room | None, list[Ticket]]:
    return _one(db, query.sale_id), _tickets(db, query.sale_id, query.numbers)


def entrants(db: sqlite3.Connection, query: EntrantsOf) -> list[tuple[int, str]]:
    return db.execute(SQL["entrants"], (query.sale_id, query.after, query.limit)).fetchall()


def drawn(db: sqlite3.Connection, query: DrawnOrder) -> bytes:
    return b"".join(numbers for (numbers,) in db.execute(SQL["parts"], (query.sale_id,)))


def admission(db: sqlite3.Connection, query: AdmissionOf) -> tuple[Room, Figures] | None:
    room = _one(db, query.sale_id)
    return (room, _figures(db, query.sale_id, query.now_ms, query.active)) if room else None
