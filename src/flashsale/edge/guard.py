"""What every connection is held to: how many there may be, how long a request may take to arrive, how large it is.

uvicorn has no deadline for receiving a request and no limit on its body. Both are kept here for a whole server,
with one scan of all connections every so often instead of a timer for each request: a request costs the reading
of an attribute.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Protocol

from flashsale.settings import Settings

HEAD_MAX = 32 * 1024
"""Bytes of a request line with its headers."""
HEADERS_MAX = 100
SCAN_SECONDS_MAX = 0.5
LEAVE_SECONDS = 1.0
"""An idle client may be about to send when the server leaves: so long he may, and is told that it was the last time."""
LOOK_MAX = 64
"""Connections that are looked at before others have the loop."""

_BODY_MAX_BUYER = 16 * 1024
_BODY_MAX = {b"/api/v1/admin/": 1024 * 1024, b"/api/v1/payments/webhook/": 64 * 1024}
_LARGE = tuple(_BODY_MAX)


def body_max(url: bytes) -> int:
    """The most bytes the body of a request to this URL may have."""
    if not url.startswith(_LARGE):
        return _BODY_MAX_BUYER
    return next(most for prefix, most in _BODY_MAX.items() if url.startswith(prefix))


class Guarded(Protocol):
    """A connection, as the scan sees it."""

    def check(self, now: float) -> None: ...


class Guard:
    """The limits of one server, its clock and its count of connections."""

    def __init__(self, settings: Settings) -> None:
        shortest = min(settings.receive_seconds, settings.idle_seconds)
        self.scan_seconds = min(SCAN_SECONDS_MAX, shortest / 8)
        # `now` is the time of the last scan, so a moment noted with it lies up to one scan too early.
        self.receive_seconds = settings.receive_seconds + self.scan_seconds
        self.idle_seconds = settings.idle_seconds + self.scan_seconds
        self.leave_seconds = LEAVE_SECONDS + self.scan_seconds
        self.now = 0.0
        self.draining = False
        self._per_address_max = settings.connections_per_address
        self._total_max = settings.connections_max
        self._exempt = [ip_network(each, strict=False) for each in ("127.0.0.0/8", "::1", *settings.trusted_proxies)]
        self._count: Counter[str | None] = Counter()
        self._total = 0
        self._scanning = False
        self._name = lru_cache(maxsize=4096)(self._bucket)

    def admit(self, host: str | None) -> str | None:
        """Counts a new connection; says why when it is one too many, and does not count it then."""
        name = self._name(host)
        if self._total >= self._total_max:
            return "The server has too many connections"
        if name is not None and self._count[name] >= self._per_address_max:
            return "There are too many connections from this address"
        self._total += 1
        self._count[name] += 1
        return None

    def leave(self, host: str | None) -> None:
        name = self._name(host)
        self._total -= 1
        self._count[name] -= 1
        if not self._count[name]:
            del self._count[name]

    def _bucket(self, host: str | None) -> str | None:
        """By what a peer is counted: its address, of IPv6 the /64 that one customer has; None: not at all."""
        if host is None:
            return None
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address in network for network in self._exempt):
            return None
        width = 64 if isinstance(address, IPv6Address) else 32
        return str(ip_network((address, width), strict=False))

    def watch(self, loop: asyncio.AbstractEventLoop, connections: Collection[Guarded]) -> None:
        """Scans as long as there are connections."""
        if not self._scanning:
            self._scanning = True
            self.now = loop.time()
            loop.call_later(self.scan_seconds, self._scan, loop, connections)

    def _scan(self, loop: asyncio.AbstractEventLoop, connections: Collection[Guarded]) -> None:
        self._look(loop, connections, list(connections))

    def _look(self, loop: asyncio.AbstractEventLoop, connections: Collection[Guarded], left: list[Guarded]) -> None:
        """Looks at some of those that are left, and then lets others have the loop: to end one takes 30 us, and
        whoever wants the server to stand still has all of his connections end at once."""
        self.now = loop.time()
        for connection in left[-LOOK_MAX:]:
            if connection in connections:
                connection.check(self.now)
        del left[-LOOK_MAX:]
        if left:
            loop.call_soon(self._look, loop, connections, left)
            return
        self._scanning = bool(connections)
        if self._scanning:
            loop.call_later(self.scan_seconds, self._scan, loop, connections)
