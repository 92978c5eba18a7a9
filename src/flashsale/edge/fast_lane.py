"""The protocol of every connection: hot requests are answered from the parser's callbacks, all others by the app.

uvicorn lets a server bring its own protocol class. This one extends uvicorn's httptools protocol: a request that
is plain and hot (`HotRoutes`) is answered without scope, task or ASGI cycle; whatever is unusual about a request
(a query, HTTP/1.0, chunks, Expect, a header given twice) sends it to the ordinary app, unchanged. So the fast lane
needs no opinion about HTTP: llhttp has parsed every request, and what is rare goes the ordinary way.

Order. HTTP/1.1 answers a connection's requests in their order, and here the answers come by two ways at
different times. The rule that makes this simple: of one connection, one request is in work at a time (`busy`). What
has arrived behind it stands in `line`; whoever finishes an answer calls `_advance`, which takes up the next.

    bytes ─► unfed ─► parser ─► line ─► in work ─► written
                 (one message: receiving)

A request of the ordinary lane gets in line when its headers are complete, so that the app can refuse it or ask
for its body; a hot one when it is complete. Both are in order, because a message begins only after the one before
it has ended. The parser cannot be stopped in the middle of its input, so it is fed in slices, and not at all
while the line is long: then the bytes wait in `unfed`, reading stops, and TCP makes the client wait.

The end. `deaf`: no further request will be read. `closing`: the last answer says so and the connection is closed
after it (shutdown, or the client has closed its half). A refused request (too large, too slow, malformed) gets in
line like any other, so that the answers before it still go out; after it the connection lingers for a moment
without reading, or the client would get a reset instead of the answer.
"""

import asyncio
import re
from collections import deque
from typing import Any, NamedTuple

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from flashsale.core.refusal import Refusal, Refused, invalid
from flashsale.edge.guard import HEAD_MAX, HEADERS_MAX, Guard, body_max
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.wire import Answer, Header, error, layout, refusal
from flashsale.ports import Clock

LINE_MAX = 32
"""Requests of one connection waiting for their turn; beyond it nothing is parsed."""
SLICE = 4096
LINGER_SECONDS = 1.0
MEMO_MAX = 256
MEMO_BYTES_MAX = 1024

NOTHING, HEAD, BODY = range(3)
"""What of a message is being received."""

RESERVE = b"/api/v1/reservations"
_AVAILABILITY = re.compile(rb"/api/v1/products/([A-Za-z0-9_-]{1,64})/availability").fullmatch
_RESERVATION = re.compile(rb"/api/v1/reservations/(res_[A-Za-z0-9]{1,64})").fullmatch

_TOLD = {b"content-length", b"idempotency-key", b"x-user-id", b"connection"}
_UNUSUAL = {b"transfer-encoding", b"expect", b"upgrade"}


class _Reserve(NamedTuple):
    body: bytes
    key: bytes | None
    user: bytes | None
    close: bool


class _Availability(NamedTuple):
    sku_id: str
    path: str
    close: bool


class _Reservation(NamedTuple):
    reservation_id: str
    user: bytes | None
    path: str
    close: bool


_Hot = _Reserve | _Availability | _Reservation


class _Ordinary(NamedTuple):
    cycle: RequestResponseCycle
    app: ASGI3Application


class Lane:
    """What the connections of one server share."""

    def __init__(self, routes: HotRoutes | None, guard: Guard, clock: Clock) -> None:
        self.routes = routes
        """None: the fast lane is off. Limits and deadlines hold all the same."""
        self.guard = guard
        self.now_ms = clock.now_ms
        self.memo: dict[bytes, _Availability] = {}
        """Requests that came in exactly these bytes before. What the parser makes of a whole request depends on
        its bytes alone, so at a message boundary the same bytes are the same request."""
        self._defaults: list[Header] = []
        self._starts: dict[int, bytes] = {}

    def render(self, answer: Answer, defaults: list[Header], close: bool) -> bytes:
        """An answer as the ordinary lane would write it; `defaults` are uvicorn's headers of the second."""
        status, body, headers = answer
        if headers or close or not body:
            told = [*defaults, *layout(answer), *(((b"connection", b"close"),) if close else ())]
            return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in told]) + b"\r\n" + body
        if defaults is not self._defaults:
            self._defaults = defaults
            self._starts.clear()
        start = self._starts.get(status)
        if start is None:
            start = self._starts[status] = self._start(status, defaults)
        return b"%b%d\r\n\r\n%b" % (start, len(body), body)

    def _start(self, status: int, defaults: list[Header]) -> bytes:
        """Everything up to the content length, which `layout` puts last."""
        told = [*defaults, *layout(Answer(status, b"?"))]
        return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in told])[: -len(b"1\r\n")]

    def remember(self, data: bytes, call: _Availability) -> None:
        if len(data) <= MEMO_BYTES_MAX:
            if len(self.memo) >= MEMO_MAX:
                self.memo.clear()
            self.memo[data] = call


class FastLane(HttpToolsProtocol):
    def __init__(
        self,
        lane: Lane,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.lane = lane
        self.guard = lane.guard
        self.routes = lane.routes if config.limit_concurrency is None else None
        self.peer: str | None = None
        self.admitted = False
        self.line: deque[_Hot | _Ordinary | Answer] = deque()
        self.unfed = b""
        self.busy = False
        self.advancing = False
        self.running: RequestResponseCycle | None = None
        self.close_after = False
        self.deaf = False
        self.closing = False
        self.linger_until: float | None = None
        self.quiet = 0.0
        # Of the message being received:
        self.receiving = NOTHING
        self.begun = 0.0
        self.fed = 0
        self.fed_max = HEAD_MAX
        self.url = b""
        self.headers = []
        self.body = b""
        self.body_bytes = 0
        self.body_max = 0
        self.call: _Hot | None = None
        self.messages = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else None
        too_many = self.guard.admit(self.peer)
        if too_many:
            self.deaf = True
            refused = Refused(Refusal.UNAVAILABLE, too_many, {"retryAfterSeconds": 1})
            transport.write(self._rendered(refusal(refused, "", self.lane.now_ms()), close=True))
            transport.close()
            return
        super().connection_made(transport)
        self.admitted = True
        self.guard.watch(self.loop, self.connections)  # type: ignore[arg-type]
        self.quiet = self.guard.now
        self.closing = self.guard.draining

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.admitted:
            return
        self.guard.leave(self.peer)
        self.deaf = True
        self.unfed = b""
        self.line.clear()
        if self.running is not None:
            _disconnect(self.running)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more, and may still be waiting for answers."""
        self.closing = True
        if self.receiving:
            self._forget_message()
        if not self._pending():
            return False
        self._close_after_the_last()
        return True

    def shutdown(self) -> None:
        """The server drains: what is under way gets its answer."""
        self.closing = True
        if self.linger_until is not None or not (self._pending() or self.receiving):
            self.transport.close()
        else:
            self._close_after_the_last()

    def check(self, now: float) -> None:
        """The scan: has the client, or have we, taken too long?"""
        if self.linger_until is not None:
            if now >= self.linger_until:
                self.transport.abort()
        elif self.receiving and not (self.flow.read_paused or self.unfed):
            if now - self.begun > self.guard.receive_seconds:
                self._refuse(408, "Request Timeout", invalid("request", "was not received in time"))
        elif not self.busy:
            if self.closing and not self.line and not self.unfed:
                self.transport.close()
            elif now - self.quiet > self.guard.idle_seconds:
                self._drop()

    def _drop(self) -> None:
        """Ends an idle connection. What its client has not taken by now it will not take."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _pending(self) -> bool:
        return self.busy or bool(self.line) or bool(self.unfed)

    def _close_after_the_last(self) -> None:
        if self.running is not None and not (self.line or self.unfed):
            self.running.keep_alive = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    # From bytes to messages

    def data_received(self, data: bytes) -> None:
        if self.receiving or self.busy or self.line or self.unfed or self.deaf:
            self._take(data)
            return
        call = self.lane.memo.get(data)
        if call is not None and not (self.closing or self.flow.write_paused):
            self._run(call)
            return
        self.messages = 0
        self._take(data)
        if self.messages == 1 and not self.receiving and isinstance(self.call, _Availability) and not self.call.close:
            self.lane.remember(data, self.call)

    def _take(self, data: bytes) -> None:
        if self.deaf:
            return
        if len(data) <= SLICE and not self.unfed and len(self.line) < LINE_MAX:
            self._feed(data)
        else:
            self.unfed += data
            self._feed_on()

    def _feed_on(self) -> None:
        """Feeds the parser as long as the line is short."""
        while self.unfed and len(self.line) < LINE_MAX and not self.flow.write_paused:
            piece, self.unfed = self.unfed[:SLICE], self.unfed[SLICE:]
            self._feed(piece)
        if self.unfed:
            self.flow.pause_reading()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.deaf = True  # answered as if nothing had been said of an upgrade; then the connection ends
        except httptools.HttpParserError as trouble:
            cause = trouble.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserInvalidURLError | UnicodeError):
                raise
            self._refuse(400, "Validation Failed", invalid("request", "must be valid HTTP"))
        if self.receiving:
            self.fed += len(data)
            if self.fed > self.fed_max:
                self._too_large()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self.messages += 1
        if self.deaf:
            return
        self.receiving = HEAD
        self.begun = self.guard.now
        self.fed = 0
        self.fed_max = HEAD_MAX
        self.url = b""
        self.headers = []
        self.call = None
        self.cycle = None  # type: ignore[assignment]
        self.body = b""
        self.body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.receiving == HEAD:  # what comes after a chunked body is not a header
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.deaf:
            return
        if len(self.headers) > HEADERS_MAX:
            self._too_large()
            return
        self.receiving = BODY
        self.body_max = body_max(self.url)
        self.fed_max = HEAD_MAX + 8 * self.body_max  # small chunks have a large frame
        told, plain = self._survey()
        if int(told.get(b"content-length", b"0")) > self.body_max:
            self._too_large()
        elif plain and self.routes is not None:
            self.call = self._hot(told)
        if self.call is None and not self.deaf:
            self._ordinary()

    def _survey(self) -> tuple[dict[bytes, bytes], bool]:
        """The headers that matter here, and whether the request is so plain that nothing else does."""
        told: dict[bytes, bytes] = {}
        plain = True
        for name, value in self.headers:
            if name in _TOLD:
                plain = plain and name not in told
                told[name] = value
            elif name in _UNUSUAL:
                plain = False
        return told, plain

    def _hot(self, told: dict[bytes, bytes]) -> _Hot | None:
        """The hot request this message is, if it is one."""
        url, method = self.url, self.parser.get_method()
        keep_alive = self.parser.should_keep_alive()
        if (b"connection" in told or not keep_alive) and self.parser.get_http_version() != "1.1":
            return None
        user = told.get(b"x-user-id")
        if method == b"POST":
            return _Reserve(b"", told.get(b"idempotency-key"), user, not keep_alive) if url == RESERVE else None
        if method != b"GET" or b"content-length" in told:
            return None
        if found := _AVAILABILITY(url):
            return _Availability(found[1].decode(), url.decode(), not keep_alive)
        if found := _RESERVATION(url):
            return _Reservation(found[1].decode(), user, url.decode(), not keep_alive)
        return None

    def _ordinary(self) -> None:
        """Gives the message to uvicorn, which makes its cycle and calls `_start_asgi_task`."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.deaf:
            return
        self.body_bytes += len(body)
        if self.body_bytes > self.body_max:
            self._too_large()
        elif self.call is not None:
            self.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.deaf:
            return
        self.receiving = NOTHING
        call = self.call
        if call is None:
            super().on_message_complete()
            self.deaf = not self.cycle.keep_alive
            return
        if type(call) is _Reserve:
            call = _Reserve(self.body, call.key, call.user, call.close)
        self.deaf = call.close
        if self.busy or self.line or self.flow.write_paused:
            self.line.append(call)
        else:
            self._run(call)

    # From messages to answers

    def _run(self, call: _Hot) -> None:
        self.busy = True
        self.close_after = call.close
        routes = self.routes
        assert routes is not None
        if type(call) is _Availability:
            self._answer(routes.availability(call.sku_id, call.path))
        elif type(call) is _Reserve:
            routes.reserve(call.body, call.key, call.user, "/api/v1/reservations", self._answer)
        elif type(call) is _Reservation:
            routes.reservation(call.reservation_id, call.user, call.path, self._answer)

    def _answer(self, answer: Answer) -> None:
        """Writes the answer of the hot request in work; does nothing when its client has gone."""
        if self.transport.is_closing():
            return
        close = self.close_after or (self.closing and not (self.line or self.unfed or self.receiving))
        self.transport.write(self._rendered(answer, close))
        self._answered()
        if close:
            self.transport.close()

    def _rendered(self, answer: Answer, close: bool) -> bytes:
        return self.lane.render(answer, self.server_state.default_headers, close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """uvicorn would begin at once; here an ordinary request waits for its turn."""
        if self.parser.should_upgrade():
            cycle.keep_alive = False
        if self.busy or self.line:
            self.line.append(_Ordinary(cycle, app))
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.busy = True
        self.running = cycle
        if self.closing and not (self.line or self.unfed):
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """uvicorn: the ordinary request in work has its answer."""
        self.running = None
        self._answered()

    def _answered(self) -> None:
        self.server_state.total_requests += 1
        self.busy = False
        self.quiet = self.guard.now
        if self.line or self.unfed or self.closing or self.flow.read_paused:
            self._advance()

    def _advance(self) -> None:
        """Takes up what waits, in order, until there is nothing or something that takes time."""
        if self.advancing:
            return
        self.advancing = True
        while not (self.busy or self.flow.write_paused or self.transport.is_closing()):
            if self.line:
                self._take_up(self.line.popleft())
            elif self.unfed:
                self._feed_on()
            else:
                self._rest()
                break
        self.advancing = False

    def _take_up(self, entry: _Hot | _Ordinary | Answer) -> None:
        if isinstance(entry, _Ordinary):
            self._begin(*entry)
        elif isinstance(entry, Answer):
            self._last_word(entry)
        else:
            self._run(entry)

    def _rest(self) -> None:
        """Nothing waits here; go on reading, or end."""
        if self.linger_until is not None:
            return
        if self.closing and not self.receiving:
            self.transport.close()
        elif self.flow.read_paused:
            self.begun = self.guard.now
            self.flow.resume_reading()

    # Refusing a message as such

    def _too_large(self) -> None:
        if self.receiving == HEAD:
            about = f"has more than {HEAD_MAX} bytes or {HEADERS_MAX} headers"
            self._refuse(431, "Request Header Fields Too Large", invalid("headers", about))
        else:
            refused = invalid("body", f"is larger than {self.body_max} bytes")
            self._refuse(413, "Content Too Large", refused)

    def _refuse(self, status: int, title: str, refused: Refused) -> None:
        """Answers the message being received, in its turn, and ends the connection."""
        path = self.url.partition(b"?")[0].decode("latin-1") if self.receiving == BODY else ""
        if self._forget_message():
            self.line.append(error(refused, path, self.lane.now_ms(), status, title))
            self._advance()
        else:
            self.transport.close()

    def _forget_message(self) -> bool:
        """Stops receiving for good. False: the message has an answer already, or part of one."""
        cycle = self.cycle if self.receiving == BODY else None
        self.deaf = True
        self.unfed = b""
        self.receiving = NOTHING
        if cycle is None:
            return True
        _disconnect(cycle)
        if cycle is self.running:
            self.running = None
            self.busy = False
        else:
            self.line = deque(each for each in self.line if not (isinstance(each, _Ordinary) and each.cycle is cycle))
        return not cycle.response_started

    def _last_word(self, answer: Answer) -> None:
        self.deaf = True
        self.transport.write(self._rendered(answer, close=True))
        self.server_state.total_requests += 1
        if self.closing:
            self.transport.close()
            return
        self.transport.write_eof()
        self.linger_until = self.guard.now + self.guard.scan_seconds + LINGER_SECONDS
        self.flow.resume_reading()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tells the app, if it asks, that its client has gone; what it sends is dropped."""
    cycle.disconnected = True
    cycle.message_event.set()
