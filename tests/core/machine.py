"""Any sequence of what can happen to a sale, played on the pure rules; after each step the books are audited.

Hypothesis draws the steps, or `play` does from a seed: for the model test of the ledgers, and for the tests that
take a protection away.
"""

from random import Random

import hypothesis.strategies as st
from core.audit import audit, histories
from core.shop import (
    AUTHORIZED,
    CAPTURED,
    FAILED,
    HOLD_MS,
    OPENING_MS,
    VOIDED,
    Shop,
    a_checkout,
    a_draft,
    a_fact,
    a_product,
    a_sale,
    an_attempt,
    refusal_of,
)
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flashsale.core.catalogue import EditSale, SwitchSale
from flashsale.core.checkout import Opened
from flashsale.core.payment import Due
from flashsale.core.refusal import Refusal
from flashsale.core.reservation import lapsed
from flashsale.core.sale import SaleState, Switch, state_at
from flashsale.core.stock import Attempt, Granted

USERS = ("ann", "bob", "cyd")
UNITS = {"lamp": 3, "bulb": 4}
KEYS = (None, "k1", "k2", "k3")

users = st.sampled_from(USERS)
keys = st.sampled_from(KEYS)
quantities = st.integers(1, 3)
singles = st.builds(lambda sku, units: ((sku, units),), st.sampled_from(sorted(UNITS)), quantities)
carts = st.builds(lambda a, b: (("lamp", a), ("bulb", b)), quantities, quantities)
attempts = st.builds(
    lambda user, items, key: from_somewhere(an_attempt(user, *items, key=key)), users, singles | carts, keys
)
numbers = st.integers(0, 10**6)


DEVICES = {"ann": "d" + "1" * 16, "bob": "d" + "1" * 16, "cyd": "d" + "2" * 16}
NETWORK = "a" + "0" * 16


def from_somewhere(attempt: Attempt) -> Attempt:
    """Ann and bob share a device, and all of them an address."""
    attempt.marks = (DEVICES[attempt.user_id], NETWORK)
    return attempt


def the_sale(**terms):
    return a_sale(a_product("lamp", 2, 1000), a_product("bulb", 3, 250), **terms)


class SaleMachine(RuleBasedStateMachine):
    """Users reserve, pay, cancel and stay away; operators restock and switch; time passes."""

    def __init__(self, shop: Shop | None = None) -> None:
        super().__init__()
        self.shop = shop or Shop(the_sale(), units=UNITS)
        self.answered: dict[tuple[str, str], tuple[Attempt, list[str]]] = {}
        """Of each key that has reservations: the attempt it came with, and their ids."""
        self.transactions = 0

    @rule(batch=st.lists(attempts, min_size=1, max_size=5))
    def reserve(self, batch: list[Attempt]) -> None:
        on_sale = state_at(self.shop.sales["sale"], self.shop.now_ms) is SaleState.ACTIVE
        for attempt, outcome in zip(batch, self.shop.decide(*batch), strict=True):
            self._key_holds(attempt, outcome)
            assert on_sale or not isinstance(outcome, Granted) or outcome.replayed, "sold while paused"

    def _key_holds(self, attempt: Attempt, outcome: Granted | object) -> None:
        if attempt.key is None:
            assert not getattr(outcome, "replayed", False)
            return
        earlier = self.answered.get((attempt.user_id, attempt.key))
        if earlier is None:
            assert refusal_of(outcome) is not Refusal.KEY_REUSED
            assert not getattr(outcome, "replayed", False), "a refusal has burnt the key"
            if isinstance(outcome, Granted):
                self.answered[attempt.user_id, attempt.key] = (attempt, _ids(outcome))
        elif (earlier[0].kind, sorted(earlier[0].items, key=repr)) == (attempt.kind, sorted(attempt.items, key=repr)):
            assert isinstance(outcome, Granted)
            assert outcome.replayed
            assert sorted(_ids(outcome)) == sorted(earlier[1]), "a repeated request got another reservation"
        else:
            assert refusal_of(outcome) is Refusal.KEY_REUSED

    @rule(number=numbers, user=users | st.none())
    def release(self, number: int, user: str | None) -> None:
        if found := _nth(self.shop.books.reservations, number):
            self.shop.release(found, user)

    @rule(number=numbers, other=numbers, both=st.booleans(), old=st.booleans())
    def check_out(self, number: int, other: int, both: bool, old: bool) -> None:
        first, second = (_nth(self.shop.books.reservations, each) for each in (number, other))
        if not first or not second:
            return
        self.transactions += not old
        ids = (first, second) if both and first != second else (first,)
        opened = self.shop.open_order(a_checkout(*ids, transaction=f"tx{self.transactions}"))
        assert refusal_of(opened) is not Refusal.UNAVAILABLE

    @rule(user=users, sku_id=st.sampled_from(sorted(UNITS)), more=st.sampled_from([(), (FAILED,), (AUTHORIZED,)]))
    def buy(self, user: str, sku_id: str, more) -> None:
        """The usual way to an order, so that there are some to disturb."""
        outcome = self.shop.reserve(user, (sku_id, 1))
        if isinstance(outcome, Granted):
            self.transactions += 1
            opened = self.shop.open_order(a_checkout(*_ids(outcome), transaction=f"tx{self.transactions}"))
            if isinstance(opened, Opened):  # a sale without settlement has no orders
                self.shop.hear(opened, *more)

    @rule(number=numbers, status=st.sampled_from([FAILED, AUTHORIZED, VOIDED, CAPTURED]), right=st.integers(0, 9))
    def hear(self, number: int, status, right: int) -> None:
        """News of a payment; one authorisation in ten is over another amount."""
        if found := _nth(self._audible(), number):
            payment = self.shop.books.payments[found]
            wrong = payment.amount_minor + 1 if not right and status is AUTHORIZED else None
            over = {each.reservation_id for each in self.shop.books.reservations.values()
                    if lapsed(each, self.shop.now_ms)}  # fmt: skip
            opened = self.shop.settle(found, a_fact(payment, status, wrong))
            if status is AUTHORIZED and opened.payment.due is Due.CAPTURE:
                assert not over.intersection(line.reservation_id for line in opened.order.lines), "confirmed too late"

    def _audible(self) -> list[str]:
        """Payments whose transaction has not moved to another order."""
        claimed = {(each.transaction_id, each.payment_id) for each in self.shop.books.payments.values()
                   if each.status is not FAILED or each.due}  # fmt: skip
        taken = {transaction for transaction, _ in claimed}
        return [each.payment_id for each in self.shop.books.payments.values()
                if (each.transaction_id, each.payment_id) in claimed or each.transaction_id not in taken]  # fmt: skip

    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        if found := _nth(self.shop.books.orders, number):
            self.shop.cancel(found)

    @rule(number=numbers)
    def pay_back(self, number: int) -> None:
        if found := _nth(self.shop.books.refunds, number):
            self.shop.paid_back(found)

    @rule(quantity=st.integers(1, 2), sku_id=st.sampled_from(sorted(UNITS)))
    def restock(self, quantity: int, sku_id: str) -> None:
        self.shop.restock(quantity, sku_id)

    @rule(lamps=st.integers(0, 6), bulbs=st.integers(0, 6))
    def adjust(self, lamps: int, bulbs: int) -> None:
        self.shop.change(EditSale(a_draft(self.shop.sales["sale"], {"lamp": lamps, "bulb": bulbs}), None, "operator"))

    @rule(switch=st.sampled_from([Switch.PAUSE, Switch.RESUME]))
    def switch(self, switch: Switch) -> None:
        self.shop.change(SwitchSale("sale", switch, "operator"))

    @rule(duration_ms=st.sampled_from([1, HOLD_MS // 2, HOLD_MS - 1, HOLD_MS]), swept=st.booleans())
    def time_passes(self, duration_ms: int, swept: bool) -> None:
        self.shop.pass_ms(duration_ms)
        if swept:
            self.shop.expire()

    @invariant()
    def the_books_are_right(self) -> None:
        audit(self.shop.books)
        assert self.shop.now_ms >= OPENING_MS
        assert histories(self.shop.books.journal).keys() == self.shop.books.reservations.keys()


def _ids(outcome: Granted) -> list[str]:
    return [each.reservation_id for each in outcome.reservations]


def _nth(ids, number: int) -> str | None:
    known = list(ids)
    return known[number % len(known)] if known else None


def play(machine: SaleMachine, seed: int, steps: int) -> None:
    """Some steps on a machine, the same ones for the same seed."""
    chance = Random(seed)
    for _ in range(steps):
        name, draw = chance.choice(STEPS)
        getattr(machine, name)(**draw(chance))
        machine.the_books_are_right()


def _attempt(chance: Random) -> Attempt:
    items = [(sku_id, chance.choice((1, 1, 2, 3))) for sku_id in sorted(UNITS)]
    chosen = items if chance.random() < 0.3 else [chance.choice(items)]
    return from_somewhere(an_attempt(chance.choice(USERS), *chosen, key=chance.choice(KEYS)))


def _number(chance: Random) -> int:
    return chance.randrange(10**6)


FACTS = (FAILED, AUTHORIZED, AUTHORIZED, VOIDED, CAPTURED, CAPTURED)
STEPS = [
    ("reserve", lambda chance: {"batch": [_attempt(chance) for _ in range(chance.randint(1, 4))]}),
    ("release", lambda chance: {"number": _number(chance), "user": chance.choice((None, *USERS))}),
    ("check_out", lambda chance: {"number": _number(chance), "other": _number(chance),
                                  "both": chance.random() < 0.5, "old": chance.random() < 0.3}),
    ("buy", lambda chance: {"user": chance.choice(USERS), "sku_id": chance.choice(sorted(UNITS)),
                            "more": chance.choice(((), (), (FAILED,), (AUTHORIZED,)))}),
    *3 * [("hear", lambda chance: {"number": _number(chance), "status": chance.choice(FACTS),
                                   "right": chance.randint(0, 9)})],
    ("cancel", lambda chance: {"number": _number(chance)}),
    ("pay_back", lambda chance: {"number": _number(chance)}),
    ("restock", lambda chance: {"quantity": chance.randint(1, 2), "sku_id": chance.choice(sorted(UNITS))}),
    ("adjust", lambda chance: {"lamps": chance.randint(0, 6), "bulbs": chance.randint(0, 6)}),
    ("switch", lambda chance: {"switch": chance.choice((Switch.PAUSE, Switch.RESUME, Switch.RESUME))}),
    ("time_passes", lambda chance: {"duration_ms": chance.choice((1, HOLD_MS // 2, HOLD_MS - 1, HOLD_MS)),
                                    "swept": chance.random() < 0.5}),
]  # fmt: skip
"""Every step with what it draws; what matters most stands there more than once."""
