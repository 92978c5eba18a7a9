"""Every ledger against the pure rules: the same random sequences, the same answers, the same books in the end."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from contract.ledgers import LEDGERS
from contract.twin import Twin
from core.machine import UNITS, SaleMachine, play, the_sale
from core.shop import HOLD_MS, OPENING_MS

from flashsale.backends.sqlite import by_user
from flashsale.core.sale import LatePayment, Settlement

SOAK = bool(os.environ.get("FLASHSALE_SOAK"))
SEQUENCES = (
    {"sqlite": 10_000, "postgres": 4_000, "shards": 2_000} if SOAK else {"sqlite": 200, "postgres": 80, "shards": 60}
)
"""A journey to a server takes its time."""
STEPS = 50
BLOCK = 10
"""Sequences of one test: a failing one names its block, and then its seed."""

TERMS = [
    {},
    {"late_payment": LatePayment.REFUND},
    {"ends_at_ms": OPENING_MS + 10 * HOLD_MS},
    {},
    {"settlement": Settlement.NONE},
    {"per_device_limit": 2, "per_address_limit": 4},
]


@pytest.fixture(autouse=True)
def small_levels(monkeypatch):
    """So small that a sequence fills all of them."""
    monkeypatch.setattr(by_user, "LEVELS", ((4, 2), (8, 4)))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize(
    ("opening", "first"), [(each, first) for each in LEDGERS for first in range(0, SEQUENCES[each.__name__], BLOCK)]
)
def test_a_ledger_decides_as_the_rules_do(opening, first, runner, tmp_path):
    for seed in range(first, first + BLOCK):
        folder = tmp_path / str(seed)
        folder.mkdir()
        twin = Twin(runner, opening, folder, the_sale(**TERMS[seed % len(TERMS)]), UNITS)
        try:
            play(SaleMachine(twin), seed, STEPS)
            twin.compare_everything()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            twin.close()
