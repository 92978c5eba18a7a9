"""Requests that want to be two, on raw sockets against both lanes.

Where a proxy and a server disagree about where a request ends, a client can hide a second one in the first. Each row
of the table is such an attempt, followed by INNER, the request that it wants to get through. What must come of it is in
the row: REFUSED (400, the connection ends, no route has been reached), or the one way in which it may be understood, as
the list of what is answered. Where INNER is answered, every reading of RFC 9112 says that it is a request of its own.

A row may not depend on how its bytes happen to arrive: each is sent whole, in two parts, and byte by byte.
"""

import asyncio
import re
from contextlib import suppress
from typing import NamedTuple

import pytest
from edge.lanes import AVAILABILITY, Client, Running, get, on_uvloop, post, serving

LANES = pytest.mark.parametrize("lane", ["on", "off"])
INNER = b"GET /inner HTTP/1.1\r\nHost: shop\r\n\r\n"
SIZE = len(INNER)
HOT = "/api/v1/products/PHONE/availability"
RESERVE = "/api/v1/reservations"
CHUNKED = "Transfer-Encoding: chunked"
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")

REFUSED = ["400"]
BOTH = ["/other 0", "/inner 0"]
"""The first has no body, and INNER is the next request."""
SWALLOWED = [f"/other {SIZE}"]
"""INNER is the body of the first, and nothing else."""
FIRST = ["/other 0"]
"""The first is answered and the connection ends: INNER is nobody's request."""


class Attempt(NamedTuple):
    why: str
    data: bytes
    expected: list[str]


def to(path: str, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    return get(path, *headers, method=method, version=version)


def chunks(why: str, body: bytes, expected: list[str] = REFUSED) -> Attempt:
    return Attempt(why, to("/other", CHUNKED) + body + INNER, expected)


def coded(why: str, *headers: str, expected: list[str] = REFUSED, **more: str) -> Attempt:
    return Attempt(why, to("/other", *headers, **more) + b"0\r\n\r\n" + INNER, expected)


def sized(why: str, *headers: str, expected: list[str] = REFUSED, **more: str) -> Attempt:
    return Attempt(why, to("/other", *headers, **more) + INNER, expected)


def asked(why: str, *headers: str, expected: list[str] = REFUSED, method: str = "GET", path: str = "/other",
          version: str = "1.1") -> Attempt:  # fmt: skip
    return Attempt(why, get(path, *headers, method=method, version=version) + INNER, expected)


def hosted(why: str, *lines: str, expected: list[str] = REFUSED, version: str = "1.1") -> Attempt:
    head = "\r\n".join([f"GET /other HTTP/{version}", *lines, "", ""]).encode("latin-1")
    return Attempt(why, head + INNER, expected)


def raw(why: str, data: bytes, expected: list[str] = REFUSED) -> Attempt:
    return Attempt(why, data + INNER, expected)


LENGTH_AGAINST_CHUNKS = [
    coded("CL.TE: a proxy that goes by the length sees one request", f"Content-Length: {SIZE + 5}", CHUNKED),
    coded("TE.CL: a proxy that goes by the chunks sees two", CHUNKED, "Content-Length: 3"),
    coded("CL.TE with a length that is even right", "Content-Length: 5", CHUNKED),
    coded("a length of nothing beside chunks", "Content-Length: 0", CHUNKED),
    coded("CL.TE on a GET", "Content-Length: 5", CHUNKED, method="GET"),
    coded("CL.TE in HTTP/1.0", "Content-Length: 5", CHUNKED, version="1.0"),
    coded("chunks in HTTP/1.0, where nobody may know them", CHUNKED, version="1.0"),
    coded("chunks in HTTP/1.0 that wants to stay", CHUNKED, "Connection: keep-alive", version="1.0"),
    coded("CL.TE under the cover of an upgrade", *H2C, "Content-Length: 5", CHUNKED),
    Attempt("CL.TE on a hot route", to(RESERVE, "Content-Length: 5", CHUNKED) + b"0\r\n\r\n" + INNER, REFUSED),
    Attempt("CL.TE on a hot GET", get(HOT, "Content-Length: 5", CHUNKED) + b"0\r\n\r\n" + INNER, REFUSED),
]

CODINGS = [
    coded("TE.TE: a coding that one of two takes for chunked", "Transfer-Encoding: xchunked"),
    coded("a coding after chunked, so that the end is unknown", "Transfer-Encoding: chunked, gzip"),
    coded("a coding before chunked, which nobody would undo", "Transfer-Encoding: gzip, chunked"),
    coded("an empty element before chunked", "Transfer-Encoding: ,chunked"),
    coded("an empty element after chunked", "Transfer-Encoding: chunked,"),
    coded("chunked twice in one header", "Transfer-Encoding: chunked, chunked"),
    coded("chunked twice in two headers", CHUNKED, CHUNKED),
    coded("identity first, chunked then", "Transfer-Encoding: identity", CHUNKED),
    coded("chunked first, identity then", CHUNKED, "Transfer-Encoding: identity"),
    coded("chunked first, nonsense then", CHUNKED, "Transfer-Encoding: cow"),
    coded("identity, which is no coding any more", "Transfer-Encoding: identity"),
    coded("no coding at all", "Transfer-Encoding:"),
    coded("chunked in quotes", 'Transfer-Encoding: "chunked"'),
    coded("chunked with a parameter", "Transfer-Encoding: chunked;q=1"),
    coded("a space before the colon", "Transfer-Encoding : chunked"),
    coded("a tab before the colon", "Transfer-Encoding\t: chunked"),
    coded("a vertical tab before the value", "Transfer-Encoding: \x0bchunked"),
    coded("a vertical tab behind the value", "Transfer-Encoding: chunked\x0b"),
    coded("a NUL behind the value", "Transfer-Encoding: chunked\0"),
    coded("a NUL behind the name", "Transfer-Encoding\0: chunked"),
    coded("a space before the name", " Transfer-Encoding: chunked"),
    coded("folded into the header before", "X: x\r\n Transfer-Encoding: chunked"),
    coded("folded away from its name", "Transfer-Encoding:\r\n chunked"),
    coded("behind a bare line feed", "X: a\nTransfer-Encoding: chunked"),
    coded("behind a bare carriage return", "X: a\rTransfer-Encoding: chunked"),
    coded("in capitals, which is the same", "TRANSFER-ENCODING: CHUNKED", expected=BOTH),
    coded("with a tab before the value, which is the same", "Transfer-Encoding:\tchunked", expected=BOTH),
    coded("with a space behind the value, which is the same", "Transfer-Encoding: chunked ", expected=BOTH),
    coded("an underscore: another header", "Transfer_Encoding: chunked", expected=[*FIRST, "400"]),
    coded("on a GET", CHUNKED, method="GET", expected=BOTH),
    coded("on a DELETE", CHUNKED, method="DELETE", expected=BOTH),
    coded("beside an offer to upgrade", *H2C, CHUNKED, expected=BOTH),
]  # fmt: skip

LENGTHS = [
    sized("two lengths", "Content-Length: 0", f"Content-Length: {SIZE}"),
    sized("two lengths, the long one first", f"Content-Length: {SIZE}", "Content-Length: 0"),
    sized("the same length twice", f"Content-Length: {SIZE}", f"Content-Length: {SIZE}"),
    sized("two lengths in one header", f"Content-Length: 0, {SIZE}"),
    sized("the same length twice in one header", f"Content-Length: {SIZE}, {SIZE}"),
    sized("two lengths under the cover of an upgrade", *H2C, "Content-Length: 0", f"Content-Length: {SIZE}"),
    sized("a plus", f"Content-Length: +{SIZE}"),
    sized("a minus", f"Content-Length: -{SIZE}"),
    sized("hexadecimal", f"Content-Length: {SIZE:#x}"),
    sized("a fraction", f"Content-Length: {SIZE}.0"),
    sized("an exponent", "Content-Length: 3e1"),
    sized("an underscore, which Python takes in a number", "Content-Length: 3_7"),
    sized("a space within", "Content-Length: 3 7"),
    sized("nothing", "Content-Length:"),
    sized("a digit that is not ASCII", "Content-Length: \xb2"),
    sized("a vertical tab", f"Content-Length: \x0b{SIZE}"),
    sized("a space before the colon", f"Content-Length : {SIZE}"),
    sized("a NUL behind the name", f"Content-Length\0: {SIZE}"),
    sized("folded away from its name", f"Content-Length:\r\n {SIZE}"),
    sized("2^64, which is 0 in 64 bits", "Content-Length: 18446744073709551616"),
    sized("a very large number", "Content-Length: " + "9" * 40),
    sized("2^64 - 1, which is -1 in 64 bits", "Content-Length: 18446744073709551615", expected=["413"]),
    sized("zeros in front, which is the same", f"Content-Length: 000{SIZE}", expected=SWALLOWED),
    sized("a space behind, which is the same", f"Content-Length: {SIZE} ", expected=SWALLOWED),
    sized("a GET with a body", f"Content-Length: {SIZE}", method="GET", expected=SWALLOWED),
    sized("a body beside an offer to upgrade", *H2C, f"Content-Length: {SIZE}", expected=SWALLOWED),
    sized("a length that is said to be of this connection only", "Connection: Upgrade, Content-Length", *H2C[1:],
          f"Content-Length: {SIZE}", expected=SWALLOWED),
    sized("a body, and then the end", "Connection: close", f"Content-Length: {SIZE}", expected=SWALLOWED),
    sized("no length: the body is empty", expected=BOTH),
    sized("no length in HTTP/1.0", version="1.0", expected=FIRST),
    sized("a length that ends within INNER: the rest is no request", "Content-Length: 5", expected=["/other 5", "400"]),
    Attempt("a hot GET with a body", get(HOT, f"Content-Length: {SIZE}") + INNER, ["PHONE"]),
    raw("a body that looks like a hot request", post("/other", AVAILABILITY), ["/other 64", "/inner 0"]),
]  # fmt: skip

CHUNKS = [
    chunks("an extension that ends with a bare line feed", b"1;\nx\r\n0\r\n\r\n"),
    chunks("an extension that goes over the end of its line in quotes", b'1;a="\r\nx\r\n0\r\n\r\n'),
    chunks("bare line feeds", b"1\nx\n0\n\n"),
    chunks("a bare line feed behind the size", b"1\nx\r\n0\r\n\r\n"),
    chunks("a bare line feed behind the data", b"1\r\nx\n0\r\n\r\n"),
    chunks("a bare line feed behind the last size", b"1\r\nx\r\n0\n\r\n"),
    chunks("a bare line feed at the end", b"1\r\nx\r\n0\r\n\n"),
    chunks("a bare carriage return behind the size", b"1\rx\r\n0\r\n\r\n"),
    chunks("two bytes behind the data that are no end of a line", b"1\r\nxXX0\r\n\r\n"),
    chunks("more data than the size says", b"1\r\nxx\r\n0\r\n\r\n"),
    chunks("a size with 0x", b"0x1\r\nx\r\n0\r\n\r\n"),
    chunks("a size with a plus", b"+1\r\nx\r\n0\r\n\r\n"),
    chunks("a size with a minus", b"-1\r\nx\r\n0\r\n\r\n"),
    chunks("a size behind a space", b" 1\r\nx\r\n0\r\n\r\n"),
    chunks("a size before a space", b"1 \r\nx\r\n0\r\n\r\n"),
    chunks("no size", b"\r\nx\r\n0\r\n\r\n"),
    chunks("an extension of no size", b";1\r\nx\r\n0\r\n\r\n"),
    chunks("a size of 65 bits, which is 1 in 64", b"10000000000000001\r\nx\r\n0\r\n\r\n"),
    chunks("a size of 64 bits, which is -1: the body does not end", b"ffffffffffffffff\r\nx\r\n0\r\n\r\n", []),
    chunks("a trailer that says a length", b"0\r\nContent-Length: 37\r\n\r\n"),
    chunks("a trailer that says chunks", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    chunks("a request in the trailers", b"0\r\nGET /inner HTTP/1.1\r\nHost: shop\r\n\r\n"),
    chunks("an extension, which is ignored", b"1;a=b\r\nx\r\n0\r\n\r\n", ["/other 1", "/inner 0"]),
    chunks("a size with zeros, which is the same", b"0001\r\nx\r\n000\r\n\r\n", ["/other 1", "/inner 0"]),
    chunks("a trailer, which is ignored", b"0\r\nHost: evil\r\n\r\n", BOTH),
    chunks("a trailer with an offer, which is ignored", b"0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", BOTH),
    chunks("a trailer that ends the connection", b"0\r\nConnection: close\r\n\r\n", FIRST),
]  # fmt: skip

LINES = [
    raw("bare line feeds", get("/other").replace(b"\r\n", b"\n")),
    raw("a bare line feed behind the request line", b"GET /other HTTP/1.1\nHost: shop\r\n\r\n"),
    raw("a bare line feed behind a header", b"GET /other HTTP/1.1\r\nHost: shop\nX: 1\r\n\r\n"),
    raw("a bare line feed at the end", b"GET /other HTTP/1.1\r\nHost: shop\r\n\n"),
    raw("two bare line feeds at the end", b"GET /other HTTP/1.1\r\nHost: shop\n\n"),
    raw("a bare carriage return behind the request line", b"GET /other HTTP/1.1\rHost: shop\r\n\r\n"),
    raw("two carriage returns", b"GET /other HTTP/1.1\r\nHost: shop\r\r\n\r\n"),
    raw("empty lines before it, which are ignored", b"\r\n\r\n" + get("/other"), BOTH),
    raw("a space before it", b" " + get("/other")),
    raw("a tab instead of spaces", b"GET\t/other\tHTTP/1.1\r\nHost: shop\r\n\r\n"),
    raw("a space behind the version", b"GET /other HTTP/1.1 \r\nHost: shop\r\n\r\n"),
    raw("no version", b"GET /other\r\nHost: shop\r\n\r\n"),
    raw("http in small letters", b"GET /other http/1.1\r\nHost: shop\r\n\r\n"),
    raw("a method in small letters", b"get /other HTTP/1.1\r\nHost: shop\r\n\r\n"),
    raw("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    asked("a version that has no meaning", version="1.2"),
    asked("a version of two digits", version="1.10"),
    asked("HTTP/2 in the clothes of HTTP/1", version="2.0"),
    asked("HTTP/0.9 with a version", version="0.9"),
    asked("a folded header", "X: a\r\n b"),
    asked("a header folded with a tab", "X: a\r\n\tb"),
    raw("a first header that is folded", b"GET /other HTTP/1.1\r\n Host: shop\r\nHost: other\r\n\r\n"),
    asked("a folded header under the cover of an upgrade", *H2C, "X: a\r\n b"),
    asked("a space in a name", "Bad Name: 1"),
    asked("a bracket in a name", "Bad(): 1"),
    asked("no name", ": 1"),
    asked("no colon", "Nonsense"),
    asked("a name that is not ASCII", "N\xe4me: 1"),
    asked("a NUL in a value", "X: a\0b"),
    asked("a control character in a value", "X: a\x01b"),
    asked("a line feed in a value, with a request behind it", "X: a\nGET /inner HTTP/1.1"),
    asked("a value that is not ASCII, which is left alone", "X: \xe4", expected=BOTH),
    asked("a space in the target", path="/other x"),
    asked("a tab in the target", path="/other\tx"),
    asked("a NUL in the target", path="/other\0"),
    asked("a byte in the target that is not ASCII", path="/other\xe4"),
]

TARGETS = [
    asked("authority-form without CONNECT", path="shop:80"),
    asked("CONNECT", method="CONNECT", path="shop:80"),
    asked("CONNECT with a body", f"Content-Length: {SIZE}", method="CONNECT", path="shop:80"),
    asked("absolute-form: the path counts", path="http://shop/other", expected=BOTH),
    asked("absolute-form that names another host: the path counts", path="http://other/other", expected=BOTH),
    asked("asterisk-form", method="OPTIONS", path="*", expected=["* 0", "/inner 0"]),
    hosted("no host"),
    hosted("two hosts", "Host: shop", "Host: other"),
    hosted("the same host twice", "Host: shop", "Host: shop"),
    hosted("two hosts in HTTP/1.0", "Host: shop", "Host: other", version="1.0"),
    hosted("two hosts in one header", "Host: shop, other"),
    hosted("a host with a path", "Host: shop/other"),
    hosted("a host with a user", "Host: shop@other"),
    hosted("a host whose port is none", "Host: shop:other"),
    hosted("a host with a control character", "Host: sh\x01op"),
    hosted("a folded host", "Host: shop\r\n .other"),
    hosted("a space before the colon", "Host : shop"),
    hosted("an empty host, which HTTP allows", "Host:", expected=BOTH),
    hosted("a host with a port", "Host: [::1]:8080", expected=BOTH),
    hosted("no host in HTTP/1.0", version="1.0", expected=FIRST),
    raw("a malformed host on a hot route", b"GET " + HOT.encode() + b" HTTP/1.1\r\nHost: a/b\r\n\r\n"),
]  # fmt: skip

ENDS = [
    asked("an offer of HTTP/2, which is ignored", *H2C, expected=BOTH),
    asked("an offer of a websocket, which is ignored", "Connection: Upgrade", "Upgrade: websocket", expected=BOTH),
    asked("an offer to upgrade from somebody who ends", "Connection: Upgrade, close", "Upgrade: h2c", expected=FIRST),
    asked("Connection: close", "Connection: close", expected=FIRST),
    asked("CONNECTION: CLOSE", "CONNECTION: CLOSE", expected=FIRST),
    asked("both of keep-alive and close", "Connection: keep-alive, close", expected=FIRST),
    asked("keep-alive and close in two headers", "Connection: keep-alive", "Connection: close", expected=FIRST),
    asked("Proxy-Connection, which some clients mean so", "Proxy-Connection: close", expected=FIRST),
    asked("HTTP/1.0", version="1.0", expected=FIRST),
    Attempt("a byte between two requests", post("/other", b"") + b"x" + INNER, [*FIRST, "400"]),
    Attempt("a refused request before a good one", post("/other", b"x" * 20_000) + INNER, ["413"]),
    raw("something bad behind something refused", to("/other", "Host: other", CHUNKED) + b"zz\r\n"),
    Attempt("a head that is too large", get("/other", "X: " + "x" * 40_000) + INNER, ["431"]),
    Attempt("too many headers", get("/other", *["X: 1"] * 101) + INNER, ["431"]),
]  # fmt: skip

TABLE = [*LENGTH_AGAINST_CHUNKS, *CODINGS, *LENGTHS, *CHUNKS, *LINES, *TARGETS, *ENDS]

ANSWER = re.compile(rb'HTTP/1\.1 (?!100)(\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*\r\n(\{[^{}]*(?:\{.*\})?[^{}]*\}|"early")?')
ECHO = re.compile(rb'"path": "([^"]*)", "version": "[^"]*", "bytes": (\d+)')


def whole(data: bytes) -> list[bytes]:
    return [data]


def halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 2], data[len(data) // 2 :]]


def at_the_seam(data: bytes) -> list[bytes]:
    """INNER comes alone, as if it were a request of its own."""
    return [data.removesuffix(INNER), INNER]


def bytewise(data: bytes) -> list[bytes]:
    """Of what is large, only the last bytes."""
    return [data[:-300], *(data[at : at + 1] for at in range(max(0, len(data) - 300), len(data)))]


async def understood(server: Running, parts: list[bytes]) -> list[str]:
    """What the server answered to, in order, until it or the client ended the connection."""
    async with await server.connect() as client:
        heard: list[bytes] = []
        hearing = asyncio.create_task(hear(client, heard))
        for part in parts:
            if not client.writer.transport.is_closing():
                client.send(part)
                await asyncio.sleep(0)
        await server.ask(AVAILABILITY)  # by now the server has read what came before
        if not client.writer.transport.is_closing():
            client.finish()
        await asyncio.wait_for(hearing, 5)
    return [said(match[1], match[2] or b"") for match in ANSWER.finditer(b"".join(heard))]


async def hear(client: Client, heard: list[bytes]) -> None:
    """Who sends on after his last answer may find the connection reset."""
    with suppress(ConnectionResetError):
        while data := await client.reader.read(65536):
            heard.append(data)


def said(status: bytes, body: bytes) -> str:
    if status != b"200":
        return status.decode()
    echo = ECHO.search(body)
    return f"{echo[1].decode()} {echo[2].decode()}" if echo else "PHONE" if b'"PHONE"' in body else "?"


@LANES
@pytest.mark.parametrize("split", [whole, halves, at_the_seam, bytewise])
@on_uvloop
async def test_no_request_comes_out_of_another(lane, split):
    async with serving(fast_lane=lane) as server:
        found = [(each.why, each.expected, await understood(server, split(each.data))) for each in TABLE]
    assert [(why, expected, got) for why, expected, got in found if got != expected] == []


@LANES
@on_uvloop
async def test_what_is_refused_reaches_no_route(lane):
    refused = [each for each in TABLE if each.expected == REFUSED]
    assert len(refused) > 100
    async with serving(fast_lane=lane) as server:
        for each in refused:
            async with await server.connect() as client:
                client.send(each.data)
                got = await client.get()
                assert (got.status, got.json["code"]) == (400, "VALIDATION_FAILED"), each.why
                assert got.header("connection") == "close", each.why
                assert await client.rest() == b"", each.why
        assert server.app.bodies == []
