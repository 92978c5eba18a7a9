"""Group commit: everything that arrives while one batch is being worked on goes into the next.

One thread takes whatever has gathered, works on it as one batch, hands the answers to the event loop and
takes the next. No timer decides how long to wait: an idle thread takes a single item at once, and the
load itself makes the batches. The event loop never blocks, and the thread never waits for the loop.

The handing over, in both directions, happens once per batch and not once per item:
  loop to thread   items are appended to a deque; the first one since the last ring schedules a ring at the
                   end of the loop's turn, so that all requests read in one turn are in one batch
  thread to loop   one call_soon_threadsafe with all the answers of a batch
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from flashsale.backends.batch import take

T = TypeVar("T")
Deliver = Callable[[], None]


class Group(Generic[T]):
    """A thread that works on what gathers. `work` gets at most `batch_max` items and returns what is to be
    called on the event loop with the results. If it raises, the thread is over, and `on_death` is called."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[list[T]], Deliver],
        on_death: Callable[[Exception], object],
        batch_max: int,
        queue_max: int,
    ) -> None:
        self._loop = loop
        self._work = work
        self._on_death = on_death
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._waiting: deque[T] = deque()
        self._urgent: deque[T] = deque()
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._ring_scheduled = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._urgent)

    def put(self, item: T) -> bool:
        """Adds an item; False when the queue is full. Event loop only."""
        if len(self._waiting) >= self._queue_max:
            return False
        self._waiting.append(item)
        self._schedule_ring()
        return True

    def put_urgent(self, item: T) -> bool:
        """Adds an item that goes before all that are not urgent."""
        if len(self._urgent) >= self._queue_max:
            return False
        self._urgent.append(item)
        self._schedule_ring()
        return True

    def _schedule_ring(self) -> None:
        if not self._ring_scheduled:
            self._ring_scheduled = True
            self._loop.call_soon(self._ring)

    def _ring(self) -> None:
        self._ring_scheduled = False
        self._bell.put(True)

    def stop(self) -> None:
        """Ends the thread after everything queued has been worked on. Blocks until then."""
        self._bell.put(False)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going or self._waiting or self._urgent:
            if not (self._waiting or self._urgent):
                going = self._bell.get()
                continue
            while not self._bell.empty():  # rings for what is being taken now
                going = self._bell.get() and going
            try:
                self._loop.call_soon_threadsafe(self._work(take(self._urgent, self._waiting, self._batch_max)))
            except Exception as error:
                self._on_death(error)  # those who wait would wait for ever
                raise
