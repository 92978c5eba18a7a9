"""What an operator can do to a sale and its stock."""

import pytest
from core.audit import audit
from core.shop import AUTHORIZED, OPENING_MS, Shop, a_checkout, a_draft, a_product, a_sale, refusal_of
from msgspec.structs import replace

from flashsale.core.catalogue import UNITS_MAX, CreateSale, DeleteSale, EditSale, Restock, SwitchSale
from flashsale.core.journal import Kind
from flashsale.core.refusal import Refusal
from flashsale.core.sale import Mode, SaleState, Switch, state_at

DRAFT = a_sale(starts_at_ms=None)
SCHEDULED = a_sale(starts_at_ms=OPENING_MS + 1)


def create(shop, sale, units=10):
    return shop.change(CreateSale(a_draft(sale, units), "operator"))


def edit(shop, sale, units=10, expected_version=None):
    return shop.change(EditSale(a_draft(sale, units), expected_version, "operator"))


# -- Creating.


def test_a_new_sale_opens_with_its_units_in_the_journal():
    shop = Shop(a_sale(sale_id="other"))
    sale = create(shop, replace(a_sale(a_product("vase")), version=7), 5).sale
    assert (sale.version, sale.created_at_ms) == (1, OPENING_MS)
    assert shop.counters("vase") == (5, 0, 0)
    row = shop.books.journal[-1]
    assert (row.kind, row.quantity, row.actor, row.sku_seq) == (Kind.STOCK, 5, "operator", 1)
    audit(shop.books)


def test_a_sale_id_is_used_once():
    assert refusal_of(create(Shop(), a_sale(a_product("vase")))) is Refusal.ILLEGAL_STATE


@pytest.mark.parametrize("other", [DRAFT, SCHEDULED, a_sale(), a_sale(paused=True)])
def test_a_product_is_in_one_sale_that_has_not_ended(other):
    assert refusal_of(create(Shop(other), a_sale(sale_id="new"))) is Refusal.ILLEGAL_STATE


@pytest.mark.parametrize("other", [a_sale(ended=True), a_sale(ends_at_ms=OPENING_MS)])
def test_a_product_of_an_ended_sale_may_be_in_a_new_one(other):
    shop = Shop(replace(other, starts_at_ms=OPENING_MS - 1))
    assert refusal_of(create(shop, a_sale(sale_id="new"))) is None


@pytest.mark.parametrize("ends_at_ms", [OPENING_MS - 1, OPENING_MS])
def test_a_sale_ends_after_it_starts(ends_at_ms):
    wrong = a_sale(a_product("vase"), sale_id="new", ends_at_ms=ends_at_ms)
    assert refusal_of(create(Shop(), wrong)) is Refusal.VALIDATION_FAILED
    assert refusal_of(edit(Shop(), a_sale(ends_at_ms=ends_at_ms))) is Refusal.VALIDATION_FAILED


# -- Editing.

FIXED = {
    "its products": a_sale(a_product("lamp"), a_product("vase")),
    "what it sells": a_sale(a_product("vase")),
    "its currency": a_sale(a_product(currency="USD")),
    "its mode": a_sale(mode=Mode.QUEUED),
    "that it starts": DRAFT,
}


@pytest.mark.parametrize("asked", FIXED.values(), ids=FIXED.keys())
@pytest.mark.parametrize("sale", [SCHEDULED, a_sale(), a_sale(paused=True)], ids=["scheduled", "active", "paused"])
def test_once_scheduled_a_sale_cannot_change(asked, sale):
    shop = Shop(sale)
    assert refusal_of(edit(shop, asked)) is Refusal.ILLEGAL_STATE
    assert shop.sales["sale"] is sale


@pytest.mark.parametrize("asked", [FIXED[each] for each in FIXED if each != "that it starts"])
def test_a_draft_can_change_in_everything(asked):
    shop = Shop(DRAFT)
    assert refusal_of(edit(shop, asked)) is None


@pytest.mark.parametrize(
    "asked", [a_sale(a_product(price_minor=1, limit=9)), a_sale(name="New", reservation_seconds=9)]
)
def test_an_active_sale_can_change_price_limit_name_and_times(asked):
    shop = Shop(a_sale(paused=True))
    sale = edit(shop, asked).sale
    assert sale.version == 2
    assert sale.paused, "a switch is not a term"
    assert sale.products == asked.products


def test_an_ended_sale_cannot_change():
    assert refusal_of(edit(Shop(a_sale(ended=True)), a_sale())) is Refusal.ILLEGAL_STATE


def test_a_change_of_an_older_version_is_refused():
    shop = Shop()
    edit(shop, a_sale())
    refused = edit(shop, a_sale(), expected_version=1)
    assert refused.details == {"version": 2, "precondition": True}
    assert refusal_of(edit(shop, a_sale(), expected_version=2)) is None


def test_a_price_that_changes_does_not_reach_what_is_reserved():
    shop = Shop()
    (mine,) = shop.held("ann")
    edit(shop, a_sale(a_product(price_minor=1)))
    assert mine.unit_price_minor == 1000
    assert shop.held("bob")[0].unit_price_minor == 1


@pytest.mark.parametrize(("total", "refusal"), [(1, Refusal.ILLEGAL_STATE), (2, None), (3, None), (100, None)])
def test_a_total_is_not_lowered_below_what_is_held_and_sold(total, refusal):
    shop = Shop()
    shop.held("ann")
    shop.hear(shop.ordered("bob"), AUTHORIZED)
    assert refusal_of(edit(shop, a_sale(), total)) is refusal
    assert shop.counters() == ((8, 1, 1) if refusal else (total - 2, 1, 1))
    audit(shop.books)


def test_a_changed_total_is_a_journalled_difference():
    shop = Shop()
    edit(shop, a_sale(), 7)
    row = shop.books.journal[-1]
    assert (row.kind, row.quantity, row.total_after, row.sku_seq) == (Kind.ADJUST, -3, 7, 2)
    edit(shop, a_sale(), 7)
    assert shop.books.journal[-1] is row


# -- Restocking.


def test_a_restock_is_journalled_with_its_reason():
    shop = Shop()
    shop.restock(5)
    row = shop.books.journal[-1]
    assert (row.kind, row.quantity, row.reason, row.total_after) == (Kind.RESTOCK, 5, "found in the cellar", 15)
    audit(shop.books)


def test_a_restock_cannot_exceed_the_largest_stock():
    shop = Shop()
    assert refusal_of(shop.restock(UNITS_MAX - 9)) is Refusal.VALIDATION_FAILED
    assert refusal_of(shop.restock(UNITS_MAX - 10)) is None


# -- Switching.


@pytest.mark.parametrize(
    ("switch", "sale", "state"),
    [
        (Switch.START, SCHEDULED, SaleState.ACTIVE),
        (Switch.PAUSE, a_sale(), SaleState.PAUSED),
        (Switch.RESUME, a_sale(paused=True), SaleState.ACTIVE),
        (Switch.END, a_sale(), SaleState.ENDED),
        (Switch.PAUSE, SCHEDULED, None),
        (Switch.START, a_sale(paused=True), None),
    ],
)
def test_a_switch_is_thrown_or_refused(switch, sale, state):
    shop = Shop(sale)
    changed = shop.change(SwitchSale("sale", switch, "operator"))
    assert refusal_of(changed) is (None if state else Refusal.ILLEGAL_STATE)
    assert state_at(shop.sales["sale"], OPENING_MS) is (state or state_at(sale, OPENING_MS))


def test_a_switch_thrown_again_changes_nothing():
    shop = Shop(a_sale(paused=True))
    assert shop.change(SwitchSale("sale", Switch.PAUSE, "operator")).nothing


def test_a_sale_whose_end_has_passed_cannot_start():
    shop = Shop(a_sale(starts_at_ms=None, ends_at_ms=OPENING_MS))
    assert refusal_of(shop.change(SwitchSale("sale", Switch.START, "operator"))) is Refusal.VALIDATION_FAILED


def test_ending_or_pausing_leaves_what_exists_to_be_paid_and_released():
    shop = Shop()
    (anns,), (bobs,) = shop.held("ann"), shop.held("bob")
    shop.change(SwitchSale("sale", Switch.END, "operator"))
    assert refusal_of(shop.release(anns.reservation_id)) is None
    assert refusal_of(shop.open_order(a_checkout(bobs.reservation_id))) is None


# -- Deleting.


def test_an_unused_sale_can_be_deleted():
    shop = Shop()
    assert shop.change(DeleteSale("sale", "operator")).sale is None
    assert "sale" not in shop.sales


def test_a_sale_with_units_held_or_sold_cannot_be_deleted():
    shop = Shop()
    shop.held("ann")
    assert refusal_of(shop.change(DeleteSale("sale", "operator"))) is Refusal.ILLEGAL_STATE
    assert "sale" in shop.sales


@pytest.mark.parametrize(
    "change",
    [
        EditSale(a_draft(a_sale(sale_id="none")), None, "operator"),
        SwitchSale("none", Switch.START, "operator"),
        DeleteSale("none", "operator"),
        Restock("none", "lamp", 1, "", "operator"),
        Restock("sale", "none", 1, "", "operator"),
    ],
    ids=lambda change: type(change).__name__,
)
def test_what_is_not_there_cannot_be_changed(change):
    assert refusal_of(Shop().change(change)) is Refusal.NOT_FOUND
