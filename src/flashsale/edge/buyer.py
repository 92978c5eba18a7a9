"""The buyers' routes, `/api/v1`: products, sales, reservations, orders.

Each handler reads its request, asks the engine, and shows the answer; it decides nothing. The three hot routes
are the very functions that the fast lane calls.
"""

from typing import Any

from flashsale.answering import told
from flashsale.core import challenge
from flashsale.core.device import HEADER, HEADER_MAX
from flashsale.core.order import Order
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.request import Item
from flashsale.core.stock import Granted
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Handler, Param, Refusing, buyer, caller, request_key
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.queued import WAIT_SECONDS_MAX, CartState, ReservationState, wait_seconds
from flashsale.edge.strict_json import ECHO_MAX
from flashsale.edge.wire import Answer, availability, cart, invalid_fields, reservation
from flashsale.engine import Engine

API = "/api/v1"
REASON_MAX = 500

R = Refusal
CLOSED = (
    R.KEY_REUSED,
    R.BLOCKED,
    R.CHALLENGE_REQUIRED,
    R.NOT_FOUND,
    R.NOT_STARTED,
    R.ENDED,
    R.PAUSED,
    R.LIMIT_EXCEEDED,
    R.SOLD_OUT,
)
"""What a request for units may be refused with."""
UNPAID = (
    R.NOT_FOUND, R.RESERVATION_EXPIRED, R.ILLEGAL_STATE, R.PAYMENT_DECLINED, R.PAYMENT_MISMATCH, R.PAYMENT_REUSED,
)  # fmt: skip

KEY = Param("Idempotency-Key", "Makes it repeatable", {"type": "string", "pattern": schema.PRINTABLE}, "header")
WAIT = Param(
    "wait",
    "Seconds to wait for the outcome of a PENDING reservation; others are answered at once",
    {"type": "integer", "minimum": 0, "maximum": WAIT_SECONDS_MAX},
)
DEVICE = Param(
    HEADER,
    "Device facts: base64url JSON, where a sale limits units per device or wants to know",
    {"type": "string", "maxLength": HEADER_MAX},
    "header",
)
SOLUTION = Param(
    challenge.HEADER,
    "The solution of a challenge, after CHALLENGE_REQUIRED",
    {"type": "string", "maxLength": challenge.HEADER_MAX},
    "header",
)
PREFER = Param(
    "Prefer",
    f"`wait=N`: in a queued sale, wait up to N seconds ({WAIT_SECONDS_MAX} at most) for the outcome",
    {"type": "string"},
    "header",
)
ASKING = (KEY, DEVICE, SOLUTION, PREFER)
REASON = Param("reason", "Why, in your own words", {"type": "string", "maxLength": REASON_MAX})

PRODUCTS_MAX, SALES_MAX = 1000, 200
"""How many of the latest a list shows."""


class Buyer:
    def __init__(self, engine: Engine, hot: HotRoutes) -> None:
        self._engine = engine
        self._hot = hot

    # Products and sales: from the shop window

    async def products(self, ask: Ask) -> Answer:
        now_ms = self._now_ms()
        offers = [offer for offer in self._engine.storefront.offers.values() if views.is_public(offer.sale)]
        shown = [availability(offer, now_ms) for offer in offers[-PRODUCTS_MAX:]]
        return Answer(200, b"[%s]" % b",".join(shown))

    async def product(self, ask: Ask) -> Answer:
        return self._hot.availability(ask.params["skuId"], ask.path)

    async def sales(self, ask: Ask) -> Answer:
        now_ms, storefront = self._now_ms(), self._engine.storefront
        public = [sale for sale in storefront.sales.values() if views.is_public(sale)][-SALES_MAX:]
        return views.json([views.public_sale(sale, storefront, now_ms) for sale in public])

    async def sale(self, ask: Ask) -> Answer | Refused:
        storefront, sale_id = self._engine.storefront, ask.params["saleId"]
        sale = storefront.sales.get(sale_id)
        if sale is None or not views.is_public(sale):
            return not_found("saleId", sale_id[:ECHO_MAX])
        return views.json(views.public_sale(sale, storefront, self._now_ms()))

    # Reservations

    async def reserve(self, ask: Ask) -> Answer:
        body = await ask.body()
        who, said, wait = ask.known, ask.said, _wait_seconds(ask)
        return await told(lambda send: self._hot.reserve_as(who, body, said, ask.path, send, wait))

    async def reserve_cart(self, ask: Ask) -> Answer | Refused:
        wish = await ask.read(schema.CartBody)
        items, key, wait = _items(wish), request_key(ask, wish.request_key), _wait_seconds(ask)
        visitor = buyer(ask, wish.user_id)
        refused: Refused | None = await told(lambda reply: self._hot.count_attempt(visitor, items[0].sku_id, reply))
        if refused is not None:
            return refused
        outcome = await self._engine.reserve_cart(visitor, items, key)
        if isinstance(outcome, Refused):
            return outcome
        if isinstance(outcome, Granted):
            return cart(outcome)
        return await told(lambda send: self._hot.queued(outcome, True, ask.path, send, wait))

    async def reservation(self, ask: Ask) -> Answer:
        wait = ask.number("wait", 0, WAIT_SECONDS_MAX)
        who, reservation_id, said = ask.known, ask.params["reservationId"], ask.said
        return await told(lambda send: self._hot.reservation_as(who, reservation_id, said, ask.path, send, wait))

    async def release(self, ask: Ask) -> Answer | Refused:
        released = await self._engine.release(ask.params["reservationId"], caller(ask))
        return released if isinstance(released, Refused) else Answer(204, b"")

    async def active(self, ask: Ask) -> Answer:
        user_id = ask.params["userId"]
        caller(ask, user_id)
        held = await self._engine.active_reservations(user_id)
        now_ms = self._now_ms()
        return Answer(200, b"[%s]" % b",".join(reservation(each, now_ms) for each in held))

    # Orders

    async def checkout(self, ask: Ask) -> Answer | Refused:
        wish = await ask.read(schema.CheckoutBody)
        transaction_id, reservation_ids = _payable(wish)
        paid = await self._engine.checkout(
            reservation_ids,
            transaction_id,
            wish.payment_method or "",
            wish.shipping_address or "",
            caller(ask, wish.user_id),
        )
        return _order(paid, 201)

    async def order(self, ask: Ask) -> Answer | Refused:
        return _order(await self._engine.order(ask.params["orderId"], caller(ask)))

    async def order_status(self, ask: Ask) -> Answer | Refused:
        found = await self._engine.order(ask.params["orderId"], caller(ask))
        if isinstance(found, Refused):
            return found
        return views.json(schema.OrderState(found.order_id, found.status))

    async def order_of(self, ask: Ask) -> Answer | Refused:
        return _order(await self._engine.order_of(ask.params["reservationId"], caller(ask)))

    async def orders(self, ask: Ask) -> Answer:
        user_id = ask.params["userId"]
        caller(ask, user_id)
        return views.json([views.order(each) for each in await self._engine.orders(user_id)])

    async def cancel(self, ask: Ask) -> Answer | Refused:
        reason = ask.text("reason", REASON_MAX)
        return _order(await self._engine.cancel_order(ask.params["orderId"], caller(ask), reason))

    def _now_ms(self) -> int:
        return self._engine.clock.now_ms()


def _wait_seconds(ask: Ask) -> int:
    said = wait_seconds(ask.header(b"prefer"))
    if isinstance(said, Refused):
        raise Refusing(said)
    return said


def _items(wish: schema.CartBody) -> tuple[Item, ...]:
    skus = [item.sku_id for item in wish.items]
    for number, sku_id in enumerate(skus):
        if sku_id in skus[:number]:
            raise Refusing(invalid(f"items[{number}].skuId", "is another item's already: ask for both in one"))
    return tuple(Item(item.sku_id, item.quantity) for item in wish.items)


def _payable(wish: schema.CheckoutBody) -> tuple[str, tuple[str, ...]]:
    """The transaction and the reservations of a checkout."""
    faults = []
    if wish.payment_transaction_id is None:
        faults.append(("paymentTransactionId", "is required: a payment without one is not available yet"))
    named = tuple(wish.reservation_ids or ())
    if wish.reservation_id is not None:
        named = (*named, wish.reservation_id)
    if not named:
        faults.append(("reservationId", "is required, or reservationIds for several"))
    elif wish.reservation_id is not None and wish.reservation_ids is not None:
        faults.append(("reservationIds", "cannot stand beside reservationId: give one of them"))
    elif len(set(named)) < len(named):
        faults.append(("reservationIds", "names a reservation twice"))
    if wish.payment_transaction_id is None or faults:
        raise Refusing(invalid_fields(faults))
    return wish.payment_transaction_id, named


def _order(found: Order | Refused, status: int = 200) -> Answer | Refused:
    return found if isinstance(found, Refused) else views.json(views.order(found), status)


def calls(engine: Engine, hot: HotRoutes) -> list[Call]:
    """Every route of a buyer."""
    routes = Buyer(engine, hot)
    return [*_window_calls(routes), *_reservation_calls(routes), *_order_calls(routes)]


def _window_calls(routes: Buyer) -> list[Call]:
    one = {200: schema.Product}
    return [
        _get("/products", "All products on sale, soon or lately", routes.products, {200: list[schema.Product]}),
        _get("/products/{skuId}", "A product", routes.product, one, (R.NOT_FOUND,)),
        _get("/products/{skuId}/availability", "What is left of a product", routes.product, one, (R.NOT_FOUND,)),
        _get("/sales", "All sales", routes.sales, {200: list[schema.Sale]}),
        _get("/sales/{saleId}", "A sale", routes.sale, {200: schema.Sale}, (R.NOT_FOUND,)),
    ]


def _reservation_calls(routes: Buyer) -> list[Call]:
    one, path = {200: ReservationState}, "/reservations/{reservationId}"
    return [
        _post("/reservations", "Reserve units of a product", routes.reserve,
              {201: schema.Reservation, 202: ReservationState}, schema.ReserveBody, CLOSED, ASKING, True),
        _post("/reservations/cart", "Reserve several products of one sale, or none", routes.reserve_cart,
              {201: schema.Cart, 202: CartState}, schema.CartBody, CLOSED, ASKING, True),
        _own(path, "A reservation as it stands", routes.reservation, one, (WAIT,)),
        _delete(path, "Give the units back", routes.release, {204: None}),
        _own("/reservations/user/{userId}/active", "What a user holds", routes.active,
             {200: list[schema.Reservation]}),
    ]  # fmt: skip


def _order_calls(routes: Buyer) -> list[Call]:
    one, path = {200: schema.Order}, "/orders/{orderId}"
    return [
        _post("/orders/checkout", "Pay for reservations", routes.checkout, {201: schema.Order},
              schema.CheckoutBody, UNPAID),
        _own(path, "An order", routes.order, one),
        _own(path + "/status", "What has become of an order", routes.order_status, {200: schema.OrderState}),
        _own("/orders/reservation/{reservationId}", "The order of a reservation", routes.order_of, one),
        _own("/orders/user/{userId}", "A user's orders, newest first", routes.orders, {200: list[schema.Order]}),
        _delete(path, "Cancel an order, or start its refund", routes.cancel, one, (REASON,)),
    ]  # fmt: skip


def _get(path: str, summary: str, handle: Handler, answers: dict[int, Any], refusals: tuple[Refusal, ...] = ()) -> Call:
    """What everybody may read."""
    return Call("GET", API + path, Audience.BUYERS, summary, handle, answers, None, refusals)


def _own(path: str, summary: str, handle: Handler, answers: dict[int, Any], params: tuple[Param, ...] = ()) -> Call:
    """What a user may read of his own."""
    refusals = (R.NOT_FOUND,)
    return Call("GET", API + path, Audience.BUYERS, summary, handle, answers, None, refusals, params, private=True)


def _post(
    path: str, summary: str, handle: Handler, answers: dict[int, Any], body: type, refusals: tuple[Refusal, ...],
    params: tuple[Param, ...] = (), attempt: bool = False,
) -> Call:  # fmt: skip
    return Call(
        "POST", API + path, Audience.BUYERS, summary, handle, answers, body, refusals, params,
        replayed=KEY in params, private=True, attempt=attempt,
    )  # fmt: skip


def _delete(path: str, summary: str, handle: Handler, answers: dict[int, Any], params: tuple[Param, ...] = ()) -> Call:
    refusals = (R.NOT_FOUND, R.RESERVATION_EXPIRED, R.ILLEGAL_STATE)
    return Call("DELETE", API + path, Audience.BUYERS, summary, handle, answers, None, refusals, params, private=True)
