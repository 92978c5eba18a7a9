"""Whoever signs tokens: keys, tokens right and wrong, and the identity that reads them."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from flashsale.backends.jwks import keys_in
from flashsale.edge.identity import Caller, OperatorToken, Said
from flashsale.edge.token import Claims, Jwt, OneSecret
from flashsale.token_keys import TokenKeys, VerifyingKey

SECRET = "a-secret-of-32-bytes-at-the-least"
ADMIN = "the-operators-token"
NOW_MS = 1_800_000_000_000
NOW = NOW_MS // 1000

RSA = generate_private_key(65537, 2048)
OTHER_RSA = generate_private_key(65537, 2048)
ED = Ed25519PrivateKey.generate()
PrivateKey = RSAPrivateKey | Ed25519PrivateKey


def jwk(key: PrivateKey, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public half, as a key set has it."""
    of = jwt.algorithms.RSAAlgorithm if isinstance(key, RSAPrivateKey) else jwt.algorithms.OKPAlgorithm
    entry = of.to_jwk(key.public_key(), as_dict=True)  # type: ignore[arg-type]
    entry.pop("key_ops", None)
    return entry | ({} if kid is None else {"kid": kid}) | more


def key_set(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(entries)}).encode()


def public_pem(key: PrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def claims(sub: Any = "alice", exp: Any = NOW + 600, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in {"sub": sub, "exp": exp, **more}.items() if value is not None}


def signed(
    said: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **header: Any
) -> str:  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that are too short, on purpose
        return jwt.encode(said, key, algorithm, headers={"kid": kid, **header} if kid else header)


def bearer(token: str | bytes, **more: Any) -> Said:
    return Said(authorization=b"Bearer " + (token.encode() if isinstance(token, str) else token), **more)


class SetOfKeys:
    """What was read once."""

    def __init__(self, *entries: dict[str, Any], ready: bool = True) -> None:
        self.keys = keys_in(key_set(*entries))
        self.ready = ready
        self.trouble: str | None = None
        self.waiting: list[Callable[[], None]] = []

    def find(self, kid: str | None) -> VerifyingKey | None:
        return next(iter(self.keys.values())) if kid is None and len(self.keys) == 1 else self.keys.get(kid)

    def after_look(self, then: Callable[[], None]) -> bool:
        self.waiting.append(then)
        return True

    async def look(self) -> None: ...


class Reader:
    """Identity jwt with a clock in hand."""

    def __init__(self, keys: TokenKeys | None = None, audience: str = "", issuer: str = "") -> None:
        self.now_ms = NOW_MS
        keys = keys or OneSecret(SECRET)
        self.jwt = Jwt(OperatorToken(ADMIN), keys, Claims(audience, issuer), lambda: self.now_ms)

    def caller(self, token: str | bytes) -> Caller:
        found = self.jwt.caller(bearer(token))
        assert isinstance(found, Caller), found
        return found

    def refusal(self, token: str | bytes) -> str:
        found = self.jwt.caller(bearer(token))
        assert not isinstance(found, Caller), found
        assert found.refusal.status in (401, 503)
        return found.message
