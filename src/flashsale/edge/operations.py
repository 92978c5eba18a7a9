"""Health, and the interface's own description: the OpenAPI document and the page that shows it.

Not ready (503) means: send no requests here. That is so while the server drains and while the ledger does not
answer. A payment provider or a broker that is away or a clock that was set wrong is told, but takes no server out of
service: units can still be reserved, and all servers would go at once.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from importlib import resources

from flashsale import __version__
from flashsale.core.refusal import not_found
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Page, Reply
from flashsale.edge.wire import Answer, timestamp
from flashsale.engine import Engine
from flashsale.ports import LedgerUnavailable, PaymentProvider, ProviderUnavailable, StockOf

CHECK_SECONDS = 2.0
KEPT_SECONDS = 1.0
OK = "ok"
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


class Health(schema.Shown):
    """`ok` or `ready`; `degraded`: units can be sold, but a part is in trouble; `unavailable`: 503."""

    status: str
    version: str
    server_time: schema.Moment
    parts: dict[str, Part]


class Alive(schema.Shown):
    status: str


class Operations:
    def __init__(self, engine: Engine, provider: PaymentProvider, draining: Callable[[], bool]) -> None:
        self._engine = engine
        self._provider = provider
        self._draining = draining
        self._looking = asyncio.Lock()
        self._looked_at = -KEPT_SECONDS
        self._found = (OK, OK)

    async def live(self, ask: Ask) -> Answer:
        return views.json(Alive(OK))

    async def health(self, well: str, ask: Ask) -> Answer:
        ledger, provider = await self._look()
        parts = {
            "server": Part("draining" if self._draining() else OK, needed=True),
            "ledger": Part(ledger, needed=True),
            "provider": Part(provider, needed=False),
            "clock": Part(self._engine.clock.alarm or OK, needed=False),
        }
        if self._engine.publishing is not None:
            parts["broker"] = Part(self._engine.publishing.trouble or OK, needed=False)
        status = _status(parts, well)
        shown = Health(status, __version__, timestamp(self._engine.clock.now_ms()), parts)
        return views.json(shown, 503 if status == "unavailable" else 200)

    async def _look(self) -> tuple[str, str]:
        """What ledger and provider say. However many ask, each is asked once a second."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._looked_at >= KEPT_SECONDS:
                self._found = await asyncio.gather(self._ledger(), self._payments())
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

    async def _payments(self) -> str:
        try:
            await asyncio.wait_for(self._provider.look_up(NO_TRANSACTION), CHECK_SECONDS)
        except TimeoutError:
            return "slow"
        except ProviderUnavailable as trouble:
            return str(trouble) or "unavailable"
        return OK


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


def calls(operations: Operations, pages: Pages) -> list[Call]:
    """Every route that is about the server itself."""
    who = Audience.OPERATIONS
    health, ready = partial(operations.health, OK), partial(operations.health, "ready")
    both = {200: Health, 503: Health}
    return [
        Call("GET", "/health/live", who, "The process answers", operations.live, {200: Alive}),
        Call("GET", "/health/ready", who, "Whether to send requests here", ready, both),
        Call("GET", "/health", who, "Every part with its state", health, both),
        Call("GET", "/api/openapi.json", who, "This document", pages.openapi, {200: dict}),
        Call("GET", "/api/docs", who, "This document for eyes", pages.docs, {}),
        Call("GET", "/api/docs/{file}", who, "What the page loads", pages.asset, {}),
    ]
