"""From which address somebody asks: the peer's, or what trusted proxies say of it in X-Forwarded-For.

Each proxy appends the address of its own peer, so the list is read from its right end, and only as long as whoever
has written an entry is trusted. What stands further left was written by a stranger, who may write what he likes.

    peer 10.0.0.2 (trusted)   X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.1
                              invented ──────┘    ▲          └── trusted, so its word counts
                                                  └───────────── the client: his own word does not count
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

KNOWN_MAX = 8192
"""Addresses that are remembered, each with the list that led to it."""
LIST_MAX = 1024
"""Bytes of the list that are looked at, from its right end."""
_BYTE = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN = re.compile(rb"%b(?:\.%b){3}" % (_BYTE, _BYTE)).fullmatch
"""An address of IPv4 in its one form: what a single proxy writes."""


class Addresses:
    """Counts over one set of trusted networks, and remembers. Every request asks, so that it must be cheap."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(each, strict=False) for each in trusted]
        self.trusts = lru_cache(KNOWN_MAX)(self._is_trusted)
        self.plain = lru_cache(KNOWN_MAX)(_shown)
        self._counted = lru_cache(KNOWN_MAX)(self._count)
        self._latest: tuple[str | None, bytes, str | None] = (None, b"", None)

    def of(self, peer: str | None, forwarded_for: bytes | None) -> str | None:
        """The client's address; None: the peer has none."""
        if forwarded_for is None:
            return self.plain(peer)
        latest_peer, latest, address = self._latest
        if forwarded_for is latest and peer is latest_peer:  # one request asks at the door, and when it is judged
            return address
        address = self._of(peer, forwarded_for)
        self._latest = peer, forwarded_for, address
        return address

    def _of(self, peer: str | None, forwarded_for: bytes) -> str | None:
        if not self.trusts(peer):
            return self.plain(peer)
        if _PLAIN(forwarded_for):  # each visitor has another one: a look is cheaper than remembering them
            return forwarded_for.decode("ascii")
        return self._counted(peer, forwarded_for[-LIST_MAX:], len(forwarded_for) > LIST_MAX)

    def _is_trusted(self, peer: str | None) -> bool:
        return self._within(_address_of(peer))

    def _within(self, address: IPv4Address | IPv6Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)

    def _count(self, peer: str | None, entries: bytes, cut: bool) -> str | None:
        address = _address_of(peer)
        hops = entries.decode("latin-1").split(",")
        for hop in reversed(hops[1:] if cut else hops):  # the first of a list that was cut may be half an address
            if not self._within(address):
                break
            told = _address(_without_port(hop.strip(" \t")))
            if told is None:
                break
            address = told
        return str(address)


def _shown(peer: str | None) -> str | None:
    address = _address_of(peer)
    return None if address is None else str(address)


def _address_of(peer: str | None) -> IPv4Address | IPv6Address | None:
    """The system tells of a neighbour by which interface he is one."""
    return _address((peer or "").partition("%")[0])


def _without_port(hop: str) -> str:
    """`1.2.3.4:80`, `[::1]:80` and `[::1]` without what is not the address."""
    if hop.startswith("["):
        address, closed, port = hop[1:].partition("]")
        return address if closed and (not port or _is_port(port)) else ""
    address, colon, port = hop.partition(":")
    return address if colon and "." in address and _is_port(colon + port) else hop


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isascii() and text[1:].isdecimal() and len(text) <= len(":65535")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address in its one form: an IPv4 address in the clothes of IPv6 is an IPv4 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return address
    return None if address.scope_id else address.ipv4_mapped or address
