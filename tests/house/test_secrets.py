"""Secrets are compared in constant time: how long a comparison takes must not tell how far a guess was right."""

import ast
import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from edge.issuer import ADMIN, NOW_MS, SECRET, Reader, claims, signed
from house.project import functions, place, sources, tree_of

from flashsale.edge import identity, signature
from flashsale.edge.identity import OperatorToken
from flashsale.edge.signature import Signatures, Signing, canonical, sign

SECRET_NAMES = re.compile(r"secret|token|signature|digest|seal|\bmac\b|hmac|sign\(|passw|expected\b", re.IGNORECASE)

# What looks like one and is none, with the reason.
NO_SECRETS = {
    "name == 'jwt_secret'": "the name of a setting",
    "name in ('admin_token', 'jwt_secret')": "the name of a setting",
    "urlsafe_b64encode(signature).rstrip(b'=') == parts[1]": "a signature with itself, in its other spelling",
    "_text(body, signature) != text": "a receipt with itself, in its other spelling; then it is verified",
    "len(key) != _HMAC_BLOCK": "a length",
}
COMPARED = {
    "src/flashsale/core/challenge.py",
    "src/flashsale/core/passes.py",
    "src/flashsale/core/pending.py",
    "src/flashsale/edge/identity.py",
    "src/flashsale/edge/signature.py",
}
"""Where what somebody brings is held against a secret, or against what was made with one."""


def compared(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Compare) and any(isinstance(each, ast.Eq | ast.NotEq | ast.In) for each in node.ops):
            yield place(path, node), ast.unparse(node)


def test_no_secret_is_compared_with_the_equals_sign() -> None:
    found = [
        (where, what) for path in sources() for where, what in compared(path)
        if SECRET_NAMES.search(what) and what not in NO_SECRETS and "expected_version" not in what
    ]  # fmt: skip
    assert found == []


def test_every_place_that_looks_at_a_secret_uses_the_comparison_for_it() -> None:
    using = {
        place(path) for path in sources() for name, node in functions(path) if "compare_digest(" in ast.unparse(node)
    }
    assert using >= COMPARED


class Recorder:
    """Stands for `hmac.compare_digest`, and says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []
        self._compare = hmac.compare_digest

    def __call__(self, left: Any, right: Any) -> bool:
        self.asked.append((left, right))
        return self._compare(left, right)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    for module in (identity.hmac, signature.hmac, jwt.algorithms.hmac):  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "compare_digest", recorder)
    return recorder


@pytest.mark.parametrize("guess", [ADMIN, "wrong", "", ADMIN + "x", "\u00e9"])
def test_the_operators_token_is_compared_in_constant_time(guess: str, recorder: Recorder) -> None:
    right = OperatorToken(ADMIN).is_in(b"Bearer " + guess.encode())
    assert (right, recorder.asked) == (guess == ADMIN, [(guess.encode(), ADMIN.encode())])


def test_the_signature_of_a_token_is_compared_in_constant_time(recorder: Recorder) -> None:
    reader, token = Reader(), signed(claims())
    forged = token[:-8] + "AAAAAAAA"
    reader.caller(token)
    reader.refusal(forged)
    macs = [pair for pair in recorder.asked if len(pair[0]) == 32 and ADMIN.encode() not in pair]
    assert [left == right for left, right in macs] == [True, False]


def test_the_signature_of_a_request_is_compared_in_constant_time(recorder: Recorder) -> None:
    at = str(NOW_MS // 1000)
    expected = sign(SECRET.encode(), canonical("POST", "/p", at, []))
    signatures = Signatures([f"app:{SECRET}"], lambda: NOW_MS)
    for given in (expected, "0" * 64):
        signatures.fault(Signing(b"app", at.encode(), given.encode()), "POST", "/p", b"", b"")
    assert recorder.asked == [(expected.encode(), expected.encode()), (expected.encode(), b"0" * 64)]
