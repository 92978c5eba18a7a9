"""The verdict finds every fault that a doctored history or ledger contains, and no other."""

from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest

from flashsale.rehearsal.evidence import Ask, Exchange, History, Order, Reservation
from flashsale.rehearsal.verdict import CHECKS, Booking, Evidence, Stock, Verdict, judge

PRICE = Decimal("999.99")
SOLD_OUT = msgspec.json.encode({"code": "SOLD_OUT"})
EXPIRED = msgspec.json.encode({"code": "RESERVATION_EXPIRED"})


def reserving(key: str, user: str, at: float, reservation: str = "") -> Exchange:
    told = Reservation(reservation, "RESERVED", user, "PHONE")
    body = msgspec.json.encode(told) if reservation else SOLD_OUT
    return Exchange(Ask.RESERVE, key, 201 if reservation else 409, body, at, at + 0.1)


def paying(order: Order, at: float) -> Exchange:
    subject, body = order.payment_transaction_id, msgspec.json.encode(order)
    return Exchange(Ask.CHECKOUT, subject, 201, body, at, at + 0.1, order.reservation_id)


ANNS = Order("ord_ann", "PAID", PRICE, "res_ann", "ann", "pay_ann")
BOBS = Order("ord_bob", "PAID", PRICE, "res_bob", "bob", "pay_bob")


def ann_reserves_twice() -> list[Exchange]:
    return [reserving("a", "ann", 1.0, "res_ann"), reserving("a", "ann", 2.0, "res_ann")]


def a_good_sale() -> Evidence:
    """Two units. Ann asks twice with one key, buys, and pays twice; Bob buys; patient Cem is refused."""
    return Evidence(
        histories=[
            History("ann", "pays twice", exchanges=[*ann_reserves_twice(), paying(ANNS, 3.0), paying(ANNS, 3.5)]),
            History("bob", "buys", exchanges=[reserving("b", "bob", 1.0, "res_bob"), paying(BOBS, 2.0)]),
            History("cem", "buys", patient=True, exchanges=[reserving("c", "cem", 3.0)]),
        ],
        stock=Stock(total=2, available=0, held=0, sold=2),
        consistent=True,
        reservations={
            "res_ann": Reservation("res_ann", "CONFIRMED", "ann", "PHONE"),
            "res_bob": Reservation("res_bob", "CONFIRMED", "bob", "PHONE"),
        },
        orders={"ord_ann": ANNS, "ord_bob": BOBS},
        books={"pay_ann": Booking(99999), "pay_bob": Booking(99999), "pay_declined": Booking()},
        hold_seconds=5.0,
    )


def but(evidence: Evidence, user: str, *exchanges: Exchange) -> Evidence:
    """The same sale, and this happened to the user besides."""
    known = {history.user: history for history in evidence.histories}
    history = known.setdefault(user, History(user, "buys"))
    known[user] = msgspec.structs.replace(history, exchanges=[*history.exchanges, *exchanges])
    return msgspec.structs.replace(evidence, histories=list(known.values()))


def with_stock(evidence: Evidence, **counters: int) -> Evidence:
    return msgspec.structs.replace(evidence, stock=msgspec.structs.replace(evidence.stock, **counters))


def with_reservation(evidence: Evidence, key: str, told: Reservation | None) -> Evidence:
    return msgspec.structs.replace(evidence, reservations={**evidence.reservations, key: told})


def with_order(evidence: Evidence, key: str, told: Order | None) -> Evidence:
    return msgspec.structs.replace(evidence, orders={**evidence.orders, key: told})


def with_booking(evidence: Evidence, transaction: str, captured: int, refunded: int = 0) -> Evidence:
    booking = Booking(captured, refunded)
    return msgspec.structs.replace(evidence, books={**evidence.books, transaction: booking})


def faults(verdict: Verdict) -> set[str]:
    return {name for name, found in verdict.findings.items() if found}


def one_more_sold(evidence: Evidence) -> Evidence:
    """A third order for the two units, as a shop that oversells would have it in all its papers."""
    third = Order("ord_eve", "PAID", PRICE, "res_eve", "eve", "pay_eve")
    evidence = but(evidence, "eve", reserving("e", "eve", 1.0, "res_eve"), paying(third, 2.0))
    evidence = with_reservation(evidence, "res_eve", Reservation("res_eve", "CONFIRMED", "eve"))
    return with_booking(with_order(evidence, "ord_eve", third), "pay_eve", 99999)


def late(evidence: Evidence, answered_at: float) -> Evidence:
    """Dan's reservation of second 1 was too late to be paid at `answered_at`."""
    refused = Exchange(Ask.CHECKOUT, "pay_dan", 410, EXPIRED, answered_at - 0.1, answered_at, "res_dan")
    evidence = but(evidence, "dan", reserving("d", "dan", 1.0, "res_dan"), refused)
    return with_reservation(evidence, "res_dan", Reservation("res_dan", "EXPIRED", "dan"))


def anns_other_key(evidence: Evidence, at: float, status: str) -> Evidence:
    """Ann is given a second reservation with another key."""
    evidence = but(evidence, "ann", reserving("a-tab", "ann", at, "res_ann2"))
    return with_reservation(evidence, "res_ann2", Reservation("res_ann2", status, "ann"))


def test_a_good_sale_has_no_faults_and_says_so_in_one_line():
    verdict = judge(a_good_sale())
    assert verdict.ok and faults(verdict) == set()
    assert verdict.line == "sold 2 of 2, oversold 0, lost 0"


def test_units_left_over_are_no_fault_when_nobody_was_refused():
    evidence = with_stock(a_good_sale(), total=3, available=1)
    kept = [history for history in evidence.histories if history.user != "cem"]
    verdict = judge(msgspec.structs.replace(evidence, histories=kept))
    assert verdict.ok and verdict.line == "sold 2 of 3, oversold 0, lost 0"


def test_a_reservation_that_lived_its_time_may_be_too_late():
    assert judge(late(a_good_sale(), 6.01)).ok


def test_a_second_reservation_after_the_first_has_ended_is_within_the_limit():
    evidence = but(a_good_sale(), "dan", reserving("d", "dan", 1.0, "res_d1"), reserving("d2", "dan", 6.5, "res_d2"))
    for key in ("res_d1", "res_d2"):
        evidence = with_reservation(evidence, key, Reservation(key, "EXPIRED", "dan"))
    assert judge(evidence).ok


def test_a_hold_may_be_as_old_as_the_first_request_for_it_that_got_no_answer():
    """It ends at 6.0, whenever he is told of it."""
    unheard = Exchange(Ask.RESERVE, "d", 0, b"", 1.0, 3.0)
    asks = [unheard, reserving("d", "dan", 5.0, "res_d1"), reserving("d2", "dan", 6.5, "res_d2")]
    evidence = but(a_good_sale(), "dan", *asks)
    for key in ("res_d1", "res_d2"):
        evidence = with_reservation(evidence, key, Reservation(key, "EXPIRED", "dan"))
    assert judge(evidence).ok


DOCTORED: dict[str, tuple[Callable[[Evidence], Evidence], set[str]]] = {
    "a third order for two units": (one_more_sold, {"oversold", "ledger inconsistent"}),
    "more held and sold than there is": (
        lambda sale: with_stock(sale, held=1, available=-1),
        {"oversold", "ledger inconsistent", "units stranded"},
    ),
    "an order that the counters do not know": (
        lambda sale: with_stock(sale, sold=1, available=1),
        {"ledger inconsistent", "units stranded"},
    ),
    "a ledger that doubts itself": (
        lambda sale: msgspec.structs.replace(sale, consistent=False),
        {"ledger inconsistent"},
    ),
    "a reservation forgotten": (lambda sale: with_reservation(sale, "res_ann", None), {"reservations lost"}),
    "a reservation given to another": (
        lambda sale: with_reservation(sale, "res_ann", Reservation("res_ann", "CONFIRMED", "eve")),
        {"reservations lost"},
    ),
    "a paid reservation expired": (
        lambda sale: with_reservation(sale, "res_ann", Reservation("res_ann", "EXPIRED", "ann")),
        {"reservations lost"},
    ),
    "an order forgotten": (
        lambda sale: with_order(sale, "ord_ann", None),
        {"orders lost", "ledger inconsistent", "charged twice", "books differ"},
    ),
    "an order of another price": (
        lambda sale: with_order(sale, "ord_ann", msgspec.structs.replace(ANNS, total_price=Decimal("1299.99"))),
        {"orders lost", "books differ"},
    ),
    "a paid order without money": (lambda sale: with_booking(sale, "pay_ann", 0), {"orders lost", "books differ"}),
    "a paid order refunded": (lambda sale: with_booking(sale, "pay_ann", 99999, 1), {"orders lost", "books differ"}),
    "a key refused that has a reservation": (
        lambda sale: but(sale, "ann", reserving("a", "ann", 4.0)),
        {"request keys broken"},
    ),
    "a key with two reservations": (
        lambda sale: with_reservation(
            but(sale, "dan", reserving("d", "dan", 1.0, "res_d1"), reserving("d", "dan", 9.0, "res_d2")),
            "res_d1",
            Reservation("res_d1", "EXPIRED", "dan"),
        ),
        {"request keys broken", "reservations lost"},
    ),
    "a second card charged": (
        lambda sale: with_booking(
            but(sale, "ann", Exchange(Ask.CHECKOUT, "pay_ann2", 409, b"{}", 3.0, 3.1, "res_ann")), "pay_ann2", 99999
        ),
        {"charged twice", "books differ"},
    ),
    "a charge for a refused buyer": (
        lambda sale: with_booking(
            but(sale, "cem", Exchange(Ask.CHECKOUT, "pay_cem", 402, b"{}", 3.0, 3.1, "res_x")), "pay_cem", 5
        ),
        {"charged twice", "books differ"},
    ),
    "a user with two units bought": (
        lambda sale: anns_other_key(sale, 1.0, "CONFIRMED"),
        {"over the limit", "oversold"},
    ),
    "a user with two units held": (lambda sale: anns_other_key(sale, 1.5, "EXPIRED"), {"over the limit"}),
    "units held by nobody": (
        lambda sale: with_stock(sale, total=3, held=1),
        {"units stranded"},
    ),
    "units free beside a refused buyer": (lambda sale: with_stock(sale, total=3, available=1), {"units stranded"}),
    "a hold cut short": (lambda sale: late(sale, 4.0), {"holds cut short"}),
    "an answer of status 500": (
        lambda sale: but(sale, "bob", Exchange(Ask.CHECKOUT, "pay_bob", 500, b"oops", 3.0, 3.1)),
        {"unexpected answers"},
    ),
    "a buyer without any answer": (
        lambda sale: but(sale, "dan", Exchange(Ask.RESERVE, "d", 0, b"", 3.0, 3.1)),
        {"never answered"},
    ),
}


@pytest.mark.parametrize("doctored", DOCTORED)
def test_a_doctored_sale_is_found_out(doctored):
    doctor, expected = DOCTORED[doctored]
    verdict = judge(doctor(a_good_sale()))
    assert faults(verdict) == expected and not verdict.ok


def test_every_check_is_shown_to_fail():
    assert set().union(*(expected for _, expected in DOCTORED.values())) == set(CHECKS)


def test_what_is_oversold_and_lost_is_counted_in_the_line():
    assert judge(one_more_sold(a_good_sale())).line == "sold 2 of 2, oversold 1, lost 0"
    forgotten = with_reservation(a_good_sale(), "res_ann", None)
    assert judge(forgotten).line == "sold 2 of 2, oversold 0, lost 1"
