"""Who is asking: what the headers of a request say, and whom they make of it."""

from typing import NamedTuple

from flashsale.core.visitor import Visitor


class Said(NamedTuple):
    """The headers by which a request says who asks and why he may, as they came; None: not there."""

    user: bytes | None = None
    key: bytes | None = None
    pass_text: bytes | None = None


NOTHING_SAID = Said()


def visitor(user_id: str, said: Said) -> Visitor:
    """The visitor, now that it is known which user he is."""
    return Visitor(user_id, said.pass_text.decode("latin-1") if said.pass_text is not None else None)
