"""`flashsale serve --workers N`: several API processes behind one listening socket.

This process listens and accepts nothing: the socket is handed to each worker, and the kernel gives a connection to
one that asks for it. So a worker can be replaced without a moment in which nobody listens. With SIGHUP all are
replaced, one after the other: the new one serves before the old one is told to leave. A worker that dies is started
again; if it keeps dying, there is something that a restart does not mend, and everything ends with its exit code.

Each worker holds one end of a socket pair. It says there that it serves, and when the other end closes, because this
process is gone, it leaves too.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog

from flashsale.settings import Settings

READY = b"serving"
READY_SECONDS = 20.0
STOP_SECONDS = 5.0
"""How much longer than `drain_seconds` a worker may take to leave."""
YOUNG_SECONDS = 5.0
DEATHS_MAX = 5
"""Of young workers in a row, before giving up."""

log = structlog.get_logger("flashsale.workers")


class WorkerFailed(Exception):
    """Workers die as soon as they are started; carries the exit code of the last one."""

    def __init__(self, code: int) -> None:
        super().__init__(f"workers end with code {code} as soon as they are started")
        self.code = code


class ApiProcess:
    """One worker."""

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        self.process = process
        self.born = time.monotonic()
        self._line = line

    async def serves(self) -> bool:
        """Waits until it serves; False when it has ended instead."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READY_SECONDS):
            return await loop.sock_recv(self._line, len(READY)) == READY

    async def leave(self, seconds: float) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(seconds):
                    await self.process.wait()
            except TimeoutError:
                log.error("a worker did not leave and is killed", pid=self.process.pid)
                self.process.kill()
                await self.process.wait()
        self._line.close()


class Workers:
    """The parent of `count` workers that run `command` with the socket's number added."""

    def __init__(self, settings: Settings, listening: socket.socket, command: Sequence[str], count: int) -> None:
        self._listening = listening
        self._command = command
        self._count = count
        self._leave_seconds = settings.drain_seconds + STOP_SECONDS
        self._alive: set[ApiProcess] = set()
        self._leaving = False
        self._deaths = 0
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keepers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises WorkerFailed."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._keep(self._replace_all()))
        try:
            await asyncio.gather(*(self._start() for _ in range(self._count)))
            log.info("workers serve", workers=self._count)
            self._failed.add_done_callback(lambda _: stop.set())
            await stop.wait()
        finally:
            self._leaving = True
            await asyncio.gather(*(each.leave(self._leave_seconds) for each in self._alive))
        if self._failed.done():
            self._failed.result()

    async def _start(self) -> ApiProcess:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        numbers = (self._listening.fileno(), theirs.fileno())
        process = await asyncio.create_subprocess_exec(
            *self._command, "--socket", str(numbers[0]), "--parent", str(numbers[1]),
            pass_fds=numbers, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        worker = ApiProcess(process, ours)
        self._alive.add(worker)
        self._keep(self._mourn(worker))
        with suppress(TimeoutError, OSError):
            await worker.serves()
        return worker

    async def _mourn(self, worker: ApiProcess) -> None:
        """Waits for a worker's end and starts another one in its place, unless it was told to leave."""
        code = await worker.process.wait()
        if self._leaving or worker not in self._alive:
            return
        self._alive.discard(worker)
        young = time.monotonic() - worker.born < YOUNG_SECONDS
        self._deaths = self._deaths + 1 if young else 0
        log.error("a worker died and is started again", pid=worker.process.pid, code=code)
        if self._deaths >= DEATHS_MAX:
            self._failed.set_exception(WorkerFailed(code if code > 0 else 1))
            return
        await self._start()

    async def _replace_all(self) -> None:
        """New settings and new code, without a request that fails."""
        log.info("workers are replaced", workers=len(self._alive))
        for old in list(self._alive):
            await self._start()
            self._alive.discard(old)
            await old.leave(self._leave_seconds)
        log.info("workers were replaced")

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._keepers.add(task)
        task.add_done_callback(self._keepers.discard)


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """The socket that the workers share."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    listening.listen(backlog)
    return listening


def worker_command(host: str, port: int, data: str) -> list[str]:
    return [sys.executable, "-m", "flashsale.cli", "serve", "--host", host, "--port", str(port), "--data", data]


def watch_parent(number: int) -> None:
    """In a worker: says that it serves, and leaves as on SIGTERM when its parent is gone."""
    line = socket.socket(fileno=number)
    line.setblocking(False)
    line.send(READY)

    def gone() -> None:
        asyncio.get_running_loop().remove_reader(line)
        os.kill(os.getpid(), signal.SIGTERM)

    asyncio.get_running_loop().add_reader(line, gone)
