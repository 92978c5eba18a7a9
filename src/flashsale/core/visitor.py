"""A visitor: who asks for units, as far as admission goes by it.

The edge finds out who that is (`edge/door.py`) and what he brings with him; the rules never see a header.
"""

import msgspec

from flashsale.core.device import Device
from flashsale.core.request import Priority


class Visitor(msgspec.Struct, frozen=True, gc=False):
    user_id: str
    pass_text: str | None = None
    """The pass that he brings, as it came; nobody has looked at it."""
    address: str | None = None
    """Where he asks from, counted over trusted proxies only; None: from nowhere that has an address."""
    tier: str | None = None
    """The class of users that his identity puts him in."""
    known_since_ms: int | None = None
    """Since when his identity knows him."""
    priority: Priority = Priority.NORMAL
    """Of his requests in the queue of a queued sale."""
    device: Device | None = None
    """What his client says of the machine it runs on."""
    solution: str | None = None
    """That of a challenge, as it came."""
