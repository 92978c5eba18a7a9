"""Group commit on the event loop: everything that arrives while one batch is under way goes into the next.

As in `sqlite/group.py`, but the batch is a coroutine of the loop itself: the server at the other end of the
connection is what works meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from flashsale.backends.batch import take

T = TypeVar("T")


class Lane(Generic[T]):
    """`work` gets at most `batch_max` items and has answered them all when it returns; it must not raise."""

    def __init__(self, name: str, work: Callable[[list[T]], Awaitable[None]], batch_max: int, queue_max: int) -> None:
        self._work = work
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._waiting: deque[T] = deque()
        self._urgent: deque[T] = deque()
        self._bell = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name=name)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._urgent)

    def put(self, item: T) -> bool:
        """Adds an item; False when the queue is full."""
        return self._add(self._waiting, item)

    def put_urgent(self, item: T) -> bool:
        """Adds an item that goes before all that are not urgent."""
        return self._add(self._urgent, item)

    def _add(self, queue: deque[T], item: T) -> bool:
        if len(queue) >= self._queue_max:
            return False
        queue.append(item)
        self._bell.set()
        return True

    async def stop(self) -> None:
        """Ends the lane after everything queued has been worked on."""
        self._closing = True
        self._bell.set()
        await self._task

    async def _run(self) -> None:
        while True:
            if self._waiting or self._urgent:
                await self._work(take(self._urgent, self._waiting, self._batch_max))
            elif self._closing:
                return
            else:
                self._bell.clear()
                await self._bell.wait()
                await asyncio.sleep(0)  # all requests that were read in one turn of the loop are in one batch
