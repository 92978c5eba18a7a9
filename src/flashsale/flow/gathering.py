"""What comes in one turn of the event loop goes together: one call for all of it, in parts that are not too large.

The first thing that comes asks the loop to go on with it in its next turn; whatever comes until then is with it. Under
load that makes the batches, and somebody who is alone waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gathering(Generic[T]):
    """`work` gets at most `most` things at a time, in a task of its own for each part."""

    def __init__(self, work: Callable[[list[T]], Awaitable[None]], most: int) -> None:
        self._work = work
        self._most = most
        self._things: list[T] = []
        self._tasks: set[asyncio.Future[None]] = set()

    def add(self, *things: T) -> None:
        if not self._things:
            asyncio.get_running_loop().call_soon(self._begin)
        self._things += things

    def _begin(self) -> None:
        things, self._things = self._things, []
        for start in range(0, len(things), self._most):
            task = asyncio.ensure_future(self._work(things[start : start + self._most]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
