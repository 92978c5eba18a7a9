"""Listening: uvicorn with our protocol, the settings it needs, and an end that loses nothing.

On SIGTERM or SIGINT readiness goes off, the listening socket is closed, requests in flight get their answers
(`drain_seconds` at most), and only then does `serve` return, so that whoever called it can close the engine.
"""

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from socket import socket
from types import FrameType
from typing import Any, Protocol

import uvicorn
from uvicorn._types import ASGIApplication
from uvicorn.server import HANDLED_SIGNALS

from flashsale.edge.fast_lane import FastLane, Lane
from flashsale.edge.guard import Guard
from flashsale.edge.hot_routes import Shop
from flashsale.settings import Settings

BACKLOG = 4096
SIGNALS = (*HANDLED_SIGNALS, signal.SIGHUP)
"""What ends a server in good order; SIGHUP too, because a terminal that closes sends it."""
SWITCH_SECONDS = 0.0005
"""How soon the event loop gets the interpreter back from the ledger's writer thread."""
YOUNG_OBJECTS_MAX = 50_000
"""How many new objects the garbage collector lets pass between two looks at them."""


class ServedShop(Shop, Protocol):
    """What a server needs of the engine."""

    settings: Settings

    def leave(self) -> None:
        """Nobody holds the line any more."""


class HttpServer(uvicorn.Server):
    """uvicorn's server, but its caller goes on after the last answer: signals end it and nothing else."""

    def __init__(
        self, shop: ServedShop, app: Any, host: str, port: int, on_ready: Callable[[], None] | None = None
    ) -> None:
        settings = shop.settings
        self._on_ready = on_ready
        self._shop = shop
        self.guard = Guard(settings)
        self._state = getattr(app, "state", None)
        routes = getattr(self._state, "hot", None) if settings.fast_lane == "on" else None
        super().__init__(
            _config(app, host, port, Lane(routes, self.guard, shop.clock, bool(settings.client_keys)), settings)
        )

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was asked for."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_ready:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.leave()
        if sig == signal.SIGINT and self.should_exit:
            self.force_exit = True
        self.should_exit = True

    def leave(self) -> None:
        """Readiness off: a balancer should send no more."""
        self.guard.draining = True
        if self._state is not None:
            self._state.draining = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Drains; whoever has not taken his answer by then is cut off."""
        self._shop.leave()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end, which kills the process before the engine is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)


def _config(app: ASGIApplication, host: str, port: int, lane: Lane, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host,
        port,
        http=partial(FastLane, lane),  # type: ignore[arg-type]  # called like the class it stands for
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.drain_seconds,  # type: ignore[arg-type]  # fractions are fine
    )


async def serve(
    shop: ServedShop, app: Any, host: str, port: int,
    listening: socket | None = None, on_ready: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Answers requests until a signal comes and what was in flight has been answered.

    `listening`: a socket that listens already, instead of one on `host` and `port`.
    """
    _tune()
    await HttpServer(shop, app, host, port, on_ready).serve([listening] if listening else None)


def _tune() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 100)
