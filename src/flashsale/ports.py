"""The seams: what the purchase needs from the outside world, at the level of meaning.

Each port has one contract suite in `tests/contract/`, run on every backend that claims it.
"""

from typing import Protocol

from flashsale.core.payment import Transaction


class ProviderUnavailable(Exception):
    """The provider did not answer, or answered that it cannot: what it did is unknown.

    Ask again with the same idempotency key, or look the transaction up.
    """


class PaymentProvider(Protocol):
    """Money. Every call carries an idempotency key: repeating a call with its key repeats its answer
    and moves nothing twice. A refusal is an answer (`FAILED` with a reason); only an unknown outcome
    raises `ProviderUnavailable`. Amounts are integer minor units."""

    name: str

    async def authorise(self, transaction_id: str, amount_minor: int, currency: str, key: str) -> Transaction: ...

    async def capture(self, transaction_id: str, amount_minor: int, key: str) -> Transaction: ...

    async def void(self, transaction_id: str, key: str) -> Transaction: ...

    async def refund(self, transaction_id: str, amount_minor: int, key: str) -> Transaction: ...

    async def look_up(self, transaction_id: str) -> Transaction | None: ...

    async def close(self) -> None: ...
