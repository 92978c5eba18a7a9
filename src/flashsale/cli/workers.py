"""`flashsale serve --workers N`: several API processes behind one listening socket.

This process listens and accepts nothing: the socket is handed to each worker, and the kernel gives a connection to
one that asks for it. So a worker can be replaced without a moment in which nobody listens. With SIGHUP all are
replaced, one after the other: the new one serves before the old one is told to leave, and if it does not come to serve
the old ones stay. A worker that dies is started again, at first at once and then less and less often: the others may
sit an outage out that a new one cannot be started in. Only if no worker has ever served, everything ends.

Each worker holds one end of a socket pair. It says there that it serves, and when the other end closes, because this
process is gone, it leaves too.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import structlog

from flashsale.settings import Settings

READY = b"serving"
READY_SECONDS = 20.0
STOP_SECONDS = 5.0
"""How much longer than `drain_seconds` a worker may take to leave."""
PAUSE_SECONDS = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Before a worker is started again: for each start in a row that came to nothing; the last for all beyond."""

log = structlog.get_logger("flashsale.workers")


class WorkerFailed(Exception):
    """The first workers ended before they served; carries the exit code of one."""

    def __init__(self, code: int) -> None:
        super().__init__(f"workers end with code {code} before they serve")
        self.code = code


class ApiProcess:
    """One worker."""

    def __init__(self, process: asyncio.subprocess.Process, line: socket.socket, slot: int) -> None:
        self.process = process
        self.slot = slot
        """The lowest number that no living worker had: what its metrics are told apart by."""
        self.served = False
        self._line = line

    async def come_to_serve(self) -> bool:
        """Waits until it serves; False when it has ended instead, or takes too long."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(READY_SECONDS):
                self.served = await loop.sock_recv(self._line, len(READY)) == READY
        return self.served

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
    """The parent of so many workers that run `command` with the socket's number added."""

    def __init__(self, settings: Settings, listening: socket.socket, command: Sequence[str], workers: int) -> None:
        self._listening = listening
        self._command = command
        self._count = workers
        self._leave_seconds = settings.drain_seconds + STOP_SECONDS
        self._alive: set[ApiProcess] = set()
        self._leaving = False
        self._failures = 0
        """Starts in a row that came to nothing."""
        self._replacing = asyncio.Lock()
        self._keepers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises WorkerFailed."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._keep(self._replace_all()))
        try:
            await self._first_ones()
            log.info("workers serve", workers=self._count)
            await stop.wait()
        finally:
            self._leaving = True
            self._listening.close()  # nobody is let in who would find nobody
            await asyncio.gather(*(each.leave(self._leave_seconds) for each in self._alive))

    async def _first_ones(self) -> None:
        started = [await self._spawn() for _ in range(self._count)]
        await asyncio.gather(*(each.come_to_serve() for each in started))
        for worker in started:
            if not worker.served:
                await worker.leave(STOP_SECONDS)
                raise WorkerFailed(max(worker.process.returncode or 0, 1))
            self._keep(self._mourn(worker))

    async def _spawn(self) -> ApiProcess:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        numbers = (self._listening.fileno(), theirs.fileno())
        taken = {each.slot for each in self._alive}
        slot = next(number for number in count() if number not in taken)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command, "--socket", str(numbers[0]), "--parent", str(numbers[1]), "--slot", str(slot),
                pass_fds=numbers, start_new_session=True,
            )  # fmt: skip
        worker = ApiProcess(process, ours, slot)
        self._alive.add(worker)
        return worker

    async def _start(self) -> bool:
        """Another worker; False if it does not come to serve, and then it is gone again."""
        worker = await self._spawn()
        if await worker.come_to_serve():
            self._failures = 0
            self._keep(self._mourn(worker))
            return True
        self._failures += 1
        self._alive.discard(worker)
        await worker.leave(STOP_SECONDS)
        log.error("a worker does not come to serve", code=worker.process.returncode)
        return False

    async def _mourn(self, worker: ApiProcess) -> None:
        """Waits for a worker's end and starts another one in its place, unless it was told to leave."""
        code = await worker.process.wait()
        if self._leaving or worker not in self._alive:
            return
        self._alive.discard(worker)
        log.error("a worker died and is started again", pid=worker.process.pid, code=code)
        while self._too_few():
            await asyncio.sleep(PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS) - 1)])
            async with self._replacing:
                if self._too_few():
                    await self._start()

    def _too_few(self) -> bool:
        return not self._leaving and len(self._alive) < self._count

    async def _replace_all(self) -> None:
        """New settings and new code, without a request that fails."""
        async with self._replacing:
            log.info("workers are replaced", workers=len(self._alive))
            for old in list(self._alive):
                if self._leaving or not await self._start():
                    log.error("workers were not replaced: the old ones stay")
                    return
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


def worker_command(settings: Settings, host: str, port: int) -> list[str]:
    told = {"--host": host, "--port": str(port), "--data": settings.data, "--loops": ",".join(settings.loops) or "none"}
    return [sys.executable, "-m", "flashsale.cli", "serve", *(word for option in told.items() for word in option)]


def watch_parent(number: int) -> None:
    """In a worker: says that it serves, and leaves as on SIGTERM when its parent is gone."""
    line = socket.socket(fileno=number)
    line.setblocking(False)
    line.send(READY)

    def gone() -> None:
        asyncio.get_running_loop().remove_reader(line)
        os.kill(os.getpid(), signal.SIGTERM)

    asyncio.get_running_loop().add_reader(line, gone)
