"""What it costs to know who asks: a token verified anew, by each algorithm, and one that is remembered.

    .venv/bin/python bench/tokens.py

In one process and one thread, because that is where it is paid for. The median of several rounds.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from flashsale.edge.address import Addresses
from flashsale.edge.identity import Caller, Gateway, Identity, Open, OperatorToken, Said
from flashsale.edge.token import Claims, Jwt, OneSecret
from flashsale.token_keys import VerifyingKey

SECRET = "a-secret-of-32-bytes-at-the-least"
ROUNDS, TOKENS = 9, 500


class OneKey(OneSecret):
    def __init__(self, algorithm: str, key: Any) -> None:
        self._key = VerifyingKey(algorithm, key)


def tokens(key: Any, algorithm: str) -> list[Said]:
    until = int(time.time()) + 3600
    said = ({"sub": f"user-{number}", "exp": until, "roles": [], "tier": "gold"} for number in range(TOKENS))
    return [Said(authorization=b"Bearer " + jwt.encode(each, key, algorithm).encode()) for each in said]


def microseconds(made: Callable[[], Identity], asked: list[Said], before: int = 0) -> float:
    """Of one question; `before`: how often all were asked already."""
    rounds = []
    for _ in range(ROUNDS):
        identity = made()
        for _ in range(before):
            for said in asked:
                identity.caller(said)
        began = time.perf_counter()
        for said in asked:
            assert isinstance(identity.caller(said), Caller)
        rounds.append((time.perf_counter() - began) / len(asked) * 1e6)
    return statistics.median(rounds)


def main() -> None:
    operators, rsa, ed = (
        OperatorToken("the-operators-token"),
        generate_private_key(65537, 2048),
        Ed25519PrivateKey.generate(),
    )
    kinds = {
        "HS256": (OneKey("HS256", SECRET.encode()), SECRET),
        "RS256": (OneKey("RS256", rsa.public_key()), rsa),
        "EdDSA": (OneKey("EdDSA", ed.public_key()), ed),
    }
    for algorithm, (keys, private) in kinds.items():
        asked = tokens(private, algorithm)

        def made(keys: OneKey = keys) -> Identity:
            return Jwt(operators, keys, Claims(), lambda: time.time_ns() // 1_000_000)

        print(
            f"{algorithm}  anew {microseconds(made, asked):7.2f} us   remembered {microseconds(made, asked, 1):5.2f} us"
        )
    named = [Said(user=b"user-1", peer="10.0.0.1")] * TOKENS
    addresses = Addresses(["10.0.0.0/8"])
    print(f"gateway            {microseconds(lambda: Gateway(operators, addresses), named):5.2f} us")
    print(f"open               {microseconds(lambda: Open(operators), named):5.2f} us")


if __name__ == "__main__":
    main()
