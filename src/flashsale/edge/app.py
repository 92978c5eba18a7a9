"""The ordinary HTTP lane: every route of the API on Litestar, each answered by its handler.

Litestar routes and nothing else: bodies are read strictly by `wire`, answers leave as their handlers made them,
with the same headers in the same order as the fast lane's. Everything that goes wrong, in a handler or in the
framework, becomes an error of API.md here.
"""

import hmac
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import structlog
from litestar import HttpMethod, Litestar, Request
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from litestar.types import ASGIApp, HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Scope, Send

from flashsale.core.refusal import Refusal, Refused, invalid
from flashsale.edge import buyer, operations, operator, wire
from flashsale.edge.call import (
    BUYER_BODY_MAX,
    OPERATOR_BODY_MAX,
    Ask,
    Audience,
    Call,
    Page,
    Refusing,
    Reply,
    TooLarge,
    Vanished,
    path_of,
)
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.openapi import document
from flashsale.engine import Engine
from flashsale.ports import LedgerUnavailable

AnyRequest: TypeAlias = Request[Any, Any, Any]
log = structlog.get_logger("flashsale.edge")


def create_app(
    engine: Engine, token: str, hot: HotRoutes | None = None, draining: Callable[[], bool] | None = None
) -> Litestar:
    """The ordinary lane over an open engine. `token` is the operators'.

    `draining` tells that the server is leaving; so does `app.state.draining`, for a server that gets an app ready-made.
    """
    if not token:
        raise ValueError("the operators' token must not be empty")
    calls, pages = [], operations.Pages()
    calls += buyer.calls(engine, hot or HotRoutes(engine))
    calls += operator.calls(engine)
    state = State({"draining": False})
    leaving = draining or (lambda: bool(state.draining))
    calls += operations.calls(operations.Operations(engine, engine._settling._provider, leaving), pages)
    pages.document = document(calls)
    desk = _Desk(engine, token.encode())
    return Litestar(
        route_handlers=[_route(call, desk) for call in calls],
        state=state,
        exception_handlers={HTTPException: desk.framework_refused, Exception: desk.failed},
        openapi_config=None,
        logging_config=None,
        response_cache_config=None,
        opt={"calls": calls},
    )


def _route(call: Call, desk: "_Desk") -> HTTPRouteHandler:
    async def endpoint(request: AnyRequest) -> ASGIApp:
        return await desk.answer(call, request.scope, request.receive)

    path = call.path.replace("}", ":str}")
    methods = [HttpMethod.GET, HttpMethod.HEAD] if call.method == "GET" else [HttpMethod(call.method)]
    return HTTPRouteHandler(path, http_method=methods, status_code=200, include_in_schema=False)(endpoint)


class _Desk:
    """Takes requests to their handlers, and turns whatever comes back into an answer."""

    def __init__(self, engine: Engine, token: bytes) -> None:
        self._now_ms = engine.clock.now_ms
        self._token = token

    async def answer(self, call: Call, scope: Scope, receive: Receive) -> "_Sent":
        body_max = OPERATOR_BODY_MAX if call.audience is Audience.OPERATORS else BUYER_BODY_MAX
        ask = Ask(scope, receive, body_max)
        try:
            if call.audience is Audience.OPERATORS and not self._is_operator(ask):
                return _Sent(self._unauthenticated(ask))
            return _Sent(self._shown(await call.handle(ask), ask.path))
        except Refusing as refusing:
            return _Sent(wire.error(refusing.refused, ask.path, self._now_ms(), refusing.status, refusing.title))
        except LedgerUnavailable:
            return _Sent(self._shown(AWAY, ask.path))
        except TooLarge:
            return _Sent(wire.error(too_large(body_max), ask.path, self._now_ms(), 413, "Content Too Large"))
        except Vanished:
            return _Sent(None)

    def _shown(self, reply: Reply, path: str) -> wire.Answer | Page:
        return wire.refusal(reply, path, self._now_ms()) if isinstance(reply, Refused) else reply

    def _is_operator(self, ask: Ask) -> bool:
        scheme, _, token = (ask.header(b"authorization") or b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    def _unauthenticated(self, ask: Ask) -> wire.Answer:
        message = "This route needs the operators' token: Authorization: Bearer TOKEN"
        answer = self._shown(Refused(Refusal.UNAUTHENTICATED, message), ask.path)
        return wire.Answer(answer.status, answer.body, ((b"www-authenticate", b"Bearer"),))

    def framework_refused(self, request: AnyRequest, trouble: HTTPException) -> Response[Any]:
        """What Litestar refuses by itself: an unknown path, a method that is not allowed, a malformed head."""
        refused, title, headers = _in_our_words(request, trouble)
        path = path_of(request.scope)
        return _sent(wire.error(refused, path, self._now_ms(), trouble.status_code, title, headers))

    def failed(self, request: AnyRequest, trouble: Exception) -> Response[Any]:
        """A defect of ours. The client learns no more than that."""
        path = path_of(request.scope)
        log.error("request failed", method=request.method, path=path, exc_info=trouble)
        refused = Refused(Refusal.UNAVAILABLE, "Something is wrong here, and has been logged")
        return _sent(wire.error(refused, path, self._now_ms(), 500, "Internal Server Error"))


AWAY = Refused(Refusal.UNAVAILABLE, "The ledger cannot take this now: try again", {"retryAfterSeconds": 1})


def too_large(most: int) -> Refused:
    return invalid("body", f"is larger than {most} bytes")


def _in_our_words(request: AnyRequest, trouble: HTTPException) -> tuple[Refused, str, tuple[wire.Header, ...]]:
    if trouble.status_code == 404:
        return Refused(Refusal.NOT_FOUND, "No such path"), "Not Found", ()
    if trouble.status_code == 405:
        allowed = ", ".join(sorted((trouble.headers or {})["allow"].split(", ")))
        refused = invalid("method", f"must be one of {allowed}")
        return refused, "Method Not Allowed", ((b"allow", allowed.encode()),)
    return invalid("request", trouble.detail), "Bad Request", ()


class _Sent:
    """An answer as an ASGI application; None: nobody is there to hear it."""

    __slots__ = ("_reply",)

    def __init__(self, reply: wire.Answer | Page | None) -> None:
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._reply is None:
            return
        body = self._reply.body if scope.get("method") != "HEAD" else b""
        start: HTTPResponseStartEvent = {
            "type": "http.response.start", "status": self._reply.status, "headers": _headers(self._reply),
        }  # fmt: skip
        await send(start)
        end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
        await send(end)

    def to_asgi_response(self, **_: object) -> "_Sent":
        """What Litestar asks of the result of an exception handler."""
        return self


def _sent(answer: wire.Answer) -> Response[Any]:
    return cast(Response[Any], _Sent(answer))


def _headers(reply: wire.Answer | Page) -> list[wire.Header]:
    if isinstance(reply, wire.Answer):
        return wire.layout(reply)
    return [(b"content-type", reply.content_type), *reply.headers, (b"content-length", b"%d" % len(reply.body))]
