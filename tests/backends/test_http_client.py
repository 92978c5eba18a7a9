"""The small HTTP client: what it takes for an answer, and what it does with its connections."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from flashsale.backends.http_client import Answer, HttpClient, parse_answer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_an_answer_is_complete_at_its_stated_length():
    assert [parse_answer(OK[:cut]) for cut in range(len(OK))] == [None] * len(OK)
    assert parse_answer(OK) == Answer(200, b"hi")


def test_a_server_that_will_close_says_so():
    assert parse_answer(b"HTTP/1.1 503 Busy\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n") == Answer(
        503, b"", False
    )


@pytest.mark.parametrize(
    "received",
    [
        OK + b"!",
        OK.replace(b"HTTP/1.1", b"SSH-2.0"),
        OK.replace(b"200", b"two"),
        OK.replace(b"Length: 2", b"Length: -2"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_anything_else_is_an_error_of_the_connection(received: bytes):
    with pytest.raises(ConnectionError):
        parse_answer(received)


@pytest.mark.parametrize("url", ["", "localhost:80", "ftp://localhost", "http://"])
def test_an_address_that_is_not_http_is_refused_at_once(url: str):
    with pytest.raises(ValueError, match="not an HTTP address"):
        HttpClient(url, 1, 1, 1)


def with_server(
    serve: Serve, story: Callable[[HttpClient], Awaitable[None]], connections_max: int = 4, call_seconds: float = 5
) -> None:
    async def run() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await serve(reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        client = HttpClient(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base/", call_seconds, connections_max, 5
        )
        await story(client)
        client.close()
        for writer in writers:
            writer.close()
        server.close()

    asyncio.run(run())


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        while (await reader.readline()).strip():
            pass
        await asyncio.sleep(0.01)
        writer.write(OK)


def test_connections_are_used_again_and_never_exceed_their_number():
    opened: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        await answer_all(reader, writer)

    async def story(client: HttpClient) -> None:
        for _ in range(3):
            answers = await asyncio.gather(*(client.request("GET", "/") for _ in range(12)))
            assert answers == [Answer(200, b"hi")] * 12

    with_server(serve, story, connections_max=3)
    assert len(opened) == 3


def test_the_path_of_the_address_comes_first():
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        writer.write(OK)

    async def story(client: HttpClient) -> None:
        await client.request("GET", "/books")

    with_server(serve, story)
    assert lines == [b"GET /base/books HTTP/1.1\r\n"]


def test_a_silent_server_is_given_up_at_the_deadline():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def story(client: HttpClient) -> None:
        with pytest.raises(TimeoutError):
            await client.request("GET", "/")

    with_server(serve, story, call_seconds=0.1)


@pytest.mark.parametrize("sent", [b"", OK[:-1], b"SSH-2.0-OpenSSH\r\n\r\n", b"x" * (1024 * 1024 + 1)], ids=len)
def test_an_answer_that_breaks_off_or_is_none_is_a_connection_error(sent: bytes):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(sent)
        writer.close()

    async def story(client: HttpClient) -> None:
        with pytest.raises(ConnectionError):
            await client.request("GET", "/")

    with_server(serve, story)


def test_bytes_that_nobody_asked_for_are_never_taken_for_the_next_answer():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK.replace(b"hi", b"no"))

    async def story(client: HttpClient) -> None:
        assert (await client.request("GET", "/")).body == b"hi"
        await asyncio.sleep(0.1)
        assert (await client.request("GET", "/")).body == b"hi"

    with_server(serve, story)
