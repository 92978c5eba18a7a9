"""Tickets and passes: a place in the waiting room, and the signed right to buy. Each tells by itself that it is real.

    tkt_   NUMBER (10)  SEAL (16)  OWNER (16)  the mark of the sale's shard, if it has one
    pass_  NUMBER (10)  UNTIL (12)  SEAL (32)                                               in hex, of fixed width

A seal is a keyed hash, made with the ledger's secret, over the very characters of the others, the sale and (a pass's
seal, a ticket's OWNER) the user. So any process knows of both, without a store, whether they were given out, for which
sale and to whom; and since the characters are sealed and not the numbers they stand for, there is one spelling of each.

Nothing is parsed before it is known to be genuine, and nothing longer than a genuine one is looked at. A pass is read
with every attempt to reserve, so it has to be cheap: one keyed hash, less than 2 us in all.

Eight bytes are enough where each guess is a request and shows a place in a line, as in `core/pending.py`. A pass is
worth more, and has sixteen.
"""

import re
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest

import msgspec

NUMBER_MAX = 16**10 - 1
UNTIL_MS_MAX = 16**12 - 1
_TICKET = re.compile(r"(tkt_[0-9a-f]{10})([0-9a-f]{16})([0-9a-f]{16})(s[0-9a-f]{2})?").fullmatch
_PASS_BODY = len("pass_") + 10 + 12
_PASS = _PASS_BODY + 32


class Pass(msgspec.Struct, frozen=True, gc=False):
    number: int
    """Of the ticket that was admitted."""
    until_ms: int


class NoPass(Enum):
    """Why a pass lets nobody in."""

    FORGED = "FORGED"
    """Nobody gave it out, or to somebody else, or for another sale."""
    EXPIRED = "EXPIRED"


# -- Tickets


def new_ticket(secret: bytes, sale_id: str, number: int, user_id: str, mark: str = "") -> str:
    """The id of the ticket with this arrival number, always the same."""
    if not 1 <= number <= NUMBER_MAX:
        raise ValueError(f"an arrival number is between 1 and {NUMBER_MAX}, not {number}")
    body = f"tkt_{number:010x}"
    owner = _owner(secret, body, sale_id, user_id)
    return f"{body}{_seal(secret, body + owner, sale_id, mark)}{owner}{mark}"


def read_ticket(secret: bytes, sale_id: str, ticket: str, user_id: str | None) -> int | None:
    """The arrival number, if the ticket was given out for this sale; with a user, if it was given to him."""
    parts = _TICKET(ticket)
    if parts is None:
        return None
    body, seal, owner, mark = parts.groups("")
    mine = user_id is None or compare_digest(owner, _owner(secret, body, sale_id, user_id))
    genuine = compare_digest(seal, _seal(secret, body + owner, sale_id, mark))
    return int(body[4:], 16) if genuine and mine else None


def _seal(secret: bytes, body: str, sale_id: str, mark: str) -> str:
    return blake2b(f"{body}{mark}\0{sale_id}".encode(), digest_size=8, key=secret, person=b"ticket").hexdigest()


def _owner(secret: bytes, body: str, sale_id: str, user_id: str) -> str:
    words = f"{body}\0{sale_id}\0{user_id}".encode()
    return blake2b(words, digest_size=8, key=secret, person=b"ticket-owner").hexdigest()


# -- Passes


def new_pass(secret: bytes, sale_id: str, user_id: str, number: int, until_ms: int) -> str:
    """The right of a user to buy in a sale, up to a time."""
    if not (1 <= number <= NUMBER_MAX and 0 <= until_ms <= UNTIL_MS_MAX):
        raise ValueError(f"no pass can say number {number}, until {until_ms}")
    body = f"pass_{number:010x}{until_ms:012x}"
    return body + _pass_seal(secret, body, sale_id, user_id)


def read_pass(secret: bytes, sale_id: str, user_id: str, text: str, now_ms: int) -> Pass | NoPass:
    """What a pass says, if it was given to this user for this sale and has not expired."""
    if len(text) != _PASS or not text.isascii():
        return NoPass.FORGED
    body = text[:_PASS_BODY]
    if not compare_digest(text[_PASS_BODY:], _pass_seal(secret, body, sale_id, user_id)):
        return NoPass.FORGED
    until_ms = int(body[-12:], 16)
    return Pass(int(body[5:15], 16), until_ms) if now_ms < until_ms else NoPass.EXPIRED


def _pass_seal(secret: bytes, body: str, sale_id: str, user_id: str) -> str:
    seal = _pass_sealer(secret).copy()
    seal.update(f"{body}{sale_id}\0{user_id}".encode())
    return seal.hexdigest()


@lru_cache(maxsize=8)
def _pass_sealer(secret: bytes) -> blake2b:
    """There is one secret: to take the key in is half of the work."""
    return blake2b(digest_size=16, key=secret, person=b"pass")
