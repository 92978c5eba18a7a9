"""What a payment can be, and the one rule that orders what providers tell us.

Providers report late, twice and out of order. A payment therefore has a rank that only rises:
a report of lower rank than what is already known changes nothing. No lock-step protocol with the
provider is needed, and the order of webhooks does not matter.

    CREATED < FAILED < AUTHORIZED < VOIDED < CAPTURED

FAILED ranks below AUTHORIZED because a buyer may try again with the same transaction; VOIDED ranks
below CAPTURED because money that moved is a fact whatever we asked for before.
"""

from enum import IntEnum

import msgspec


class PaymentStatus(IntEnum):
    """The rank of a payment; the value is what the ledger stores."""

    CREATED = 0
    FAILED = 1
    AUTHORIZED = 2
    VOIDED = 3
    CAPTURED = 4


class Transaction(msgspec.Struct, frozen=True):
    """A payment as its provider reports it: a fact about the outside world."""

    transaction_id: str
    status: PaymentStatus
    amount_minor: int
    currency: str
    refunded_minor: int = 0
    reason: str = ""
    """Why it FAILED, in the provider's words; empty otherwise."""
