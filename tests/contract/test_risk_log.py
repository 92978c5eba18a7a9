"""What the log of risk decisions promises, on every database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from contract.ledgers import HandClock, Opening, database_of, postgres, shop, sqlite

from flashsale.backends.postgres.risk_log import PostgresRiskLog
from flashsale.backends.sqlite.risk_log import SqliteRiskLog
from flashsale.core.risk import Decision, Facts, Kept, Verdict, told_of
from flashsale.flow import decisions
from flashsale.flow.decisions import Decisions, RiskLog
from flashsale.ports import LedgerUnavailable

EVERYTHING = Kept(1000, 0, 1000)
FACTS = told_of(Facts(over_challenge_rate=True, tier="LIMITED"))


def a_decision(user: str = "ann", at_ms: int = 1, verdict: Verdict = Verdict.CHALLENGE, **more: object) -> Decision:
    return Decision(at_ms, user, "sale", verdict, 60, ("attempts", "tier-lowest"), FACTS, **more)


@asynccontextmanager
async def risk_log_of(opening: Opening, folder: Path) -> AsyncIterator[RiskLog]:
    async with shop(opening, folder) as it:
        log = SqliteRiskLog(it.ledger.move) if opening is sqlite else PostgresRiskLog(await database_of(folder))
        yield log
        await log.close()


@pytest.fixture(params=[sqlite, postgres])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RiskLog]:
    async with risk_log_of(request.param, tmp_path) as opened:
        yield opened


async def test_what_was_noted_is_found_with_its_reasons_and_facts_in_order(log):
    noted = [
        a_decision(),
        a_decision("bob", 2, Verdict.BLOCK),
        a_decision("ann", 3, Verdict.PASS, solved=True, times=7),
    ]
    await log.note(noted, EVERYTHING)
    assert [decision for _, decision in await log.page(None, 0, 10)] == noted
    assert [decision for _, decision in await log.page("ann", 0, 10)] == [noted[0], noted[2]]
    assert await log.page("nobody", 0, 10) == []


async def test_a_page_goes_on_where_the_last_one_ended(log):
    noted = [a_decision(at_ms=number) for number in range(7)]
    await log.note(noted, EVERYTHING)
    found: list[Decision] = []
    after = 0
    while page := await log.page("ann", after, 3):
        assert len(page) <= 3
        after = page[-1][0]
        found += [decision for _, decision in page]
    assert found == noted


async def test_the_oldest_go_when_there_are_too_many_or_they_are_too_old(log):
    await log.note([a_decision(at_ms=number) for number in range(20)], EVERYTHING)
    await log.note([a_decision(at_ms=20)], Kept(5, 0, 1000))
    assert [decision.at_ms for _, decision in await log.page(None, 0, 100)] == [16, 17, 18, 19, 20]
    await log.note([a_decision(at_ms=21)], Kept(1000, 19, 1000))
    assert [decision.at_ms for _, decision in await log.page(None, 0, 100)] == [19, 20, 21]


async def test_no_more_than_a_batch_goes_at_once(log):
    await log.note([a_decision(at_ms=number) for number in range(20)], EVERYTHING)
    await log.note([a_decision(at_ms=20)], Kept(1, 0, 3))
    assert len(await log.page(None, 0, 100)) == 18


# -- Gathering.


async def test_the_same_refusal_many_times_in_a_row_is_one_row(log):
    noting = Decisions(log, HandClock())
    for number in range(1000):
        noting.note(a_decision(at_ms=HandClock().at_ms + number))
    noting.note(a_decision("bob", at_ms=HandClock().at_ms))
    assert await noting.write() == 2
    assert [(each.user_id, each.times) for _, each in await noting.page(None, 0, 10)] == [("ann", 1000), ("bob", 1)]


async def test_what_cannot_be_written_now_is_written_later_and_the_oldest_are_dropped(monkeypatch):
    class Away:
        rows: list[Decision] | None = None

        async def note(self, rows, kept) -> None:
            if self.rows is None:
                raise LedgerUnavailable("away")
            self.rows += rows

    monkeypatch.setattr(decisions, "WAITING_MAX", 3)
    there = Away()
    noting = Decisions(there, HandClock())
    for number in range(5):
        noting.note(a_decision(f"user-{number}"))
    assert await noting.write() == 0
    there.rows = []
    assert await noting.write() == 3
    assert [row.user_id for row in there.rows] == ["user-2", "user-3", "user-4"]
