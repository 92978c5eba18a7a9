"""Ids of queued reservations: known before there is a row, and before anybody has been asked.

    res_q  NONCE (12 bytes)  SEAL (8 bytes)  OWNER (8 bytes)      in hex, and the mark of the sale's shard if it has one

Between the buyer's 202 and the decision there is no row that could tell a genuine id from an invented one. The id tells
it itself: SEAL is made of the nonce with the ledger's secret, OWNER of the nonce and the user. So any process knows,
from the id alone, that it was given out (a genuine id without a row is PENDING) and, of somebody who asks for it,
whether it was given to him. The nonce of a request with a key is made of user, sale, key and the item's place among the
items: the same request, repeated anywhere, finds the same ids, and another request with the same key finds the first
one's rows. Without a key it is time and chance.

The seal is over the mark too: an id with another mark would be another reservation, on another shard.

Eight bytes cannot be guessed where each guess is a request; what they protect is the sight of the word PENDING.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest

from flashsale.core.request import Item

SECRET_BYTES = 32
CHANCE_BYTES = 6
_NONCE, _TAG = 12, 8
_FORM = re.compile(r"res_q([0-9a-f]{24})([0-9a-f]{16})([0-9a-f]{16})(s[0-9a-f]{2})?").fullmatch


def keyed_id(secret: bytes, user_id: str, sale_id: str, key: str, place: int, mark: str = "") -> str:
    """The id of an item of a request with a key, always the same."""
    words = f"{user_id}\0{sale_id}\0{key}\0{place}".encode()
    return _sealed(secret, blake2b(words, digest_size=_NONCE, key=secret, person=b"nonce").digest(), user_id, mark)


def keyed_ids(
    secret: bytes, user_id: str, sale_id: str, key: str, items: Sequence[Item], mark: str = ""
) -> tuple[str, ...]:
    """An id for each item, in their order. Their places are those of their SKUs."""
    places = {sku_id: place for place, sku_id in enumerate(sorted(item.sku_id for item in items))}
    return tuple(keyed_id(secret, user_id, sale_id, key, places[item.sku_id], mark) for item in items)


def fresh_id(secret: bytes, user_id: str, now_ms: int, chance: bytes, mark: str = "") -> str:
    """An id that begins with its time; `chance` are CHANCE_BYTES random bytes."""
    return _sealed(secret, now_ms.to_bytes(_NONCE - CHANCE_BYTES, "big") + chance, user_id, mark)


def is_genuine(secret: bytes, reservation_id: str, user_id: str | None) -> bool:
    """Whether the id was given out; with a user, whether it was given to him."""
    parts = _FORM(reservation_id)
    if parts is None:
        return False
    nonce, seal, owner = (bytes.fromhex(part) for part in parts.groups()[:3])
    mine = user_id is None or compare_digest(owner, _owner(secret, nonce, user_id))
    return compare_digest(seal, _seal(secret, nonce, parts[4] or "")) and mine


def mark_in(reservation_id: str) -> str:
    """The mark that an id ends with."""
    parts = _FORM(reservation_id)
    return (parts[4] or "") if parts else ""


def _sealed(secret: bytes, nonce: bytes, user_id: str, mark: str) -> str:
    return f"res_q{nonce.hex()}{_seal(secret, nonce, mark).hex()}{_owner(secret, nonce, user_id).hex()}{mark}"


def _seal(secret: bytes, nonce: bytes, mark: str) -> bytes:
    return blake2b(nonce + mark.encode(), digest_size=_TAG, key=secret, person=b"seal").digest()


def _owner(secret: bytes, nonce: bytes, user_id: str) -> bytes:
    return blake2b(nonce + user_id.encode(), digest_size=_TAG, key=secret, person=b"owner").digest()
