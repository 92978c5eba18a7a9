"""The SQLite ledger when something fails: a full disk, a bad item, a broken store, a crowd."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from backends.poisoned import Poisoned, failure
from contract.ledgers import FAR_MS, Shop, answered, shop, sqlite, together
from core.shop import HOLD_MS, OPENING_MS, a_product, a_sale, an_attempt, refusal_of

from flashsale.backends.sqlite import file
from flashsale.core.catalogue import SwitchSale
from flashsale.core.questions import FiguresOf
from flashsale.core.refusal import Refusal
from flashsale.core.reservation import Status
from flashsale.core.sale import Switch
from flashsale.core.stock import Granted
from flashsale.ports import LedgerBroken, LedgerUnavailable

TESTS = str(Path(__file__).parents[1])


def poison(it: Shop, fails) -> None:
    """Puts a connection that fails under the writer."""
    it.ledger._desk.db = Poisoned(it.ledger._connections[0], fails)


def heal(it: Shop) -> None:
    it.ledger._desk.db = it.ledger._connections[0]


# -- Answered after the commit.


async def test_when_the_answer_comes_another_connection_sees_the_row(tmp_path):
    seen = asyncio.get_running_loop().create_future()
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:

            def reply(outcome) -> None:
                reservation_id = outcome.reservations[0].reservation_id
                found = "SELECT status FROM reservation WHERE reservation_id = ?"
                seen.set_result(other.execute(found, (reservation_id,)).fetchone())

            it.ledger.reserve(an_attempt("ann"), reply)
            assert await seen == (Status.RESERVED,)


@pytest.mark.parametrize("code", ["SQLITE_ERROR", "SQLITE_BUSY", "SQLITE_CONSTRAINT", "SQLITE_FULL"])
async def test_a_commit_that_fails_is_answered_unavailable_and_nothing_is_there(tmp_path, code):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        poison(it, lambda statement, _: failure(code) if statement.startswith("COMMIT") else None)
        assert refusal_of(await it.reserve("ann", key="k")) is Refusal.UNAVAILABLE
        with pytest.raises(LedgerUnavailable):
            await it.ledger.release("res_0", None)
        heal(it)
        assert await it.counters() == (10, 0, 0)
        outcome = await it.reserve("ann", key="k")
        assert isinstance(outcome, Granted)
        assert not outcome.replayed


async def test_a_file_that_another_program_has_locked_is_503_until_it_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "BUSY_MS", 50)
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            outcomes = await asyncio.gather(*(it.asks(an_attempt(f"user-{number}")) for number in range(5)))
            assert {refusal_of(outcome) for outcome in outcomes} == {Refusal.UNAVAILABLE}
            other.execute("ROLLBACK")
        assert isinstance(await it.reserve("ann"), Granted)
        assert await it.counters() == (9, 1, 0)


# -- A bad item fails alone.


@pytest.mark.parametrize("place", [0, 1, 57, 100])
async def test_a_bad_item_fails_alone_and_its_neighbours_are_committed(tmp_path, place):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(units=200)
        poison(it, lambda _, values: failure("SQLITE_ERROR") if "poison" in repr(values) else None)
        users = [f"user-{number}" for number in range(100)]
        users.insert(place, "poison")
        outcomes = await asyncio.gather(*(it.asks(an_attempt(user)) for user in users))
        refused = [user for user, outcome in zip(users, outcomes, strict=True) if not isinstance(outcome, Granted)]
        assert refused == ["poison"]
        assert refusal_of(outcomes[place]) is Refusal.UNAVAILABLE
        heal(it)
        assert await it.counters() == (100, 100, 0)
        assert await it.discrepancies() == []


async def test_a_bad_way_out_fails_alone_too(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(units=200)
        held = [(await it.held(f"user-{number}"))[0].reservation_id for number in range(20)]
        poison(it, lambda _, values: failure("SQLITE_ERROR") if "poison" in repr(values) else None)
        calls = [it.ledger.release(each, None) for each in [*held[:10], "poison", *held[10:]]]
        wishes = [it.asks(an_attempt(f"new-{number}")) for number in range(20)]
        released = await together(calls)
        assert [isinstance(each, LedgerUnavailable) for each in released] == 10 * [False] + [True] + 10 * [False]
        assert {type(outcome) for outcome in await asyncio.gather(*wishes)} == {Granted}
        assert await it.discrepancies() == []


async def test_refusals_are_counted_once_although_their_batch_was_tried_again(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        trouble = [failure("SQLITE_ERROR")]
        poison(it, lambda statement, _: trouble.pop() if trouble and statement.startswith("COMMIT") else None)
        wishes = [it.asks(an_attempt(f"user-{number}", ("lamp", 2))) for number in range(10)]
        await asyncio.gather(*wishes)
        heal(it)
        await it.ledger.expire()
        assert (await it.ledger.find(FiguresOf("sale"))).refusals == {"LIMIT_EXCEEDED": 10}


# -- A full disk.


async def fill_up(it: Shop) -> None:
    """No page can be added to the file any more."""
    db = it.ledger._connections[0]
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")


async def make_room(it: Shop) -> None:
    it.ledger._connections[0].execute("PRAGMA max_page_count = 1000000")


async def test_on_a_full_disk_the_answer_is_unavailable_nothing_is_lost_and_room_cures_it(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(units=10_000)
        await fill_up(it)
        outcomes = []
        while not outcomes or isinstance(outcomes[-1], Granted):
            outcomes += await asyncio.gather(*(it.asks(an_attempt(f"u-{len(outcomes)}-{n}")) for n in range(10)))
        refused = next(each for each in outcomes if not isinstance(each, Granted))
        assert refused.refusal is Refusal.UNAVAILABLE
        assert "full" in refused.message
        told = [each.reservations[0] for each in outcomes if isinstance(each, Granted)]
        assert (await it.counters())[1] == len(told)
        await make_room(it)
        assert isinstance(await it.reserve("ann"), Granted)
        assert await it.discrepancies() == []
        for each in told:
            assert await it.reservation(each.reservation_id) == each


async def test_on_a_full_disk_what_exists_can_still_be_read_and_a_way_out_raises(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(units=10_000)
        (held,) = await it.held("ann")
        poison(it, lambda statement, _: failure("SQLITE_FULL") if "UPDATE" in statement else None)
        with pytest.raises(LedgerUnavailable, match="full"):
            await it.ledger.release(held.reservation_id, None)
        assert (await it.reservation(held.reservation_id)).status is Status.RESERVED
        assert refusal_of(await it.refuse("bob", ("vase", 1))) is Refusal.NOT_FOUND
        heal(it)
        assert (await it.ledger.release(held.reservation_id, None)).status is Status.CANCELLED


# -- A broken store.

FATAL = ["SQLITE_IOERR", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_CORRUPT", "SQLITE_NOTADB"]


@pytest.mark.parametrize("code", FATAL)
@pytest.mark.parametrize("at", ["BEGIN", "SELECT", "INSERT", "COMMIT"])
async def test_a_broken_store_is_fatal_at_once(tmp_path, code, at):
    deaths = []
    async with shop(sqlite, tmp_path, on_fatal=deaths.append) as it:
        await it.opens()
        poison(it, lambda statement, _: failure(code) if statement.lstrip().startswith(at) else None)
        assert not isinstance(await it.reserve("ann"), Granted)
        assert [type(death) for death in deaths] == [LedgerBroken]
        assert code in str(deaths[0])


@pytest.mark.parametrize("code", ["SQLITE_IOERR_FSYNC", "SQLITE_CORRUPT"])
async def test_a_store_that_breaks_while_it_rolls_back_is_fatal_too(tmp_path, code):
    deaths = []
    async with shop(sqlite, tmp_path, on_fatal=deaths.append) as it:
        await it.opens()

        def fails(statement, _):
            if statement.startswith("ROLLBACK"):
                return failure(code)
            return failure("SQLITE_ERROR") if statement.startswith("COMMIT") else None

        poison(it, fails)
        try:
            outcome = await asyncio.wait_for(it.reserve("ann"), 2)
        finally:
            heal(it)
            it.ledger._connections[0].rollback()
        assert refusal_of(outcome) is Refusal.UNAVAILABLE
        assert [type(death) for death in deaths] == [LedgerBroken]


async def test_a_broken_store_takes_nothing_more(tmp_path):
    """What it committed last is unknown, so it may not go on as if nothing had been."""
    deaths = []
    async with shop(sqlite, tmp_path, on_fatal=deaths.append) as it:
        await it.opens()
        poison(it, lambda statement, _: failure("SQLITE_IOERR_FSYNC") if statement.startswith("COMMIT") else None)
        await it.reserve("ann")
        heal(it)
        for user in ("bob", "cyd", "dan"):
            assert not isinstance(await it.reserve(user), Granted)
        if it.ledger._connections[0].in_transaction:
            it.ledger._connections[0].rollback()


BREAK_THE_STORE = """
    import asyncio, resource, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from contract.ledgers import shop, sqlite
    from core.shop import an_attempt

    async def main():
        async with shop(sqlite, Path({folder!r})) as it:
            await it.opens(units=100_000)
            print((await it.held("ann", key="k"))[0].reservation_id, flush=True)
            size = max(path.stat().st_size for path in Path({folder!r}).iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, resource.RLIM_INFINITY))
            for number in range(1000):
                await asyncio.gather(*(it.asks(an_attempt(f"u-{{number}}-{{n}}")) for n in range(50)))

    asyncio.run(main())
"""


async def test_an_io_error_ends_the_process_with_70_and_says_what_to_do(tmp_path):
    """The kernel refuses to let the file grow (EFBIG): SQLite reports an I/O error."""
    program = textwrap.dedent(BREAK_THE_STORE).format(tests=TESTS, folder=str(tmp_path))
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 70, done.stderr
    assert "the ledger's store failed" in done.stderr
    assert "check the disk, then start flashsale again" in done.stderr
    async with shop(sqlite, tmp_path) as again:
        (kept,) = await again.held("ann", key="k")
        assert kept.reservation_id == done.stdout.strip()
        assert await again.discrepancies() == []
        assert isinstance(await again.reserve("bob"), Granted)


# -- A crowd.


async def test_under_overload_ways_out_are_answered_before_the_queue_of_attempts(tmp_path):
    async with shop(sqlite, tmp_path, batch_max=16) as it:
        await it.opens(units=10_000)
        (held,) = await it.held("ann")
        order: list[str] = []
        for number in range(2_000):
            it.ledger.reserve(an_attempt(f"user-{number}"), lambda _: order.append("attempt"))
        await asyncio.sleep(0)
        await it.ledger.release(held.reservation_id, None)
        assert len(order) < 1_000, "the release waited behind the crowd"
        await it.ledger.expire()


async def test_a_batch_has_its_limit(tmp_path):
    sizes = Counter()
    async with shop(sqlite, tmp_path, batch_max=16) as it:
        await it.opens(units=1_000)
        begun = []
        poison(it, lambda statement, _: begun.append(statement) if statement.startswith("BEGIN") else None)
        outcomes = await asyncio.gather(*(it.asks(an_attempt(f"user-{number}")) for number in range(160)))
        sizes.update(type(outcome) for outcome in outcomes)
        heal(it)
        assert sizes == {Granted: 160}
        assert len(begun) >= 10


async def test_attempts_that_arrive_together_share_a_commit(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(units=1_000)
        commits = []
        poison(it, lambda statement, _: commits.append(statement) if statement.startswith("COMMIT") else None)
        await asyncio.gather(*(it.asks(an_attempt(f"user-{number}")) for number in range(300)))
        heal(it)
        assert len(commits) <= 2


# -- A restart.


async def test_a_restart_takes_up_where_it_was(tmp_path):
    async with shop(sqlite, tmp_path) as before:
        await before.opens(a_sale(a_product(limit=5)), units=20)
        opened = await before.ordered("ann", ("lamp", 2))
        (held,) = await before.held("bob", key="k")
        journal, (leased,) = await before.journal(), (await before.due()).payments
        before.clock.pass_ms(HOLD_MS // 2)
        clock = before.clock
    async with shop(sqlite, tmp_path, clock) as after:
        assert await after.counters() == (17, 3, 0)
        assert await after.journal() == journal
        (due,) = (await after.due()).payments
        assert (due.payment_id, due.due, due.due_at_ms) == (leased.payment_id, leased.due, 0), "its lease ended with it"
        assert (await after.reservation(held.reservation_id)).expires_at_ms == OPENING_MS + HOLD_MS
        again = await after.open_order(*(line.reservation_id for line in opened.order.lines))
        assert (again.order, again.payment.payment_id) == (opened.order, opened.payment.payment_id)
        await after.held("cyd")
        assert [row.sku_seq for row in await after.journal()] == list(range(1, len(journal) + 2))


@pytest.mark.parametrize("sweeps", [0, 1])
async def test_an_early_look_does_not_keep_later_lapses_from_being_found(tmp_path, sweeps):
    """The writer remembers when the next reservation lapses; a shorter one may come after a longer one."""
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(a_product("lamp"), reservation_seconds=600))
        await it.opens(a_sale(a_product("bulb"), sale_id="short", reservation_seconds=5))
        await it.held("ann")
        for _ in range(sweeps):
            await it.ledger.expire()
        await it.asks(an_attempt("bob", ("bulb", 1), sale_id="short"))
        it.clock.pass_ms(5_000)
        assert await it.ledger.expire() == 1
        it.clock.pass_ms(595_000)
        assert await it.ledger.expire() == 1


async def test_a_batch_that_was_rolled_back_is_forgotten_in_every_respect(tmp_path):
    """Also by what the writer remembers between batches: sales, next expiry, numbers."""
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(a_product("lamp", 5)))
        await it.held("ann")
        poison(it, lambda statement, _: failure("SQLITE_FULL") if statement.startswith("COMMIT") else None)
        it.clock.pass_ms(HOLD_MS)
        with pytest.raises(LedgerUnavailable):
            await it.ledger.expire()
        with pytest.raises(LedgerUnavailable):
            await it.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
        heal(it)
        assert not it.audience.sales[-1][1].paused
        assert isinstance(await answered(it.ledger.reserve, an_attempt("bob")), Granted)
        assert await it.counters() == (9, 1, 0)
        it.clock.pass_ms(FAR_MS)
        assert await it.ledger.expire() == 1
        assert await it.discrepancies() == []
