"""What a payment can be, and the one rule that orders what providers tell us.

Providers report late, twice and out of order. A payment therefore has a rank that only rises:
a report of lower rank than what is already known changes nothing. No lock-step protocol with the
provider is needed, and the order of webhooks does not matter.

    CREATED < FAILED < AUTHORIZED < VOIDED < CAPTURED

FAILED ranks below AUTHORIZED because a buyer may try again with the same transaction; VOIDED ranks
below CAPTURED because money that moved is a fact whatever we asked for before.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

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


TransactionKey = tuple[str, str]
"""`(provider, transaction_id)`."""


class Right(NamedTuple):
    """Which shard may use a transaction, and how often that has changed (right.py)."""

    shard_id: int
    turn: int
    here: bool
    """Whether that is the shard on which this is written."""


class Due(StrEnum):
    """The next step we owe the provider. It is committed before the call, so that a restart resumes it."""

    AUTHORISE = "authorise"
    CAPTURE = "capture"
    VOID = "void"


class Payment(msgspec.Struct, array_like=True):
    """One transaction of one order. It is claimed by that order until it has FAILED."""

    payment_id: str
    order_id: str
    provider: str
    transaction_id: str
    amount_minor: int
    currency: str
    status: PaymentStatus = PaymentStatus.CREATED
    due: Due | None = Due.AUTHORISE
    due_at_ms: int = 0
    """From when a resumer may take up the step; until then it belongs to whoever committed it."""
    tries: int = 1
    """Authorisations the buyer asked for: part of the provider's key, so that a new try is a new request."""
    failure: str = ""
    """The code of the refusal it FAILED with."""
    reason: str = ""
    created_at_ms: int = 0

    def key(self, step: Due) -> str:
        """The provider's idempotency key of a step: repeating the step repeats its answer."""
        return f"{self.payment_id}-{step}-{self.tries}"


class Refund(msgspec.Struct, array_like=True):
    """Money we owe back. The row is the intent; `done` says that the provider has confirmed it."""

    refund_id: str
    order_id: str
    payment_id: str
    amount_minor: int
    reason: str
    done: bool = False
    due_at_ms: int = 0
    created_at_ms: int = 0
