"""The operators' routes, `/api/v1/admin`: sales and their stock, and what the ledger says of them.

The token is looked at before the body is read, so that nobody without it makes the server buffer a megabyte.
"""

from functools import partial
from typing import Any

from flashsale.core.catalogue import CreateSale, DeleteSale, EditSale, Restock, SaleChange, SwitchSale
from flashsale.core.event import Topic
from flashsale.core.questions import (
    AuditPage,
    BasesOf,
    EventsAfter,
    FiguresOf,
    FindSales,
    JournalPage,
    LedgerCheck,
    PrunedTo,
    QueueFigures,
    StockOf,
)
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.sale import Sale, Switch
from flashsale.edge import feed, schema, views
from flashsale.edge.call import CURSOR_MAX, Ask, Audience, Call, Handler, Param, Refusing
from flashsale.edge.identity import OPERATORS_ONLY, Role
from flashsale.edge.sale_body import sale_draft
from flashsale.edge.strict_json import ECHO_MAX
from flashsale.edge.wire import Answer, Header
from flashsale.engine import Engine

ADMIN = "/api/v1/admin"
STALE = 0
"""A version that no sale has."""

R = Refusal
IF_MATCH = Param("If-Match", "The ETag that the change rests on; 412 when it is stale", {"type": "string"}, "header")
AFTER = Param("after", "`next` of the page before", {"type": "integer", "minimum": 0, "maximum": CURSOR_MAX})
TOPIC = Param("topic", "Events of this topic only", {"type": "string", "enum": list(Topic)})
SKU = Param("skuId", "Movements of this product only", {"type": "string", "pattern": schema.NAME})


class Operator:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._databases = max(1, len(engine.settings.postgres_urls))

    async def create(self, ask: Ask) -> Answer | Refused:
        draft = sale_draft(await ask.body())
        if isinstance(draft, Refused):
            return draft
        return await self._change(CreateSale(draft, ask.who.actor), 201)

    async def sales(self, ask: Ask) -> Answer:
        stock = await self._engine.find(StockOf())
        now_ms = self._now_ms()
        return views.json([views.operator_sale(sale, stock, now_ms) for sale in await self._engine.find(FindSales())])

    async def sale(self, ask: Ask) -> Answer | Refused:
        return await self._shown(await self._found(ask))

    async def edit(self, ask: Ask) -> Answer | Refused:
        draft = sale_draft(await ask.body(), ask.params["saleId"])
        if isinstance(draft, Refused):
            return draft
        sale = await self._found(ask)
        version = _expected_version(ask.header(b"if-match"), sale)
        return await self._change(EditSale(draft, version, ask.who.actor))

    async def delete(self, ask: Ask) -> Answer | Refused:
        outcome = await self._engine.change_sale(DeleteSale(ask.params["saleId"], ask.who.actor))
        return outcome if isinstance(outcome, Refused) else Answer(204, b"")

    async def switch(self, switch: Switch, ask: Ask) -> Answer | Refused:
        await ask.read_nothing()
        return await self._change(SwitchSale(ask.params["saleId"], switch, ask.who.actor))

    async def restock(self, ask: Ask) -> Answer | Refused:
        wish = await ask.read(schema.RestockBody)
        restock = Restock(ask.params["saleId"], ask.params["skuId"], wish.quantity, wish.reason, ask.who.actor)
        return await self._change(restock)

    async def ledger(self, ask: Ask) -> Answer:
        sale_id = (await self._found(ask)).sale_id
        stock = await self._engine.find(StockOf(sale_id))
        return views.json(views.ledger(sale_id, stock, await self._engine.find(LedgerCheck(sale_id))))

    async def journal(self, ask: Ask) -> Answer:
        after, sku_id = ask.number("after", 0, CURSOR_MAX), ask.query.get("skuId")
        sale = await self._found(ask)
        if sku_id is not None and sale.product(sku_id) is None:
            raise Refusing(not_found("skuId", sku_id[:ECHO_MAX]))
        page = await self._engine.find(JournalPage(sale.sale_id, sku_id, after, views.PAGE))
        bases = await self._engine.find(BasesOf(sale.sale_id))
        return views.json(views.journal(page, [base for base in bases if sku_id in (None, base.sku_id)]))

    async def stats(self, ask: Ask) -> Answer:
        sale = await self._found(ask)
        waiting = (await self._engine.find(QueueFigures())).get(sale.sale_id, 0)
        figures = await self._engine.find(FiguresOf(sale.sale_id))
        return views.json(views.stats(sale, figures, waiting, self._now_ms()))

    async def audit(self, ask: Ask) -> Answer:
        after = ask.cursor("after", self._databases)
        page = await self._engine.find(AuditPage(after, views.PAGE))
        return views.json(views.audit(page))

    async def events(self, ask: Ask) -> Answer:
        topic = _topic(ask)
        if "after" not in ask.query:
            return await self._events(await self._engine.find(PrunedTo()), topic)
        return await self._events(ask.cursor("after", self._databases), topic)

    async def _events(self, after: int, topic: Topic | None) -> Answer:
        """The page first: what it was to have may be forgotten before we look how far that has got, and not after."""
        page = await self._engine.find(EventsAfter(after, views.PAGE, topic))
        oldest = await self._engine.find(PrunedTo(after))
        if after != oldest:
            raise Refusing(feed.forgotten(after, oldest), 410, "Gone")
        return views.json(feed.page(after, page, topic))

    async def _found(self, ask: Ask) -> Sale:
        """The sale of the path, from the ledger itself."""
        sale_id = ask.params["saleId"]
        for sale in await self._engine.find(FindSales()):
            if sale.sale_id == sale_id:
                return sale
        raise Refusing(not_found("saleId", sale_id[:ECHO_MAX]))

    async def _change(self, change: SaleChange, status: int = 200) -> Answer | Refused:
        outcome = await self._engine.change_sale(change)
        if isinstance(outcome, Refused):
            if outcome.details.get("precondition"):
                raise Refusing(outcome, 412, "Precondition Failed")
            return outcome
        assert outcome is not None, "only deletion leaves no sale"
        return await self._shown(outcome, status)

    async def _shown(self, sale: Sale, status: int = 200) -> Answer:
        stock = await self._engine.find(StockOf(sale.sale_id))
        return views.json(views.operator_sale(sale, stock, self._now_ms()), status, (_etag(sale),))

    def _now_ms(self) -> int:
        return self._engine.clock.now_ms()


def _topic(ask: Ask) -> Topic | None:
    named = ask.query.get("topic")
    if named is None:
        return None
    if named not in set(Topic):
        raise Refusing(invalid("topic", f"must be one of {', '.join(Topic)}"))
    return Topic(named)


def _etag(sale: Sale) -> Header:
    return (b"etag", b'"%d"' % sale.version)


def _expected_version(if_match: bytes | None, sale: Sale) -> int | None:
    """The version an edit rests on; None: any. Weak tags match nothing, as RFC 9110 has it."""
    if if_match is None or if_match.strip() == b"*":
        return None
    tags = [tag.strip() for tag in if_match.split(b",")]
    return sale.version if _etag(sale)[1] in tags else STALE


def calls(engine: Engine) -> list[Call]:
    """Every route of an operator."""
    operator = Operator(engine)
    sale = "/sales/{saleId}"
    one: dict[int, Any] = {200: schema.OperatorSale}
    none, conflict = (R.NOT_FOUND,), (R.NOT_FOUND, R.ILLEGAL_STATE)
    return [
        _call("POST", "/sales", "Create a sale", operator.create, {201: schema.OperatorSale},
              (R.ILLEGAL_STATE,), schema.SaleBody, etag=True),
        _call("GET", "/sales", "All sales", operator.sales, {200: list[schema.OperatorSale]}),
        _call("GET", sale, "A sale", operator.sale, one, none, etag=True),
        _call("PUT", sale, "Change a sale", operator.edit, one, conflict, schema.SaleBody, (IF_MATCH,), etag=True),
        _call("DELETE", sale, "Delete a sale that nobody has bought of", operator.delete, {204: None}, conflict),
        *(_call("POST", f"{sale}/{switch}", f"{switch.capitalize()} a sale; repeated: the same answer",
                partial(operator.switch, switch), one, conflict, etag=True) for switch in Switch),
        _call("POST", sale + "/products/{skuId}/restock", "Add units", operator.restock, one, none,
              schema.RestockBody, etag=True),
        _call("GET", sale + "/ledger", "The counters, from the ledger itself", operator.ledger,
              {200: schema.LedgerView}, none),
        _call("GET", sale + "/journal", "Every movement of stock", operator.journal, {200: schema.Journal}, none,
              params=(SKU, AFTER)),
        _call("GET", sale + "/stats", "What a sale has come to", operator.stats, {200: schema.Stats}, none,
              roles=frozenset({Role.ANALYST, Role.OPERATOR})),
        _call("GET", "/events", "The event feed, in commit order", operator.events, {200: feed.Feed},
              params=(TOPIC, feed.AFTER), pruned=True),
        _call("GET", "/audit", "Who did what, when", operator.audit, {200: schema.Audit}, params=(feed.AFTER,)),
    ]  # fmt: skip


def _call(
    method: str,
    path: str,
    summary: str,
    handle: Handler,
    answers: dict[int, Any],
    refusals: tuple[Refusal, ...] = (),
    body: type | None = None,
    params: tuple[Param, ...] = (),
    etag: bool = False,
    pruned: bool = False,
    roles: frozenset[Role] = OPERATORS_ONLY,
) -> Call:
    who = Audience.OPERATORS
    return Call(
        method, ADMIN + path, who, summary, handle, answers, body, refusals, params, etag=etag, pruned=pruned,
        roles=roles,
    )  # fmt: skip
