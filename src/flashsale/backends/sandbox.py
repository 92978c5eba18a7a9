"""The sandbox payment provider, seen from the shop: the client, and a way to run the provider as a child.

The provider itself is `sandbox_server`, another process: what a crash of ours does to the money can then
be read in books that did not crash. The child lives as long as we hold the other end of its stdin, so it
goes even when we are killed; whoever comes next opens the same books.
"""

import asyncio
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec
import structlog

from flashsale.backends.http_client import Answer, HttpClient
from flashsale.backends.sandbox_books import Authorise, Call, Capture, Problem, Refund, Report, Void
from flashsale.core.payment import PaymentStatus, Transaction
from flashsale.ports import ProviderUnavailable

CALL_SECONDS = 10.0
CONNECTIONS_MAX = 64
IDLE_SECONDS = 20.0  # shorter than the server keeps an idle connection, so that it never closes under a call
START_SECONDS = 10.0
STOP_SECONDS = 5.0
RESTART_SECONDS = 0.5

log = structlog.get_logger("flashsale.sandbox")

LISTENING = "sandbox listening on "


class KeyReused(ValueError):
    """The caller used an idempotency key for two different requests: a mistake in the caller, not an answer."""


class SandboxProvider:
    """`PaymentProvider` over HTTP. A call takes at most `call_seconds` in all, and no more than
    `CONNECTIONS_MAX` are under way. It never asks twice by itself."""

    name: str = "sandbox"

    def __init__(self, url: str, call_seconds: float = CALL_SECONDS) -> None:
        self._http = HttpClient(url, call_seconds, CONNECTIONS_MAX, IDLE_SECONDS)

    async def authorise(self, transaction_id: str, amount_minor: int, currency: str, key: str) -> Transaction:
        return await self._call("/authorise", Authorise(transaction_id, amount_minor, currency, key))

    async def capture(self, transaction_id: str, amount_minor: int, key: str) -> Transaction:
        return await self._call("/capture", Capture(transaction_id, amount_minor, key))

    async def void(self, transaction_id: str, key: str) -> Transaction:
        return await self._call("/void", Void(transaction_id, key))

    async def refund(self, transaction_id: str, amount_minor: int, key: str) -> Transaction:
        return await self._call("/refund", Refund(transaction_id, amount_minor, key))

    async def look_up(self, transaction_id: str) -> Transaction | None:
        answer = await self._send("GET", f"/transactions/{quote(transaction_id, safe='')}")
        return answer.transaction() if isinstance(answer, Report) else None

    async def close(self) -> None:
        self._http.close()

    async def _call(self, path: str, call: Call) -> Transaction:
        answer = await self._send("POST", path, msgspec.json.encode(call))
        if isinstance(answer, Report):
            return answer.transaction()
        if answer.code == "KEY_REUSED":
            raise KeyReused(f"{answer.message}: {call.key!r}")
        return Transaction(call.transaction_id, PaymentStatus.FAILED, 0, "", reason=answer.message)

    async def _send(self, method: str, path: str, body: bytes = b"") -> Report | Problem:
        try:
            return _understood(await self._http.request(method, path, body))
        except OSError as error:  # a TimeoutError is one too
            raise ProviderUnavailable(f"the sandbox provider gave no answer to {path}: {error!r}") from error
        except msgspec.DecodeError as error:
            raise ProviderUnavailable(f"the answer to {path} is not the sandbox provider's: {error}") from error


def _understood(answer: Answer) -> Report | Problem:
    """A report, or a problem that is final; whatever else it says, what the provider did is unknown."""
    if answer.status == 200:
        return msgspec.json.decode(answer.body, type=Report)
    problem = msgspec.json.decode(answer.body, type=Problem)
    if problem.code in ("MALFORMED", "NO_SUCH_TRANSACTION", "KEY_REUSED"):
        return problem
    raise ProviderUnavailable(f"{answer.status}: {problem.message}")


class SandboxNotStarted(Exception):
    """The sandbox provider could not be started as a child process."""


class SandboxProcess:
    """The provider, running as our child."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        self.url = url
        self.process = process

    async def close(self, patience_seconds: float = STOP_SECONDS) -> None:
        """Let it finish the calls in flight and leave; it is killed if it does not."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), patience_seconds)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def start_sandbox(books: Path, slow_seconds: float = 3.0, port: int = 0) -> SandboxProcess:
    """Run the provider on these books, on a loopback port (0: a free one), until it is closed or we die.

    It has a session of its own, so that Ctrl-C in a terminal reaches only us and our last calls still
    find it.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "flashsale.backends.sandbox_server"),
        *("--books", str(books), "--port", str(port), "--slow-seconds", str(slow_seconds), "--exit-with-parent"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    child = SandboxProcess("", process)
    try:
        child.url = await _announced_url(process)
    except BaseException:
        await child.close(patience_seconds=0)
        raise
    return child


class KeptSandbox:
    """An async context in which a child provider runs, and is started again if it dies: on the same books, and on
    the same port, because other processes may have been told of it."""

    def __init__(self, books: Path) -> None:
        self._books = books
        self.url = ""

    async def __aenter__(self) -> "KeptSandbox":
        self._process = await start_sandbox(self._books)
        self.url = self._process.url
        self._keeper = asyncio.create_task(self._keep(), name="sandbox")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await self._process.close()

    async def _keep(self) -> None:
        while True:
            await self._process.process.wait()
            log.error("the sandbox provider died and is started again", code=self._process.process.returncode)
            await asyncio.sleep(RESTART_SECONDS)
            try:
                self._process = await start_sandbox(self._books, port=urlsplit(self.url).port or 0)
            except (SandboxNotStarted, OSError) as error:
                log.error("the sandbox provider could not be started", why=str(error))


async def _announced_url(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    except TimeoutError as error:
        raise SandboxNotStarted(f"the sandbox provider did not come up within {START_SECONDS:g} s") from error
    text = line.decode().strip()
    if not text.startswith(LISTENING):
        raise SandboxNotStarted(text or "the sandbox provider ended before it listened; see its error above")
    return text.removeprefix(LISTENING)
