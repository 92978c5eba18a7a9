"""A lean keep-alive HTTP/1.1 client, because the crowd must cost less than the shop it visits.

A bounded number of connections, one request at a time on each, taken last in, first out, so that a
small crowd stays on a few warm ones. It never retries: a request without an answer raises
`LostReply`, and what that means is for the caller to decide. It can also lose a reply on purpose.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import msgspec

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class LostReply(Exception):
    """No answer came. What the server did with the request is unknown."""


class Answer(NamedTuple):
    """What came back, and when; `time.monotonic()` throughout."""

    status: int
    body: bytes
    sent_at: float
    answered_at: float


class Connection(asyncio.Protocol):
    """One connection: at most one request under way. Anything out of turn ends it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._sent_at = 0.0
        self._last_one = False

    @property
    def reusable(self) -> bool:
        return self._transport is not None and self._waiter is None and not self._last_one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its type

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(LostReply(str(exc or "the connection was closed")))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.drop()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        answer = Answer(status, b"".join(self._body), self._sent_at, time.monotonic())
        self._body.clear()
        self._last_one = not self._parser.should_keep_alive()
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            self.drop()
        elif not waiter.done():
            waiter.set_result(answer)

    async def exchange(self, request: bytes, timeout: float) -> Answer:
        """Send one request and wait for its answer; after `timeout` seconds the connection is dropped."""
        if self._transport is None:
            raise LostReply("the connection was closed")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        self._waiter = waiter
        self._sent_at = time.monotonic()
        self._transport.write(request)
        deadline = loop.call_later(timeout, self.drop)
        try:
            return await waiter
        finally:
            deadline.cancel()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._last_one = True


class HttpClient:
    """Speaks to one base URL over at most `connections` connections."""

    def __init__(self, base_url: str, connections: int = 500, timeout: float = 10.0) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or url.hostname is None:
            raise ValueError(f"not an http(s) URL: {base_url!r}")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host = url.hostname
        self._port = url.port or (443 if self._tls else 80)
        self._prefix = url.path.rstrip("/")
        self._authority = url.netloc.rpartition("@")[2]
        self._timeout = timeout
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []

    def build(self, method: str, path: str, body: object = None, headers: Mapping[str, str] = NO_HEADERS) -> bytes:
        """The bytes of a request, so that the same ones can be sent again."""
        content = b"" if body is None else msgspec.json.encode(body)
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        return "\r\n".join([*lines, "\r\n"]).encode("ascii") + content

    async def send(self, request: bytes) -> Answer:
        """Send a request; raises `LostReply` when no answer comes."""
        async with self._slots:
            connection = await self._connection()
            try:
                return await connection.exchange(request, self._timeout)
            finally:
                self._put_back(connection)

    async def send_and_hang_up(self, request: bytes, patience: float) -> Answer | None:
        """Send a request and drop the connection `patience` seconds later, or at the first answer.

        The answer, if there was one by then, is for the records: to the one who asked, it is lost.
        """
        async with self._slots:
            try:
                connection = await self._connection()
            except LostReply:
                return None
            try:
                return await connection.exchange(request, patience)
            except LostReply:
                return None
            finally:
                connection.drop()

    async def fetch(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """Build and send in one step."""
        return await self.send(self.build(method, path, body, headers))

    def close(self) -> None:
        for connection in self._idle:
            connection.drop()
        self._idle.clear()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except OSError as problem:  # a timeout is one too
            raise LostReply(f"cannot connect to {self._authority}: {problem}") from problem
        return connection

    def _put_back(self, connection: Connection) -> None:
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.drop()
