"""The keys of tokens: read from a file or a URL, kept while it is away, changed while the server runs."""

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from edge.issuer import ED, OTHER_RSA, RSA, jwk, key_set
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from servers.web import Web

from flashsale.backends import jwks
from flashsale.backends.jwks import JsonWebKeys, KeysUnreadable, json_web_keys, keys_in


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with Web() as web:
        yield web


class Time:
    """The keys' clock, in hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(jwks, "_now", time)
    return time


async def asked_for(keys: JsonWebKeys) -> bool:
    """Whether an unknown key has caused a read; waits for it."""
    looked = asyncio.Event()
    if not keys.after_look(looked.set):
        return False
    async with asyncio.timeout(10):
        await looked.wait()
    return True


@contextmanager
def hurried(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(jwks, "READ_SECONDS", seconds)
        yield


# Which keys count


def names(*entries: dict[str, Any]) -> dict[str | None, str]:
    return {kid: key.algorithm for kid, key in keys_in(key_set(*entries)).items()}


def test_the_set_says_for_which_algorithm_a_key_is() -> None:
    assert names(jwk(RSA, "r"), jwk(ED, "e")) == {"r": "RS256", "e": "EdDSA"}
    assert names(jwk(RSA, "r", alg="RS256", use="sig"), jwk(ED, "e", alg="EdDSA")) == {"r": "RS256", "e": "EdDSA"}
    assert names(jwk(RSA)) == {None: "RS256"}


def test_what_is_for_something_else_is_left_out() -> None:
    rsa_private = RSAAlgorithm.to_jwk(RSA, as_dict=True)
    small = RSAAlgorithm.to_jwk(generate_private_key(65537, 1024).public_key(), as_dict=True)  # noqa: S505 to see it left out
    ed448 = OKPAlgorithm.to_jwk(Ed448PrivateKey.generate().public_key(), as_dict=True)
    left_out = [
        jwk(RSA, "a", alg="RS512"), jwk(RSA, "b", alg="PS256"), jwk(RSA, "c", alg="HS256"), jwk(RSA, "d", use="enc"),
        jwk(RSA, "e", alg="none"), jwk(RSA, "f", alg=None), jwk(RSA, "g", alg=["RS256"]),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "h", "alg": "HS256"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "i"},
        rsa_private | {"kid": "j"}, small | {"kid": "k"}, ed448 | {"kid": "l"}, {"kty": "EC", "kid": "m"},
        jwk(RSA, "n") | {"n": "!"}, jwk(RSA, "o") | {"n": 5}, jwk(ED, "p") | {"x": "AA"}, {"kid": "q"}, {},
        jwk(RSA) | {"kid": 5}, jwk(ED, "r", alg="RS256"), jwk(RSA, "s") | {"e": "AA"}, jwk(ED, "t") | {"crv": "X25519"},
    ]  # fmt: skip
    assert names(*left_out, jwk(RSA, "good")) == {"good": "RS256"}


def test_of_two_keys_of_one_name_the_first_counts() -> None:
    found = keys_in(key_set(jwk(RSA, "k"), jwk(OTHER_RSA, "k")))
    assert found["k"].key.public_numbers() == RSA.public_key().public_numbers()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b"null", b"nonsense", b'{"keys":{}}', b'{"keys":[1]}', b'{"keys":null}', b"\xff",
        b'{"keys":' + b"[" * 5000, b" " * (jwks.SET_BYTES_MAX + 1), json.dumps({"keys": [{}] * 101}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_set_is_told_from_an_empty_one(text: bytes) -> None:
    assert keys_in(b'{"keys":[]}') == {}
    with pytest.raises(KeysUnreadable):
        keys_in(text)


# A file


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path, time: Time) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(RSA, "old")))
    keys = json_web_keys(str(path))
    await keys.look()
    assert (keys.find("old") is not None, keys.find("new"), keys.ready, keys.trouble) == (True, None, True, None)
    replacement = tmp_path / "keys.new"
    replacement.write_bytes(key_set(jwk(ED, "new")))
    replacement.replace(path)
    time.seconds += jwks.FILE_SECONDS
    await keys.look()
    assert (keys.find("old"), keys.find("new") is not None) == (None, True)


async def test_an_unchanged_file_is_not_read(tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(jwk(RSA, "k")))
    keys = json_web_keys(str(path))
    await keys.look()
    monkeypatch.setattr(jwks, "keys_in", lambda text: pytest.fail("read again"))
    time.seconds += 5
    await keys.look()
    assert keys.find("k") is not None


async def test_a_file_that_is_away_or_half_written_changes_nothing(tmp_path: Path, time: Time) -> None:
    path = tmp_path / "keys.json"
    keys = json_web_keys(str(path))
    await keys.look()
    assert (keys.ready, keys.find(None)) == (False, None)
    assert "No such file" in (keys.trouble or "")
    whole = key_set(jwk(RSA, "k"))
    for text in (whole, whole[:50]):
        path.write_bytes(text)
        time.seconds += jwks.RETRY_SECONDS
        await keys.look()
        assert keys.find("k") is not None
    assert "no key set" in (keys.trouble or "")
    path.write_bytes(key_set(jwk(ED, "k2")))
    os.utime(path, ns=(1, 1))
    time.seconds += jwks.RETRY_SECONDS
    await keys.look()
    assert (keys.find("k"), keys.find("k2") is not None, keys.trouble) == (None, True, None)


# A URL


async def test_a_url_is_asked_every_five_minutes(web: Web, time: Time) -> None:
    web.body = key_set(jwk(RSA, "k"))
    keys = json_web_keys(web.url)
    await keys.look()
    for _ in range(3):
        time.seconds += jwks.FRESH_SECONDS / 3 - 1
        await keys.look()
    assert web.asked == 1
    time.seconds += 3
    await keys.look()
    assert web.asked == 2
    assert keys.find("k") is not None


async def test_a_rotated_key_is_found_when_a_token_names_it_and_the_old_one_is_gone(web: Web, time: Time) -> None:
    web.body = key_set(jwk(RSA, "old"))
    keys = json_web_keys(web.url)
    await keys.look()
    web.body = key_set(jwk(ED, "new"))
    time.seconds += jwks.RETRY_SECONDS
    assert keys.find("new") is None
    assert await asked_for(keys)
    assert (keys.find("new") is not None, keys.find("old")) == (True, None)


async def test_unknown_keys_cause_one_read_in_ten_seconds(web: Web, time: Time) -> None:
    web.body = key_set(jwk(RSA, "k"))
    keys = json_web_keys(web.url)
    assert await asked_for(keys)
    assert [await asked_for(keys) for _ in range(50)] == [False] * 50
    time.seconds += jwks.RETRY_SECONDS - 0.1
    assert not await asked_for(keys)
    time.seconds += 0.1
    assert await asked_for(keys)
    assert web.asked == 2


async def test_all_who_wait_for_a_read_wait_for_the_same_one_and_they_are_not_too_many(web: Web) -> None:
    web.body = key_set(jwk(RSA, "k"))
    web.gate.clear()
    keys = json_web_keys(web.url)
    told: list[int] = []
    taken = [keys.after_look(lambda number=number: told.append(number)) for number in range(jwks.WAITING_MAX + 10)]
    assert taken == [True] * jwks.WAITING_MAX + [False] * 10
    web.gate.set()
    async with asyncio.timeout(5):
        while len(told) < jwks.WAITING_MAX:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0.01)
    assert (told, web.asked) == ([*range(jwks.WAITING_MAX)], 1)


async def test_the_old_keys_count_while_the_url_is_away(web: Web, time: Time) -> None:
    web.body = key_set(jwk(RSA, "k"))
    keys = json_web_keys(web.url)
    await keys.look()
    await web.stop()
    for _ in range(3):
        time.seconds += jwks.FRESH_SECONDS
        await keys.look()
        assert keys.find("k") is not None
        assert "cannot be fetched" in (keys.trouble or "")
    await web.start()
    web.body = key_set(jwk(ED, "k2"))
    time.seconds += jwks.RETRY_SECONDS
    await keys.look()
    assert (keys.find("k"), keys.find("k2") is not None, keys.trouble) == (None, True, None)


ZIPPED = gzip.compress(key_set(jwk(RSA, "zipped")))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"HTTP/1.1 200 OK\r\n\r\nnonsense", b"nonsense", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}",
        b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b" " * (jwks.SET_BYTES_MAX + 1),
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 3_000_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + key_set(jwk(RSA, "cut"))[:100],
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(ZIPPED), ZIPPED),
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_key_set_changes_nothing(raw: bytes, web: Web, time: Time) -> None:
    web.body = key_set(jwk(RSA, "k"))
    keys = json_web_keys(web.url)
    await keys.look()
    web.raw = raw
    time.seconds += jwks.FRESH_SECONDS
    await keys.look()
    assert (web.asked, keys.trouble is None, keys.find("k") is not None) == (2, False, True)


async def test_a_set_without_keys_is_believed(web: Web, time: Time) -> None:
    """Whoever takes his only key back means it."""
    web.body = key_set(jwk(RSA, "k"))
    keys = json_web_keys(web.url)
    await keys.look()
    web.body = key_set()
    time.seconds += jwks.FRESH_SECONDS
    await keys.look()
    assert (keys.find("k"), keys.find(None), keys.ready) == (None, None, True)


async def test_a_url_that_does_not_answer_is_given_up(web: Web, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    web.gate.clear()
    keys = json_web_keys(web.url)
    with hurried(monkeypatch, 0.05):
        assert await asked_for(keys)
    assert (keys.ready, keys.trouble) == (False, "no answer within 0.05 s")


async def test_closing_ends_a_read_under_way(web: Web) -> None:
    web.gate.clear()
    keys = json_web_keys(web.url)
    keys.after_look(lambda: None)
    async with asyncio.timeout(2):
        await keys.close()
