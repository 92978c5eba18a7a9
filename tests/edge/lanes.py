"""A server of both lanes over a shop that answers when the test wants, and a client that speaks bytes."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import wraps
from types import SimpleNamespace
from typing import Any

import uvloop

from flashsale.backends.clock import SteadyClock
from flashsale.core.journal import Stock
from flashsale.core.limits import Thresholds
from flashsale.core.questions import FindReservations
from flashsale.core.rate_limit import Buckets
from flashsale.core.reservation import Reservation, Status
from flashsale.core.sale import Product, Sale
from flashsale.core.stock import Granted, sold_out
from flashsale.core.visitor import Visitor
from flashsale.counts import Counts
from flashsale.edge.door import Door
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.identity import Said
from flashsale.edge.server import HttpServer
from flashsale.edge.wire import Answer, layout
from flashsale.flow.limiting import Limiting
from flashsale.flow.storefront import Storefront
from flashsale.flow.waiting import Waiting
from flashsale.ports import LedgerUnavailable
from flashsale.settings import Settings
from flashsale.tracing import TRACE_ID

PHONE = Product("PHONE", "A phone", "USD", 129_999, 99_999, 1)
SLOW = Product("SLOW", "A phone that takes its time", "USD", 129_999, 99_999, 1)
GONE = Product("GONE", "A phone that is sold out", "USD", 129_999, 99_999, 1)


class SlowShop:
    """Answers at once; a reservation of SLOW, or the read of one, waits until the test calls `release`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.clock = SteadyClock()
        self.counts = Counts()
        self.limiting = Limiting(Thresholds(), Buckets(1000), self.clock)
        self.storefront = Storefront(self.clock)
        now_ms = self.clock.now_ms()
        self.storefront.sale_changed("S1", Sale("S1", "A sale", (PHONE, SLOW, GONE), now_ms - 1000, now_ms + 600_000))
        self.stock(PHONE=10, SLOW=10, GONE=0)
        self.held: list[Callable[[], None]] = []
        self.came = asyncio.Event()
        self.reservations: dict[str, Reservation] = {}
        self.asked: list[tuple[str, ...]] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.unavailable = False
        self.secret = bytes(32)
        self.waiting = Waiting(self)
        self.traces: list[str | None] = []
        """Of the reservations that were asked for."""

    def leave(self) -> None:
        self.waiting.leave()

    def stock(self, **available: int) -> None:
        self.storefront.stock_changed([Stock("S1", sku, total) for sku, total in available.items()])

    def reserve_soon(self, visitor: Visitor, sku_id: str, quantity: int, key: str | None, reply: Any) -> None:
        self.traces.append(TRACE_ID.get())
        if sku_id == "GONE":
            reply(sold_out(sku_id, quantity, 0))
            return
        now_ms = self.clock.now_ms()
        number = len(self.reservations)
        made = Reservation(
            f"res_{number}",
            visitor.user_id,
            "S1",
            sku_id,
            quantity,
            Status.RESERVED,
            99_999,
            "USD",
            now_ms,
            now_ms + 120_000,
        )
        self.reservations[made.reservation_id] = made
        outcome = Granted([made], now_ms, replayed=key == "again")
        if sku_id == "SLOW":
            self.held.append(lambda: reply(outcome))
            self.came.set()
        else:
            reply(outcome)

    async def find(self, query: Any) -> Any:
        assert isinstance(query, FindReservations)
        self.asked.append(query.reservation_ids)
        await self.reading.wait()
        if self.unavailable:
            raise LedgerUnavailable
        return [self.reservations[each] for each in query.reservation_ids if each in self.reservations]

    async def until_held(self, number: int) -> None:
        async with asyncio.timeout(5):
            while len(self.held) < number:
                self.came.clear()
                await self.came.wait()

    def release(self) -> None:
        held, self.held = self.held, []
        for reply in held:
            reply()


class App:
    """The ordinary lane, as small as it can be: the hot routes, an echo, and answers that wait for the test."""

    def __init__(self, shop: SlowShop) -> None:
        self.hot = HotRoutes(shop, Door.of(shop.settings, "the-operators-token", None, shop.clock.now_ms))
        self.state = SimpleNamespace(draining=False, hot=self.hot)
        self.gate = asyncio.Event()
        self.started = asyncio.Event()
        self.left: list[str] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if path == "/early":
            await _send(send, Answer(200, b'"early"'))
            return
        body = await self._body(receive, path)
        if body is None:
            return
        self.bodies.append(body)
        self.started.set()
        if path == "/wait":
            await self.gate.wait()
        if path == "/nothing":
            await _send(send, Answer(204, b""))
        elif method == "POST" and path == "/api/v1/reservations":
            await _send(send, await self._hot(self.hot.reserve, body, headers, path))
        elif path.endswith("/availability"):
            await _send(send, self.hot.availability(path.split("/")[-2], path))
        elif path.startswith("/api/v1/reservations/"):
            await _send(send, await self._hot(self.hot.reservation, path.split("/")[-1], headers, path))
        else:
            echo = {"method": method, "path": path, "version": scope["http_version"], "bytes": len(body)}
            await _send(send, Answer(200, json.dumps(echo).encode()), head=method == "HEAD")

    async def _hot(self, route: Any, *args: Any) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        route(
            *(_said(each) if isinstance(each, dict) else each for each in args),
            lambda got: answer.done() or answer.set_result(got),
        )
        return await answer

    async def _body(self, receive: Any, path: str) -> bytes | None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.append(path)
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body


def _said(headers: dict[bytes, bytes]) -> Said:
    return Said(headers.get(b"x-user-id"), headers.get(b"idempotency-key"), headers.get(b"x-flashsale-pass"))


async def _send(send: Any, answer: Answer, head: bool = False) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": layout(answer)})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})


class Running:
    def __init__(self, shop: SlowShop, app: App, server: HttpServer, task: "asyncio.Task[None]") -> None:
        self.shop, self.app, self.server, self.task = shop, app, server, task
        self.port = server.port

    async def connect(self) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Client(reader, writer)

    async def ask(self, data: bytes) -> "Got":
        async with await self.connect() as client:
            client.send(data)
            return await client.get()

    def leave(self) -> None:
        self.server.leave()
        self.server.should_exit = True


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Running]:
    shop = SlowShop(**{"drain_seconds": 5.0} | settings)
    app = App(shop)
    server = HttpServer(shop, app, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started and server.server_state.default_headers)
    try:
        yield Running(shop, app, server, task)
    finally:
        shop.release()
        shop.reading.set()
        app.gate.set()
        if not server.should_exit:  # only a test that asks for it waits for the whole ceremony
            task.cancel()
            server.servers[0].close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    """Waits for what no event tells."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 what the server does inside is no event
            await asyncio.sleep(0.001)


def on_uvloop(test: Callable[..., Any]) -> Callable[..., None]:
    """Runs a test on the event loop that `serve` uses: its sockets end in other ways than asyncio's own."""

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **named))

    return run


class Got:
    """An answer as it came over the wire."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = [tuple(line.split(": ", 1)) for line in lines[1:] if line]
        self.body = body

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.headers]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    def finish(self) -> None:
        """Closes our half."""
        self.writer.write_eof()

    def vanish(self) -> None:
        """Ends the connection with a reset, as a machine does that has lost its memory."""
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def get(self, head_only: bool = False) -> Got:
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            got = Got(head, b"")
            length = 0 if head_only else int(got.header("content-length") or 0)
            got.body = await self.reader.readexactly(length)
            return got

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()


def get(path: str, *headers: str, version: str = "1.1", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: shop", *headers, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    return get(path, f"Content-Length: {len(body)}", *headers, version=version, method="POST") + body


def reserve(sku: str = "PHONE", user: str = "alice", *headers: str) -> bytes:
    return post("/api/v1/reservations", b'{"skuId":"%b","userId":"%b"}' % (sku.encode(), user.encode()), *headers)


AVAILABILITY = get("/api/v1/products/PHONE/availability")
