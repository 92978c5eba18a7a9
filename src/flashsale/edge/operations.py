"""Health, and the interface's own description: the OpenAPI document and the page that shows it.

Not ready (503) means: send no requests here. That is so while the server drains and while the ledger does not
answer. A payment provider, a gate or a broker that is away or a clock that was set wrong is told, but takes no server
out of service: units can still be reserved, and all servers would go at once. So is one of a ledger's several
databases.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import NamedTuple

from flashsale import __version__
from flashsale.core.questions import DeadLetterCount, EventsWaiting, QueueFigures, StockOf
from flashsale.core.refusal import not_found
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Page, Reply
from flashsale.edge.wire import Answer, timestamp
from flashsale.engine import Engine
from flashsale.flow.publish import LEASE
from flashsale.ports import GateAway, LedgerUnavailable, PaymentProvider, ProviderUnavailable

CHECK_SECONDS = 2.0
KEPT_SECONDS = 1.0
OK = "ok"
WAITING_MAX_MS = 30_000
"""How long an event may wait for the broker before that is an alarm."""
NO_SALE = "-health-"
NO_TRANSACTION = "health-check"

ASSETS = {
    "docs.js": ("docs.js", b"text/javascript; charset=utf-8"),
    "swagger-ui-bundle.js": ("vendor/swagger-ui/swagger-ui-bundle.js", b"text/javascript; charset=utf-8"),
    "swagger-ui.css": ("vendor/swagger-ui/swagger-ui.css", b"text/css; charset=utf-8"),
}
"""What the page of the document loads; nothing comes from elsewhere."""
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
GUARDS = ((b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff"))
KEPT = ((b"cache-control", b"public, max-age=86400"), (b"x-content-type-options", b"nosniff"))


class Part(schema.Shown):
    """A part of the server: `ok`, or what is wrong in words."""

    state: str
    needed: bool
    """Whether the server is not ready without it."""

    @property
    def grade(self) -> str:
        return "up" if self.state == OK else "down" if self.needed else "degraded"


class Health(schema.Shown):
    """`ok` or `ready`; `degraded`: units can be sold, but a part is in trouble; `unavailable`: 503."""

    status: str
    version: str
    server_time: schema.Moment
    parts: dict[str, Part]


class Alive(schema.Shown):
    status: str


class Backlog(NamedTuple):
    """What the broker has not got yet."""

    rows: int
    age_ms: int
    """Of the oldest."""

    @property
    def alarm(self) -> str | None:
        if self.age_ms <= WAITING_MAX_MS:
            return None
        return f"{self.rows} events wait for the broker, the oldest for {self.age_ms // 1000} s"


class Queued(NamedTuple):
    """What the ledger says of queued sales, all of them together."""

    requests: int
    """Those that wait in its own queue."""
    dead_letters: int
    """Those that nobody has redriven."""


class Operations:
    def __init__(self, engine: Engine, provider: PaymentProvider, draining: Callable[[], bool]) -> None:
        self._engine = engine
        self._provider = provider
        self._draining = draining
        self._looking = asyncio.Lock()
        self._looked_at = -KEPT_SECONDS
        self._found = (OK, OK, OK)
        self.waiting: Backlog | None = None
        """What waits for the broker, as of the last look; None: there is no broker."""
        self.queued: Queued | None = None
        """As of the last look that the ledger answered."""

    async def live(self, ask: Ask) -> Answer:
        return views.json(Alive(OK))

    async def health(self, well: str, ask: Ask) -> Answer:
        parts = await self.parts()
        status = _status(parts, well)
        shown = Health(status, __version__, timestamp(self._engine.clock.now_ms()), parts)
        return views.json(shown, 503 if status == "unavailable" else 200)

    async def parts(self) -> dict[str, Part]:
        """Every part with its state."""
        ledger, provider, gate = await self._look()
        parts = {
            "server": Part("draining" if self._draining() else OK, needed=True),
            "ledger": Part(ledger, needed=True),
            "provider": Part(provider, needed=False),
            "gate": Part(gate, needed=False),
            "clock": Part(self._engine.clock.alarm or OK, needed=False),
        }
        if self._engine.keys is not None:
            parts["keys"] = Part(self._engine.keys.trouble or OK, needed=False)
        if self._engine.publishing is not None:
            parts["broker"] = Part(self._engine.publishing.trouble or OK, needed=False)
        if self._engine.queue_ends:
            troubles = (end.trouble for end in self._engine.queue_ends)
            parts["queue"] = Part(next(filter(None, troubles), OK), needed=False)
        for number, trouble in self._engine.shards_away().items():
            parts[f"shard {number}"] = Part(trouble, needed=False)
        if self.waiting is not None:
            parts["outbox"] = Part(self.waiting.alarm or OK, needed=False)
        return parts

    async def _look(self) -> tuple[str, str, str]:
        """What ledger, provider and gate say. However many ask, each is asked once a second."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._looked_at >= KEPT_SECONDS:
                *found, self.waiting, self.queued = await asyncio.gather(
                    self._ledger(), self._payments(), self._gate(), self._outbox(), self._queue()
                )
                self._found = (found[0], found[1], found[2])
                self._looked_at = now
            return self._found

    async def _ledger(self) -> str:
        try:
            await asyncio.wait_for(self._engine.find(StockOf(NO_SALE)), CHECK_SECONDS)
        except TimeoutError:
            return "slow"
        except LedgerUnavailable as trouble:
            return str(trouble) or "unavailable"
        return self._engine.ledger.alarm or OK

    async def _outbox(self) -> "Backlog | None":
        if not self._engine.settings.broker:
            return None
        try:
            found = await asyncio.wait_for(self._engine.find(EventsWaiting(LEASE)), CHECK_SECONDS)
        except (TimeoutError, LedgerUnavailable):
            return self.waiting  # the part `ledger` says that it does not answer
        oldest_ms = found.oldest_ms
        return Backlog(found.rows, 0 if oldest_ms is None else max(0, self._engine.clock.now_ms() - oldest_ms))

    async def _queue(self) -> Queued | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                requests = sum((await self._engine.find(QueueFigures())).values())
                return Queued(requests, await self._engine.find(DeadLetterCount()))
        except (TimeoutError, LedgerUnavailable):
            return self.queued  # as in `_outbox`

    async def _payments(self) -> str:
        try:
            await asyncio.wait_for(self._provider.look_up(NO_TRANSACTION), CHECK_SECONDS)
        except TimeoutError:
            return "slow"
        except ProviderUnavailable as trouble:
            return str(trouble) or "unavailable"
        return OK

    async def _gate(self) -> str:
        """Asked even when no sale needs it, so that its trouble is not found out by the first buyer."""
        try:
            await asyncio.wait_for(self._engine.gate.settings(), CHECK_SECONDS)
        except TimeoutError:
            return "slow"
        except GateAway as trouble:
            return str(trouble) or "unavailable"
        return self._engine.gate.trouble or OK


def _status(parts: dict[str, Part], well: str) -> str:
    troubled = [part for part in parts.values() if part.state != OK]
    if any(part.needed for part in troubled):
        return "unavailable"
    return "degraded" if troubled else well


class Pages:
    """The document and what shows it, read once."""

    def __init__(self) -> None:
        self.document = b""
        folder = resources.files("flashsale.edge") / "pages"
        self._page = (folder / "docs.html").read_bytes()
        self._assets = {
            name: Page(kind, folder.joinpath(*path.split("/")).read_bytes(), KEPT)
            for name, (path, kind) in ASSETS.items()
        }

    async def openapi(self, ask: Ask) -> Answer:
        return Answer(200, self.document)

    async def docs(self, ask: Ask) -> Page:
        return Page(b"text/html; charset=utf-8", self._page, GUARDS)

    async def asset(self, ask: Ask) -> Reply:
        name = ask.params["file"]
        return self._assets.get(name) or not_found("file", name[:64])


def health_calls(operations: Operations) -> list[Call]:
    """The routes that every process has."""
    who = Audience.OPERATIONS
    health, ready = partial(operations.health, OK), partial(operations.health, "ready")
    both = {200: Health, 503: Health}
    return [
        Call("GET", "/health/live", who, "The process answers", operations.live, {200: Alive}),
        Call("GET", "/health/ready", who, "Whether to send requests here", ready, both),
        Call("GET", "/health", who, "Every part with its state", health, both),
    ]


def calls(operations: Operations, pages: Pages) -> list[Call]:
    """Every route that is about the server itself."""
    who = Audience.OPERATIONS
    return [
        *health_calls(operations),
        Call("GET", "/api/openapi.json", who, "This document", pages.openapi, {200: dict}),
        Call("GET", "/api/docs", who, "This document for eyes", pages.docs, {}),
        Call("GET", "/api/docs/{file}", who, "What the page loads", pages.asset, {}),
    ]
