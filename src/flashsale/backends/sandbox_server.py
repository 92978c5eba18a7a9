"""The sandbox payment provider: a process of its own, so that its books are a witness from outside.

    python -m flashsale.backends.sandbox_server --books PATH --port 0
    sandbox listening on http://127.0.0.1:41873

It speaks HTTP on loopback only. Every call carries its idempotency key in the body.

    POST /authorise       {transactionId, amountMinor, currency, key}    take a hold on the buyer's money
    POST /capture         {transactionId, amountMinor, key}              take it: the amount held, all of it
    POST /void            {transactionId, key}                           let the hold go
    POST /refund          {transactionId, amountMinor, key}              give back up to what was captured
    POST /transactions    {transactionId, amountMinor, currency, status} make one beforehand (AUTHORIZED)
    GET  /transactions/ID                                                look it up
    GET  /books?after=&limit=                                            totals and transactions, for auditors
    GET  /entries?after=&limit=                                          every movement, in order

The answer is the transaction. A refusal is an answer too: a call that the state does not allow (void after
capture, a capture of another amount, a refund beyond what is left) moves nothing and shows the transaction
as it is, and so does authorising one that exists already, whatever its amount. A used key repeats its
answer; with another body it is 422 KEY_REUSED. What authorising comes to is fixed by the transaction's id:

    pay_declined…         FAILED, with a reason
    pay_error…            HTTP 500 every time; nothing is recorded
    pay_error_recorded…   HTTP 500 every time; the hold is taken, and can be looked up, captured and voided
    pay_slow…             the hold is taken at once, the answer comes after --slow-seconds
    anything else         AUTHORIZED, for exactly the amount asked for

An answer leaves after its commit. Calls that arrive while a commit is in flight share the next one.
"""

import argparse
import asyncio
import socket
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

from flashsale.backends.sandbox_books import (
    BODY_MAX_BYTES,
    Authorise,
    Books,
    BooksBusy,
    Call,
    Capture,
    Create,
    Outcome,
    Problem,
    Refund,
    Report,
    Void,
)

HOST = "127.0.0.1"
BATCH_MAX = 256
WAITING_MAX = 2048
CONNECTIONS_MAX = 1024
PAGE_MAX = 10_000
RECEIVE_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 60  # longer than any client of ours keeps an idle connection
DRAIN_SECONDS = 2

STATUS = {
    "MALFORMED": 400,
    "NO_SUCH_TRANSACTION": 404,
    "NOT_FOUND": 404,
    "TOO_SLOW": 408,
    "TOO_LARGE": 413,
    "KEY_REUSED": 422,
    "BROKEN": 500,
    "BUSY": 503,
}
BROKEN = Problem("BROKEN", "the provider fails on this transaction, as its id asks for")
BUSY = Problem("BUSY", "too many calls are waiting, or the books cannot be written: ask again with the same key")

CALLS: dict[str, msgspec.json.Decoder[Call]] = {
    "/authorise": msgspec.json.Decoder(Authorise),
    "/capture": msgspec.json.Decoder(Capture),
    "/void": msgspec.json.Decoder(Void),
    "/refund": msgspec.json.Decoder(Refund),
    "/transactions": msgspec.json.Decoder(Create),
}


class Refused(Exception):
    """The call cannot be taken; carries the answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code, message)


class Page(msgspec.Struct, forbid_unknown_fields=True):
    after: int = 0
    limit: int = 1000


class Desk:
    """Takes the calls and settles them in batches, one at a time, on a thread of its own."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._waiting: asyncio.Queue[tuple[Call, asyncio.Future[Report | Problem]]] = asyncio.Queue(WAITING_MAX)

    async def settle(self, call: Call) -> Report | Problem:
        settled = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((call, settled))
        except asyncio.QueueFull:
            return BUSY
        report: Report | Problem = await settled
        return report

    async def run(self) -> None:
        """Runs until cancelled. An error of the disk ends it, and with it the process: what reached the
        disk is then known to nobody until the books are opened anew."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "writer") as writer:
            while True:
                batch = await self._next_batch()
                answers = await loop.run_in_executor(writer, self._settle, [call for call, _ in batch])
                for (_, settled), answer in zip(batch, answers, strict=True):
                    if not settled.done():
                        settled.set_result(answer)

    def _settle(self, calls: list[Call]) -> list[Report | Problem]:
        try:
            return self._books.settle(calls)
        except BooksBusy:
            return [BUSY] * len(calls)

    async def _next_batch(self) -> list[tuple[Call, asyncio.Future[Report | Problem]]]:
        batch = [await self._waiting.get()]
        while len(batch) < BATCH_MAX and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        return batch


class App:
    """The ASGI application: HTTP in, one answer out."""

    def __init__(self, desk: Desk, reading: Books, slow_seconds: float) -> None:
        self._desk = desk
        self._reading = reading
        self._reader = ThreadPoolExecutor(1, "reader")
        self._slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        try:
            answer = await self._answer(scope, receive)
        except Refused as refused:
            answer = refused.problem
        status = STATUS[answer.code] if isinstance(answer, Problem) else 200
        body = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, scope: HTTPScope, receive: ASGIReceiveCallable) -> msgspec.Struct:
        method, path = scope["method"], scope["path"]
        if method == "POST" and path in CALLS:
            return await self._settle(_decode(CALLS[path], await _body(receive)))
        if method == "GET" and path.startswith("/transactions/"):
            return await self._read(lambda: self._reading.look_up(path.removeprefix("/transactions/")))
        if method == "GET" and path in ("/books", "/entries"):
            page = _page(scope["query_string"])
            read = self._reading.statement if path == "/books" else self._reading.entries
            return await self._read(lambda: read(page.after, page.limit))
        raise Refused("NOT_FOUND", f"there is no {method} {path}")

    async def _settle(self, call: Call) -> Report | Problem:
        outcome = Outcome.of(call.transaction_id) if isinstance(call, Authorise) else Outcome.APPROVED
        if outcome is Outcome.ERROR:
            return BROKEN
        report = await self._desk.settle(call)
        if outcome is Outcome.ERROR_RECORDED:
            return BROKEN
        if outcome is Outcome.SLOW:
            await asyncio.sleep(self._slow_seconds)
        return report

    async def _read(self, read: Callable[[], msgspec.Struct]) -> msgspec.Struct:
        return await asyncio.get_running_loop().run_in_executor(self._reader, read)


async def _body(receive: ASGIReceiveCallable) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused("MALFORMED", "the client left before its body was here")
                body += message["body"]
                if len(body) > BODY_MAX_BYTES:
                    raise Refused("TOO_LARGE", f"a body has at most {BODY_MAX_BYTES} bytes")
                if not message["more_body"]:
                    return body
    except TimeoutError as error:
        raise Refused("TOO_SLOW", f"a body must be here within {RECEIVE_SECONDS:g} s") from error


def _decode(decoder: msgspec.json.Decoder[Call], body: bytes) -> Call:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("MALFORMED", str(error)) from error


def _page(query: bytes) -> Page:
    try:
        page = msgspec.convert(dict(parse_qsl(query.decode("latin-1"))), Page, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise Refused("MALFORMED", str(error)) from error
    if not (0 <= page.after < 2**63 and 1 <= page.limit <= PAGE_MAX):
        raise Refused("MALFORMED", f"`after` starts at 0 and `limit` lies between 1 and {PAGE_MAX}")
    return page


# -- The process


@dataclass(frozen=True)
class Options:
    books: Path
    host: str
    port: int
    slow_seconds: float
    exit_with_parent: bool


class AnnouncingServer(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()
            _say(f"sandbox listening on http://{host}:{port}")


async def serve(options: Options, listener: socket.socket, writing: Books, reading: Books) -> None:
    desk = Desk(writing)
    server = AnnouncingServer(
        uvicorn.Config(
            App(desk, reading, options.slow_seconds),
            lifespan="off",
            access_log=False,
            log_level="warning",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    async with asyncio.TaskGroup() as group:
        helpers = [group.create_task(desk.run())]
        if options.exit_with_parent:
            helpers.append(group.create_task(_stop_with_parent(server)))
        await server.serve(sockets=[listener])
        for helper in helpers:
            helper.cancel()


async def _stop_with_parent(server: uvicorn.Server) -> None:
    """The parent holds the other end of our stdin; the kernel closes it however the parent dies."""
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while await stdin.read(1024):
        pass
    server.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    """A listener that names its protocol: asyncio sets TCP_NODELAY on no other, and each answer, written in
    two parts, would wait 40 ms for the client's delayed acknowledgement."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _say(line: str) -> None:
    """To whoever started us: one line, where we listen or why not."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _options(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="sandbox_server", description="The sandbox payment provider.")
    parser.add_argument("--books", type=Path, required=True, help="its SQLite file; made if it is not there")
    parser.add_argument("--host", default=HOST, help="where others reach it; it asks nobody who he is")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--slow-seconds", type=float, default=3.0, help="how long pay_slow… takes to answer")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin is closed")
    return Options(**vars(parser.parse_args(arguments)))


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    try:
        listener = _bind(options.host, options.port)
        writing, reading = Books(options.books), Books(options.books)
    except (OSError, OverflowError, sqlite3.Error) as error:
        _say(f"sandbox cannot start: {error} (books {options.books}, port {options.port})")
        return 1
    asyncio.run(serve(options, listener, writing, reading))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
