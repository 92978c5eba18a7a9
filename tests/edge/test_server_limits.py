"""What a server does not put up with, in both lanes: requests that are too large or too slow, too many connections."""

import asyncio
import json
import signal
from contextlib import suppress
from ipaddress import ip_address
from itertools import pairwise

import pytest
from edge.lanes import AVAILABILITY, Running, get, on_uvloop, post, reserve, serving, until

from flashsale.edge.guard import LOOK_MAX, Guard
from flashsale.settings import Settings

LANES = pytest.mark.parametrize("lane", ["on", "off"])
RESERVE = "/api/v1/reservations"
HOOK = "/api/v1/payments/webhook/stripe"
ADMIN = "/api/v1/admin/sales"
KIB = 1024
LIMITS = {"/other": 16 * KIB, RESERVE: 16 * KIB, HOOK: 64 * KIB, ADMIN: 1024 * KIB}


def body(size: int) -> bytes:
    return b'{"skuId":"PHONE","userId":"alice"'.ljust(size - 1) + b"}"


def chunked(path: str, content: bytes, chunk: int = 1000) -> bytes:
    chunks = (content[at : at + chunk] for at in range(0, len(content), chunk))
    frames = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    return get(path, "Transfer-Encoding: chunked", method="POST") + frames + b"0\r\n\r\n"


@LANES
@pytest.mark.parametrize("path", LIMITS)
@on_uvloop
async def test_a_body_may_be_as_large_as_its_route_allows(lane, path):
    async with serving(fast_lane=lane) as server:
        for request in (post(path, body(LIMITS[path])), chunked(path, body(LIMITS[path]))):
            assert (await server.ask(request)).status in (200, 201)


@LANES
@pytest.mark.parametrize("path", LIMITS)
@on_uvloop
async def test_a_larger_body_is_refused_with_413_and_the_connection_ends(lane, path):
    most = LIMITS[path]
    async with serving(fast_lane=lane) as server:
        for request in (post(path, body(most + 1)), chunked(path, body(most + 1)), post(path, body(most + 1))[:200]):
            async with await server.connect() as client:
                client.send(request, AVAILABILITY)
                got = await client.get()
                assert (got.status, got.header("connection")) == (413, "close")
                assert (got.json["status"], got.json["code"], got.json["path"]) == (413, "VALIDATION_FAILED", path)
                assert got.json["details"] == {"errors": [{"field": "body", "message": f"is larger than {most} bytes"}]}
                assert await client.rest() == b""
        assert server.app.bodies == []


@LANES
@on_uvloop
async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(get(RESERVE, "Content-Length: 99999999999", "Expect: 100-continue", method="POST"))
        assert (await client.get()).status == 413


@LANES
@on_uvloop
async def test_a_client_that_goes_on_sending_its_refused_body_still_reads_the_answer(lane):
    async with serving(fast_lane=lane) as server, await server.connect() as client:
        client.send(get(RESERVE, "Content-Length: 9000000", method="POST"))
        for _ in range(30):
            client.send(b"x" * 10_000)
            await asyncio.sleep(0)
        assert (await client.get()).status == 413


@LANES
@on_uvloop
async def test_chunks_may_not_be_mostly_frame(lane):
    async with serving(fast_lane=lane) as server:
        extension = b"1;" + b"x" * 4000 + b"\r\n \r\n"
        assert (
            await server.ask(get("/other", "Transfer-Encoding: chunked", method="POST") + extension * 60)
        ).status == 413


HEADS = {
    "a long header": get("/other", "X: " + "x" * 40_000),
    "a header without end": get("/other", "X: " + "x" * 1_000_000)[:-4],
    "a name without end": b"GET / HTTP/1.1\r\n" + b"x" * 1_000_000,
    "a path without end": b"GET /" + b"x" * 1_000_000,
    "many headers": get("/other", *(f"X-{number}: 1" for number in range(101))),
    "many headers on a hot route": get("/api/v1/products/PHONE/availability", *(["X: 1"] * 101)),
}


@LANES
@on_uvloop
async def test_a_head_that_is_too_large_is_refused_with_431(lane):
    async with serving(fast_lane=lane) as server:
        for name, request in HEADS.items():
            async with await server.connect() as client:
                client.send(request)
                got = await client.get()
                assert (got.status, got.json["code"], got.header("connection")) == (
                    431,
                    "VALIDATION_FAILED",
                    "close",
                ), name
        assert (await server.ask(get("/other", "X: " + "x" * 20_000, *(["Y: 1"] * 90)))).status == 200


# Too slow


SLOW_REQUESTS = {
    "in its first line": b"GET /ot",
    "in its headers": AVAILABILITY[:-2],
    "in the body of a hot one": reserve()[:-1],
    "in the body of an ordinary one": post("/other", b"12")[:-1],
    "in its chunks": get(RESERVE, "Transfer-Encoding: chunked", method="POST") + b"5\r\n",
}


@LANES
@on_uvloop
async def test_a_request_that_takes_too_long_to_arrive_is_answered_with_408(lane):
    async with serving(fast_lane=lane, receive_seconds=0.2) as server:
        await asyncio.gather(*(_too_slow(server, name) for name in SLOW_REQUESTS))
        assert not server.server.server_state.tasks


async def _too_slow(server: Running, name: str) -> None:
    async with await server.connect() as client:
        client.send(AVAILABILITY)
        await client.get()
        client.send(SLOW_REQUESTS[name])
        got = await client.get()
        assert (got.status, got.json["code"], got.header("connection")) == (408, "VALIDATION_FAILED", "close"), name
        assert got.json["details"]["errors"] == [{"field": "request", "message": "was not received in time"}]
        assert await client.rest() == b""


@LANES
@on_uvloop
async def test_the_deadline_is_for_the_whole_request_and_not_for_its_next_byte(lane):
    async with serving(fast_lane=lane, receive_seconds=0.2) as server, await server.connect() as client:
        dripping = asyncio.create_task(_drip(client, get("/" + "x" * 1000)))
        assert (await client.get()).status == 408
        dripping.cancel()


async def _drip(client, request: bytes) -> None:
    for byte in request:
        client.send(bytes([byte]))
        await asyncio.sleep(0.01)


@LANES
@on_uvloop
async def test_time_in_work_is_not_held_against_the_client(lane):
    async with (
        serving(fast_lane=lane, receive_seconds=0.1, idle_seconds=0.1) as server,
        await server.connect() as client,
    ):
        client.send(reserve("SLOW"), get("/wait"))
        await asyncio.sleep(0.25)
        server.shop.release()
        assert (await client.get()).status == 201
        await asyncio.sleep(0.25)
        server.app.gate.set()
        assert (await client.get()).status == 200


@LANES
@on_uvloop
async def test_an_answered_request_whose_body_never_ends_just_loses_its_connection(lane):
    async with serving(fast_lane=lane, receive_seconds=0.1) as server, await server.connect() as client:
        client.send(post("/early", b"12")[:-1])
        assert (await client.get()).body == b'"early"'
        assert await client.rest() == b""


@LANES
@on_uvloop
async def test_an_idle_connection_is_closed_without_a_word(lane):
    async with serving(fast_lane=lane, idle_seconds=0.1) as server, await server.connect() as silent:
        async with await server.connect() as client:
            client.send(reserve(), get("/other"))
            assert [(await client.get()).status, (await client.get()).status] == [201, 200]
            assert await client.rest() == b""
        assert await silent.rest() == b""


@LANES
@on_uvloop
async def test_empty_lines_do_not_keep_a_connection_alive(lane):
    async with serving(fast_lane=lane, idle_seconds=0.1) as server, await server.connect() as client:
        dripping = asyncio.create_task(_drip(client, b"\r\n" * 1000))
        with suppress(ConnectionResetError):  # as a drop that comes after the end is answered
            assert await client.rest() == b""
        dripping.cancel()


@LANES
@on_uvloop
async def test_a_client_that_never_reads_is_dropped_with_what_it_did_not_take(lane):
    async with serving(fast_lane=lane, idle_seconds=0.2) as server, await server.connect() as client:
        client.reader._limit = 1024
        client.send(AVAILABILITY * 100_000)
        await until(lambda: server.server.server_state.connections)
        await until(lambda: not server.server.server_state.connections)


# Too many


def guard(**settings) -> Guard:
    return Guard(Settings(**settings))


def test_an_address_may_have_so_many_connections_and_gets_their_places_back():
    limits = guard(connections_per_address=2)
    assert [limits.admit("192.0.2.1") for _ in range(3)] == [
        None,
        None,
        "There are too many connections from this address",
    ]
    assert limits.admit("192.0.2.2") is None
    limits.leave("192.0.2.1")
    assert limits.admit("192.0.2.1") is None


def test_an_ipv6_customer_is_counted_by_the_network_that_is_his():
    limits = guard(connections_per_address=1)
    assert limits.admit("2001:db8::1") is None
    assert limits.admit("2001:db8::2")
    assert limits.admit("2001:db8:0:1::1") is None
    assert limits.admit("::ffff:192.0.2.1") is None
    assert limits.admit("192.0.2.1")


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "fd00::7", None])
def test_loopback_and_trusted_proxies_are_not_counted_by_address(peer):
    limits = guard(connections_per_address=1, trusted_proxies=("10.0.0.0/8", "fd00::/8"))
    assert [limits.admit(peer) for _ in range(5)] == [None] * 5
    assert peer is None or ip_address(peer)


@LANES
@on_uvloop
async def test_one_connection_too_many_is_told_so_and_closed(lane):
    async with serving(fast_lane=lane, connections_max=2) as server:
        async with await server.connect() as first, await server.connect() as second, await server.connect() as third:
            got = await third.get()
            assert (got.status, got.json["code"]) == (503, "UNAVAILABLE")
            assert (got.header("retry-after"), got.header("connection")) == ("1", "close")
            assert await third.rest() == b""
            for client in (first, second):
                client.send(AVAILABILITY)
                assert (await client.get()).status == 200
        await until(lambda: not server.server.guard._total)
        assert (await server.ask(AVAILABILITY)).status == 200


# Signals


@on_uvloop
async def test_sigterm_takes_readiness_off_answers_what_is_in_flight_and_lets_the_caller_go_on():
    async with serving() as server, await server.connect() as client:
        client.send(reserve("SLOW"))
        await server.shop.until_held(1)
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server.server.guard.draining and not server.server.servers[0].is_serving())
        server.shop.release()
        assert json.loads((await client.get()).body)["status"] == "RESERVED"
        await asyncio.wait_for(asyncio.shield(server.task), 5)


# Many at once


class Slow:
    """A connection that is looked at."""

    def __init__(self) -> None:
        self.looked_at = 0

    def check(self, now: float) -> None:
        self.looked_at += 1


@on_uvloop
async def test_a_scan_of_many_connections_lets_others_have_the_loop_again_and_again():
    everybody = [Slow() for _ in range(1000)]
    connections = set(everybody)
    looks = []

    def meanwhile() -> None:
        looks.append(sum(each.looked_at for each in everybody))
        if looks[-1] < 1000:
            loop.call_soon(meanwhile)
        else:
            connections.clear()  # one scan is enough

    loop = asyncio.get_running_loop()
    guard(receive_seconds=2).watch(loop, connections)
    meanwhile()
    await until(lambda: looks[-1] >= 1000)
    assert max(after - before for before, after in pairwise(looks)) <= LOOK_MAX < 100
    assert {each.looked_at for each in everybody} == {1}


class Last:
    """Takes all the others with it."""

    def __init__(self, connections: set["Last"]) -> None:
        self.connections = connections
        self.looked_at = 0

    def check(self, now: float) -> None:
        self.looked_at += 1
        self.connections.clear()


@on_uvloop
async def test_a_connection_that_has_gone_during_the_scan_is_not_looked_at():
    connections: set[Last] = set()
    everybody = [Last(connections) for _ in range(10)]
    connections.update(everybody)
    guard(receive_seconds=0.1).watch(asyncio.get_running_loop(), connections)
    await until(lambda: any(each.looked_at for each in everybody))
    assert sum(each.looked_at for each in everybody) == 1
