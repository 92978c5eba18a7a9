"""Where a sale goes, and that no product gets into two sales that have not ended, over several databases.

Within one database all changes of sales exclude each other. Across databases no lock would do: its holder may be
stopped, or lose its connection, between looking and writing. So the order is announced first, in turns that rise:

    announce   on the first shard, one transaction: a new turn; which shard the sale is on (or gets); the sale's
               products; and the rivals, other sales that were ever announced with one of these products
    look       on the shards of the rivals: what they are now; and the shard's fence is raised to the turn
    write      on the sale's own shard, if its fence is not above the turn; the fence is raised to it

Of two changes that want one product, the one with the later turn finds the earlier one among its rivals. Either the
earlier one has been written when the later one looks: then the later one is refused. Or it has not: then it comes to
a fence that is above its turn, writes nothing, and is announced again. So both are never written, whoever is stopped
where. What a stopped one leaves is an announcement without a sale: it is found among rivals, is looked for, is not
there, and so is in nobody's way; whoever announces that sale again goes on with it.

A sale never moves, and an id stays with its shard also after the sale was deleted: its journal is there.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from flashsale.backends.postgres.alone import Alone, Altered
from flashsale.backends.postgres.catalogue import NOT_THE_WHOLE_LEDGER, Announced, Fenced, pass_fence
from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.rows import SHARDS, SQL, sale_of
from flashsale.core.catalogue import CreateSale, EditSale
from flashsale.core.refusal import Refused, not_found
from flashsale.core.sale import Sale, SaleState, state_at
from flashsale.ports import LedgerUnavailable

TRIES = 8
"""Of a change that others are announced behind."""
PAUSE_SECONDS = 0.02

AskAlone = Callable[[int, Alone], Awaitable[object]]
"""Has work done on a shard, in a transaction of its own."""
Write = Callable[[int, Announced], Awaitable[Sale | Refused | Fenced | None]]
"""Decides and stores the change on a shard."""


class Plan(NamedTuple):
    """What the first shard says to a change that is announced."""

    turn: int
    shard_id: int
    fresh: bool
    """Whether nobody had announced this sale before."""
    rivals: list[tuple[str, int]]
    """Other sales that may have one of the products, each with its shard."""


async def announce(change: CreateSale | EditSale, shards: int, to: int, db: Connection) -> Altered:
    """On the first shard. A sale that is new to it goes `to` this shard."""
    sale = change.draft.sale
    skus = [product.sku_id for product in sale.products]
    ((turn, known),) = await db.fetch(SHARDS["next_turn"])
    if known > shards:
        return Altered(NOT_THE_WHOLE_LEDGER)
    found = await db.fetchval(SHARDS["sale_shard"], sale.sale_id)
    if found is None and isinstance(change, EditSale):
        return Altered(not_found("saleId", sale.sale_id))
    shard_id = to if found is None else found
    await db.execute(SHARDS["announce_sale"], sale.sale_id, shard_id, turn, msgspec.json.encode(sale).decode())
    await db.execute(SHARDS["announce_skus"], sale.sale_id, skus)
    rivals = [tuple(row) for row in await db.fetch(SHARDS["rivals"], skus, sale.sale_id)]
    return Altered(Plan(turn, shard_id, found is None, rivals), changed=True)


async def look(turn: int, sale_ids: Sequence[str], db: Connection) -> Altered:
    """On the shard of rivals: those of them that are there. From now on nothing of an earlier turn is written here."""
    await db.execute(SQL["lock_catalogue"])
    if not await pass_fence(db, turn):
        return Altered(Fenced())
    return Altered([sale_of(row[0]) for row in await db.fetch(SQL["terms"], sale_ids)], changed=True)


async def place(
    change: CreateSale | EditSale, shards: int, to: int, now_ms: Callable[[], int], ask: AskAlone, write: Write
) -> Sale | Refused | None:
    """Creates a sale or edits one. Raises LedgerUnavailable."""
    for attempt in range(TRIES):
        plan = await ask(0, partial(announce, change, shards, to))
        if not isinstance(plan, Plan):
            assert isinstance(plan, Refused)
            return plan
        others = await _others(plan, ask)
        outcome = others if isinstance(others, Fenced) else await write(plan.shard_id, Announced(plan.turn, others))
        if not isinstance(outcome, Fenced):
            await _tidy(change, plan, outcome, {} if isinstance(others, Fenced) else others, now_ms(), ask)
            return outcome
        await asyncio.sleep(PAUSE_SECONDS * (attempt + 1) * secrets.randbelow(100) / 100)
    raise LedgerUnavailable("other sales are being changed at the same time: nothing was changed, try again")


async def _others(plan: Plan, ask: AskAlone) -> dict[str, Sale] | Fenced:
    """The rivals on other shards, as they are now. Those on the sale's own shard are seen when it is written."""
    others: dict[str, Sale] = {}
    for shard_id in sorted({each for _, each in plan.rivals} - {plan.shard_id}):
        wanted = [sale_id for sale_id, each in plan.rivals if each == shard_id]
        found = await ask(shard_id, partial(look, plan.turn, wanted))
        if not isinstance(found, list):
            return Fenced()
        others |= {sale.sale_id: sale for sale in found}
    return others


async def _tidy(
    change: CreateSale | EditSale, plan: Plan, outcome: Sale | Refused | None, others: Mapping[str, Sale],
    now_ms: int, ask: AskAlone,
) -> None:  # fmt: skip
    """Keeps announcements from piling up. Nothing depends on it."""
    over = [sale_id for sale_id, sale in others.items() if state_at(sale, now_ms) is SaleState.ENDED]
    over += [sale_id for sale_id, each in plan.rivals if each != plan.shard_id and sale_id not in others]
    sale_id = change.draft.sale.sale_id
    refused = isinstance(outcome, Refused) and plan.fresh
    terms = msgspec.json.encode(outcome).decode() if isinstance(outcome, Sale) else None

    async def tidy(db: Connection) -> Altered:
        if over:
            await db.execute(SHARDS["forget_skus"], over, plan.turn)
        if refused:
            await db.execute(SHARDS["take_back"], sale_id, plan.turn)
        if terms:
            await db.execute(SHARDS["keep_terms"], sale_id, terms)
        return Altered(None, changed=bool(over or refused or terms))

    try:
        await ask(0, tidy)
    except LedgerUnavailable:
        return  # what is left over is looked for and not found
