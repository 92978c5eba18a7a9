"""Signed requests: which client program sends them, where only known ones may.

A client signs what it asks for and when: method, path, time, and every parameter. The text that is signed has one form,
so that both sides make the same one of a request (docs/identity.md has an example):

    POST
    /api/v1/reservations
    1767225600
    quantity=1&skuId=IPHONE15-256GB&userId=alice

Parameters are those of the query and the fields of the body's object, each as `name=value` with both percent-encoded,
in the order of their bytes. A text in the body stands as it is; any other value as it is written there.
"""

import hmac
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

import msgspec

from flashsale.core.refusal import Refused, invalid
from flashsale.edge.identity import unknown

WINDOW_SECONDS = 300
"""How far the time of a request may be away from ours."""
QUERY_FIELDS_MAX = 32
DIGITS_MAX = 12

Parameter = tuple[str, str]

NO_KEY = unknown("X-Client-Key must name a client key that this server knows")
NO_TIME = unknown("X-Timestamp must be the time of the request in seconds since 1970")
NOT_NOW = unknown(f"X-Timestamp must be within {WINDOW_SECONDS} seconds of the server's time")
NO_SIGNATURE = unknown(
    "X-Signature must be the HMAC-SHA256, in hex, of method, path, X-Timestamp and the sorted parameters"
)


class Signing(NamedTuple):
    """The headers of a signed request."""

    client: bytes | None
    timestamp: bytes | None
    signature: bytes | None


class Signatures:
    def __init__(self, client_keys: Sequence[str], now_ms: Callable[[], int]) -> None:
        """Each key is `NAME:SECRET`. Without any, nothing need be signed."""
        pairs = (key.partition(":") for key in client_keys)
        self._secrets = {name.encode(): secret.encode() for name, _, secret in pairs}
        self._now_ms = now_ms
        self.wanted = bool(self._secrets)

    def fault(self, signing: Signing, method: str, path: str, query: bytes, body: bytes) -> Refused | None:
        """Why the request is not as one of our clients has signed it."""
        secret, timestamp = self._secrets.get(signing.client or b""), signing.timestamp or b""
        if secret is None:
            return NO_KEY
        if not (timestamp.isdigit() and len(timestamp) <= DIGITS_MAX):
            return NO_TIME
        if abs(self._now_ms() - int(timestamp) * 1000) > WINDOW_SECONDS * 1000:
            return NOT_NOW
        parameters = _parameters(query, body)
        if isinstance(parameters, Refused):
            return parameters
        expected = sign(secret, canonical(method, path, timestamp.decode(), parameters))
        return None if hmac.compare_digest(expected.encode(), signing.signature or b"") else NO_SIGNATURE


def canonical(method: str, path: str, timestamp: str, parameters: Iterable[Parameter]) -> bytes:
    """What is signed. `path` is as it is sent."""
    listed = sorted(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters)
    return "\n".join((method, path, timestamp, "&".join(listed))).encode("latin-1")


def sign(secret: bytes, text: bytes) -> str:
    return hmac.new(secret, text, sha256).hexdigest()


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


def _parameters(query: bytes, body: bytes) -> list[Parameter] | Refused:
    try:
        asked = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX
        )
    except ValueError:
        return invalid("query", f"must be at most {QUERY_FIELDS_MAX} fields in UTF-8")
    try:
        fields = _fields(body) if body.strip() else {}
        return [*asked, *((name, _shown(bytes(value))) for name, value in fields.items())]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return invalid("body", "must be a JSON object")


def _shown(value: bytes) -> str:
    return _text(value) if value.startswith(b'"') else value.decode()
