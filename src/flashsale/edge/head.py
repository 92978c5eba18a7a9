"""The head of a request, as far as HTTP itself has an opinion about it.

The parser refuses what is malformed. What is refused here is well-formed and still ambiguous: a proxy in front of us
may take it otherwise than we do, and then it would see one request where we see two (RFC 9112, 11.2).
"""

import re
from collections.abc import Sequence
from typing import Protocol

from flashsale.core.refusal import Refused, invalid

Headers = Sequence[tuple[bytes, bytes]]

VERSIONS = ("1.1", "1.0")
is_host = re.compile(rb"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?").fullmatch
"""Whether it is a name or an address, with or without a port."""


class Parser(Protocol):
    """What is asked of the parser that has read a head."""

    def get_method(self) -> bytes: ...
    def get_http_version(self) -> str: ...


def without_upgrade(parser: Parser, url: bytes, headers: Headers) -> bytes:
    """The same head without its offer to go on in another protocol (RFC 9110, 7.8: a server may ignore it)."""
    kept = [(name, value) for name, value in headers if name.lower() not in (b"upgrade", b"connection")]
    if any(name.lower() == b"connection" and b"close" in value.lower() for name, value in headers):
        kept.append((b"connection", b"close"))
    lines = b"".join([b"%b: %b\r\n" % header for header in kept])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (parser.get_method(), url, parser.get_http_version().encode(), lines)


def ambiguity(version: str, headers: Headers) -> Refused | None:
    """Why a head may be understood in more than one way."""
    if version not in VERSIONS:
        return invalid("request", "must be HTTP/1.1 or HTTP/1.0")
    hosts = [value.strip(b" \t") for name, value in headers if name.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return invalid("Host", "must be there, once")
    if hosts and hosts[0] and not is_host(hosts[0]):
        return invalid("Host", "must be a name or an address, with or without a port")
    codings = [value.strip(b" \t").lower() for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version != "1.1"):
        return invalid("Transfer-Encoding", "must be chunked and nothing else, and needs HTTP/1.1")
    return None
