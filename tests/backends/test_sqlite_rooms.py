"""A waiting room on SQLite costs the same however many wait in it."""

import sqlite3

import pytest

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.file import migrate

ROOMS = load_queries("sqlite/rooms.sql")
FOUND_BY = {
    "ticket_of_user": (("sale", "ann"), "INDEX ticket_user (sale_id=? AND user_id=?)"),
    "tickets": (("sale", "[1]"), "SEARCH t USING PRIMARY KEY (sale_id=? AND number=?)"),
    "entrants": (("sale", 1, 2), "PRIMARY KEY (sale_id=? AND number>?)"),
    "figures": (("sale", 1, True), "INDEX ticket_pass (sale_id=? AND pass_until_ms>?)"),
}


@pytest.mark.parametrize("name", FOUND_BY)
def test_tickets_are_looked_up_and_never_gone_through(name):
    values, wanted = FOUND_BY[name]
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db)
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {ROOMS[name]}", values)]
    db.close()
    assert any(wanted in step for step in plan), plan
    assert not any("SCAN t" in step or "SCAN p" in step for step in plan), plan
