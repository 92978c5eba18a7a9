"""Limits over devices and addresses: what all accounts together may have who come from one place."""

import pytest
from core.audit import audit
from core.shop import AUTHORIZED, CAPTURED, HOLD_MS, Shop, a_checkout, a_product, a_sale, an_attempt, refusal_of

from flashsale.core.order import OrderStatus
from flashsale.core.origin import Shared, marks_of
from flashsale.core.refusal import Refusal
from flashsale.core.stock import Attempt, Granted

PHONE, TABLET = "d" + "1" * 16, "d" + "2" * 16
HOME, STREET, TOWN = "a" + "1" * 16, "b" + "1" * 16, "c" + "1" * 16


def a_limited_shop(units: int = 100, **limits: int) -> Shop:
    return Shop(a_sale(a_product("lamp", 5), a_product("bulb", 5), **limits), units=units)


def on(attempt: Attempt, *marks: str) -> Attempt:
    attempt.marks = marks
    return attempt


def tries(shop: Shop, user: str, *marks: str, items: tuple[tuple[str, int], ...] = ()) -> Granted | object:
    return shop.decide(on(an_attempt(user, *items), *marks))[0]


def test_accounts_on_one_device_share_its_limit():
    shop = a_limited_shop(per_device_limit=2)
    outcomes = [tries(shop, f"user-{number}", PHONE) for number in range(3)]
    assert [refusal_of(each) for each in outcomes] == [None, None, Refusal.LIMIT_EXCEEDED]
    assert outcomes[2].details == {"limitedBy": "device", "limit": 2, "alreadyHeld": 2}
    assert refusal_of(tries(shop, "user-3", TABLET)) is None
    audit(shop.books)


def test_the_limit_is_over_all_products_of_the_sale_and_over_all_items_of_a_cart():
    shop = a_limited_shop(per_device_limit=3)
    assert refusal_of(tries(shop, "ann", PHONE, items=(("lamp", 2), ("bulb", 2)))) is Refusal.LIMIT_EXCEEDED
    assert refusal_of(tries(shop, "ann", PHONE, items=(("lamp", 2),))) is None
    assert refusal_of(tries(shop, "bob", PHONE, items=(("bulb", 2),))) is Refusal.LIMIT_EXCEEDED
    assert refusal_of(tries(shop, "bob", PHONE, items=(("bulb", 1),))) is None
    audit(shop.books)


def test_an_address_has_its_limit_and_the_networks_around_it_four_and_sixteen_times_that():
    shop = a_limited_shop(per_address_limit=1)
    for number in range(4):
        assert refusal_of(tries(shop, f"a{number}", f"a{number:016}", STREET, TOWN)) is None
    refused = tries(shop, "a4", f"a{4:016}", STREET, TOWN)
    assert refused.details == {"limitedBy": "address", "limit": 4, "alreadyHeld": 4}
    for number in range(12):
        assert refusal_of(tries(shop, f"b{number}", f"a{number + 9:016}", f"b{number // 4:016}", TOWN)) is None
    assert tries(shop, "late", "a" + "9" * 16, "b" + "9" * 16, TOWN).details["limit"] == 16
    audit(shop.books)


def test_a_batch_of_many_accounts_on_one_device_gets_what_the_device_may_have():
    shop = a_limited_shop(per_device_limit=2)
    outcomes = shop.decide(*(on(an_attempt(f"user-{number}"), PHONE) for number in range(50)))
    assert [refusal_of(each) for each in outcomes].count(None) == 2
    audit(shop.books)


@pytest.mark.parametrize("way", ["release", "expire", "return"])
def test_what_is_given_back_may_be_had_by_another_account(way):
    shop = a_limited_shop(per_device_limit=1, per_address_limit=1)
    [held] = tries(shop, "ann", PHONE, HOME).reservations
    assert refusal_of(tries(shop, "bob", PHONE, HOME)) is Refusal.LIMIT_EXCEEDED
    if way == "release":
        shop.release(held.reservation_id)
    elif way == "expire":
        shop.pass_ms(HOLD_MS)
    else:
        opened = shop.hear(shop.open_order(a_checkout(held.reservation_id)), AUTHORIZED)
        shop.cancel(opened.order.order_id)
    assert refusal_of(tries(shop, "bob", PHONE, HOME)) is None
    audit(shop.books)


def test_what_is_bought_counts():
    shop = a_limited_shop(per_device_limit=1)
    [held] = tries(shop, "ann", PHONE).reservations
    shop.hear(shop.open_order(a_checkout(held.reservation_id)), AUTHORIZED, CAPTURED)
    assert refusal_of(tries(shop, "bob", PHONE)) is Refusal.LIMIT_EXCEEDED


def test_late_money_is_honoured_only_while_the_device_may_still_have_the_unit():
    for other, status in [("", OrderStatus.PAID), ("bob", OrderStatus.REFUNDING)]:
        shop = a_limited_shop(per_device_limit=1)
        [held] = tries(shop, "ann", PHONE).reservations
        opened = shop.open_order(a_checkout(held.reservation_id))
        shop.pass_ms(HOLD_MS)
        shop.expire()
        if other:
            assert refusal_of(tries(shop, other, PHONE)) is None
        assert shop.hear(opened, CAPTURED).order.status is status
        audit(shop.books)


def test_a_sale_without_these_limits_holds_nobody_to_them():
    shop = a_limited_shop()
    assert [refusal_of(tries(shop, f"user-{number}", PHONE, HOME)) for number in range(9)] == [None] * 9


def test_a_repeated_request_is_answered_although_its_device_has_what_it_may_have():
    shop = a_limited_shop(per_device_limit=1)
    attempt = on(an_attempt("ann", key="k"), PHONE)
    first, again = shop.decide(attempt, attempt)
    assert again.reservations == first.reservations


def test_a_shorter_hold_ends_sooner():
    shop = Shop(units=1)
    attempt = an_attempt("ann")
    attempt.hold_seconds = 30
    [held] = shop.decide(attempt)[0].reservations
    assert held.expires_at_ms == shop.now_ms + 30_000
    shop.pass_ms(30_000)
    assert refusal_of(shop.reserve("bob")) is None


# -- Bots.


def test_bots_with_ten_thousand_addresses_of_one_ipv6_48_win_what_a_48_may_have():
    shop, terms = a_limited_shop(units=20_000, per_address_limit=2), Shared(None, 2)
    bots = (
        on(an_attempt(f"bot-{number}"), *marks_of(terms, None, f"2001:db8:7:{number:x}::1", bytes(32)))
        for number in range(10_000)
    )
    assert [refusal_of(each) for each in shop.decide(*bots)].count(None) == 32
    audit(shop.books)


def test_bots_with_ten_thousand_accounts_on_fifty_devices_win_what_fifty_devices_may_have():
    shop, terms = a_limited_shop(units=20_000, per_device_limit=2), Shared(2, None)
    bots = (
        on(an_attempt(f"bot-{number}"), *marks_of(terms, f"device-{number % 50}", None, bytes(32)))
        for number in range(10_000)
    )
    assert [refusal_of(each) for each in shop.decide(*bots)].count(None) == 100
    audit(shop.books)
