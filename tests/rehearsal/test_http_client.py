"""The crowd's client: keeps connections, stays within their number, and says when a reply is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from flashsale.rehearsal.http_client import HttpClient, LostReply

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def server(speak: Speak) -> AsyncIterator[tuple[str, list[float]]]:
    """A server of a few lines; yields its URL and the moments at which connections were made."""
    connected: list[float] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(time.monotonic())
        try:
            await speak(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(connection, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", connected
    finally:
        listener.close()


def saying(*replies: bytes) -> Speak:
    """Answers the requests of a connection with the replies, in turn, then hangs up."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()

    return speak


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_requests_in_turn_share_one_connection():
    async with server(saying(OK, OK, OK)) as (url, connected):
        client = HttpClient(url)
        answers = [await client.fetch("GET", "/") for _ in range(3)]
        client.close()
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 3
    assert len(connected) == 1


async def test_a_crowd_shares_a_bounded_number_of_connections():
    async with server(saying(*[OK] * 100)) as (url, connected):
        client = HttpClient(url, connections=4)
        await asyncio.gather(*(client.fetch("GET", "/") for _ in range(100)))
        client.close()
    assert len(connected) <= 4


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
    ],
)
async def test_every_form_of_answer_is_understood(reply, status, body):
    async with server(saying(reply)) as (url, _):
        client = HttpClient(url)
        answer = await client.fetch("GET", "/")
        client.close()
    assert (answer.status, answer.body) == (status, body)


async def test_a_connection_the_server_is_done_with_is_not_used_again():
    async with server(saying(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) as (url, connected):
        client = HttpClient(url)
        await client.fetch("GET", "/")
        await client.fetch("GET", "/")
        client.close()
    assert len(connected) == 2


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"not HTTP\r\n\r\n"])
async def test_a_reply_that_does_not_come_whole_is_lost(reply):
    async with server(saying(reply)) as (url, _):
        client = HttpClient(url)
        with pytest.raises(LostReply):
            await client.fetch("GET", "/")


async def test_a_server_that_is_not_there_is_a_lost_reply():
    with pytest.raises(LostReply):
        await HttpClient("http://127.0.0.1:1").fetch("GET", "/")


async def test_a_silent_server_is_left_after_the_timeout():
    async with server(silence) as (url, _):
        client = HttpClient(url, timeout=0.05)
        started_at = time.monotonic()
        with pytest.raises(LostReply):
            await client.fetch("GET", "/")
    assert time.monotonic() - started_at < 2.0


async def test_hanging_up_sends_the_request_and_leaves_without_the_answer():
    received: list[bytes] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async with server(slow) as (url, _):
        client = HttpClient(url)
        assert await client.send_and_hang_up(client.build("GET", "/paid"), patience=0.05) is None
    assert received[0].startswith(b"GET /paid HTTP/1.1\r\n")


async def test_an_answer_that_is_there_before_hanging_up_is_for_the_records():
    async with server(saying(OK, OK)) as (url, connected):
        client = HttpClient(url)
        answer = await client.send_and_hang_up(client.build("GET", "/"), patience=5.0)
        await client.fetch("GET", "/")
        client.close()
    assert answer is not None and answer.status == 200
    assert len(connected) == 2
