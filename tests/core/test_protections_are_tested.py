"""Take a protection away, and the tests must notice: whoever removes one by mistake hears of it.

Each line removes one protection of the rules; the machine of `core.machine` then has to run into a wrong sale.
"""

from collections.abc import Callable
from typing import Any

import pytest
from core.machine import UNITS, SaleMachine, play, the_sale
from core.shop import Shop

from flashsale.core import books, catalogue, checkout, exits, journal, settlement, stock
from flashsale.core.journal import Effect, Kind


def nothing(*_: Any) -> None:
    """What stands in for a check that has been removed."""


def always(*_: Any) -> bool:
    return True


PROTECTIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "stock is checked": lambda patch: patch.setattr(stock, "sold_out", nothing),
    "the limit is checked": lambda patch: patch.setattr(stock, "_over_limit", nothing),
    "what a device and a network have is checked": lambda patch: patch.setattr(stock, "_over_shared_limit", nothing),
    "late money fits where it comes from": lambda patch: patch.setattr(settlement, "_fit_where_they_come_from", always),
    "the limit is given back": lambda patch: patch.setitem(books.CLAIMED_BY, Kind.EXPIRE, 0),
    "a paused sale sells nothing": lambda patch: patch.setattr(stock, "_closed", nothing),
    "a repeated key is answered": lambda patch: patch.setattr(stock, "_replay", nothing),
    "a key belongs to one wish": lambda patch: patch.setattr(stock, "_same_request", always),
    "a movement has its effect": lambda patch: patch.setitem(journal.EFFECT, Kind.CONFIRM, Effect(0, 0, 1)),
    "a late authorisation does not confirm": lambda patch: patch.setattr(settlement, "expire", nothing),
    "late money finds units or is owed back": lambda patch: patch.setattr(settlement, "_room_for", always),
    "money that nothing is given for is owed": lambda patch: patch.setattr(settlement, "_owe_back", nothing),
    "a transaction pays for one order": lambda patch: patch.setattr(checkout, "_reused", nothing),
    "an order that falls is not captured": lambda patch: patch.setattr(settlement, "fall", nothing),
    "only what awaits payment is confirmed": lambda patch: patch.setattr(settlement, "_awaits_payment", always),
    "a released order falls": lambda patch: patch.setattr(exits, "fall", nothing),
    "a total is not below its units": lambda patch: patch.setattr(catalogue, "_too_low", nothing),
}


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_a_protection_that_is_taken_away_is_missed(protection, monkeypatch):
    PROTECTIONS[protection](monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        look_for_a_wrong_sale()


def test_with_all_protections_nothing_is_found():
    look_for_a_wrong_sale()


def look_for_a_wrong_sale() -> None:
    for seed in range(150):
        terms = {"per_device_limit": 2, "per_address_limit": 4} if seed % 2 else {}
        play(SaleMachine(Shop(the_sale(**terms), units=UNITS)), seed, steps=60)
