"""The draw: those who came before the start get places in an order that nobody chose and everybody can recompute.

    pre-queue opens   commitment(seed) is published         from here on the seed cannot be another
    each join         a receipt: ticket's hash and number   from here on the entrant cannot be left out or moved
    the start         merkle_root(hashes) is published      from here on nobody can be added
    the draw          seed and hashes are published         anybody recomputes all of it

The order is that of HMAC-SHA256(key = seed + root, message = ticket's hash). The root is in the key, so that one more
entrant changes everybody's place; the seed is in it, so that nobody can choose a ticket that comes out in front without
knowing the seed. A ticket's id is its owner's and is never published, its hash is.

The tree is that of RFC 9162 (Certificate Transparency): a leaf is SHA-256(0x00 || number || hash), a node
SHA-256(0x01 || left || right), and the larger left side of an uneven tree is full. A leaf covers the arrival number, in
8 bytes, so that an entrant who was moved shows. The commitment is SHA-256 over a title and the seed.

`docs/waiting-room-fairness.md` says what this proves, and what it does not.
"""

from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SEED_BYTES = 32
RECEIPT_CHARACTERS_MAX = 1024
PUBLISHED_ENTRANTS_MAX = 10_000
"""Hashes on one page of a published draw."""

Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
"""32 bytes in hex."""
SaleId = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$", max_length=64)]
Number = Annotated[int, msgspec.Meta(ge=1)]
"""Of arrival: the first has 1."""

_COMMITMENT = b"flashsale draw: commitment to the seed\0"
_RECEIPT = b"flashsale draw: receipt\0"
_RECEIPT_KEY = b"receipt-key"
_HMAC_BLOCK = 64
_INNER, _OUTER = bytes(byte ^ 0x36 for byte in range(256)), bytes(byte ^ 0x5C for byte in range(256))


class Receipt(msgspec.Struct, frozen=True, rename="camel"):
    """What everybody who joins gets, signed: he can prove that he came, as which number, and to which seed."""

    sale_id: SaleId
    ticket_hash: Hash
    kind: Literal["prequeue", "line"]
    number: Number
    at: int
    """When the join was committed, in milliseconds since 1970."""
    commitment: Hash | None = None
    """To the seed that draws his place; whoever comes after the start is not drawn."""
    version: Literal[1] = 1


class Published(msgspec.Struct, frozen=True, rename="camel"):
    """A page of what the world is shown of a sale's draw. All pages tell the same but for hashes, order and next."""

    sale_id: SaleId
    state: Literal["OPEN", "CLOSED", "DRAWN"]
    commitment: Hash
    public_key: Hash
    """Of the receipts (Ed25519)."""
    entrants: Annotated[int, msgspec.Meta(ge=0)] | None = None
    root: Hash | None = None
    """Both from the close on."""
    seed: Hash | None = None
    """From the draw on, like what follows."""
    hashes: list[Hash] = []
    """This page's entrants, in the order of arrival."""
    order: list[Number] = []
    """Arrival numbers; this page's places, in their order."""
    next: int | None = None
    """How many hashes and places have been shown up to here; None on the last page."""


# -- Tickets, seed and order


def ticket_hash(ticket: str) -> bytes:
    """What is published of a ticket."""
    return sha256(ticket.encode()).digest()


def commitment(seed: bytes) -> bytes:
    """What is published of the seed before anybody has joined."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    return sha256(_COMMITMENT + seed).digest()


def order(seed: bytes, root: bytes, hashes: Sequence[bytes]) -> list[int]:
    """The arrival numbers in drawn order; `hashes` are in the order of arrival."""
    drawn = _drawn(seed, root, hashes)
    return sorted(range(1, len(drawn) + 1), key=[b"", *drawn].__getitem__)


def places(seed: bytes, root: bytes, hashes: Sequence[bytes]) -> "array[int]":
    """The place (from 1 on) of each arrival number; that of number n is at n - 1."""
    found = array("I", bytes(array("I").itemsize * len(hashes)))
    for place, number in enumerate(order(seed, root, hashes), 1):
        found[number - 1] = place
    return found


def _drawn(seed: bytes, root: bytes, hashes: Sequence[bytes]) -> list[bytes]:
    """HMAC-SHA256 of each hash. Written out: hmac.digest would make the same pads anew for each, in twice the time."""
    key = seed + root
    if len(key) != _HMAC_BLOCK:
        raise ValueError(f"seed and root have {_HMAC_BLOCK} bytes together, not {len(key)}")
    inner, outer = key.translate(_INNER), key.translate(_OUTER)
    return [sha256(outer + sha256(inner + each).digest()).digest() for each in hashes]


# -- The entrants' tree


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """Over the entrants' hashes in the order of arrival."""
    level = _leaves(hashes)
    while len(level) > 1:
        level = _above(level)
    return level[0] if level else sha256().digest()


def inclusion_proof(hashes: Sequence[bytes], number: int) -> list[bytes]:
    """What leads from an entrant's hash to the root: his neighbours, from the leaves on."""
    if not 1 <= number <= len(hashes):
        raise ValueError(f"there are {len(hashes)} entrants, and none is number {number}")
    level, at, proof = _leaves(hashes), number - 1, []
    while len(level) > 1:
        if at ^ 1 < len(level):
            proof.append(level[at ^ 1])
        level, at = _above(level), at >> 1
    return proof


def verify_inclusion(root: bytes, entrants: int, number: int, entrant: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the entrant with this hash is that number of so many, under this root."""
    if not 1 <= number <= entrants:
        return False
    node, at, last, rest = _leaf(number, entrant), number - 1, entrants - 1, iter(proof)
    while last:
        if at ^ 1 <= last:
            neighbour = next(rest, b"")
            node = _node(neighbour, node) if at & 1 else _node(node, neighbour)
        at, last = at >> 1, last >> 1
    return node == root and next(rest, None) is None


def _leaves(hashes: Sequence[bytes]) -> list[bytes]:
    return [_leaf(number, each) for number, each in enumerate(hashes, 1)]


def _leaf(number: int, entrant: bytes) -> bytes:
    return sha256(b"\0%b%b" % (number.to_bytes(8, "big"), entrant)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1%b%b" % (left, right)).digest()


def _above(level: list[bytes]) -> list[bytes]:
    """The next level; an odd last node goes up as it is."""
    nodes = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return [*nodes, level[-1]] if len(level) % 2 else nodes


# -- Receipts


def signing_key(secret: bytes) -> Ed25519PrivateKey:
    """The key of the receipts, from the ledger's secret."""
    return Ed25519PrivateKey.from_private_bytes(blake2b(key=secret, digest_size=32, person=_RECEIPT_KEY).digest())


def published_key(key: Ed25519PrivateKey) -> str:
    """The public half, as it is published."""
    return key.public_key().public_bytes_raw().hex()


def sign(receipt: Receipt, key: Ed25519PrivateKey) -> str:
    """A receipt as its holder keeps it: text that may stand in a URL."""
    body = _encode(receipt)
    return _text(body, key.sign(_RECEIPT + body))


def read_receipt(text: str, public_key: Ed25519PublicKey) -> Receipt | None:
    """What a receipt says, if it is genuine. It has one spelling: any other is not."""
    if len(text) > RECEIPT_CHARACTERS_MAX:
        return None
    try:
        body, signature = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in text.split("."))
        if _text(body, signature) != text:
            return None
        public_key.verify(signature, _RECEIPT + body)
        return _decode(body)
    except (ValueError, InvalidSignature, msgspec.DecodeError):
        return None


def _text(body: bytes, signature: bytes) -> str:
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in (body, signature))


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Receipt).decode
