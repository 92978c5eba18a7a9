"""Where a request comes from: the marks of its device and of its networks, over which a sale may limit units.

A sale may say how many units a device and an address get together, whatever accounts they use (`perDeviceLimit`,
`perAddressLimit`). The limits are counted as the purchase limit is: what is held or bought, given back with the units.
An IPv4 address counts by itself. Whoever has one IPv6 address mostly has a whole network of them: these count by their
/64, and so that somebody with a larger network does not get as often as he has networks, the /56 and the /48 around it
have limits too, WIDER times as large: households behind one provider are not taken for one.

A mark is a keyed hash. The ledger's rows tell who came from the same place, and not from which.
"""

from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

DEVICE = "d"
ADDRESS = "a"
"""Also of an IPv6 /64."""
WIDER = {"b": (56, 4), "c": (48, 16)}
"""By the first letter of a mark: the length of an IPv6 prefix, and how many times the limit of an address it has."""
_TIMES = {ADDRESS: 1, **{letter: times for letter, (_, times) in WIDER.items()}}


class Shared(NamedTuple):
    """What of a sale's terms this is about."""

    per_device: int | None
    per_address: int | None


def networks_of(address: str) -> dict[str, str]:
    """By the first letter of its mark: the networks that an address is in. Empty for what is no address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return {}
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if isinstance(parsed, IPv4Address):
        return {ADDRESS: str(parsed)}
    number = int(parsed)
    wider = {letter: f"{number >> (128 - length):x}/{length}" for letter, (length, _) in WIDER.items()}
    return {ADDRESS: f"{number >> 64:x}/64", **wider}


def marks_of(terms: Shared, device: str | None, address: str | None, secret: bytes) -> tuple[str, ...]:
    """The marks over which the sale limits this request; `device` is a mark of `core.device`."""
    found = {DEVICE: device} if device is not None and terms.per_device is not None else {}
    if address is not None and terms.per_address is not None:
        found |= networks_of(address)
    return tuple(_sealed(letter, what, secret) for letter, what in found.items())


def _sealed(letter: str, what: str, secret: bytes) -> str:
    return letter + blake2b(f"{letter}{what}".encode(), digest_size=8, key=secret, person=b"origin").hexdigest()


def limit_of(terms: Shared, mark: str) -> int | None:
    """How many units those with this mark may have together; None: the sale does not limit them any more."""
    if mark[0] == DEVICE:
        return terms.per_device
    return None if terms.per_address is None else terms.per_address * _TIMES[mark[0]]


def kind_of(mark: str) -> str:
    return "device" if mark[0] == DEVICE else "address"


def written(marks: Iterable[str]) -> str | None:
    """Marks as a row keeps them; None where there are none."""
    return " ".join(marks) or None


def read_marks(text: str | None) -> tuple[str, ...]:
    return tuple(text.split()) if text else ()


def is_mark(text: str) -> bool:
    return len(text) == 17 and (text[0] == DEVICE or text[0] in _TIMES) and text[1:].isalnum()
