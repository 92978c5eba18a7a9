"""The keys of tokens, as far as they can be looked at before a server runs."""

import asyncio

from flashsale.backends.jwks import JsonWebKeys, is_url, json_web_keys
from flashsale.cli.finding import Finding, ok, problem
from flashsale.cli.problem import WRONG_INPUT, Problem
from flashsale.settings import Settings, without_password

REMEDY = "see that FLASHSALE_JWT_JWKS names a JSON Web Key Set (RFC 7517) with RSA or Ed25519 keys"


def refuse_missing_keys(settings: Settings) -> None:
    """A file must be there before the server starts. A URL may be away for a while."""
    if settings.jwt_jwks and not is_url(settings.jwt_jwks):
        keys = _read(settings)
        if trouble := keys.trouble or _none(keys):
            raise Problem(f"the keys of tokens cannot be read: {trouble}", "", REMEDY, WRONG_INPUT)


def token_keys(settings: Settings) -> list[Finding]:
    """For `flashsale doctor`."""
    if not settings.jwt_jwks:
        return []
    keys, name = _read(settings), without_password(settings.jwt_jwks)
    if trouble := keys.trouble or _none(keys):
        return [problem("token keys", f"{name}: {trouble}", REMEDY)]
    return [ok("token keys", f"{name}: {keys.count}")]


def _read(settings: Settings) -> JsonWebKeys:
    keys = json_web_keys(settings.jwt_jwks)
    asyncio.run(keys.look())
    return keys


def _none(keys: JsonWebKeys) -> str | None:
    return None if keys.count else "there is no key in the set that tokens can be verified with"
