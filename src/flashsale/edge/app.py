"""The ordinary HTTP lane: every route of the API, each answered by its handler.

Litestar routes and nothing else: bodies are read strictly by `wire`, answers leave as their handlers made them,
with the same headers in the same order as the fast lane's. Each path is a plain ASGI route, because Litestar's
handlers cost a third of the speed. Everything that goes wrong, in a handler or in the framework, becomes
an error of API.md here.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias, cast

import structlog
from litestar import HttpMethod, Litestar, Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.response import Response
from litestar.types import ASGIApp, HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Scope, Send

from flashsale.core.refusal import Refusal, Refused, invalid
from flashsale.edge import (
    buyer,
    challenge,
    dead_letters,
    limits,
    metrics,
    operations,
    operator,
    risk,
    waiting_room,
    wire,
)  # fmt: skip
from flashsale.edge.call import (
    BUYER_BODY_MAX,
    OPERATOR_BODY_MAX,
    Ask,
    Audience,
    Call,
    Page,
    Refusing,
    Reply,
    Stream,
    TooLarge,
    Vanished,
    is_signed,
    path_of,
)
from flashsale.edge.door import Door
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.identity import Caller, Role
from flashsale.edge.metrics import Metrics, Slot
from flashsale.edge.openapi import document
from flashsale.edge.signature import Signatures, Signing
from flashsale.edge.wire import Answer
from flashsale.engine import Engine
from flashsale.ports import LedgerUnavailable
from flashsale.settings import Settings
from flashsale.tracing import TRACE_ID, trace_id_in

AnyRequest: TypeAlias = Request[Any, Any, Any]
Methods: TypeAlias = dict[str, Call]

AWAY = Refused(Refusal.UNAVAILABLE, "The ledger cannot take this now: try again", {"retryAfterSeconds": 1})
BROKEN = Refused(Refusal.UNAVAILABLE, "Something is wrong here, and has been logged")
NO_TOKEN = Refused(
    Refusal.UNAUTHENTICATED, "This route needs the operators' token, in the header `Authorization: Bearer TOKEN`"
)

log = structlog.get_logger("flashsale.edge")


def create_app(
    engine: Engine, token: str, draining: Callable[[], bool] | None = None, slot: Slot | None = None
) -> Litestar:  # fmt: skip
    """The ordinary lane over an open engine. `token` is the operators', `slot` which one of several workers this is.

    `draining` tells that the server is leaving; so does `app.state.draining`, for a server that gets an app ready-made.
    """
    door = Door.of(engine.settings, token, engine.keys, engine.clock.now_ms)
    hot = HotRoutes(engine, door)
    calls, pages = [], operations.Pages()
    calls += buyer.calls(engine, hot)
    calls += waiting_room.calls(engine)
    calls += operator.calls(engine)
    calls += dead_letters.calls(engine)
    calls += limits.calls(engine)
    calls += challenge.calls(engine)
    calls += risk.calls(engine)
    engine.in_force.serve()
    state = State({"draining": False, "hot": hot})
    leaving = draining or (lambda: bool(state.draining))
    operated = operations.Operations(engine, engine.provider, leaving)
    counted = Metrics(engine, operated, slot)
    state.metrics = counted
    calls += [*operations.calls(operated, pages), *metrics.calls(counted)]
    pages.document = document(calls, engine.settings)
    return _app(engine, door, calls, state)


def create_health_app(engine: Engine) -> Litestar:
    """For a process that has no buyers: how it is, and nothing else."""
    door = Door.of(Settings(), secrets.token_urlsafe(), None, engine.clock.now_ms)
    state = State({"draining": False})
    operated = operations.Operations(engine, engine.provider, lambda: bool(state.draining))
    calls = [*operations.health_calls(operated), *metrics.calls(Metrics(engine, operated))]
    return _app(engine, door, calls, state)


def _app(engine: Engine, door: Door, calls: list[Call], state: State) -> Litestar:
    desk = _Desk(engine, door)
    return Litestar(
        route_handlers=[_route(path, methods, desk) for path, methods in _by_path(calls).items()],
        state=state,
        exception_handlers={HTTPException: desk.framework_refused, Exception: desk.failed},
        openapi_config=None,
        logging_config=None,
        opt={"calls": calls},
    )


def _by_path(calls: list[Call]) -> dict[str, Methods]:
    paths: defaultdict[str, Methods] = defaultdict(dict)
    for call in calls:
        paths[call.path][call.method] = call
        if call.method == "GET":
            paths[call.path]["HEAD"] = call
    return paths


def _route(path: str, methods: Methods, desk: "_Desk") -> ASGIRouteHandler | HTTPRouteHandler:
    allowed = sorted([*methods, "OPTIONS"])

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]  # type: ignore[typeddict-item]  # no websocket gets here
        if method not in allowed:
            raise MethodNotAllowedException(headers={"allow": ", ".join(allowed)})
        if method == "OPTIONS":
            reply: Answer | Page | Stream | None = Answer(204, b"", ((b"allow", ", ".join(allowed).encode()),))
        else:
            reply = await desk.answer(methods[method], scope, receive)
        if isinstance(reply, Stream):
            await _stream(reply, scope, receive, send)
        elif reply is not None:
            await _send(reply, scope, send)

    async def found() -> ASGIApp:
        return endpoint

    if "{" not in path:
        return ASGIRouteHandler(path, copy_scope=False)(endpoint)
    # Litestar 2 loses the parameters of an ASGI route.
    path = path.replace("}", ":str}")
    return HTTPRouteHandler(path, http_method=[HttpMethod(method) for method in allowed], status_code=200)(found)


class _Desk:
    """Takes requests to their handlers, and turns whatever comes back into an answer."""

    def __init__(self, engine: Engine, door: Door) -> None:
        self._door = door
        self._signatures = Signatures(engine.settings.client_keys, engine.clock.now_ms)
        self._now_ms = engine.clock.now_ms
        self._counts = engine.counts
        self._limiting = engine.limiting

    async def answer(self, call: Call, scope: Scope, receive: Receive) -> Answer | Page | Stream | None:
        """The answer of a route, counted; None when its client has gone."""
        answer = await self._answer(call, scope, receive)
        if answer is not None:
            self._counts.answers[route_class(call)][answer.status] += 1
        return answer

    async def _answer(self, call: Call, scope: Scope, receive: Receive) -> Answer | Page | Stream | None:
        body_max = OPERATOR_BODY_MAX if call.audience is Audience.OPERATORS else BUYER_BODY_MAX
        ask = Ask(scope, receive, body_max, self._door, self._limiting)
        TRACE_ID.set(_trace_id(scope))
        try:
            if call.audience is Audience.BUYERS:
                await ask.let_in()
            if self._signatures.wanted and is_signed(call):
                await self._look_at_signature(ask, call.method)
            if call.private or call.roles:
                await ask.identify()
            if call.roles:
                _admit(ask.who, call.roles)
            elif call.private and not call.attempt:
                await _count_user(call, ask)
            return self._shown(scope, await call.handle(ask))
        except Refusing as refusing:
            return self._error(scope, refusing.refused, refusing.status, refusing.title)
        except LedgerUnavailable:
            return self._shown(scope, AWAY)
        except TooLarge:
            refused = invalid("body", f"is larger than {body_max} bytes")
            return self._error(scope, refused, 413, "Content Too Large")
        except Vanished:
            return None

    async def _look_at_signature(self, ask: Ask, method: str) -> None:
        """Raises Refusing."""
        signing = Signing(ask.header(b"x-client-key"), ask.header(b"x-timestamp"), ask.header(b"x-signature"))
        fault = self._signatures.fault(signing, method, ask.path, ask.raw_query, await ask.body())
        if fault is not None:
            raise Refusing(fault)

    def framework_refused(self, request: AnyRequest, trouble: HTTPException) -> Response[Any]:
        """An unknown path, a method that a path does not have, a malformed host."""
        scope, status = request.scope, trouble.status_code
        self._counts.answers["none"][status] += 1
        if status == 404:
            return _litestars(self._error(scope, Refused(Refusal.NOT_FOUND, "No such path"), status))
        if status == 405:
            allowed = ", ".join(sorted((trouble.headers or {})["allow"].split(", ")))
            refused, headers = invalid("method", f"must be one of {allowed}"), ((b"allow", allowed.encode()),)
            return _litestars(self._error(scope, refused, status, "Method Not Allowed", headers))
        return _litestars(self._error(scope, invalid("request", trouble.detail), status))

    def failed(self, request: AnyRequest, trouble: Exception) -> Response[Any]:
        """A defect of ours. The client learns no more than that."""
        self._counts.answers["none"][500] += 1
        log.error("request failed", method=request.method, path=path_of(request.scope), exc_info=trouble)
        return _litestars(self._error(request.scope, BROKEN, 500, "Internal Server Error"))

    def _shown(self, scope: Scope, reply: Reply) -> Answer | Page | Stream:
        if not isinstance(reply, Refused):
            return reply
        self._counts.refusals[reply.refusal.code] += 1
        return wire.refusal(reply, path_of(scope), self._now_ms())

    def _error(
        self, scope: Scope, refused: Refused, status: int, title: str = "", headers: tuple[wire.Header, ...] = ()
    ) -> Answer:
        title = title or refused.refusal.title
        self._counts.refusals[refused.refusal.code] += 1
        return wire.error(refused, path_of(scope), self._now_ms(), status, title, headers)


def _admit(who: Caller, roles: frozenset[Role]) -> None:
    """Before the body is read, so that nobody else makes the server buffer a megabyte. Raises Refusing."""
    if who.roles & roles:
        return
    if who.user_id is None:
        raise Refusing(NO_TOKEN)
    named = " or ".join(sorted(roles))
    raise Refusing(Refused(Refusal.ACCESS_DENIED, f"This needs the role {named}", {"roles": sorted(roles)}))


async def _count_user(call: Call, ask: Ask) -> None:
    """Now, or once its body is read: a malformed one is refused as such. Raises Refusing."""
    if call.body is not None:
        ask.counts_user = True
    else:
        await ask.count_user()


def _trace_id(scope: Scope) -> str | None:
    """A request with two traces has none."""
    named = [value for name, value in scope["headers"] if name == b"traceparent"]
    return trace_id_in(named[0]) if len(named) == 1 else None


HOT = {
    ("POST", "/api/v1/reservations"): "reserve",
    ("GET", "/api/v1/products/{skuId}/availability"): "availability",
    ("GET", "/api/v1/reservations/{reservationId}"): "reservation",
}


def route_class(call: Call) -> str:
    """By what answers are counted: a hot route by its name, any other by whom it is for."""
    return HOT.get((call.method, call.path)) or call.audience.name.lower()


async def _send(reply: Answer | Page, scope: Scope, send: Send) -> None:
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": reply.status,
        "headers": _headers(reply),
    }
    await send(start)
    body = reply.body if scope["method"] != "HEAD" else b""  # type: ignore[typeddict-item]
    end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
    await send(end)


async def _stream(stream: Stream, scope: Scope, receive: Receive, send: Send) -> None:
    """Pieces as they come, until there are no more or the client has gone."""
    headers = [(b"content-type", stream.content_type), (b"cache-control", b"no-store")]
    start: HTTPResponseStartEvent = {"type": "http.response.start", "status": stream.status, "headers": headers}
    await send(start)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        if scope["method"] != "HEAD":  # type: ignore[typeddict-item]
            async for piece in _until(gone, stream.pieces):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        gone.cancel()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until(gone: "asyncio.Future[None]", pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, until the other one is done."""
    while True:
        piece = asyncio.ensure_future(_next(pieces))
        await asyncio.wait((gone, piece), return_when=asyncio.FIRST_COMPLETED)
        if not piece.done():
            piece.cancel()
            await asyncio.gather(piece, return_exceptions=True)
            return
        if (found := piece.result()) is None:
            return
        yield found


def _headers(reply: Answer | Page) -> list[wire.Header]:
    if isinstance(reply, Answer):
        return wire.layout(reply)
    return [(b"content-type", reply.content_type), *reply.headers, (b"content-length", b"%d" % len(reply.body))]


class _Told:
    """An answer in the form that Litestar wants of its exception handlers."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def to_asgi_response(self, **_: object) -> "_Told":
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(self._answer, scope, send)


def _litestars(answer: Answer) -> Response[Any]:
    return cast(Response[Any], _Told(answer))
