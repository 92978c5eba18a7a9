"""Two real servers, the fast lane on and off: every request has the same answer, byte for byte.

The table holds the odd and the malformed as well, for there two implementations differ first. Dates, ids and
what follows from the time of day are masked; status, the list of headers and the body are not.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from edge.lanes import Client, until
from edge.shop import TOKEN, product, sale

from flashsale.core.catalogue import CreateSale, SaleDraft
from flashsale.edge.app import create_app
from flashsale.edge.sale_body import sale_draft
from flashsale.edge.server import HttpServer
from flashsale.engine import Engine
from flashsale.settings import Settings

RESERVE = "/api/v1/reservations"
AUTH = f"Authorization: Bearer {TOKEN}"


def request(method: str, path: str, body: bytes | str = b"", *headers: str, version: str = "1.1") -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/{version}", "Host: shop"]
    if content or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + content


def reserve(body: bytes | str, *headers: str) -> bytes:
    return request("POST", RESERVE, body, *headers)


BODIES: list[bytes | str] = [
    "", " ", "{", "}", "[]", "{}", "null", "true", "0", '"a"', "[1,2]", "{]", "{'a':1}", '{"a"}', '{"a":}', "nonsense",
    b"\xff", b"\xef\xbb\xbf{}", b'{"skuId":"\xff","userId":"u"}', b'{"skuId":"A","userId":"u"}\xff', b"\x00", b"{}\x00",
    '{"skuId":"A"}', '{"userId":"u1"}', '{"skuId":"A","userId":"b1"}', '{"skuId":"A","userId":"b2","quantity":1}',
    '{"skuId":"A","userId":"b3","quantity":2}', '{"skuId":"A","userId":"u","quantity":0}',
    '{"skuId":"A","userId":"u","quantity":-1}', '{"skuId":"A","userId":"u","quantity":10001}',
    '{"skuId":"A","userId":"u","quantity":1.0}', '{"skuId":"A","userId":"u","quantity":1e0}',
    '{"skuId":"A","userId":"u","quantity":"1"}', '{"skuId":"A","userId":"u","quantity":true}',
    '{"skuId":"A","userId":"u","quantity":null}', '{"skuId":"A","userId":"u","quantity":[]}',
    '{"skuId":"A","userId":"u","quantity":99999999999999999999999}', '{"skuId":null,"userId":"u"}',
    '{"skuId":1,"userId":"u"}', '{"skuId":"","userId":"u"}', '{"skuId":"a b","userId":"u"}',
    '{"skuId":"A\\n","userId":"u"}', '{"skuId":"\\u0041","userId":"b4"}', '{"skuId":"\\ud800","userId":"u"}',
    '{"skuId":"' + "A" * 64 + '","userId":"u"}', '{"skuId":"' + "A" * 65 + '","userId":"u"}',
    '{"skuId":"A","userId":""}', '{"skuId":"A","userId":"a b"}', '{"skuId":"A","userId":null}',
    '{"skuId":"A","userId":1}', '{"skuId":"A","userId":"\u00e9"}', '{"skuId":"A","userId":"' + "u" * 128 + '"}',
    '{"skuId":"A","userId":"' + "u" * 129 + '"}', '{"skuId":"A","userId":"u","requestKey":""}',
    '{"skuId":"A","userId":"b5","requestKey":"k"}', '{"skuId":"A","userId":"b5","requestKey":"k"}',
    '{"skuId":"A","userId":"b5","requestKey":"k","quantity":2}', '{"skuId":"A","userId":"b6","requestKey":null}',
    '{"skuId":"A","userId":"u","requestKey":"\\u00e9"}', '{"skuId":"A","userId":"u","requestKey":"' + "k" * 256 + '"}',
    '{"skuId":"A","userId":"u","requestKey":5}', '{"skuId":"A","skuId":"A","userId":"u"}',
    '{"skuId":"A","userId":"u","userId":"v"}', '{"skuId":"A","sku\\u0049d":"B","userId":"u"}',
    '{"skuId":"A","userId":"u","price":1}', '{"skuId":"A","userId":"u","":1}',
    '{"skuId":"A","userId":"u","status":"X"}',
    '{"skuId":"A","userId":"u","x":' + "[" * 40 + "]" * 40 + "}", "[" * 5000, '{"a":' * 3000,
    '{"skuId":"GONE","userId":"u"}', '{"skuId":"SOON","userId":"u"}', '{"skuId":"NONE","userId":"u"}',
    '{"skuId":"A","userId":"b1"}', ' {"skuId" : "A" , "userId" : "b7" } ', '{"skuId":"A","userId":"b8"}' + " " * 16_000,
    " " * 16_384, " " * 16_385, "x" * 60_000, '{"userId":"b9","skuId":"A"}', '{"SkuId":"A","userId":"u"}',
    '{"skuId":"A","userId":"b10","quantity":1,"requestKey":"\\"k\\""}', '{"skuId":"A","userId":"b11"},', "//{}", "{}{}",
]  # fmt: skip

PLAIN = '{"skuId":"A","userId":"%s"}'
HEADERS: list[tuple[str, ...]] = [
    ("X-User-ID: c1",), ("X-User-ID: other",), ("X-User-ID: ",), ("X-User-ID: a b",), ("x-user-id: c5",),
    ("X-User-ID: c6", "X-User-ID: c6"), ("X-User-ID: c7", "X-User-ID: other"), ("X-User-ID: \xe9",),
    ("Idempotency-Key: k",), ("Idempotency-Key: ",), ("Idempotency-Key: " + "k" * 256,), ("Idempotency-Key: \xe9",),
    ("Idempotency-Key: a", "Idempotency-Key: a"), ("Idempotency-Key: a", "Idempotency-Key: b"),
    ("Content-Type: application/json",), ("Content-Type: text/plain",), ("Content-Type: nonsense",),
    ("Accept: text/html",), ("Accept: ",), ("Accept-Encoding: gzip, br",), ("Connection: close",),
    ("Connection: keep-alive",), ("Connection: upgrade", "Upgrade: websocket"), ("Connection: Upgrade", "Upgrade: h2c"),
    ("Expect: 100-continue",), ("Expect: nonsense",), ("Authorization: Bearer x",), (AUTH,), ("X-Flashsale-Pass: x",),
    ("X-Flashsale-Device: e30",), ("Cookie: a=b",), ("Origin: http://evil.example",), ("X-Forwarded-For: 1.2.3.4",),
    ("X-HTTP-Method-Override: DELETE",), ("Prefer: wait=5",), ("X-Long: " + "x" * 4000,),
    *((f"X-{number}: 1",) for number in range(3)),
]  # fmt: skip

PATHS = [
    "/api/v1/products/A/availability", "/api/v1/products/GONE/availability", "/api/v1/products/SOON/availability",
    "/api/v1/products/NONE/availability", "/api/v1/products/A/availability/", "/api/v1/products//availability",
    "/api/v1//products/A/availability", "//api/v1/products/A/availability", "/api/v1/products/%41/availability",
    "/api/v1/products/A%2F/availability", "/api/v1/products/%00/availability", "/api/v1/products/%ff/availability",
    "/api/v1/products/%zz/availability", "/api/v1/products/A/availability?", "/api/v1/products/A/availability?x=1",
    "/api/v1/products/A/availability#x", "/api/v1/products/A/Availability", "/api/v1/products/a/availability",
    "/api/v1/products/../products/A/availability", "/api/v1/products/./A/availability",
    "/api/v1/products/" + "A" * 64 + "/availability", "/api/v1/products/" + "A" * 65 + "/availability",
    "/api/v1/products/" + "A" * 3000 + "/availability", "/api/v1/products/A.B/availability",
    "/api/v1/products/\xe9/availability", "http://shop/api/v1/products/A/availability", "*", "/", "/api", "/api/v1",
    "/api/v1/products", "/api/v1/products/A", "/api/v1/sales/S1", "/api/v1/sales/NONE",
    f"{RESERVE}/res_x", f"{RESERVE}/x", f"{RESERVE}/res_x?wait=1", f"{RESERVE}/res_x?wait=11",
    f"{RESERVE}/res_x?wait=a",
    f"{RESERVE}/res_x?wait=1&wait=2", f"{RESERVE}/res_x?%ff", f"{RESERVE}/res_x/", f"{RESERVE}/res_%78",
    f"{RESERVE}/" + "r" * 300, f"{RESERVE}/res_" + "r" * 64, f"{RESERVE}/res_" + "r" * 65, f"{RESERVE}/res_\xe9",
    f"{RESERVE}/cart", f"{RESERVE}/user/alice/active", f"{RESERVE}/user/a%20b/active", f"{RESERVE}/", RESERVE,
    "/api/v1/orders/ord_x", "/api/v1/orders/ord_x/status", "/api/v1/orders/user/alice", "/api/v1/orders/checkout",
    "/api/v1/admin/sales", "/health/live", "/api/docs", "/nothing", "/api/v1/reservations/res_x;a=b",
]  # fmt: skip

METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get", "BREW"]

RAW = [
    b"GET /api/v1/products/A/availability HTTP/1.0\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: \r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    b"GET /api/v1/products/A/availability HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /api/v1/products/A/availability\r\n\r\n",
    b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.0\r\nContent-Length: 26\r\n\r\n" + b'{"skuId":"A","userId":"d"}',
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'1a\r\n{"skuId":"A","userId":"e"}\r\n0\r\n\r\n',
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"
    b"0\r\n\r\n",
    b"POST /api/v1/reservations HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET /api/v1/products/A/availability HTTP/1.1\nHost: a\n\n",
]

OTHERS = [
    request("POST", f"{RESERVE}/cart", '{"items":[{"skuId":"A"}],"userId":"f"}'),
    request("POST", f"{RESERVE}/cart", '{"items":[]}'),
    request("POST", "/api/v1/orders/checkout", '{"reservationId":"r"}'),
    request("POST", "/api/v1/orders/checkout", '{"reservationId":"r","paymentTransactionId":"p"}'),
    request("POST", "/api/v1/admin/sales", "{}"),
    request("POST", "/api/v1/admin/sales", "{}", AUTH),
    request("GET", "/api/v1/admin/sales/S1/ledger", b"", AUTH),
    request("GET", f"{RESERVE}/res_x", b"", "X-User-ID: alice"),
    request("GET", f"{RESERVE}/res_x", b"", "X-User-ID: a b"),
    request("GET", f"{RESERVE}/res_x", b"", "X-User-ID: a", "X-User-ID: b"),
]

TABLE = [
    *(reserve(body) for body in BODIES),
    *(reserve(PLAIN % f"c{number}", *headers) for number, headers in enumerate(HEADERS, start=1)),
    *(request("GET", path) for path in PATHS),
    *(request(method, path) for method in METHODS for path in (RESERVE, PATHS[0], f"{RESERVE}/res_x")),
    *RAW,
    *OTHERS,
]

MASKS = [
    (re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), b"TIME"),
    (re.compile(rb"(res|ord|pay)_[0-9a-f]{40,}"), b"ID"),
    (re.compile(rb'"expiresInSeconds":\d+'), b"SECONDS"),
]


@asynccontextmanager
async def serving(folder: Path, sandbox_url: str, lane: str) -> AsyncIterator[int]:
    settings = Settings(data=str(folder / lane), sandbox_url=sandbox_url, fast_lane=lane, receive_seconds=1)  # type: ignore[arg-type]
    async with Engine.open(settings) as engine:
        for body in (
            sale(product("A", stock=1000), product("GONE", stock=0), startsAt="2026-01-01T00:00:00Z"),
            sale(product("SOON"), id="S2", startsAt="2999-01-01T00:00:00Z"),
        ):
            draft = sale_draft(body)
            assert isinstance(draft, SaleDraft)
            await engine.change_sale(CreateSale(draft, "test"))
        server = HttpServer(engine, create_app(engine, TOKEN), "127.0.0.1", 0)
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        try:
            yield server.port
        finally:
            server.should_exit = True
            await task


async def ask(port: int, data: bytes) -> tuple[object, ...]:
    """What a client sees of one request: all of it, masked."""
    async with Client(*await asyncio.open_connection("127.0.0.1", port)) as client:
        client.send(data)
        got = await client.get(head_only=data.startswith(b"HEAD "))
        if got.status == 100:
            got = await client.get()
    body = got.body
    for pattern, mask in MASKS:
        body = pattern.sub(mask, body)
    length = "MASKED" if body != got.body else got.header("content-length")
    shown = {"date": "DATE", "content-length": length}
    return got.status, [(name, shown.get(name, value)) for name, value in got.headers], body


async def test_both_lanes_give_the_same_answer_to_every_request_of_the_table(tmp_path: Path, sandbox_url: str) -> None:
    async with AsyncExitStack() as stack:
        on, off = [await stack.enter_async_context(serving(tmp_path, sandbox_url, lane)) for lane in ("on", "off")]
        answers = [(data, await ask(on, data), await ask(off, data)) for data in TABLE]
    differing = [(data[:200], fast, slow) for data, fast, slow in answers if fast != slow]
    assert differing == []
    assert {fast[0] for _, fast, _ in answers} >= {200, 201, 204, 400, 401, 403, 404, 405, 409, 413, 422}
    assert [data[:200] for data, fast, _ in answers if fast[0] >= 500] == []  # type: ignore[operator]


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 200


async def test_a_malformed_host_is_refused_by_both(tmp_path: Path, sandbox_url: str) -> None:
    data = b"GET /api/v1/products/A/availability HTTP/1.1\r\nHost: a b\r\n\r\n"
    async with AsyncExitStack() as stack:
        on, off = [await stack.enter_async_context(serving(tmp_path, sandbox_url, lane)) for lane in ("on", "off")]
        assert await ask(on, data) == await ask(off, data)
