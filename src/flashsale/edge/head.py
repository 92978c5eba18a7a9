"""The head of a request, as far as HTTP itself has an opinion about it."""

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The same head without its offer to go on in another protocol (RFC 9110, 7.8: a server may ignore it)."""
    kept = [(name, value) for name, value in headers if name.lower() not in (b"upgrade", b"connection")]
    if any(name.lower() == b"connection" and b"close" in value.lower() for name, value in headers):
        kept.append((b"connection", b"close"))
    lines = b"".join([b"%b: %b\r\n" % header for header in kept])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), lines)


def names_its_host(version: str, headers: Headers) -> bool:
    """RFC 9112, 3.2: a request of HTTP/1.1 without exactly one Host is refused with 400."""
    return version != "1.1" or sum(name.lower() == b"host" for name, _ in headers) == 1
