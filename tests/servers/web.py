"""A web server that answers as a test wants it, in raw bytes if need be."""

import asyncio
from types import TracebackType

from flashsale.rehearsal.servers import free_port


class Web:
    """`body` is what it answers; `raw` instead, all of it; `gate` keeps it waiting; None as `body`: it hangs up."""

    def __init__(self) -> None:
        self.body: bytes | None = b""
        self.raw: bytes | None = None
        self.status = 200
        self.asked = 0
        self.heads: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = free_port()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    async def __aenter__(self) -> "Web":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        await self.stop()

    async def start(self) -> None:
        """Again too, at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            self.asked += 1
            await self.gate.wait()
            writer.write(self._answer())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has had enough
        finally:
            writer.close()

    def _answer(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.body is None:
            return b""
        head = b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        return head % (self.status, len(self.body)) + self.body
