"""The trace that a request belongs to, from the edge to the events that it causes.

Whoever calls us may name his trace in the header `traceparent` (W3C Trace Context). Its id is kept beside the request
while it is worked on, as the context of its task, and written into every row that it causes: so it is in the events,
however late they are published and by whom. Nothing is decided by it. What nobody asked for (an expiry) has none.
"""

import re
from contextvars import ContextVar

TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)
"""Read it before anything is awaited or handed over: another task has another one."""

_FORM = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL
).fullmatch


def trace_id_in(traceparent: bytes | None) -> str | None:
    """The id of the trace; None where there is none, or not in good form: then it is ignored, as the standard says."""
    found = _FORM(traceparent) if traceparent is not None else None
    return found[1].decode() if found else None
