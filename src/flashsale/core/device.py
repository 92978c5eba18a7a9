"""A device: what a buyer's client says of the machine it runs on.

The facts travel in one header as base64url JSON. All of them are the client's word: they tell honest devices apart and
make a careless bot visible, and a careful bot can invent them. So nothing is granted for them; their absence counts
against somebody only where a sale wants them (`requireDevice`), and a limit per device is as good as its ids.
"""

from base64 import b64decode
from binascii import Error as NotBase64
from hashlib import blake2b
from typing import Annotated

import msgspec

from flashsale.core.refusal import Refused, invalid

HEADER = "X-Flashsale-Device"
HEADER_MAX = 2048
"""Bytes of the header's value."""

Fact = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    device_id: Fact | None = None
    """Made once by the app or page, and kept on the device."""
    platform: Fact | None = None
    browser: Fact | None = None
    os: Fact | None = None
    screen: Fact | None = None
    timezone: Fact | None = None
    language: Fact | None = None
    canvas: Fact | None = None
    webgl: Fact | None = None


FACTS = Device.__struct_fields__
_decode = msgspec.json.Decoder(Device).decode
_BASE64URL = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")


def read_device(value: str) -> Device | Refused:
    """The facts in a header; strict, because what is read loosely is read differently elsewhere."""
    if len(value) > HEADER_MAX:
        return invalid(HEADER, f"must be at most {HEADER_MAX} bytes")
    text = value.encode("latin-1", "replace")
    if not _BASE64URL.issuperset(text):
        return invalid(HEADER, "must be base64url (RFC 4648, section 5)")
    try:
        return _decode(b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except NotBase64:
        return invalid(HEADER, "must be base64url (RFC 4648, section 5)")
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return invalid(HEADER, f"must be JSON of device facts ({', '.join(_names())}): {str(error)[:200]}")


def _names() -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(Device))


def completeness(device: Device | None) -> float:
    """The share of the facts that are there, from 0 to 1."""
    if device is None:
        return 0.0
    return sum(getattr(device, fact) is not None for fact in FACTS) / len(FACTS)


def mark_of(device: Device | None) -> str | None:
    """A short name of the device, the same whenever it comes: made of its id. None: it has none, and cannot be told
    from others. The other facts change with an update of the browser, and are the same for all phones of one model."""
    if device is None or device.device_id is None:
        return None
    return blake2b(repr((device.device_id,)).encode(), digest_size=8).hexdigest()
