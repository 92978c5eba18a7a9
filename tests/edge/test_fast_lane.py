"""Both lanes on real sockets: the same answers, in order, whatever a client does to its connection."""

import asyncio
import re

import pytest
from edge.lanes import AVAILABILITY, Client, Got, get, on_uvloop, post, reserve, serving, until

from flashsale.edge.guard import LEAVE_SECONDS

LANES = pytest.mark.parametrize("lane", ["on", "off"])
HOT_GET = "/api/v1/products/PHONE/availability"
RESERVE = "/api/v1/reservations"
BODY = b'{"skuId":"PHONE","userId":"alice"}'
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

REQUESTS = {
    "a reservation": reserve(),
    "with a key": reserve("PHONE", "alice", "Idempotency-Key: k1"),
    "with a key that was used": reserve("PHONE", "alice", "Idempotency-Key: again"),
    "with a user in the header": post(RESERVE, b'{"skuId":"PHONE"}', "X-User-ID: alice"),
    "headers in capitals": post(RESERVE, b'{"skuId":"PHONE"}', "X-USER-ID: alice", "IDEMPOTENCY-KEY: again"),
    "users that differ": post(RESERVE, BODY, "X-User-ID: bob"),
    "sold out": reserve("GONE"),
    "no body": get(RESERVE, method="POST"),
    "a broken body": post(RESERVE, b"{"),
    "an unknown field": post(RESERVE, b'{"skuId":"PHONE","userId":"a","unitPrice":1}'),
    "asks to close": reserve("PHONE", "alice", "Connection: close"),
    "asks to stay": reserve("PHONE", "alice", "Connection: keep-alive"),
    "in chunks": get(RESERVE, "Transfer-Encoding: chunked", method="POST") + CHUNKS,
    "HTTP/1.0": post(RESERVE, BODY, version="1.0"),
    "with a query": post(RESERVE + "?x=1", BODY),
    "absolute form": post("http://shop" + RESERVE, BODY),
    "availability": AVAILABILITY,
    "availability, closing": get(HOT_GET, "Connection: close"),
    "availability over HTTP/1.0": get(HOT_GET, version="1.0"),
    "availability over HTTP/1.0, kept alive": get(HOT_GET, "Connection: keep-alive", version="1.0"),
    "availability of nothing": get("/api/v1/products/NOTHING/availability"),
    "availability with a body": get(HOT_GET, "Content-Length: 2") + b"{}",
    "a reservation that is not there": get("/api/v1/reservations/res_none"),
    "a reservation of somebody": get("/api/v1/reservations/res_0"),
    "a reservation of somebody else": get("/api/v1/reservations/res_0", "X-User-ID: mallory"),
    "a bad user": get("/api/v1/reservations/res_0", "X-User-ID: a b"),
    "an upgrade": get(HOT_GET, "Connection: Upgrade", "Upgrade: websocket"),
    "an upgrade to HTTP/2": get(HOT_GET, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "a reservation that offers HTTP/2": post(RESERVE, BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "chunks that offer HTTP/2": get(
        RESERVE, "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked", method="POST") + CHUNKS,
    "no host": b"GET /api/v1/products/PHONE/availability HTTP/1.1\r\n\r\n",
    "two hosts": get(HOT_GET, "Host: other"),
    "something else": get("/other"),
    "malformed": b"GET / HTTP/1.1\r\nHost shop\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a bad version": b"GET / HTTP/9.9\r\n\r\n",
    "bytes in the path": b"GET /\xff HTTP/1.1\r\nHost: shop\r\n\r\n",
    "no path": b"CONNECT shop:80 HTTP/1.1\r\nHost: shop\r\n\r\n",
    "two lengths": get(RESERVE, "Content-Length: 2", "Content-Length: 3", method="POST") + b"{} ",
    "the same length twice": get(RESERVE, "Content-Length: 2", "Content-Length: 2", method="POST") + b"{}",
    "length and chunks": get(RESERVE, "Content-Length: 2", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n",
    "chunks and length": get(RESERVE, "Transfer-Encoding: chunked", "Content-Length: 2", method="POST") + b"0\r\n\r\n",
    "an unknown coding": get(RESERVE, "Transfer-Encoding: gzip", method="POST") + b"0\r\n\r\n",
    "a coding after chunked": get(RESERVE, "Transfer-Encoding: chunked, gzip", method="POST") + b"0\r\n\r\n",
    "a negative length": get(RESERVE, "Content-Length: -1", method="POST"),
    "a folded header": get(HOT_GET, "X-Long: a\r\n b"),
    "a space before the colon": get(HOT_GET, "Content-Length : 0"),
    "bare line feeds": AVAILABILITY.replace(b"\r\n", b"\n"),
}  # fmt: skip
REFUSED_AS_HTTP = [
    "malformed", "no HTTP at all", "a bad version", "bytes in the path", "no path", "two lengths",
    "the same length twice", "length and chunks", "chunks and length", "an unknown coding",
    "a coding after chunked", "a negative length", "a space before the colon",
]  # fmt: skip

TIMES_AND_IDS = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|res_\d+|\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT")


async def everything(lane: str) -> dict[str, bytes]:
    """What a server answers to each of the requests, to its last byte."""
    answers = {}
    async with serving(fast_lane=lane) as server:
        for name, request in REQUESTS.items():
            async with await server.connect() as client:
                client.send(request)
                first = await client.reader.read(1)
                client.finish()
                answers[name] = TIMES_AND_IDS.sub(b"...", first + await client.rest())
    return answers


@on_uvloop
async def test_both_lanes_answer_byte_for_byte_alike():
    fast, ordinary = await everything("on"), await everything("off")
    assert fast == ordinary
    assert all(answer.startswith(b"HTTP/1.1 ") for answer in fast.values())


@LANES
@on_uvloop
async def test_malformed_or_ambiguous_http_is_refused_with_400_and_the_connection_ends(lane):
    async with serving(fast_lane=lane) as server:
        for name in REFUSED_AS_HTTP:
            async with await server.connect() as client:
                client.send(REQUESTS[name])
                got = await client.get()
                assert (got.status, got.json["code"]) == (400, "VALIDATION_FAILED"), name
                assert got.json["details"]["errors"][0]["field"] in ("request", "Transfer-Encoding"), name
                assert got.header("connection") == "close"
                assert await client.rest() == b""
        assert server.app.bodies == []


@on_uvloop
async def test_a_trace_is_that_of_its_request_alone_also_on_one_connection():
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    traced = reserve("PHONE", "alice", f"traceparent: 00-{trace}-00f067aa0ba902b7-01")
    async with serving() as server, await server.connect() as client:
        for request in (traced, reserve(), traced + reserve() + traced):
            client.send(request)
            assert (await client.get()).status == 201
        assert [(await client.get()).status for _ in range(2)] == [201, 201]
        assert server.shop.traces == [trace, None, trace, None, trace]
        assert server.app.bodies == []


@LANES
@on_uvloop
async def test_an_answer_has_its_headers_in_one_order_and_names_no_server(lane):
    async with serving(fast_lane=lane) as server:
        got = await server.ask(reserve("PHONE", "alice", "Idempotency-Key: again", "Connection: close"))
        assert got.names == ["date", "content-type", "content-length", "idempotent-replay", "connection"]


@on_uvloop
async def test_plain_hot_requests_take_the_fast_lane_and_unusual_ones_do_not():
    async with serving() as server, await server.connect() as client:
        for request in (reserve(), AVAILABILITY, AVAILABILITY, get("/api/v1/reservations/res_0")):
            client.send(request)
            assert (await client.get()).status in (200, 201)
        assert server.app.bodies == []
        for name in ("with a query", "in chunks", "HTTP/1.0", "availability with a body"):
            server.app.bodies.clear()
            await server.ask(REQUESTS[name])
            assert len(server.app.bodies) == 1, name


@LANES
@on_uvloop
async def test_requests_are_answered_one_byte_at_a_time_too(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        for request in (reserve(), AVAILABILITY, REQUESTS["in chunks"]):
            for byte in request:
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.get()).status in (200, 201)


# Order

SLOW = reserve("SLOW", "slow")
PIPELINES = {
    "hot behind hot": [SLOW, AVAILABILITY, reserve()],
    "ordinary behind hot": [SLOW, get("/other"), SLOW, get("/another")],
    "hot behind ordinary": [get("/wait"), AVAILABILITY, reserve(), get("/other")],
    "ordinary with a body between hot ones": [SLOW, post("/other", b"x" * 100), AVAILABILITY],
    "everything": [
        SLOW,
        AVAILABILITY,
        get("/wait"),
        get("/wait"),
        reserve("GONE"),
        get("/nothing"),
        SLOW,
        AVAILABILITY,
    ],
}


async def answers(client: Client, number: int) -> list[Got]:
    return [await client.get() for _ in range(number)]


async def let_everything_happen(server) -> None:
    server.app.gate.set()
    for _ in range(1000):
        server.shop.release()
        await asyncio.sleep(0.001)


def expected(request: bytes) -> int:
    if b"/nothing" in request:
        return 204
    return 409 if b"GONE" in request else 201 if request.startswith(b"POST /api") else 200


@LANES
@pytest.mark.parametrize("name", PIPELINES)
@on_uvloop
async def test_pipelined_requests_are_answered_in_their_order(lane, name):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(*PIPELINES[name])
        helper = asyncio.create_task(let_everything_happen(server))
        got = await answers(client, len(PIPELINES[name]))
        helper.cancel()
        assert [each.status for each in got] == [expected(request) for request in PIPELINES[name]]
        assert [kind(answer.body) for answer in got] == [kind(request) for request in PIPELINES[name]]


def kind(data: bytes) -> bytes:
    """What tells requests apart, and their answers likewise."""
    return b" ".join(mark for mark in (b"/other", b"/another", b"/wait", b'"SLOW"', b'"GONE"') if mark in data)


@LANES
@on_uvloop
async def test_a_pipelined_request_waits_until_the_one_before_it_has_its_answer(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(SLOW, SLOW, get("/other"))
        await server.shop.until_held(1)
        await (await server.connect()).__aexit__()
        await server.ask(AVAILABILITY)
        assert len(server.shop.held) == 1
        server.shop.release()
        assert (await client.get()).status == 201
        await server.shop.until_held(1)
        server.shop.release()
        assert [each.status for each in await answers(client, 2)] == [201, 200]


@LANES
@on_uvloop
async def test_a_long_pipeline_is_taken_in_piece_by_piece(lane):
    number = 3000
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(SLOW, AVAILABILITY * number, get("/other"))
        await server.shop.until_held(1)
        [connection] = server.server.server_state.connections
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(connection.line) < 200
        assert connection.flow.read_paused
        server.shop.release()
        got = await answers(client, number + 2)
        assert [each.status for each in got] == [201] + [200] * (number + 1)
        assert got[-1].json["path"] == "/other"


@LANES
@on_uvloop
async def test_a_client_that_does_not_read_is_not_answered_without_end(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.reader._limit = 1024  # asyncio stops reading beyond twice this
        client.send(AVAILABILITY * 100_000)
        [connection] = await connections(server, 1)
        await until(lambda: connection.flow.write_paused)
        await server.ask(AVAILABILITY)
        assert connection.transport.get_write_buffer_size() < 1_000_000
        assert len(connection.line) < 400
        client.reader._limit = 2**16
        for _ in range(1000):
            assert (await client.get()).status == 200


async def connections(server, number: int) -> list:
    await until(lambda: len(server.server.server_state.connections) == number)
    return [*server.server.server_state.connections]


@LANES
@on_uvloop
async def test_a_refused_message_is_answered_after_those_before_it(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(SLOW, get("/other"), b"nonsense\r\n\r\n", AVAILABILITY)
        await server.shop.until_held(1)
        server.shop.release()
        assert [each.status for each in await answers(client, 3)] == [201, 200, 400]
        assert await client.rest() == b""


# The end of a connection


@LANES
@pytest.mark.parametrize("request_", [SLOW, get("/wait")], ids=["hot", "ordinary"])
@on_uvloop
async def test_a_client_that_has_closed_its_half_still_gets_its_answers(lane, request_):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(AVAILABILITY, request_, AVAILABILITY)
        client.finish()
        assert (await client.get()).status == 200
        helper = asyncio.create_task(let_everything_happen(server))
        first, second = await answers(client, 2)
        helper.cancel()
        assert first.status == (201 if request_ is SLOW else 200)
        assert (first.header("connection"), second.header("connection")) == (None, "close")
        assert await client.rest() == b""


@LANES
@on_uvloop
async def test_a_client_that_closes_its_half_in_the_middle_of_a_request_is_let_go(lane):
    async with serving(fast_lane=lane) as server:
        for begun in (b"GET /", reserve()[:-1], post("/other", b"12")[:-1], b""):
            async with await server.connect() as client:
                client.send(AVAILABILITY, begun)
                client.finish()
                await client.get()
                assert await client.rest() == b""
        await connections(server, 0)


@LANES
@pytest.mark.parametrize(
    "request_", [SLOW + SLOW, get("/wait") + SLOW, SLOW + get("/wait")], ids=["hot hot", "ordinary hot", "hot ordinary"]
)
@on_uvloop
async def test_an_answer_for_a_client_that_has_vanished_is_dropped(lane, request_):
    async with serving(fast_lane=lane) as server:
        client = await server.connect()
        client.send(request_)
        if request_.startswith(b"POST"):
            await server.shop.until_held(1)
        else:
            await server.app.started.wait()
        client.vanish()
        await connections(server, 0)
        server.shop.release()
        server.app.gate.set()
        assert (await server.ask(AVAILABILITY)).status == 200
        assert server.shop.held == []
        assert not server.server.server_state.tasks


@LANES
@on_uvloop
async def test_nothing_after_connection_close_is_answered(lane):
    async with serving(fast_lane=lane) as server:
        for request in (
            reserve("PHONE", "a", "Connection: close"),
            get("/other", "Connection: close"),
            get("/", version="1.0"),
        ):
            async with await server.connect() as client:
                client.send(request, AVAILABILITY, reserve())
                assert (await client.get()).header("connection") == "close"
                assert await client.rest() == b""


@LANES
@on_uvloop
async def test_expect_100_continue_is_answered_before_the_body_is_sent(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        request = post(RESERVE, BODY, "Expect: 100-continue")
        client.send(request[: -len(BODY)])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(BODY)
        assert (await client.get()).status == 201


@LANES
@on_uvloop
async def test_head_has_no_body(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(get("/other", method="HEAD"))
        assert (await client.get(head_only=True)).status == 200
        client.send(AVAILABILITY)
        assert (await client.get()).status == 200


@LANES
@on_uvloop
async def test_an_app_may_answer_before_the_body_is_there(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(post("/early", b"x" * 100)[:-50])
        assert (await client.get()).body == b'"early"'
        client.send(b"x" * 50, AVAILABILITY)
        assert (await client.get()).json["skuId"] == "PHONE"


@LANES
@on_uvloop
async def test_trailers_of_a_chunked_body_are_no_headers(lane):
    async with serving(fast_lane=lane) as server:
        chunked = get(RESERVE, "Transfer-Encoding: chunked", method="POST")
        body = b'{"skuId":"PHONE"}'
        got = await server.ask(chunked + b"%x\r\n%b\r\n0\r\nX-User-ID: mallory\r\n\r\n" % (len(body), body))
        assert got.status == 400
        assert got.json["details"]["errors"][0]["field"] == "userId"


# What is kept and what is grouped


@on_uvloop
async def test_availability_follows_the_stock_though_its_rendering_is_kept():
    async with serving() as server, await server.connect() as client:
        for left in (10, 9, 0, 3):
            server.shop.stock(PHONE=left)
            for _ in range(3):
                client.send(AVAILABILITY)
                got = (await client.get()).json
                assert (got["availableCount"], got["isAvailable"]) == (left, left > 0)


@on_uvloop
async def test_requests_that_look_alike_at_first_are_not_taken_for_one_another():
    """The memo holds whole requests, and only at a message boundary."""
    async with serving() as server, await server.connect() as client:
        for _ in range(2):
            client.send(AVAILABILITY)
            await client.get()
        client.send(post("/other", AVAILABILITY))
        assert (await client.get()).json["bytes"] == len(AVAILABILITY)
        client.send(post("/other", AVAILABILITY)[: -len(AVAILABILITY)])
        await asyncio.sleep(0.01)
        client.send(AVAILABILITY)
        assert (await client.get()).json["bytes"] == len(AVAILABILITY)
        client.send(AVAILABILITY + AVAILABILITY)
        assert [each.status for each in await answers(client, 2)] == [200, 200]
        assert len(server.server.config.http.args[0].memo) == 1  # type: ignore[attr-defined]


@on_uvloop
async def test_reservations_asked_for_together_are_read_together():
    async with serving() as server, await server.connect() as first, await server.connect() as second:
        first.send(reserve(), reserve())
        await answers(first, 2)
        server.shop.reading.clear()
        first.send(get("/api/v1/reservations/res_0"))
        second.send(get("/api/v1/reservations/res_1"))
        await asyncio.sleep(0.02)
        server.shop.reading.set()
        assert (await first.get()).json["reservationId"] == "res_0"
        assert (await second.get()).json["reservationId"] == "res_1"
        assert sorted(sum(server.shop.asked, ())) == ["res_0", "res_1"]


@LANES
@on_uvloop
async def test_a_ledger_that_cannot_be_read_is_a_503_that_says_when_to_come_back(lane):
    async with serving(fast_lane=lane) as server:
        server.shop.unavailable = True
        got = await server.ask(get("/api/v1/reservations/res_0"))
        assert (got.status, got.json["code"], got.header("retry-after")) == (503, "UNAVAILABLE", "1")


# Leaving


@LANES
@pytest.mark.parametrize("request_", [SLOW, get("/wait")], ids=["hot", "ordinary"])
@on_uvloop
async def test_shutdown_answers_what_is_in_flight_and_closes_what_is_idle(lane, request_):
    async with (
        serving(fast_lane=lane) as server,
        await server.connect() as idle,
        await server.connect() as busy,
        await server.connect() as half,
    ):
        idle.send(AVAILABILITY)
        await idle.get()
        busy.send(request_)
        half.send(reserve()[:-1])
        if request_ is SLOW:
            await server.shop.until_held(1)
        else:
            await server.app.started.wait()
        server.leave()
        assert await idle.rest() == b""
        server.shop.release()
        server.app.gate.set()
        half.send(reserve()[-1:])
        for client in (busy, half):
            got = await client.get()
            assert (got.status < 300, got.header("connection")) == (True, "close")
            assert await client.rest() == b""
        await asyncio.wait_for(server.task, 5)
        with pytest.raises(OSError):
            await server.connect()


@LANES
@on_uvloop
async def test_whoever_is_idle_has_a_second_when_the_server_leaves_however_old_the_last_scan_is(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(AVAILABILITY)
        await client.get()
        guard, [connection] = server.server.guard, server.server.server_state.connections
        leaves_at = asyncio.get_running_loop().time()
        guard.now = leaves_at - guard.scan_seconds
        connection.shutdown()
        connection.check(leaves_at + LEAVE_SECONDS - 0.01)
        assert not connection.transport.is_closing()
        connection.check(leaves_at + LEAVE_SECONDS + guard.scan_seconds)
        assert connection.transport.is_closing()


@LANES
@on_uvloop
async def test_shutdown_waits_no_longer_than_it_may(lane):
    async with serving(fast_lane=lane, drain_seconds=0.1) as server, await server.connect() as client:
        client.send(SLOW)
        await server.shop.until_held(1)
        server.leave()
        await asyncio.wait_for(server.task, 5)


@on_uvloop
async def test_the_book_of_connections_tasks_and_requests_is_kept_right():
    async with serving() as server:
        async with await server.connect() as client:
            client.send(reserve(), AVAILABILITY, get("/other"))
            await answers(client, 3)
            state = server.server.server_state
            assert (len(state.connections), state.total_requests) == (1, 3)
        await connections(server, 0)
        assert not state.tasks
        assert server.server.guard._total == 0
        assert server.server.guard._count == {}
