"""Stands between a ledger and its server, and is in the way when it is told to be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

COMMIT = b"COMMIT\0"


class Proxy:
    """Cuts one connection at its next commit, or all of them, or lets nothing through."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut: str | None = None
        """`before` the commit reaches the server, or `after` it was done and before its answer."""
        self.was_cut = asyncio.Event()
        self.away = False
        self.silent = asyncio.Event()
        """Nothing is forwarded until it is set; connections stay."""
        self.silent.set()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = self._server._replace(netloc=f"{self._server.netloc.rpartition(':')[0]}:{port}").geturl()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """Breaks every connection, as a server that goes away does."""
        self.away = True
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        if self.away:
            writer.transport.abort()
            return
        upstream, downstream = await asyncio.open_connection(self._server.hostname, self._server.port)
        answering = asyncio.create_task(self._forward(upstream, writer))
        asking = asyncio.create_task(self._ask(reader, downstream, answering))
        self._tasks |= {answering, asking}
        try:
            await asyncio.wait({answering, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and self.was_cut.is_set():
                await asking
        finally:
            answering.cancel()
            asking.cancel()
            for each in (writer, downstream):
                each.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self.silent.wait()
            target.write(data)

    async def _ask(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answering: asyncio.Task[None]
    ) -> None:
        while data := await source.read(65536):
            await self.silent.wait()
            if self.cut is None or COMMIT not in data:
                target.write(data)
                continue
            self.was_cut.set()
            answering.cancel()
            if self.cut == "after":
                target.write(data)
                await asyncio.sleep(0.2)  # the server commits; its answer is not forwarded
            self.cut = None
            return
