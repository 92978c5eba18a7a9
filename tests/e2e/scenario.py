"""A shop that keeps being hurt while a crowd buys: what the clients were told is gathered as evidence.

`blow` hurts the shop and returns when it serves again; everything else is the same whatever is hit.
"""

import asyncio
import os
import random
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import asyncpg
import msgspec

from flashsale.rehearsal import verdict
from flashsale.rehearsal.crowd import Crowd, Shop
from flashsale.rehearsal.evidence import History
from flashsale.rehearsal.http_client import HttpClient
from flashsale.rehearsal.operator import Operator, SaleFacts
from flashsale.rehearsal.servers import Sandbox, ShopServer
from flashsale.rehearsal.verdict import Evidence, Verdict

SEED = int(os.environ.get("FLASHSALE_SEED") or secrets.randbelow(1_000_000))
ROUNDS = 20
"""Blows of one sale: after each of them everything is asked again, so a long sale would spend its time on that."""
BUYERS_A_ROUND = 400
UNITS_A_ROUND = 220
HOLD_SECONDS = 3
SETTLE_SECONDS = 20.0
STILL_SECONDS = 10.0
"""For which nothing is sold when those who stay have gone: longer than anything is held."""
CROWDS_MORE = 5

WHILE_SELLING = (
    verdict.oversold,
    verdict.lost_reservations,
    verdict.lost_orders,
    verdict.broken_keys,
    verdict.over_limit,
)
"""The checks that hold at every moment; the others need a shop at rest."""

STEPS_OPEN = "SELECT * FROM payment WHERE due IS NOT NULL"

WRONG_ROWS = {
    "a buyer has too many": "SELECT user_id, sum(quantity) FROM reservation WHERE status IN ('RESERVED', 'CONFIRMED') "
                            "GROUP BY user_id HAVING sum(quantity) > 1",
    "movements are missing": "SELECT count(*), max(sku_seq) FROM journal HAVING count(*) IS DISTINCT FROM max(sku_seq)",
    "movements out of order": "SELECT * FROM (SELECT seq, sku_seq, lag(sku_seq, 1, 0::bigint) OVER (ORDER BY seq) "
                              "AS before FROM journal) AS movements WHERE sku_seq <= before",
    "a payment step is open": STEPS_OPEN,
}  # fmt: skip
"""What is in none of these is well."""


RECOVERIES = os.environ.get("FLASHSALE_RECOVERIES", "")
"""Where each recovery is written down, a line each, for `scripts/soak`."""


class Aftermath(msgspec.Struct):
    """What the scenario left behind."""

    data: Path
    kills: int = 0
    after_blow: list[list[str]] = []
    healed_seconds: list[tuple[str, float]] = []
    """What was hit, and how long it took until the shop served again."""
    exit_code: int | None = None
    evidence: Evidence | None = None
    verdict: Verdict | None = None

    def healed(self, mode: str, target: str, seconds: float) -> None:
        self.healed_seconds.append((target, seconds))
        if RECOVERIES:
            with Path(RECOVERIES).open("a") as lines:
                lines.write(f"{mode}, {target}\t{seconds:.3f}\n")


class Scenario:
    """The shop under test and its crowds."""

    def __init__(self, server: ShopServer, operator: Operator, shop: Shop, rounds: int, seed: int) -> None:
        self.server, self.operator, self.shop, self.rounds, self.seed = server, operator, shop, rounds, seed
        self.dice = random.Random(seed)
        self.aftermath = Aftermath(server.data)
        self.crowds: list[Crowd] = []

    @property
    def histories(self) -> list[History]:
        return [history for crowd in self.crowds for history in crowd.histories]

    async def run(self, blow: "Callable[[Scenario], Awaitable[None]]") -> None:
        await self.open()
        await self.sell(blow)

    async def open(self) -> None:
        await self.operator.create_sale(opens_in_seconds=0.0)

    async def sell(self, blow: "Callable[[Scenario], Awaitable[None]]") -> None:
        async with asyncio.TaskGroup() as visits:
            for number in range(self.rounds):
                visits.create_task(self.next_crowd(number).run())
                await asyncio.sleep(self.dice.uniform(0.05, 1.6))
                await blow(self)
                self.aftermath.after_blow.append(await self.faults_now())
            await self.sell_the_rest(visits)
        await self.ask_every_key_again()
        await self.operator.end_sale()
        await self.ask_every_key_again()
        self.aftermath.evidence = await self.evidence_at_rest()
        self.aftermath.verdict = verdict.judge(self.aftermath.evidence)

    def next_crowd(self, number: int) -> Crowd:
        self.shop.opens_at = time.monotonic()
        first = number * BUYERS_A_ROUND
        crowd = Crowd(self.shop, BUYERS_A_ROUND, seed=self.seed, first=first, patient=BUYERS_A_ROUND // 2)
        self.crowds.append(crowd)
        return crowd

    async def faults_now(self) -> list[str]:
        """Everything the clients were told until now, asked again of the shop that serves again."""
        await asyncio.gather(*(crowd.ask_again(at_most=20) for crowd in self.crowds))
        told = [msgspec.structs.replace(history, exchanges=[*history.exchanges]) for history in self.histories]
        evidence = await self.operator.gather(told, self.shop.run)
        doubts = [] if evidence.consistent else ["the ledger says that it is not consistent"]
        return doubts + [fault for check in WHILE_SELLING for fault in check(evidence)]

    async def sell_the_rest(self, visits: asyncio.TaskGroup) -> None:
        """Patient buyers stay until every unit is sold. On a slow machine many come too late to pay for what they held,
        and go: others come then."""
        number = self.rounds
        while not await self.sold_out() and number < self.rounds + CROWDS_MORE:
            visits.create_task(self.next_crowd(number).run())
            number += 1
        self.shop.closed = True

    async def sold_out(self) -> bool:
        """Waited for as long as units are being sold."""
        most, give_up_at = -1, 0.0
        while True:
            stock, _ = await self.operator.ledger()
            if stock.sold > most:
                most, give_up_at = stock.sold, time.monotonic() + STILL_SECONDS
            if stock.sold == stock.total or time.monotonic() > give_up_at:
                return stock.sold == stock.total
            await asyncio.sleep(0.2)

    async def ask_every_key_again(self) -> None:
        await asyncio.gather(*(crowd.ask_again() for crowd in self.crowds))

    async def evidence_at_rest(self) -> Evidence:
        """Once no unit is held and no payment step is open: both are given some time."""
        give_up_at = time.monotonic() + SETTLE_SECONDS
        while True:
            evidence = await self.operator.gather(self.histories, self.shop.run)
            unsettled = evidence.stock.held > 0 or list(verdict.books_differ(evidence)) or await open_steps(self.server)
            if not unsettled or time.monotonic() > give_up_at:
                return evidence
            await asyncio.sleep(0.5)


async def open_steps(server: ShopServer) -> int:
    """Payments that have yet to be brought to an end, in every database of the shop."""
    query, urls = f"SELECT count(*) FROM ({STEPS_OPEN}) AS steps", server.settings["FLASHSALE_LEDGER"].split()
    if not urls:
        with closing(sqlite3.connect(f"file:{server.data}/ledger.db?mode=ro", uri=True)) as file:
            return int(file.execute(query).fetchone()[0])
    found = 0
    for url in urls:
        db = await asyncpg.connect(url)
        try:
            found += await db.fetchval(query)
        finally:
            await db.close()
    return found


async def faults_in_rows(url: str, units: int) -> list[str]:
    """What does not add up in a database in which these units of one product, one to a buyer, were sold and paid."""
    db = await asyncpg.connect(url)
    try:
        stock = [tuple(row) for row in await db.fetch("SELECT total, held, sold FROM stock")]
        faults = [] if stock == [(units, 0, units)] else [f"units sold: {stock}"]
        return faults + [f"{name}: {dict(row)}" for name, rows in WRONG_ROWS.items() for row in await db.fetch(rows)]
    finally:
        await db.close()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def a_scenario(
    directory: Path, rounds: int, ledger: str = "", workers: int = 1, seed: int = SEED, broker: str = "",
    wait_seconds: int = 0, **more: str,
) -> AsyncIterator[Scenario]:  # fmt: skip
    """Real servers, a sale for so many rounds, and the clients of both sides. With `wait_seconds` the sale is queued,
    and its buyers hold the line for so long."""
    run, token = f"kill{secrets.token_hex(3)}", secrets.token_urlsafe(16)
    mode = "queued" if wait_seconds else "direct"
    sale = SaleFacts(f"sale-{run}", f"PHONE-{run}", rounds * UNITS_A_ROUND, HOLD_SECONDS, mode=mode)
    async with (
        Sandbox(directory) as sandbox,
        ShopServer(directory, token, sandbox.url, ledger, workers, broker, **more) as server,
    ):
        with (
            closing(HttpClient(server.url, 300)) as client,
            closing(HttpClient(server.url, 50)) as back_door,
            closing(HttpClient(sandbox.url, 2)) as provider,
        ):
            operator = Operator(back_door, provider, token, sale)
            shop = Shop(client, sale.sku, 0.0, run, insist_seconds=60.0, wait_seconds=wait_seconds)
            scenario = Scenario(server, operator, shop, rounds, seed)
            yield scenario
            scenario.aftermath.exit_code = await server.stop()
