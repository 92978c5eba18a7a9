"""Who is asking: what a request says of it, and whom each kind of identity makes of that.

    open      the request is believed: header, body and path say who asks. For trying things out.
    gateway   a gateway that has authenticated the user says who he is, in X-User-ID
    jwt       a signed token says it (`edge/token.py`)

Whatever the identity, the operators' token makes an operator of whoever brings it. An identity answers at once and
reads nothing but its memory, because it is asked for every purchase.
"""

import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Priority
from flashsale.edge.address import Addresses
from flashsale.edge.wire import USER_FORM, is_user


class Said(msgspec.Struct, frozen=True, gc=False):
    """What a request says of who asks and why he may: the values of its headers as they came (None: not there), and
    the address of the peer that has sent it."""

    user: bytes | None = None
    key: bytes | None = None
    pass_text: bytes | None = None
    authorization: bytes | None = None
    forwarded_for: bytes | None = None
    peer: str | None = None
    device: bytes | None = None
    solution: bytes | None = None
    """Of a challenge."""


NOTHING_SAID = Said()


class Role(StrEnum):
    """What somebody may beside buying. An operator may everything."""

    OPERATOR = "operator"
    ANALYST = "analyst"
    FULFILMENT = "fulfilment"


OPERATORS_ONLY = frozenset({Role.OPERATOR})


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as far as his identity knows him."""

    user_id: str | None
    roles: frozenset[Role] = frozenset()
    free: bool = False
    """Whether he may ask for anybody's things: an operator, and everybody where requests are believed."""
    tier: str | None = None
    known_since_ms: int | None = None
    priority: Priority = Priority.NORMAL

    @property
    def actor(self) -> str:
        """Who he is in journal and audit."""
        return self.user_id or "operator"


ANYBODY = Caller(None, free=True)
"""Whoever the request names."""
OPERATOR = Caller(None, OPERATORS_ONLY, free=True)
"""Whoever has the operators' token."""


def unknown(why: str) -> Refused:
    """It is not known who asks."""
    return Refused(Refusal.UNAUTHENTICATED, why)


class Identity(Protocol):
    """One of the three."""

    believes: bool
    """Whether what header, body and path say of the user is believed."""

    def caller(self, said: Said) -> Caller | Refused: ...

    def look_again(self, then: Callable[[], None]) -> bool:
        """After LATER: whether `then` will be called when there is news."""


LATER = unknown("The token is signed with a key that is not known here")
"""Perhaps it will be after a look at the keys."""


class OperatorToken:
    """The operators' secret, as the server was started with it."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("the operators' token must not be empty")
        self._token = token.encode()

    def is_in(self, authorization: bytes | None) -> bool:
        token = bearer(authorization)
        return token is not None and hmac.compare_digest(token, self._token)


def bearer(authorization: bytes | None) -> bytes | None:
    """The token of a header `Authorization: Bearer TOKEN`."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


class Open:
    """Everybody is whoever he says he is."""

    believes = True

    def __init__(self, operators: OperatorToken) -> None:
        self._operators = operators

    def caller(self, said: Said) -> Caller | Refused:
        return OPERATOR if said.authorization is not None and self._operators.is_in(said.authorization) else ANYBODY

    def look_again(self, then: Callable[[], None]) -> bool:
        return False


NOBODY = unknown("Nobody is named: the gateway says who asks, in the header X-User-ID")
MISNAMED = unknown(f"X-User-ID {USER_FORM}")


class Gateway:
    """A trusted peer says who asks. Of everybody else the header is as good as not there."""

    believes = False

    def __init__(self, operators: OperatorToken, addresses: Addresses) -> None:
        self._operators = operators
        self._trusts = addresses.trusts

    def caller(self, said: Said) -> Caller | Refused:
        if said.authorization is not None and self._operators.is_in(said.authorization):
            return OPERATOR
        if said.user is None or not self._trusts(said.peer):
            return NOBODY
        user_id = said.user.decode("latin-1")
        return Caller(user_id) if is_user(user_id) else MISNAMED

    def look_again(self, then: Callable[[], None]) -> bool:
        return False
