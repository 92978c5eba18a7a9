"""A consumer of the queue as a process of its own, so that it can be killed and stopped.

Says each batch as a line of JSON before it is done with it. Told `hold`, it is done with none before SIGUSR1.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

import structlog
from contract.queues import SLICES, KafkaMade

from flashsale.backends.kafka import KafkaDeliveries
from flashsale.backends.kafka.topics import Names
from flashsale.core.request import decode

SAYING_SECONDS = 30.0


class ConsumerProcess:
    """The process, as a test sees it."""

    def __init__(self, made: KafkaMade, *, hold: bool = False) -> None:
        command = [sys.executable, __file__, made.servers, made.plan.names.prefix, "hold" if hold else "decide"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def batch(self, seconds: float = SAYING_SECONDS) -> dict[str, Any]:
        """The next one that it took."""
        said: dict[str, Any] = json.loads(self._lines.get(timeout=seconds))
        return said

    def rest(self) -> list[dict[str, Any]]:
        """What it has said until now."""
        found: list[dict[str, Any]] = []
        while True:
            try:
                found.append(json.loads(self._lines.get_nowait()))
            except Empty:
                return found

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


async def main(servers: str, prefix: str, mode: str) -> None:
    deliveries = await KafkaMade(servers, names=Names(prefix)).deliveries()
    released = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, released.set)
    if mode != "hold":
        released.set()
    await asyncio.gather(*(decide(deliveries, released) for _ in range(SLICES)))


async def decide(deliveries: KafkaDeliveries, released: asyncio.Event) -> None:
    while True:
        batch = await deliveries.take()
        numbers = [decode(each.message).at_ms for each in batch.deliveries]
        said = {"slice": batch.slice_name, "numbers": numbers, "at": time.monotonic()}
        print(json.dumps(said), flush=True)
        await released.wait()
        deliveries.done(batch)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # its log would cut a line in two
    asyncio.run(main(*sys.argv[1:]))
