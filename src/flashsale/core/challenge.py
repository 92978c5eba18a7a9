"""Challenges: what somebody has to do who may be a bot. A proof of work that his browser does by itself.

    refusal CHALLENGE_REQUIRED ──► challengeUrl ──► a challenge ──► solved in the browser ──► the same request again,
                                                                                  with header X-Flashsale-Challenge

A challenge is hard according to the risk, holds for a few minutes, and its solution counts once. The link in the
refusal says how hard it is to be and whom it is for, under a seal: so whoever answers it needs to know nothing, and
nobody can ask for an easier one, or solve one for another user. A challenge that was asked for without such a link is
of the harder kind.

How the work is done is the business of a library (`backends/challenges.py`).
"""

from enum import IntEnum
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from flashsale.core.refusal import Refusal, Refused

HEADER = "X-Flashsale-Challenge"
HEADER_MAX = 4096
"""Characters of a solution."""
PATH = "/api/v1/challenge"
PAGE = "/challenge"
"""On which a browser solves one."""
VALID_SECONDS = 300
FOR_ANYBODY = ""
_SEAL = 8


class Hardness(IntEnum):
    """How much work a challenge is."""

    USUAL = 1
    HARD = 2


class Challenge(NamedTuple):
    """What a genuine solution says of its challenge."""

    number: str
    """Another one for each."""
    hardness: int
    bound: str
    """Whom it is for."""
    expires_at_ms: int


class Link(NamedTuple):
    """What a challenge is to be like."""

    hardness: Hardness
    bound: str


def hardness_of(score: int, challenge_score: int, block_score: int) -> Hardness:
    """The usual one up to half way between what is challenged and what is blocked."""
    return Hardness.HARD if 2 * score > challenge_score + block_score else Hardness.USUAL


def bound_to(secret: bytes, user_id: str, sale_id: str = "") -> str:
    """The name of a user, or of a user in a sale, in challenges: it tells nobody which."""
    words = f"{user_id}\0{sale_id}".encode()
    return blake2b(words, digest_size=_SEAL, key=secret, person=b"challenge-for").hexdigest()


def sealed(secret: bytes, link: Link) -> str:
    """As it stands in an address."""
    text = f"{link.hardness.value}-{link.bound}"
    return f"{text}-{_seal(secret, text)}"


def unsealed(secret: bytes, text: str) -> Link | None:
    """None: this was not given out here."""
    said, _, seal = text.rpartition("-")
    if not text.isascii() or not compare_digest(seal, _seal(secret, said)):
        return None
    hardness, _, bound = said.partition("-")
    return Link(Hardness(int(hardness)), bound)


def _seal(secret: bytes, text: str) -> str:
    return blake2b(text.encode(), digest_size=_SEAL, key=secret, person=b"challenge-link").hexdigest()


def required(secret: bytes, link: Link, why: str) -> Refused:
    """The refusal, with the address of a challenge that would do."""
    text = sealed(secret, link)
    details = {"challengeUrl": f"{PATH}?for={text}", "challengePage": f"{PAGE}?for={text}"}
    return Refused(Refusal.CHALLENGE_REQUIRED, f"{why}: solve the challenge at challengeUrl, then try again", details)


NEEDED = "A challenge has to be solved first"
WRONG = "The solution of the challenge is wrong"
EXPIRED = "The challenge has expired"
USED = "The solution of the challenge was used before"
NOT_HIS = "The challenge is another user's or another sale's"
TOO_EASY = "The challenge was easier than this one has to be"


def fault(challenge: Challenge, link: Link, for_user: str, now_ms: int) -> str | None:
    """What is wrong with a challenge before anybody looks at its solution; `for_user` is who he is in any sale."""
    if now_ms >= challenge.expires_at_ms:
        return EXPIRED
    if challenge.bound not in (link.bound, for_user, FOR_ANYBODY):
        return NOT_HIS
    return TOO_EASY if challenge.hardness < link.hardness else None
