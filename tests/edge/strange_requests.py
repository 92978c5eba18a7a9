"""Requests as nobody means them: those that a document allows or forbids, and what becomes of them by small changes.

A generator that knows the document finds what is wrong with meanings, slowly. Changes that know nothing but what
programs stumble over (numbers at the edge of a machine word, half a surrogate, a date that is none, a header twice)
cost a hundredth of it. So each generated request is followed by many changed ones.
"""

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import hypothesis
import requests
import schemathesis

TEXTS = [
    "", " ", "\0", "%00", "%", "%2e%2e", "../..", "\r\n", "\t", "é", "\u202e", "\ufeff", "\uffff", "\U0001f600", "٣",
    "\uff11", "²", "-0", "-1", "0", "1", "00", "+1", "1.0", "1e5", "1e999", "-1e999", "NaN", "Infinity", "0x10",
    "1_000", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "9" * 400, "null", "true", "[]", "{}", '"', "'", "';--", "$ne", "{{7*7}}", "a" * 300, "a" * 5000,
    "x" + "f" * 16, "x" + "f" * 1024, "x" + "f" * 1025, "xg", "x", "2026-01-15T10:00:00Z", "2026-13-45T99:99:99Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0000-00-00", "2026-02-30T00:00:00Z",
    "2026-01-15T10:00:60Z", "2026-01-15T10:00:00+99:99", "res_", "res_" + "0" * 64, "ord_x", "pay_x", "tkt_",
    "tkt_" + "0" * 10, "tkt_" + "f" * 42, "pass_", "pass_" + "0" * 22 + "f" * 32, "pass_" + "z" * 54, "A", "S1",
    "PHONE", "alice", "bob", "wait=10", "wait=-1", "wait=" + "9" * 30, "*", '"x"', 'W/"1"', "Bearer", "Bearer ",
    "Bearer x", "Basic eDp5", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "a.b.c", "..", "e30",
    "e30=", "bnVsbA", "W10", "W1tbW1tbW1tb", "eyJkZXZpY2VJZCI6WzFdfQ", "127.0.0.1", "::1", "::ffff:1.2.3.4",
    "1.2.3.4,5.6.7.8", "1.2.3.4:99999", "[::1", ",", ", ,",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-00",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 101, 10_001, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 0.1, 1.5, -0.0,
    1e-9, 1e22, 1e308, 999.999, 0.001, 1e15, 92233720368547758.07,
]  # fmt: skip
VALUES: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, *NUMBERS, *TEXTS]
HEADERS = [
    "X-User-ID", "Idempotency-Key", "X-Flashsale-Pass", "X-Flashsale-Device", "X-Flashsale-Challenge", "If-Match",
    "Prefer", "X-Forwarded-For", "Authorization", "traceparent", "Content-Type", "Accept", "X-Client-Key",
    "X-Timestamp", "X-Signature", "Expect", "Range", "If-None-Match", "Cookie", "Forwarded",
    "X-HTTP-Method-Override", "Accept-Encoding", "Origin",
]  # fmt: skip
QUERY = [
    "wait",
    "after",
    "reason",
    "topic",
    "skuId",
    "waiting",
    "userId",
    "user",
    "limit",
    "state",
    "from",
    "to",
    "x",
    "",
]
RAW_BODIES = [
    b"", b" ", b"{", b"}", b"\xff", b"\xef\xbb\xbf{}", b"{}{}", b"[" * 5000, b'{"a":' * 2000, b'"\\ud800"',
    b'{"\\ud800":1}', b"\0", b"NaN", b"1e999", b"-", b'{"a":1,"a":2}', b"9" * 5000,
    b"{" + b'"a":1,' * 1000 + b'"b":1}', b"x" * 20_000, b"null", b"[]", b"0",
]  # fmt: skip


class Strange(NamedTuple):
    """A request, but for who makes it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def generated(
    operation: schemathesis.schemas.APIOperation, most: int, known: dict[str, str], seed: int
) -> list[Strange]:
    """What the document allows and forbids for one operation; where it may name something, half name what exists."""
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    return [each for mode in modes for each in _drawn(operation, mode, most // 2, known, seed)]


def _drawn(operation: Any, mode: Any, most: int, known: dict[str, str], seed: int) -> list[Strange]:
    found: list[Strange] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=most, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), real=hypothesis.strategies.booleans())
    def draw(case: schemathesis.Case, real: bool) -> None:
        if real:
            case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
            if isinstance(case.body, dict):
                case.body |= {name: known[name] for name in case.body if name in known}
        if (made := _prepared(case)) is not None:
            found.append(made)

    with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong with a request that takes nothing
        draw()
    return found


def _prepared(case: schemathesis.Case) -> Strange | None:
    """None: no client could send it."""
    try:
        made = requests.Request(**case.as_transport_kwargs(base_url="http://shop")).prepare()
    except (ValueError, requests.RequestException, UnicodeError):
        return None
    body = made.body.encode() if isinstance(made.body, str) else made.body or b""
    told = [
        (str(name), value if isinstance(value, str) else value.decode("latin-1"))
        for name, value in made.headers.items()
    ]
    kept = tuple(each for each in told if each[0] in HEADERS and each[0] not in ("Content-Length", "Accept-Encoding"))
    return Strange(str(made.method), made.path_url, kept, body) if isinstance(body, bytes) else None


class Changes:
    """Small changes to requests, always the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._kinds = (self._of_path, self._of_query, self._of_headers, self._of_body, self._of_body)

    def of(self, request: Strange, count: int) -> Iterator[Strange]:
        for _ in range(count):
            changed = request
            for _ in range(self._dice.choice((1, 1, 2, 3))):
                changed = self._dice.choice(self._kinds)(changed)
            yield changed

    def _text(self) -> str:
        return quote_from_bytes(self._dice.choice(TEXTS).encode(), safe="")

    def _of_path(self, request: Strange) -> Strange:
        path, mark, query = request.target.partition("?")
        parts = path.split("/")
        at = self._dice.randrange(1, len(parts))
        parts[at] = self._dice.choice((self._text, lambda: "", lambda: f"{parts[at]}%ff", lambda: parts[at].upper()))()
        return request._replace(target="/".join(parts) + mark + query)

    def _of_query(self, request: Strange) -> Strange:
        joint = "&" if "?" in request.target else "?"
        more = f"{self._dice.choice(QUERY)}={self._text()}"
        return request._replace(
            target=request.target + joint + self._dice.choice((more, more, more, "%ff", "=", "&", "a"))
        )

    def _of_headers(self, request: Strange) -> Strange:
        value = self._dice.choice(TEXTS).encode().decode("latin-1")
        value = "".join(each for each in value if each == "\t" or (each >= " " and each != "\x7f"))
        return request._replace(headers=(*request.headers, (self._dice.choice(HEADERS), value)))

    def _of_body(self, request: Strange) -> Strange:
        if self._dice.random() < 0.2:
            return request._replace(body=self._dice.choice(RAW_BODIES))
        try:
            told = json.loads(request.body)
        except (ValueError, RecursionError):
            return request._replace(body=self._cut(request.body))
        if self._dice.random() < 0.1:
            return request._replace(body=self._cut(request.body))
        return request._replace(body=json.dumps(self._other(told)).encode())

    def _cut(self, body: bytes) -> bytes:
        at = self._dice.randrange(len(body) + 1)
        return (
            body[:at]
            + self._dice.choice((b"", b"\xff", b"\0", b'"', b"\\u0000", body))
            + body[at + self._dice.randrange(2) :]
        )

    def _other(self, told: Any) -> Any:
        """The same with one thing in it that is another."""
        if isinstance(told, dict) and told and self._dice.random() < 0.9:
            name = self._dice.choice([*told])
            if self._dice.random() < 0.1:
                return {each: value for each, value in told.items() if each != name}
            return told | {name: self._other(told[name])}
        if isinstance(told, list) and told and self._dice.random() < 0.8:
            at = self._dice.randrange(len(told))
            return [*told[:at], self._other(told[at]), *told[at + 1 :]] * self._dice.choice((1, 1, 1, 2, 30))
        return self._dice.choice(VALUES)
