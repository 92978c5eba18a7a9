"""Identity `jwt`: a signed token says who asks.

What a token says of itself is believed for one thing only: which of our keys it may be signed with (`kid`). The
algorithm is that of the key. A token has one spelling here: base64 that decodes to the same bytes is another token,
and no token. Where the keys come from is `ports.TokenKeys`.

Verifying costs 60 us (HS256), 105 us (RS256) or 190 us (EdDSA), so what was verified is remembered by the token's
bytes for a minute: a token that is known costs one look into a dictionary, 0.6 us (`bench/tokens.py`). The minute is
how long a key that was taken away may go on counting.
"""

import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jwt

from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Priority
from flashsale.edge.identity import LATER, OPERATOR, Caller, OperatorToken, Role, Said, bearer, unknown
from flashsale.edge.wire import USER_FORM, is_user
from flashsale.token_keys import TokenKeys, VerifyingKey

TOKEN_MAX = 8192
"""Bytes of a token."""
KNOWN_MAX = 20_000
"""Verified tokens that are remembered: with a kilobyte each, 25 MB."""
KNOWN_BYTES_MAX = 32 * 1024 * 1024
"""Of all of them together."""
KNOWN_FOR_MS = 60_000
LEEWAY_MS = 10_000
"""How far the clocks of whoever signs may be away from ours."""
CLAIM_SECONDS_MAX = 10**11
ROLES_MAX = 100

NO_TOKEN = unknown("This needs a token, in the header `Authorization: Bearer TOKEN`")
MALFORMED = unknown("The token is malformed")
NO_KEYS = Refused(
    Refusal.UNAVAILABLE, "The keys of tokens cannot be read now: try again", {"retryAfterSeconds": 1}
)  # fmt: skip
_PLAIN = re.compile(rb"Bearer [A-Za-z0-9_.-]+").fullmatch
_FORM = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)").fullmatch
_is_tier = re.compile(r"[A-Za-z0-9_-]{1,32}").fullmatch
_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.InvalidSignatureError, "The signature of the token does not hold"),
    (jwt.InvalidAlgorithmError, "The token is not signed by the algorithm of its key"),
    (jwt.InvalidAudienceError, "The token is for another audience"),
    (jwt.InvalidIssuerError, "The token is another issuer's"),
)


class Claims(NamedTuple):
    """What a token must say; empty: it is not looked at."""

    audience: str = ""
    issuer: str = ""


class _Known(NamedTuple):
    caller: Caller
    until_ms: int


class OneSecret:
    """The key of an issuer that signs with a secret: there is one, whatever a token calls it."""

    ready = True
    trouble: str | None = None

    def __init__(self, secret: str) -> None:
        self._key = VerifyingKey("HS256", secret.encode())

    def find(self, kid: str | None) -> VerifyingKey | None:
        return self._key

    def after_look(self, then: Callable[[], None]) -> bool:
        return False

    async def look(self) -> None:
        """There is nothing to read."""


class Jwt:
    believes = False

    def __init__(
        self, operators: OperatorToken, keys: TokenKeys, wanted: Claims, now_ms: Callable[[], int]
    ) -> None:  # fmt: skip
        self._operators = operators
        self._keys = keys
        self._audience, self._issuer = wanted.audience or None, wanted.issuer or None
        self._options = {
            "require": ["sub", "exp"], "verify_aud": bool(wanted.audience), "verify_iss": bool(wanted.issuer),
            "verify_exp": False, "verify_nbf": False, "verify_iat": False,  # by our clock, below
        }  # fmt: skip
        self._now_ms = now_ms
        self.look_again = keys.after_look
        self._known_bytes = 0
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        """By the header that brought the token. The dictionary's hash is keyed, so its timing tells nothing of them."""

    def caller(self, said: Said) -> Caller | Refused:
        text = said.authorization
        if text is None:
            return NO_TOKEN
        known = self._known.get(text)
        if known is not None and self._now_ms() < known.until_ms:
            self._known.move_to_end(text)
            return known.caller
        if self._operators.is_in(text):
            return OPERATOR
        return self._examined(text)

    def _examined(self, text: bytes) -> Caller | Refused:
        claims = self._verified(bearer(text) or b"")
        if isinstance(claims, Refused):
            return claims
        now_ms = self._now_ms()
        caller = _caller(claims, now_ms)
        if isinstance(caller, Caller) and _PLAIN(text):  # one spelling of each, or a single token fills it all
            self._remember(text, _Known(caller, min(int(claims["exp"] * 1000), now_ms + KNOWN_FOR_MS)))
        return caller

    def _remember(self, text: bytes, known: _Known) -> None:
        if self._known.pop(text, None) is None:
            self._known_bytes += len(text)
        self._known[text] = known
        while len(self._known) > KNOWN_MAX or self._known_bytes > KNOWN_BYTES_MAX:
            oldest, _ = self._known.popitem(last=False)
            self._known_bytes -= len(oldest)

    def _verified(self, token: bytes) -> dict[str, Any] | Refused:
        """The claims of a token whose signature holds."""
        if not _is_one_spelling(token):
            return MALFORMED if token else NO_TOKEN
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.find(kid)
            if key is None:
                return LATER if self._keys.ready else NO_KEYS
            claims: dict[str, Any] = jwt.decode(
                token, key.key, [key.algorithm], self._options,  # type: ignore[arg-type]
                audience=self._audience, issuer=self._issuer,
            )  # fmt: skip
        except jwt.MissingRequiredClaimError as missing:
            return unknown(f"The token lacks the claim {missing.claim}")
        except (jwt.PyJWTError, ValueError) as trouble:
            return unknown(next((words for kind, words in _WORDS if isinstance(trouble, kind)), MALFORMED.message))
        return claims


def _is_one_spelling(token: bytes) -> bool:
    """Three parts in base64url. Of the last one the signature itself does not tell how it must be spelled: bits and
    padding that mean nothing could be changed."""
    parts = _FORM(token) if len(token) <= TOKEN_MAX else None
    if parts is None or len(parts[1]) % 4 == 1:
        return False
    signature = urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))
    return urlsafe_b64encode(signature).rstrip(b"=") == parts[1]


def _caller(claims: dict[str, Any], now_ms: int) -> Caller | Refused:
    """Whom the claims of a genuine token make of its bearer, if its time is now."""
    user_id, exp, nbf = claims["sub"], _seconds(claims["exp"]), _seconds(claims.get("nbf", 0))
    if not (isinstance(user_id, str) and is_user(user_id)):
        return unknown(f"Claim sub of the token {USER_FORM}")
    if exp is None or nbf is None:
        return unknown("Claims exp and nbf of the token must be seconds since 1970")
    if now_ms >= exp * 1000 + LEEWAY_MS:
        return unknown("The token has expired")
    if now_ms < nbf * 1000 - LEEWAY_MS:
        return unknown("The token is not valid yet")
    roles = _roles(claims.get("roles"))
    since = _seconds(claims.get("known_since"))
    high = claims.get("priority") == Priority.HIGH
    return Caller(
        user_id, roles, Role.OPERATOR in roles, _tier(claims.get("tier")),
        None if since is None else int(since * 1000), Priority.HIGH if high else Priority.NORMAL,
    )  # fmt: skip


def _seconds(value: object) -> float | None:
    """A moment, as tokens tell it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= CLAIM_SECONDS_MAX and math.isfinite(value) else None


def _roles(value: object) -> frozenset[Role]:
    """Those that mean something here: in a list, or in one text with spaces."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list):
        return frozenset()
    return frozenset(role for role in Role if role in words[:ROLES_MAX])


def _tier(value: object) -> str | None:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return text if _is_tier(text) else None
