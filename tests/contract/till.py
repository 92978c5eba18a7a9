"""A payment provider as tests use it: each method is one call, waited for; and its process, to be killed."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Self, TypeVar

import httpx

from flashsale.backends.sandbox import SandboxProvider
from flashsale.core.payment import Transaction
from flashsale.ports import PaymentProvider

T = TypeVar("T")


class Till:
    """Runs a provider's coroutines, one after another or together, on a loop of its own."""

    def __init__(self, provider: PaymentProvider) -> None:
        self.provider = provider
        self._runner = asyncio.Runner()
        self._numbers = count(1)

    def id(self, prefix: str = "pay") -> str:
        """A transaction id, or a key, that nobody used before."""
        return f"{prefix}_{id(self):x}_{next(self._numbers)}"

    def authorise(self, transaction_id: str, amount_minor: int, currency: str = "EUR", key: str = "") -> Transaction:
        return self.run(self.provider.authorise(transaction_id, amount_minor, currency, key or self.id("key")))

    def capture(self, transaction_id: str, amount_minor: int, key: str = "") -> Transaction:
        return self.run(self.provider.capture(transaction_id, amount_minor, key or self.id("key")))

    def void(self, transaction_id: str, key: str = "") -> Transaction:
        return self.run(self.provider.void(transaction_id, key or self.id("key")))

    def refund(self, transaction_id: str, amount_minor: int, key: str = "") -> Transaction:
        return self.run(self.provider.refund(transaction_id, amount_minor, key or self.id("key")))

    def look_up(self, transaction_id: str) -> Transaction | None:
        return self.run(self.provider.look_up(transaction_id))

    def held(self, amount_minor: int, transaction_id: str = "") -> str:
        """A transaction with a hold of this amount."""
        transaction_id = transaction_id or self.id()
        self.authorise(transaction_id, amount_minor)
        return transaction_id

    def captured(self, amount_minor: int) -> str:
        transaction_id = self.held(amount_minor)
        self.capture(transaction_id, amount_minor)
        return transaction_id

    def together(self, *calls: Callable[[PaymentProvider], Awaitable[Transaction]]) -> list[Transaction]:
        async def all_at_once() -> list[Transaction]:
            return await asyncio.gather(*(call(self.provider) for call in calls))

        return self.run(all_at_once())

    def run(self, call: Awaitable[T]) -> T:
        async def waited_for() -> T:
            return await call

        return self._runner.run(waited_for())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.provider.close())
        self._runner.close()


class Sandbox:
    """The sandbox provider, run from its command line."""

    def __init__(self, books: Path, *options: str) -> None:
        command = [sys.executable, "-m", "flashsale.backends.sandbox_server", "--books", str(books), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline().strip()
        self.url = self.first_line.removeprefix("sandbox listening on ")
        self.http = httpx.Client(base_url=self.url if self.listens else "", trust_env=False)

    def till(self, call_seconds: float = 10.0) -> Till:
        return Till(SandboxProvider(self.url, call_seconds))

    def create(self, transaction_id: str, amount_minor: int, **more: str) -> httpx.Response:
        body = {"transactionId": transaction_id, "amountMinor": amount_minor, "currency": "EUR", **more}
        return self.http.post("/transactions", json=body)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def listens(self) -> bool:
        return re.fullmatch(r"http://127\.0\.0\.1:\d+", self.url) is not None

    def __enter__(self) -> Self:
        assert self.listens, self.first_line
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
