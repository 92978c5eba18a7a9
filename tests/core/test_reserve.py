"""The decision: who of a batch gets the units, and what the others are told."""

import pytest
from core.audit import audit
from core.shop import (
    AUTHORIZED,
    HOLD_MS,
    OPENING_MS,
    Shop,
    a_checkout,
    a_product,
    a_sale,
    an_attempt,
    refusal_of,
    reservations_of,
)

from flashsale.core.journal import Kind
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.reservation import RequestKind, Status
from flashsale.core.sale import Settlement
from flashsale.core.stock import Granted, refuse_early

# -- Units.


def test_attempts_are_decided_in_the_order_of_their_arrival():
    shop = Shop(units=2)
    outcomes = shop.decide(*(an_attempt(user) for user in ("ann", "bob", "cyd")))
    assert [refusal_of(outcome) for outcome in outcomes] == [None, None, Refusal.SOLD_OUT]
    audit(shop.books)


def test_an_attempt_is_whole_or_refused_and_a_smaller_one_after_it_may_still_win():
    shop = Shop(a_sale(a_product(limit=5)), units=3)
    outcomes = shop.decide(*(an_attempt(user, ("lamp", units)) for user, units in [("ann", 2), ("bob", 2), ("cyd", 1)]))
    assert [refusal_of(outcome) for outcome in outcomes] == [None, Refusal.SOLD_OUT, None]
    assert shop.counters() == (0, 3, 0)


def test_the_last_unit_is_sold():
    shop = Shop(units=1)
    assert refusal_of(shop.reserve("ann")) is None
    assert shop.counters() == (0, 1, 0)


def test_a_unit_released_after_sold_out_is_sold_again():
    shop = Shop(units=1)
    (anns,) = shop.held("ann")
    assert refusal_of(shop.reserve("bob")) is Refusal.SOLD_OUT
    shop.release(anns.reservation_id)
    assert refusal_of(shop.reserve("bob")) is None


def test_a_unit_whose_time_is_over_is_sold_again():
    shop = Shop(units=1)
    shop.held("ann")
    shop.pass_ms(HOLD_MS - 1)
    assert refusal_of(shop.reserve("bob")) is Refusal.SOLD_OUT
    shop.pass_ms(1)
    assert refusal_of(shop.reserve("bob")) is None
    audit(shop.books)


def test_who_is_refused_is_told_how_many_there_are():
    shop = Shop(a_sale(a_product(limit=5)), units=3)
    refused = shop.reserve("ann", ("lamp", 4))
    assert refused.details == {"skuId": "lamp", "requestedQuantity": 4, "availableQuantity": 3}


def test_a_reservation_copies_price_currency_and_time():
    shop = Shop(a_sale(a_product(price_minor=1234, currency="USD"), reservation_seconds=60))
    (reservation,) = shop.held("ann")
    assert (reservation.unit_price_minor, reservation.currency) == (1234, "USD")
    assert (reservation.created_at_ms, reservation.expires_at_ms) == (OPENING_MS, OPENING_MS + 60_000)


# -- Carts.


def test_a_cart_gets_all_of_its_products_or_none():
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb")), units={"lamp": 1, "bulb": 0})
    assert refusal_of(shop.reserve("ann", ("lamp", 1), ("bulb", 1))) is Refusal.SOLD_OUT
    assert shop.counters("lamp") == (1, 0, 0)
    shop.restock(1, "bulb")
    assert len(shop.held("ann", ("lamp", 1), ("bulb", 1))) == 2
    audit(shop.books)


def test_the_reservations_of_a_cart_stand_in_the_order_of_its_items_also_when_repeated():
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb")))
    first = shop.held("ann", ("lamp", 1), ("bulb", 1), key="k")
    again = shop.held("ann", ("bulb", 1), ("lamp", 1), key="k")
    assert [each.sku_id for each in first] == ["lamp", "bulb"]
    assert [each.sku_id for each in again] == ["bulb", "lamp"]
    assert {each.reservation_id for each in again} == {each.reservation_id for each in first}


# -- The purchase limit.


def test_the_limit_counts_what_is_held_and_bought():
    shop = Shop(a_sale(a_product(limit=3)))
    (held,) = shop.held("ann", ("lamp", 1))
    shop.held("ann", ("lamp", 2))
    shop.hear(shop.open_order(a_checkout(held.reservation_id)), AUTHORIZED)
    refused = shop.reserve("ann")
    assert refusal_of(refused) is Refusal.LIMIT_EXCEEDED
    assert refused.details == {"skuId": "lamp", "limit": 3, "alreadyHeld": 3}


@pytest.mark.parametrize("way", ["release", "expire", "return"])
def test_the_limit_is_given_back_with_the_units(way):
    shop = Shop()
    (held,) = shop.held("ann")
    if way == "release":
        shop.release(held.reservation_id)
    elif way == "expire":
        shop.pass_ms(HOLD_MS)
    else:
        opened = shop.hear(shop.open_order(a_checkout(held.reservation_id)), AUTHORIZED)
        shop.cancel(opened.order.order_id)
    assert refusal_of(shop.reserve("ann")) is None
    audit(shop.books)


def test_each_user_and_each_product_has_a_limit_of_its_own():
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb")))
    for user in ("ann", "bob"):
        for sku_id in ("lamp", "bulb"):
            assert refusal_of(shop.reserve(user, (sku_id, 1))) is None
    audit(shop.books)


def test_one_user_in_one_batch_is_held_to_his_limit():
    shop = Shop(units=50)
    outcomes = shop.decide(*(an_attempt("ann", key=str(number)) for number in range(50)))
    assert [refusal_of(outcome) for outcome in outcomes] == [None] + 49 * [Refusal.LIMIT_EXCEEDED]


# -- Keys.


def test_a_repeated_request_gets_its_reservation_again():
    shop = Shop()
    (first,) = shop.held("ann", key="k")
    again = shop.reserve("ann", key="k")
    assert isinstance(again, Granted)
    assert again.replayed
    assert again.reservations == [first]
    assert shop.counters() == (9, 1, 0)


def test_a_request_repeated_in_its_own_batch_gets_the_same_reservation():
    shop = Shop()
    outcomes = shop.decide(*(an_attempt("ann", key="k") for _ in range(50)))
    assert len({each.reservation_id for each in reservations_of(outcomes)}) == 1
    assert [outcome.replayed for outcome in outcomes] == [False] + 49 * [True]
    audit(shop.books)


OTHER_WISHES = {
    "another quantity": [("lamp", 2)],
    "another product": [("bulb", 1)],
    "a cart": [("lamp", 1), ("bulb", 1)],
}


@pytest.mark.parametrize("wish", OTHER_WISHES.values(), ids=OTHER_WISHES.keys())
def test_a_key_used_with_another_wish_is_refused(wish):
    shop = Shop(a_sale(a_product("lamp", 5), a_product("bulb", 5)))
    shop.held("ann", ("lamp", 1), key="k")
    assert refusal_of(shop.reserve("ann", *wish, key="k")) is Refusal.KEY_REUSED
    audit(shop.books)


def test_a_cart_of_one_is_not_the_same_wish_as_a_single_product():
    shop = Shop()
    shop.held("ann", key="k")
    cart = an_attempt("ann", key="k")
    cart.kind = RequestKind.CART
    assert refusal_of(shop.decide(cart)[0]) is Refusal.KEY_REUSED


def test_a_key_belongs_to_its_user_and_its_sale():
    shop = Shop(a_sale(), a_sale(sale_id="other"))
    outcomes = [
        shop.decide(an_attempt(user, key="k", sale_id=sale_id))[0]
        for user in ("ann", "bob")
        for sale_id in ("sale", "other")
    ]
    assert len({each.reservation_id for each in reservations_of(outcomes)}) == 4
    assert not any(outcome.replayed for outcome in outcomes)


def test_a_refusal_does_not_burn_the_key():
    shop = Shop(units=0)
    assert refusal_of(shop.reserve("ann", key="k")) is Refusal.SOLD_OUT
    shop.restock(1)
    outcome = shop.reserve("ann", key="k")
    assert isinstance(outcome, Granted)
    assert not outcome.replayed


@pytest.mark.parametrize("since", ["sold out", "ended", "paused", "at the limit", "lapsed", "released", "deleted"])
def test_whoever_lost_a_reply_finds_his_own_reservation_whatever_has_happened_since(since):
    shop = Shop(units=1)
    (mine,) = shop.held("ann", key="k")
    if since == "ended":
        shop.terms(ended=True)
    elif since == "paused":
        shop.terms(paused=True)
    elif since == "lapsed":
        shop.pass_ms(HOLD_MS)
    elif since == "released":
        shop.release(mine.reservation_id)
    elif since == "deleted":
        del shop.sales["sale"]
    outcome = shop.reserve("ann", key="k")
    assert isinstance(outcome, Granted)
    assert outcome.reservations == [mine]


# -- The order of refusals: each line applies, and so do all below it. The first one is said.

CAUSES = {
    Refusal.KEY_REUSED: lambda shop: shop.held("ann", ("bulb", 1), key="k"),
    Refusal.NOT_FOUND: lambda shop: shop.books.stock.pop(("sale", "lamp")),
    Refusal.NOT_STARTED: lambda shop: shop.terms(starts_at_ms=OPENING_MS + 1),
    Refusal.LIMIT_EXCEEDED: lambda shop: shop.books.claims.update({("ann", "sale", "lamp"): 1}),
    Refusal.SOLD_OUT: lambda shop: setattr(shop.books.stock["sale", "lamp"], "total", 0),
}
CLOSED = {
    Refusal.NOT_STARTED: CAUSES[Refusal.NOT_STARTED],
    Refusal.ENDED: lambda shop: shop.terms(ended=True, paused=True),
    Refusal.PAUSED: lambda shop: shop.terms(paused=True),
}


@pytest.mark.parametrize("first", CAUSES)
@pytest.mark.parametrize("closed", CLOSED)
def test_where_several_refusals_apply_the_first_is_said(first, closed):
    order = list(CAUSES)
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb", 5)))
    applying = [{**CAUSES, Refusal.NOT_STARTED: CLOSED[closed]}[each] for each in order[order.index(first) :]]
    bring_about(shop, applying)
    said = refusal_of(shop.reserve("ann", ("lamp", 1), key="k"))
    assert said is (closed if first is Refusal.NOT_STARTED else first)


def bring_about(shop: Shop, causes: list) -> None:
    """The last one first: a row that is gone cannot be changed."""
    for cause in (cause for cause in causes if cause is CAUSES[Refusal.KEY_REUSED]):
        cause(shop)
    for cause in reversed([cause for cause in causes if cause is not CAUSES[Refusal.KEY_REUSED]]):
        cause(shop)


def test_the_refusals_of_the_decision_stand_in_their_documented_order():
    documented = list(Refusal)
    ours = [*CAUSES]
    ours[3:3] = [Refusal.ENDED, Refusal.PAUSED]
    assert sorted(ours, key=documented.index) == ours


def test_in_a_cart_the_limit_of_one_product_is_said_before_another_is_sold_out():
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb")), units={"lamp": 0, "bulb": 5})
    shop.held("ann", ("bulb", 1))
    assert refusal_of(shop.reserve("ann", ("lamp", 1), ("bulb", 1))) is Refusal.LIMIT_EXCEEDED


# -- What is barred from outside: its refusal stands among the others, at its own place.

BARS = [Refused(Refusal.BLOCKED, ""), Refused(Refusal.CHALLENGE_REQUIRED, ""), Refused(Refusal.PASS_REQUIRED, "")]


@pytest.mark.parametrize("barred", BARS, ids=lambda each: each.refusal.code)
@pytest.mark.parametrize("cause", CAUSES)
def test_what_bars_an_attempt_is_said_at_its_place_in_the_order(barred, cause):
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb", 5)))
    CAUSES[cause](shop)
    attempt = an_attempt("ann", ("lamp", 1), key="k")
    attempt.barred = barred
    first = min(cause, barred.refusal, key=list(Refusal).index)
    assert refusal_of(refuse_early(shop.books, attempt, shop.now_ms)) is first
    assert refusal_of(shop.decide(attempt)[0]) is first


@pytest.mark.parametrize("barred", BARS, ids=lambda each: each.refusal.code)
def test_what_is_barred_gets_nothing_though_there_are_units(barred):
    shop = Shop()
    attempt = an_attempt("ann", key="k")
    attempt.barred = barred
    assert shop.decide(attempt) == [barred]
    assert shop.counters() == (10, 0, 0)
    assert isinstance(shop.reserve("ann", key="k"), Granted)


@pytest.mark.parametrize("barred", BARS, ids=lambda each: each.refusal.code)
def test_whoever_has_a_reservation_is_answered_with_it_although_he_is_barred_now(barred):
    shop = Shop()
    mine = shop.held("ann", key="k")
    attempt = an_attempt("ann", key="k")
    attempt.barred = barred
    assert shop.decide(attempt)[0].reservations == mine
    assert refuse_early(shop.books, attempt, shop.now_ms).reservations == mine


# -- What can be answered from a read.


@pytest.mark.parametrize("refusal", CAUSES)
def test_a_read_says_what_the_decision_would_say(refusal):
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb", 5)))
    CAUSES[refusal](shop)
    attempt = an_attempt("ann", ("lamp", 1), key="k")
    assert refusal_of(refuse_early(shop.books, attempt, shop.now_ms)) is refusal
    assert refusal_of(shop.decide(attempt)[0]) is refusal


def test_a_read_finds_a_repeated_request_and_decides_nothing_else():
    shop = Shop()
    assert refuse_early(shop.books, an_attempt("ann", key="k"), shop.now_ms) is None
    (mine,) = shop.held("ann", key="k")
    assert refuse_early(shop.books, an_attempt("ann", key="k"), shop.now_ms).reservations == [mine]
    assert shop.counters() == (9, 1, 0)


# -- Sales whose reservations need no payment.


def test_without_settlement_a_reservation_is_confirmed_as_it_is_made():
    shop = Shop(a_sale(settlement=Settlement.NONE), units=2)
    (mine,) = shop.held("ann", key="k")
    assert mine.status is Status.CONFIRMED
    assert shop.counters() == (1, 0, 1)
    assert [row.kind for row in shop.books.journal] == [Kind.STOCK, Kind.RESERVE, Kind.CONFIRM]
    shop.pass_ms(HOLD_MS)
    assert shop.expire() == 0
    assert refusal_of(shop.release(mine.reservation_id)) is Refusal.ILLEGAL_STATE
    assert shop.held("ann", key="k") == [mine]
    assert refusal_of(shop.reserve("ann")) is Refusal.LIMIT_EXCEEDED
    audit(shop.books)
