"""A visitor: who asks for units, as far as admission goes by it.

The edge finds out who that is (`edge/identity.py`) and what he brings with him; the rules never see a header.
"""

from typing import NamedTuple


class Visitor(NamedTuple):
    user_id: str
    pass_text: str | None = None
    """The pass that he brings, as it came; nobody has looked at it."""
