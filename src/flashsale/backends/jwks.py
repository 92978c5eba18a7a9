"""The public keys of whoever signs tokens: a JSON Web Key Set (RFC 7517), from a file or a URL.

A key is good for one algorithm, and the set says which: RSA keys for RS256, Ed25519 keys for EdDSA. Whatever else is in
the set (other algorithms, keys to encrypt with, symmetric ones, which are no secrets once they are published) is left
out. A set is taken whole: a key that is not in it any more counts no longer. Where no set can be read, or what is read
is none, the last one goes on counting.
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import structlog

from flashsale.token_keys import VerifyingKey

FILE_SECONDS = 1.0
"""How often it is looked whether a file has changed."""
FRESH_SECONDS = 300.0
"""How old the keys of a URL may be."""
RETRY_SECONDS = 10.0
"""After a failure, and between two reads that unknown keys have caused."""
READ_SECONDS = 5.0
SET_BYTES_MAX = 256 * 1024
KEYS_MAX = 100
WAITING_MAX = 1024
"""Requests that wait for a read."""
RSA_BITS_MIN = 2048

log = structlog.get_logger("flashsale.keys")

Read = Callable[[], Awaitable[bytes | None]]
"""A set as it is now; None: as it was at the last time."""


class KeysUnreadable(Exception):
    """There is no key set where one should be; the message says why."""


class JsonWebKeys:
    """The keys as they were last read. `read` brings them; they are good for `fresh_seconds`."""

    def __init__(self, read: Read, fresh_seconds: float) -> None:
        self._read = read
        self._fresh_seconds = fresh_seconds
        self._keys: dict[str | None, VerifyingKey] = {}
        self._next = -math.inf
        self._asked = -math.inf
        """When an unknown key has last caused a read."""
        self._waiting: list[Callable[[], None]] = []
        self._reading: asyncio.Task[None] | None = None
        self.ready = False
        self.trouble: str | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._keys)

    def find(self, kid: str | None) -> VerifyingKey | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def after_look(self, then: Callable[[], None]) -> bool:
        if self._reading is None:
            now = _now()
            if now - self._asked < RETRY_SECONDS:
                return False
            self._asked = now
            self._reading = asyncio.create_task(self._look())
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.append(then)
        return True

    async def look(self) -> None:
        """Reads them if it is time, and not while they are being read."""
        if self._reading is None and _now() >= self._next:
            self._reading = asyncio.create_task(self._look())
            await self._reading

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                text = await self._read()
            if text is not None:
                self._keys = keys_in(text)
            self.ready, self.trouble = True, None
            self._next = _now() + self._fresh_seconds
        except (KeysUnreadable, TimeoutError) as trouble:
            self._failed(str(trouble) or f"no answer within {READ_SECONDS:g} s")
        finally:
            self._reading = None
            waiting, self._waiting = self._waiting, []
            for then in waiting:
                asyncio.get_running_loop().call_soon(then)

    def _failed(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("the keys of tokens cannot be read", trouble=trouble)
        self.trouble = trouble
        self._next = _now() + min(RETRY_SECONDS, self._fresh_seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()


def is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def json_web_keys(place: str) -> JsonWebKeys:
    """Of a URL, read every five minutes, or of a file, read when it has changed."""
    if is_url(place):
        return JsonWebKeys(_Url(place).read, FRESH_SECONDS)
    return JsonWebKeys(_File(Path(place)).read, FILE_SECONDS)


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()

    async def read(self) -> bytes | None:
        return await asyncio.to_thread(self._changed)

    def _changed(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_mtime_ns, found.st_size, found.st_ino)
                if seen == self._seen:
                    return None
                text = file.read(SET_BYTES_MAX + 1)
        except OSError as error:
            raise KeysUnreadable(f"{self._path}: {error.strerror}") from error
        keys_in(text)  # what is no set (a file that is being written) is read again
        self._seen = seen
        return text


class _Url:
    """Asks anew each time: once in five minutes a connection is not worth keeping."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def read(self) -> bytes | None:
        try:
            async with (
                httpx.AsyncClient(timeout=READ_SECONDS) as client,
                client.stream("GET", self._url, headers={"accept-encoding": "identity"}) as answer,
            ):
                return await _body(answer)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise KeysUnreadable(f"the key set cannot be fetched: {str(error) or type(error).__name__}") from error


async def _body(answer: httpx.Response) -> bytes:
    if answer.status_code != httpx.codes.OK:
        raise KeysUnreadable(f"the key set was answered with status {answer.status_code}")
    body = b""
    async for piece in answer.aiter_raw():  # as it came: what was compressed may become anything
        body += piece
        if len(body) > SET_BYTES_MAX:
            break
    return body


def keys_in(text: bytes) -> dict[str | None, VerifyingKey]:
    """The keys of a set that tokens can be verified with, by their names. Raises KeysUnreadable."""
    if len(text) > SET_BYTES_MAX:
        raise KeysUnreadable(f"the key set is larger than {SET_BYTES_MAX} bytes")
    try:
        entries = msgspec.json.decode(text, type=_KeySet).keys
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise KeysUnreadable(f"this is no key set: {error}") from error
    if len(entries) > KEYS_MAX:
        raise KeysUnreadable(f"the key set has more than {KEYS_MAX} keys")
    found: dict[str | None, VerifyingKey] = {}
    for entry in entries:
        kid, key = entry.get("kid"), _key(entry)
        if key is not None and (kid is None or isinstance(kid, str)):
            found.setdefault(kid, key)
    return found


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


_ALGORITHMS = {"RSA": "RS256", "OKP": "EdDSA"}


def _key(entry: dict[str, Any]) -> VerifyingKey | None:
    """What a token is verified with; None: it is for something else."""
    algorithm = _ALGORITHMS.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    if "d" in entry or (algorithm == "EdDSA" and entry.get("crv") != "Ed25519"):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if algorithm == "RS256" and key.key_size < RSA_BITS_MIN:
        return None
    return VerifyingKey(algorithm, key)
