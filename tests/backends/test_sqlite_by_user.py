"""What a user holds and has asked for is found at once, however large the ledger and however busy the user."""

import pytest
from backends.poisoned import Poisoned, failure
from contract.ledgers import Shop, shop, sqlite
from core.shop import a_product, a_sale, refusal_of

from flashsale.backends.sqlite import by_user
from flashsale.core.questions import FindActiveReservations
from flashsale.core.refusal import Refusal
from flashsale.core.stock import Granted

SMALL = ((8, 2), (32, 4))


@pytest.fixture
def small_levels(monkeypatch):
    """Levels so small that a few hundred reservations fill them."""
    monkeypatch.setattr(by_user, "LEVELS", SMALL)


def rows(it: Shop, statement: str, *values: object) -> list[tuple[int, ...]]:
    return it.ledger._connections[1].execute(statement, values).fetchall()


def sizes(it: Shop) -> list[int]:
    return [rows(it, by_user.SQL["size"], level)[0][0] for level in range(len(SMALL) + 1)]


async def fill(it: Shop, users: int) -> None:
    await it.opens(units=users + 1)
    for number in range(users):
        await it.held(f"user-{number}", key="k")


def test_look_ups_name_every_level():
    assert len(by_user.LEVELS) + 1 == 3  # `level IN (0, 1, 2)` in by_user.sql, decide.sql and find.sql


@pytest.mark.usefixtures("small_levels")
async def test_entries_sink_until_no_level_holds_more_than_it_may(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await fill(it, 200)
        newest, middle, oldest = sizes(it)
        assert newest <= SMALL[0][0]
        assert 0 < middle <= SMALL[1][0]
        assert newest + middle + oldest == 200
        assert await it.discrepancies() == []


@pytest.mark.usefixtures("small_levels")
async def test_limit_and_key_hold_in_every_level(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await fill(it, 200)
        for number in range(200):
            assert (await it.reserve(f"user-{number}", key="k")).replayed
            assert refusal_of(await it.reserve(f"user-{number}")) is Refusal.LIMIT_EXCEEDED


@pytest.mark.usefixtures("small_levels")
async def test_a_request_is_found_after_its_reservation_was_given_back(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await fill(it, 100)
        for number in range(100):
            found = await it.reserve(f"user-{number}", key="k")
            await it.ledger.release(found.reservations[0].reservation_id, None)
        assert await it.discrepancies() == []
        for number in range(100):
            again = await it.reserve(f"user-{number}", key="k")
            assert isinstance(again, Granted)
            assert again.replayed
            assert not (await it.reserve(f"user-{number}", key="another")).replayed


async def test_a_restart_finds_what_stands_in_the_levels(tmp_path, small_levels):
    async with shop(sqlite, tmp_path) as it:
        await fill(it, 100)
        before = sizes(it)
    async with shop(sqlite, tmp_path) as it:
        assert sizes(it) == before
        assert it.ledger._desk.by_user._sizes == before[:2]
        assert (await it.reserve("user-0", key="k")).replayed


async def test_reserving_and_cancelling_again_and_again_leaves_a_user_one_signpost(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        for number in range(50):
            (held,) = await it.held("ann", key=f"k{number}")
            await it.ledger.release(held.reservation_id, "ann")
        here = by_user.place("ann", "sale")
        assert rows(it, "SELECT seq FROM by_user WHERE place = ?", here) == [(by_user.SIGNPOST,)]


async def test_two_users_in_one_place_stay_two(tmp_path, monkeypatch):
    monkeypatch.setattr(by_user, "place", lambda *words: len(words))
    monkeypatch.setattr("flashsale.backends.sqlite.rows.place", lambda *words: len(words))
    monkeypatch.setattr("flashsale.backends.sqlite.find.place", lambda *words: len(words))
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(a_product(limit=2)))
        (anns,) = await it.held("ann", key="k")
        (bobs,) = await it.held("bob", key="k")
        assert anns.reservation_id != bobs.reservation_id
        assert isinstance(await it.reserve("bob", ("lamp", 1), key="l"), Granted)
        assert refusal_of(await it.reserve("bob", ("lamp", 1))) is Refusal.LIMIT_EXCEEDED
        (found,) = await it.ledger.find(FindActiveReservations("ann", it.clock.now_ms()))
        assert found.reservation_id == anns.reservation_id


@pytest.mark.usefixtures("small_levels")
async def test_a_batch_that_is_undone_takes_its_entries_with_it(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await fill(it, 60)
        before, desk = sizes(it), it.ledger._desk
        desk.db = Poisoned(
            desk.db, lambda statement, _: failure("SQLITE_FULL") if statement.startswith("COMMIT") else None
        )
        assert refusal_of(await it.reserve("late")) is Refusal.UNAVAILABLE
        desk.db = it.ledger._connections[0]
        assert sizes(it) == before
        assert desk.by_user._sizes == before[:2]


async def test_the_check_of_a_ledger_finds_a_reservation_that_its_user_would_not(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        (held,) = await it.held("ann", key="k")
        it.ledger._connections[0].execute("DELETE FROM by_user")
        assert await it.discrepancies() == [f"lamp: reservation {held.reservation_id} is not found by its user"]


async def test_the_check_of_a_ledger_finds_a_request_that_was_granted_twice(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(a_product(limit=2)))
        await it.held("ann", key="k")
        it.ledger._connections[0].execute("DELETE FROM by_user")
        await it.held("ann", key="k")
        assert "lamp: user ann was granted 2 times for one request" in await it.discrepancies()
