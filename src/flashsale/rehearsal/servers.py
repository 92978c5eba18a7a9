"""The processes of a rehearsal: the payment sandbox and the real server, started, stopped or killed.

Each writes into a log file of its own, so that nothing blocks on a full pipe and a failed start can be
shown. Nothing of the user's own configuration reaches them: a rehearsal must not open a real ledger.
"""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from flashsale.rehearsal.http_client import HttpClient, LostReply

START_SECONDS = 20.0
STOP_SECONDS = 15.0
PORTS = range(20_000, 32_768)
"""Below those that the kernel gives to whoever names none (Linux from 32,768, others from 49,152): a server that was
killed finds its port free when it comes back, and nobody else was asked there for it in the meantime."""
PORTS_TRIED = 100


class DidNotStart(Exception):
    """A process of the rehearsal ended, or was not ready in time; carries the end of its log."""


class Process:
    """A child process; leaving its `async with` block stops it, whatever happened inside."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._command, self._env = command, env
        self._child: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        assert self._child is not None, "it was never started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def launch(self) -> None:
        """Start it and do not wait until it is ready."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FLASHSALE_")}
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, env={**inherited, **self._env}
            )

    async def start(self) -> None:
        await self.launch()
        try:
            await self.wait_until_ready()
        except BaseException:  # also when cancelled: it must not outlive us
            await self.kill()
            raise

    async def wait_until_ready(self) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self.ready():
            if not self.running or asyncio.get_running_loop().time() > deadline:
                raise DidNotStart(f"{self.name} did not start; the end of its log:\n{self.last_words()}")
            await asyncio.sleep(0.05)

    async def ready(self) -> bool:
        raise NotImplementedError

    async def stop(self) -> int | None:
        """Ask it to end, and kill it if it does not; its exit code."""
        if self._child is None:
            return None
        if self._child.returncode is not None:
            return self._child.returncode
        self._child.send_signal(signal.SIGTERM)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._child.wait()
        finally:
            await self.kill()
        return self._child.returncode

    async def kill(self) -> None:
        """Without warning, as a power cut would."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Sandbox(Process):
    """The payment provider; it ends with us, as it watches its standard input."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "flashsale.backends.sandbox_server", "--exit-with-parent"]
        command += ["--port", "0", "--books", str(directory / "books.db")]
        super().__init__("the payment sandbox", command, {}, directory / "sandbox.log")

    @property
    def url(self) -> str:
        """Where it listens, as it announced; empty before."""
        announced = [line for line in self.log.read_text().splitlines() if line.startswith("sandbox listening on ")]
        return announced[-1].rpartition(" ")[2] if announced else ""

    async def ready(self) -> bool:
        return self.url != ""


class Worker(Process):
    """`flashsale worker` with some loops, on the stores of a server."""

    def __init__(self, directory: Path, name: str, loops: Sequence[str], settings: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "flashsale.cli", "worker", *loops, "--data", str(directory / "data")]
        super().__init__(f"worker {name}", command, settings, directory / f"worker-{name}.log")
        self._said_before = 0

    async def launch(self) -> None:
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        await super().launch()

    async def ready(self) -> bool:
        return b'"working"' in self.log.read_bytes()[self._said_before :]


class ShopServer(Process):
    """`flashsale serve` on a port of loopback and a data directory; its ledger is a file there, or the one named."""

    def __init__(
        self, directory: Path, token: str, sandbox_url: str, ledger: str = "", workers: int = 1, broker: str = "",
        **more: str,
    ) -> None:  # fmt: skip
        """`more`: other settings of the server, by their names in the environment."""
        self.data = directory / "data"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "flashsale.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--data", str(self.data), "--workers", str(workers)]
        env = {"FLASHSALE_SANDBOX_URL": sandbox_url, "FLASHSALE_ADMIN_TOKEN": token, "FLASHSALE_LEDGER": ledger}
        env |= {"FLASHSALE_BROKER": broker, **more}
        self.settings = env
        super().__init__("the server", command, env, directory / "server.log")

    async def ready(self) -> bool:
        client = HttpClient(self.url, connections=1, timeout=2.0)
        try:
            return (await client.fetch("GET", "/health/ready")).status == 200
        except LostReply:
            return False
        finally:
            client.close()


def free_port() -> int:
    """Nobody listens there at this moment, and the kernel gives it to nobody."""
    for port in random.sample(PORTS, k=PORTS_TRIED):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DidNotStart(f"of {PORTS_TRIED} ports of loopback between {PORTS[0]} and {PORTS[-1]} none is free")
