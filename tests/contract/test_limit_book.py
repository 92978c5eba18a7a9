"""What a book of limits promises: thresholds and tiers by versions, audited, and who goes by them. Asked of every
ledger; of several databases the book is in the first."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.ledgers import LEDGERS, Shop, limits_of, shop, sqlite, tampered

from flashsale.core import limits
from flashsale.core.limits import Fleet, News, ResetUser, SetThresholds, SetTier
from flashsale.core.questions import AuditPage
from flashsale.core.refusal import Refused
from flashsale.core.thresholds import Tier
from flashsale.flow.in_force import LimitBook


class Books:
    """A ledger with its book, and a way to open another process's book of the same ledger."""

    def __init__(self, ledger: Shop, book: LimitBook, folder: Path) -> None:
        self.ledger = ledger
        self.book = book
        self.folder = folder

    async def set(self, **values: float | None) -> int:
        return await self.version(SetThresholds(values, "operator"))

    async def tier(self, user: str, tier: Tier | None) -> int:
        return await self.version(SetTier(user, tier, "operator"))

    async def reset(self, user: str) -> int:
        return await self.version(ResetUser(user, "operator"))

    async def version(self, change: limits.LimitsChange) -> int:
        version = await self.book.change(change)
        assert isinstance(version, int), version
        return version

    async def news(self, after: int = 0) -> News:
        news = await self.book.news(after)
        assert news is not None
        return news


@pytest.fixture(params=LEDGERS)
async def books(request, tmp_path) -> AsyncIterator[Books]:
    async with shop(request.param, tmp_path) as opened, limits_of(opened.ledger, tmp_path) as book:
        yield Books(opened, book, tmp_path)


# Versions


async def test_a_new_book_has_nothing_to_tell(books):
    assert await books.book.news(0) is None


async def test_each_change_is_a_version_and_tells_what_has_changed_since(books):
    assert await books.set(userPerSecond=5.5, userBurst=7) == 1
    assert await books.tier("ann", "VIP") == 2
    assert await books.news() == News(2, {"userPerSecond": 5.5, "userBurst": 7}, [("ann", "VIP")], True)
    assert await books.tier("bob", "LIMITED") == 3
    assert await books.news(2) == News(3, {"userPerSecond": 5.5, "userBurst": 7}, [("bob", "LIMITED")], False)
    assert await books.book.news(3) is None


async def test_a_threshold_that_is_set_to_nothing_goes_back_to_its_default(books):
    await books.set(userPerSecond=5, globalPerSecond=9)
    await books.set(userPerSecond=None)
    assert (await books.news()).rows == {"globalPerSecond": 9}


async def test_a_user_whose_tier_is_taken_away_is_news_once_and_then_as_everybody(books):
    await books.tier("ann", "VIP")
    await books.tier("ann", None)
    assert (await books.news(1)).users == [("ann", None)]
    assert (await books.news()).users == []


async def test_a_reset_is_news_and_leaves_the_tier(books):
    await books.tier("ann", "VIP")
    await books.reset("ann")
    await books.reset("bob")
    assert sorted((await books.news(1)).users) == [("ann", "VIP"), ("bob", None)]
    assert (await books.news()).users == [("ann", "VIP")]


async def test_who_has_missed_what_was_thrown_away_is_told_everything(books, monkeypatch):
    monkeypatch.setattr(limits, "FORGOTTEN_AFTER", 2)
    await books.tier("ann", "VIP")
    for _ in range(4):
        await books.reset("bob")
    await books.reset("eve")
    await books.reset("eve")
    assert await books.news(4) == News(7, {}, [("ann", "VIP")], True)
    assert await books.news(5) == News(7, {}, [("eve", None)], False)


async def test_a_book_that_is_older_than_what_somebody_has_is_told_as_a_whole(books):
    await books.tier("ann", "VIP")
    assert await books.news(99) == News(1, {}, [("ann", "VIP")], True)


async def test_what_was_set_is_there_when_the_ledger_is_opened_again(books, request):
    await books.set(userPerSecond=5)
    await books.tier("ann", "VIP")
    await books.ledger.ledger.close()
    opening = request.node.callspec.params["books"]
    async with shop(opening, books.folder) as again, limits_of(again.ledger, books.folder) as book:
        assert await book.news(0) == News(2, {"userPerSecond": 5}, [("ann", "VIP")], True)


async def test_so_many_users_have_a_tier_of_their_own_and_not_one_more(books, monkeypatch):
    monkeypatch.setattr(limits, "TIERS_MAX", 2)
    await books.tier("ann", "VIP")
    await books.tier("bob", "VIP")
    refused = await books.book.change(SetTier("eve", "VIP", "operator"))
    assert isinstance(refused, Refused)
    assert "the most" in refused.message
    await books.tier("ann", "LIMITED")
    await books.tier("bob", None)
    await books.tier("eve", "VIP")
    assert sorted((await books.news()).users) == [("ann", "LIMITED"), ("eve", "VIP")]


# Audit


async def test_every_change_is_audited_and_a_refused_one_is_not(books, monkeypatch):
    await books.set(userPerSecond=5, userBurst=None)
    await books.tier("ann", "VIP")
    await books.reset("ann")
    monkeypatch.setattr(limits, "TIERS_MAX", 1)
    await books.book.change(SetTier("eve", "VIP", "operator"))
    actor = "operator"
    told = [
        (each.actor, each.action, each.subject, each.details) for each in await books.ledger.ledger.find(AuditPage())
    ]
    assert told == [
        (
            "operator",
            "limits.change",
            "limits",
            {"values": {"userPerSecond": 5, "userBurst": None}, "actor": "operator"},
        ),
        (actor, "limits.tier", "ann", {"userId": "ann", "tier": "VIP", "actor": actor}),
        (actor, "limits.reset", "ann", {"userId": "ann", "actor": actor}),
    ]


# Processes


async def test_a_process_that_is_alone_is_the_fleet(books):
    assert await books.book.present("one", 0) == Fleet(1, 0)


async def test_of_several_processes_it_is_known_who_goes_by_an_older_version(books, request):
    if request.node.callspec.params["books"] is sqlite:
        return  # a file has one process
    async with limits_of(books.ledger.ledger, books.folder) as other:
        assert await other.present("two", 3) == Fleet(1, 0)
        assert await books.book.present("one", 4) == Fleet(2, 1)
        assert await other.present("two", 4) == Fleet(2, 0)
        assert await books.book.present("one", 4) == Fleet(2, 0)
        await other.leave("two")
        assert await books.book.present("one", 4) == Fleet(1, 0)


async def test_a_process_that_is_silent_for_3_seconds_counts_no_longer(books, request):
    if request.node.callspec.params["books"] is sqlite:
        return
    await books.book.present("one", 1)
    await tampered(books.folder, "UPDATE process SET seen_at_ms = seen_at_ms - 2500")
    assert await books.book.present("two", 2) == Fleet(2, 1)
    await tampered(books.folder, "UPDATE process SET seen_at_ms = seen_at_ms - 600 WHERE process_id = 'one'")
    assert await books.book.present("two", 2) == Fleet(1, 0)
