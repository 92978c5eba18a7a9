"""The seam between whoever reads the keys of tokens (`backends/jwks.py`) and whoever reads tokens (`edge/token.py`).

Apart from `ports.py`, because the purchase needs none of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class VerifyingKey(NamedTuple):
    """What a token's signature is verified with, and the one algorithm by which."""

    algorithm: str
    key: Any


class TokenKeys(Protocol):
    """The keys of whoever signs tokens, as they were last read. They are read beside the requests."""

    @property
    def ready(self) -> bool:
        """Whether they have ever been read."""

    @property
    def trouble(self) -> str | None:
        """Why they could not be read lately, in words for the operator; None while they are. What was read before
        goes on counting."""

    def find(self, kid: str | None) -> VerifyingKey | None:
        """By its name; a token that names none means the only key there is."""

    def after_look(self, then: Callable[[], None]) -> bool:
        """Reads them now, and calls `then` when that is done. False: they were only just read, or too many wait."""

    async def look(self) -> None:
        """Reads them if it is time."""
