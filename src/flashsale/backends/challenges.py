"""Challenges made and checked with altcha: the proof of work is a derived key that begins with so many zeros.

The work is PBKDF2 with few iterations, tried some thousand times: to find the right one takes a browser about a second,
to check it takes one try. A signature shows that a challenge is ours, and what is signed tells all about it, so nothing
is kept of those that were given out.
"""

import json
from base64 import b64decode
from binascii import Error as NotBase64
from hashlib import blake2b
from typing import Any

import altcha

from flashsale.core.challenge import HEADER_MAX, VALID_SECONDS, Challenge, Hardness
from flashsale.ports import Clock

ALGORITHM = "PBKDF2/SHA-256"
ZEROS = "000"
"""In hex: one try in 4096 has them."""
ITERATIONS = {Hardness.USUAL: 300, Hardness.HARD: 1500}
"""Of one try."""
LONG_EXPIRED = Challenge("", 0, "", 0)


class AltchaChallenges:
    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._key = blake2b(b"altcha", key=secret, digest_size=32, person=b"challenge-key").digest()
        self._clock = clock

    def make(self, hardness: Hardness, bound: str) -> dict[str, Any]:
        until_ms = self._clock.now_ms() + VALID_SECONDS * 1000
        data = {"for": bound, "hardness": int(hardness), "untilMs": until_ms}
        made = altcha.create_challenge(
            ALGORITHM, ITERATIONS[hardness], key_prefix=ZEROS, data=data, hmac_secret=self._key,
            expires_at=until_ms // 1000,
        )  # fmt: skip
        return made.to_dict()

    def opened(self, solution: str) -> Challenge | None:
        """Looks at the signature only: that of a solution without work says at once whether it is ours."""
        challenge = _read(solution)
        if challenge is None:
            return None
        checked = altcha.verify_solution(altcha.Payload(challenge, altcha.Solution(-1, "")), self._key)
        if checked.expired:
            return LONG_EXPIRED
        parameters = challenge.parameters
        if checked.invalid_signature is not False or parameters.data is None:
            return None
        data = parameters.data
        return Challenge(parameters.nonce, data["hardness"], data["for"], data["untilMs"])

    def solved(self, solution: str) -> bool:
        return bool(altcha.verify_solution(solution, self._key).verified)


def _read(solution: str) -> altcha.Challenge | None:
    if len(solution) > HEADER_MAX:
        return None
    try:
        return altcha.Challenge.from_dict(json.loads(b64decode(solution, validate=True))["challenge"])
    except (NotBase64, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
