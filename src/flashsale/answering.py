"""Telling somebody what he has asked for, while others wait behind him; and waiting to be told.

What comes together is decided together and answered one by one: whoever fails to take his answer must not keep theirs
from the others. So everything is caught here. It is always a mistake of ours, and is logged as one.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import structlog

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger("flashsale.answering")


def tell(reply: Callable[[*Ts], object], *answer: *Ts) -> None:
    """Calls `reply` with the answer, and never fails."""
    try:
        reply(*answer)
    except Exception:
        log.exception("an answer could not be delivered")


async def told(begin: Callable[[Callable[[T], None]], None]) -> T:
    """Waits for what `begin` tells whom it is given. An answer that nobody waits for any more is dropped."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def reply(answer: T) -> None:
        if not future.done():
            future.set_result(answer)

    begin(reply)
    return await future
