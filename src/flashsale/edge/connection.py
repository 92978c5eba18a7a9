"""One client's connection: its requests in order, its limits, its end. Extends uvicorn's httptools protocol.

Order. HTTP/1.1 answers a connection's requests in their order, and here answers come by two ways (the fast lane
and the app) at different times. The rule that keeps this simple: of one connection, one request is in work at a
time (`busy`). What has arrived behind it stands in `line`; whoever finishes an answer calls `_advance`, which
takes up the next.

    bytes ─► unfed ─► parser ─► line ─► in work ─► written
                 (one message: receiving)

An ordinary request gets in line when its headers are complete, so that the app can refuse it early or ask for its
body; a hot one when it is complete. Both are in order, because a message begins only after the one before it has
ended. The parser cannot be stopped in the middle of its input, so it is fed in slices, and not at all while the
line is long: then the bytes wait in `unfed`, reading stops, and TCP makes the client wait.

The end. `deaf`: nothing more will be read. `closing`: the connection ends after the answers that are due, and the
last of them says so (shutdown, or the client has closed its half). A message that is refused as such (too large,
too slow, malformed) gets in line like any other, so that the answers before it still go out; after it the
connection lingers for a moment without reading, or the client would see a reset instead of the answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from flashsale.core.refusal import Refusal, Refused, invalid
from flashsale.edge.guard import HEAD_MAX, HEADERS_MAX, Guard, body_max
from flashsale.edge.head import ambiguity, without_upgrade
from flashsale.edge.wire import Answer, error, refusal, rendered

LINE_MAX = 32
"""Requests of one connection waiting for their turn; beyond it nothing is parsed."""
SLICE = 4096
LINGER_SECONDS = 1.0

NOTHING, HEAD, BODY = range(3)
"""What of a message is being received."""

Turn = Callable[[], None]
"""What to do for a request when its turn comes. Ends in `_answered`, maybe later."""


class Connection(HttpToolsProtocol):
    def __init__(
        self,
        guard: Guard,
        now_ms: Callable[[], int],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.guard = guard
        self.now_ms = now_ms
        self.peer: str | None = None
        self.admitted = False
        self.line: deque[Turn] = deque()
        self.unfed = b""
        self.busy = False
        self.advancing = False
        self.running: RequestResponseCycle | None = None
        self.deaf = False
        self.closing = False
        self.linger_until: float | None = None
        self.quiet = 0.0
        """When the last answer was written."""
        self.stalled = 0.0
        """Since when the client has not taken what is written, if `flow.write_paused`."""
        self.messages = 0
        """How many have begun since somebody set this to 0."""
        self.body_max = 0
        self._begin_message(NOTHING)

    def _begin_message(self, part: int) -> None:
        """What is known of the message being received."""
        self.receiving = part
        self.begun = self.guard.now
        self.fed = 0
        self.fed_max = HEAD_MAX
        self.url = b""
        self.headers = []
        self.upgrading = False
        """Whether its head offers another protocol."""
        self.hot = 0
        """Not 0: the message is answered by the fast lane."""
        self.cycle = None  # type: ignore[assignment]
        self.body = b""
        self.body_bytes = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else None
        if too_many := self.guard.admit(self.peer):
            self.deaf = True
            answer = refusal(Refused(Refusal.UNAVAILABLE, too_many, {"retryAfterSeconds": 1}), "", self.now_ms())
            transport.write(rendered(answer, self.server_state.default_headers, close=True))
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
        self._tell_the_last()
        return True

    def shutdown(self) -> None:
        """The server drains: what is under way gets its answer."""
        self.closing, self.quiet = True, self.guard.now
        if self.linger_until is not None:
            self.transport.close()
        else:
            self._tell_the_last()

    def check(self, now: float) -> None:
        """The scan: has the client taken too long?"""
        guard = self.guard
        if self.linger_until is not None:
            if now >= self.linger_until:
                self.transport.abort()
        elif self.flow.write_paused:
            if now - self.stalled > guard.idle_seconds:
                self.transport.abort()
        elif self.receiving and not (self.flow.read_paused or self.unfed):
            if now - self.begun > guard.receive_seconds:
                self._refuse(408, "Request Timeout", invalid("request", "was not received in time"))
        elif not self.busy and now - self.quiet > (guard.leave_seconds if self.closing else guard.idle_seconds):
            # Idle. What its client has not taken by now it will not take.
            end = self.transport.abort if self.transport.get_write_buffer_size() else self.transport.close
            end()

    def _pending(self) -> bool:
        return self.busy or bool(self.line) or bool(self.unfed)

    def _last(self) -> bool:
        """Whether the answer in work is the last one."""
        return self.closing and not (self.line or self.unfed)

    def _tell_the_last(self) -> None:
        if self.running is not None and self._last():
            self.running.keep_alive = False

    def pause_writing(self) -> None:
        self.stalled = self.guard.now
        super().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    # From bytes to messages

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if len(data) <= SLICE and not self.unfed and len(self.line) < LINE_MAX:
            self._feed(data)
        else:
            self.unfed += data
            self._feed_on()
        if self.line or self.unfed or self.closing:
            self._advance()

    def _feed_on(self) -> None:
        """Feeds the parser as long as the line is short."""
        while self.unfed and len(self.line) < LINE_MAX and not self.flow.write_paused:
            piece, self.unfed = self.unfed[:SLICE], self.unfed[SLICE:]
            self._feed(piece)
        if self.unfed:
            self.flow.pause_reading()

    def _feed(self, data: bytes) -> None:
        advancing, self.advancing = self.advancing, True  # the parser must not be entered from its own callbacks
        left = data
        while left:
            left = self._parse(left)
        self.advancing = advancing
        if self.receiving:
            self.fed += len(data)
            if self.fed > self.fed_max:
                self._too_large()

    def _parse(self, data: bytes) -> bytes:
        """What the parser is to be fed next: nothing, but after an offer to upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.upgrading:  # Java's client offers it: a new parser is told the head again without the offer
                head = without_upgrade(self.parser, self.url, self.headers)
                self.parser = httptools.HttpRequestParser(self)
                return head + data[upgrade.args[0] :]
            self.deaf = True  # CONNECT: answered; what follows is not HTTP
        except httptools.HttpParserError as trouble:
            cause = trouble.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserInvalidURLError | UnicodeError):
                raise
            if not self.deaf:
                self._refuse(400, "Validation Failed", invalid("request", "must be valid HTTP"))
        return b""

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self.messages += 1
        if not self.deaf:
            self._begin_message(HEAD)

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.receiving == HEAD:  # what comes after a chunked body is not a header
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.deaf:
            return
        if len(self.headers) > HEADERS_MAX:
            self._too_large()
            return
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self.upgrading = True
            return
        self.receiving = BODY
        self.body_max = body_max(self.url)
        self.fed_max = HEAD_MAX + 8 * self.body_max  # small chunks have a large frame
        if self._announced() > self.body_max:
            self._too_large()
        elif self.hot:
            return
        elif refused := ambiguity(self.parser.get_http_version(), self.headers):
            self._refuse(400, "Validation Failed", refused)
        else:
            self._ordinary()

    def _announced(self) -> int:
        """The length of the body, as far as the headers say. The fast lane recognises its requests here."""
        return next((int(value) for name, value in self.headers if name.lower() == b"content-length"), 0)

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
        elif self.hot:
            self.body = self.body + body if self.body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.deaf or self.upgrading:
            return
        self.receiving = NOTHING
        super().on_message_complete()
        self.deaf = not self.cycle.keep_alive

    # From messages to answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """uvicorn would begin at once; here an ordinary request waits for its turn."""
        if self.parser.should_upgrade():
            cycle.keep_alive = False
        if self.busy or self.line:
            self.line.append(partial(self._begin, cycle, app))
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.busy = True
        self.running = cycle
        self._tell_the_last()
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
                self.line.popleft()()
            elif self.unfed:
                self._feed_on()
            else:
                self._rest()
                break
        self.advancing = False

    def _rest(self) -> None:
        """Nothing waits here; go on reading, or end."""
        if self.closing and not self.receiving and self.linger_until is None:
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
        answer = error(refused, path, self.now_ms(), status, title)
        if self._forget_message():
            self.line.append(lambda: self._last_word(answer))
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
            self.line = deque(turn for turn in self.line if not (isinstance(turn, partial) and turn.args[0] is cycle))
        return not cycle.response_started

    def _last_word(self, answer: Answer) -> None:
        self.transport.write(rendered(answer, self.server_state.default_headers, close=True))
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
