"""Telling somebody what he has asked for, while others wait behind him.

What comes together is decided together and answered one by one: whoever fails to take his answer must not keep theirs
from the others. So everything is caught here. It is always a mistake of ours, and is logged as one.
"""

from collections.abc import Callable
from typing import TypeVarTuple

import structlog

Ts = TypeVarTuple("Ts")

log = structlog.get_logger("flashsale.answering")


def tell(reply: Callable[[*Ts], object], *answer: *Ts) -> None:
    """Calls `reply` with the answer, and never fails."""
    try:
        reply(*answer)
    except Exception:
        log.exception("an answer could not be delivered")
