"""The fast lane: the hot routes answered from the parser's callbacks, without scope, task or ASGI cycle.

uvicorn lets a server bring its own protocol class. This one answers a request itself when it is plain and hot
(`HotRoutes`); whatever is unusual about it (a query, HTTP/1.0, chunks, Expect, a header given twice) sends it to
the ordinary app, unchanged. So the fast lane needs no opinion about HTTP: llhttp has parsed every request, and
what is rare goes the ordinary way. Order, limits and the end of a connection are those of `Connection`, for both
lanes. Here everything is written for speed: nothing is allocated for a request that need not wait.
"""

import asyncio
import re
from functools import partial
from typing import Any, NamedTuple

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from flashsale.counts import Counts
from flashsale.edge.connection import NOTHING, Connection
from flashsale.edge.guard import Guard
from flashsale.edge.head import is_host
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.identity import NOTHING_SAID, Said
from flashsale.edge.wire import Answer, Header, layout, rendered
from flashsale.ports import Clock
from flashsale.tracing import TRACE_ID, trace_id_in

MEMO_MAX = 256
MEMO_BYTES_MAX = 1024
SPELLINGS_MAX = 1024

RESERVE, AVAILABILITY, RESERVATION = 1, 2, 3
"""The hot routes."""
ROUTES = ("", "reserve", "availability", "reservation")
"""What they are called where they are counted."""
_RESERVE_URL, _RESERVE_PATH = b"/api/v1/reservations", "/api/v1/reservations"
_AVAILABILITY_URL = re.compile(rb"/api/v1/products/([A-Za-z0-9_-]{1,64})/availability").fullmatch
_RESERVATION_URL = re.compile(rb"/api/v1/reservations/(res_[A-Za-z0-9]{1,64})").fullmatch

_LENGTH, _KEY, _USER, _CONNECTION, _UNUSUAL, _HOST, _TRACE, _PASS = range(1, 9)
_AUTHORIZATION, _FORWARDED, _DEVICE, _SOLUTION = range(9, 13)
_KINDS = {
    b"host": _HOST, b"content-length": _LENGTH, b"idempotency-key": _KEY, b"x-user-id": _USER,
    b"connection": _CONNECTION, b"prefer": _UNUSUAL, b"transfer-encoding": _UNUSUAL, b"expect": _UNUSUAL,
    b"upgrade": _UNUSUAL, b"traceparent": _TRACE, b"x-flashsale-pass": _PASS,
    b"authorization": _AUTHORIZATION, b"x-forwarded-for": _FORWARDED,
    b"x-flashsale-device": _DEVICE, b"x-flashsale-challenge": _SOLUTION,
}  # fmt: skip


class Remembered(NamedTuple):
    """A GET of availability, as the parser understood it."""

    sku_id: str
    path: str
    forwarded_for: bytes | None


class Lane:
    """What the connections of one server share."""

    def __init__(self, routes: HotRoutes | None, guard: Guard, clock: Clock, signed: bool = False) -> None:
        self.routes = routes
        """None: the fast lane is off. Limits and deadlines hold all the same."""
        self.reserve_url = None if signed else _RESERVE_URL
        """None: what must be signed goes to the app, which looks at signatures."""
        self.guard = guard
        self.now_ms = clock.now_ms
        answers = routes.counts.answers if routes is not None else Counts().answers
        self.told = [answers[name] for name in ROUTES]
        """How many answers had which status, for each hot route."""
        self.memo: dict[bytes, Remembered] = {}
        """Requests that came in exactly these bytes before. What the parser makes of a whole request depends on
        its bytes alone, so at a message boundary the same bytes are the same request."""
        self.spellings = dict(_KINDS)
        """What a header is about, by its name as it was spelled; 0: nothing that matters here."""
        self.hosts: set[bytes] = set()
        """Values of Host that have been found well-formed."""
        self._defaults: list[Header] = []
        self._starts: dict[int, bytes] = {}

    def render(self, answer: Answer, defaults: list[Header]) -> bytes:
        """`rendered`, with what answers of one second have in common kept ready."""
        body = answer.body
        if answer.headers or not body:
            return rendered(answer, defaults, close=False)
        if defaults is not self._defaults:
            self._defaults = defaults
            self._starts.clear()
        start = self._starts.get(answer.status) or self._start(answer.status, defaults)
        return b"%b%d\r\n\r\n%b" % (start, len(body), body)

    def _start(self, status: int, defaults: list[Header]) -> bytes:
        """Everything up to the content length, the last header of an answer that adds none."""
        told = [*defaults, *layout(Answer(status, b"?"))]
        whole = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in told])
        start = self._starts[status] = whole.removesuffix(b"1\r\n")
        return start

    def learn(self, name: bytes) -> int:
        """What a header is about that was spelled like this for the first time."""
        kind = _KINDS.get(name.lower(), 0)
        if len(self.spellings) < SPELLINGS_MAX:
            self.spellings[name] = kind
        return kind

    def is_host(self, value: bytes) -> bool:
        if is_host(value) is None:
            return False
        if len(self.hosts) < SPELLINGS_MAX:
            self.hosts.add(value)
        return True

    def remember(self, data: bytes, request: Remembered) -> None:
        if len(data) <= MEMO_BYTES_MAX:
            if len(self.memo) >= MEMO_MAX:
                self.memo.clear()
            self.memo[data] = request


class FastLane(Connection):
    def __init__(
        self,
        lane: Lane,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(lane.guard, lane.now_ms, config, server_state, app_state, _loop)
        self.lane = lane
        self.routes = lane.routes if config.limit_concurrency is None else None
        self.close_after = False
        """Whether the client wants the connection closed after the hot request in work."""
        self.working = 0
        """Which hot route that is for."""
        # Of the hot message being received:
        self.subject = ""
        self.said = NOTHING_SAID
        self.alone = NOTHING_SAID
        """What a request says of which nothing is known but its peer."""
        self.trace: bytes | None = None
        self.keep_alive = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.alone = Said(peer=self.peer)

    def data_received(self, data: bytes) -> None:
        if self.receiving or self.busy or self.line or self.unfed or self.closing or self.deaf:
            super().data_received(data)
            return
        known = self.lane.memo.get(data)
        if known is not None and not self.flow.write_paused:
            self.busy, self.close_after, self.working = True, False, AVAILABILITY
            assert self.routes is not None
            said = Said(forwarded_for=known.forwarded_for, peer=self.peer) if known.forwarded_for else self.alone
            self.routes.show(known.sku_id, known.path, said, self._answer)
            return
        self.messages = 0
        super().data_received(data)
        if self.hot == AVAILABILITY:
            self._remember(data)

    def _remember(self, data: bytes) -> None:
        """Keeps what came in, if it was exactly one request."""
        if self.messages == 1 and self.receiving == NOTHING and self.keep_alive:
            self.lane.remember(data, Remembered(self.subject, self.url.decode(), self.said.forwarded_for))

    def _announced(self) -> int:
        """Reads the headers that matter, and finds out whether the request is hot."""
        plain, spellings = self.routes is not None, self.lane.spellings
        found: dict[int, bytes] = {}
        for name, value in self.headers:
            kind = spellings.get(name)
            if kind is None:
                kind = self.lane.learn(name)
            if kind:
                plain = plain and kind != _UNUSUAL and kind not in found
                found[kind] = value
        length, host = int(found.get(_LENGTH, -1)), found.get(_HOST)
        if plain and host is not None and (host in self.lane.hosts or self.lane.is_host(host)):
            get = found.get
            self.said = Said(
                get(_USER), get(_KEY), get(_PASS), get(_AUTHORIZATION), get(_FORWARDED), self.peer,
                get(_DEVICE), get(_SOLUTION),
            )  # fmt: skip
            self.trace = found.get(_TRACE)
            self.hot = self._route(length, _CONNECTION in found)
        return length

    def _route(self, length: int, versioned: bool) -> int:
        """Which hot route the message is for; 0: none, or in a way that the app should look at."""
        parser, url = self.parser, self.url
        self.keep_alive = keep_alive = parser.should_keep_alive()
        # Without a Connection header, only HTTP/1.1 is kept alive.
        if (versioned or not keep_alive) and parser.get_http_version() != "1.1":
            return 0
        method = parser.get_method()
        if method == b"POST":
            return RESERVE if url == self.lane.reserve_url else 0
        if method != b"GET" or length >= 0:
            return 0
        if found := _AVAILABILITY_URL(url):
            self.subject = found[1].decode()
            return AVAILABILITY
        if found := _RESERVATION_URL(url):
            self.subject = found[1].decode()
            return RESERVATION
        return 0

    def on_message_complete(self) -> None:
        if self.deaf or not self.hot:
            super().on_message_complete()
            return
        self.receiving = NOTHING
        self.deaf = not self.keep_alive
        if self.busy or self.line or self.flow.write_paused:
            path = self.url.decode()
            self.line.append(
                partial(self._work, self.hot, self.subject, path, self.body, self.said, self.deaf, self.trace)
            )
        elif self.hot == RESERVE:
            self.busy, self.close_after, self.working = True, self.deaf, RESERVE
            TRACE_ID.set(trace_id_in(self.trace))
            self.routes.reserve(self.body, self.said, _RESERVE_PATH, self._answer)  # type: ignore[union-attr]
        else:
            self._work(self.hot, self.subject, self.url.decode(), b"", self.said, self.deaf, None)

    def _work(
        self, hot: int, subject: str, path: str, body: bytes, said: Said, close: bool, trace: bytes | None
    ) -> None:
        self.busy, self.close_after, self.working = True, close, hot
        assert self.routes is not None
        if hot == RESERVE:
            TRACE_ID.set(trace_id_in(trace))
            self.routes.reserve(body, said, path, self._answer)
        elif hot == AVAILABILITY:
            self.routes.show(subject, path, said, self._answer)
        else:
            self.routes.reservation(subject, said, path, self._answer)

    def _answer(self, answer: Answer) -> None:
        """Writes the answer of the hot request in work; does nothing when its client has gone."""
        self.lane.told[self.working][answer.status] += 1
        transport = self.transport
        if transport.is_closing():
            return
        if self.close_after or (self.closing and self._last() and not self.receiving):
            transport.write(rendered(answer, self.server_state.default_headers, close=True))
            transport.close()
        else:
            transport.write(self.lane.render(answer, self.server_state.default_headers))
        self._answered()
