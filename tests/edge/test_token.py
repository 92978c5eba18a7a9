"""Identity jwt: what a token must be to be believed, and that nothing else is."""

import base64
import json
import random
import time
from typing import Any

import jwt
import pytest
from edge.issuer import (
    ADMIN,
    ED,
    NOW,
    NOW_MS,
    OTHER_RSA,
    RSA,
    SECRET,
    Reader,
    SetOfKeys,
    bearer,
    claims,
    jwk,
    public_pem,
    signed,
)  # fmt: skip

from flashsale.core.request import Priority
from flashsale.edge import token as module
from flashsale.edge.identity import LATER, OPERATOR, Caller, Role, Said

HOLDS_NOT = "The signature of the token does not hold"
OTHER_ALGORITHM = "The token is not signed by the algorithm of its key"
MALFORMED = "The token is malformed"


def both() -> SetOfKeys:
    return SetOfKeys(jwk(RSA, "rsa"), jwk(ED, "ed"))


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


# What is believed


def test_sub_is_the_user() -> None:
    assert Reader().caller(signed(claims())) == Caller("alice")
    assert Reader(both()).caller(signed(claims(), RSA, "RS256", "rsa")) == Caller("alice")
    assert Reader(both()).caller(signed(claims(), ED, "EdDSA", "ed")) == Caller("alice")


def test_a_token_without_a_key_name_is_read_with_the_only_key() -> None:
    assert Reader(SetOfKeys(jwk(RSA, "rsa"))).caller(signed(claims(), RSA, "RS256")) == Caller("alice")
    assert Reader(SetOfKeys(jwk(RSA))).caller(signed(claims(), RSA, "RS256")) == Caller("alice")
    assert Reader(both()).jwt.caller(bearer(signed(claims(), RSA, "RS256"))) is LATER


def test_roles_tier_age_and_priority_come_from_claims() -> None:
    said = claims(roles=["analyst", "cook"], tier="gold", known_since=NOW - 86_400, priority="high")
    found = Reader().caller(signed(said))
    assert found == Caller(
        "alice", frozenset({Role.ANALYST}), False, "gold", (NOW - 86_400) * 1000, Priority.HIGH
    )  # fmt: skip


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["operator"], {"operator"}), ("operator analyst", {"operator", "analyst"}), (["fulfilment"], {"fulfilment"}),
        (None, set()), ([], set()), ("Operator", set()), (["operators"], set()), ({"operator": True}, set()),
        (1, set()), ([["operator"]], set()), ([1, None, "analyst"], {"analyst"}), ("operator,analyst", set()),
    ],
)  # fmt: skip
def test_roles_are_a_list_or_words(roles: Any, expected: set[str]) -> None:
    found = Reader().caller(signed(claims(roles=roles)))
    assert (found.roles, found.free) == (frozenset(expected), "operator" in expected)


@pytest.mark.parametrize("tier", ["", "a b", "x" * 33, True, 1.5, ["gold"], {"gold": 1}, "gold\n"])
def test_a_tier_that_is_none_is_ignored(tier: Any) -> None:
    assert Reader().caller(signed(claims(tier=tier))).tier is None


def test_a_tier_may_be_a_number() -> None:
    assert Reader().caller(signed(claims(tier=2))).tier == "2"


@pytest.mark.parametrize("claim", [{"priority": "HIGH"}, {"priority": True}, {"known_since": "2020"}, {"priority": 1}])
def test_other_claims_in_other_forms_are_ignored(claim: dict[str, Any]) -> None:
    assert Reader().caller(signed(claims(**claim))) == Caller("alice")


def test_the_operators_token_is_an_operators_here_too() -> None:
    assert Reader().caller(ADMIN) is OPERATOR
    assert Reader().refusal(ADMIN[:-1]) == MALFORMED


# What a token must say


def test_without_a_token_nobody_is_known() -> None:
    for nothing in (None, b"", b"Bearer", b"Bearer ", b"Basic YWxpY2U6eA==", b"Token abc"):
        found = Reader().jwt.caller(Said(user=b"alice", authorization=nothing))
        assert (found.refusal.code, found.message[:23]) == ("UNAUTHENTICATED", "This needs a token, in ")  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["sub", "exp"])
def test_sub_and_exp_must_be_there(name: str) -> None:
    assert Reader().refusal(signed(claims(**{name: None}))) == f"The token lacks the claim {name}"


@pytest.mark.parametrize("sub", ["", "a b", "x" * 129, "\u00e9", "a/b", "alice\n"])
def test_sub_must_be_a_user_id(sub: str) -> None:
    assert "Claim sub of the token must be 1 to 128" in Reader().refusal(signed(claims(sub)))


@pytest.mark.parametrize("sub", [1, True, ["alice"], {"a": 1}])
def test_sub_must_be_text(sub: Any) -> None:
    assert Reader().refusal(signed(claims(sub))) == MALFORMED


@pytest.mark.parametrize("exp", ["soon", True, [NOW + 600], -1, 10**12, 10**400, float("inf"), float("nan"), {}])
def test_exp_must_be_a_moment(exp: Any) -> None:
    assert "must be seconds since 1970" in Reader().refusal(signed(claims(exp=exp)))


def test_exp_and_nbf_are_kept_with_a_little_leeway() -> None:
    expiring, coming = signed(claims(exp=NOW + 60)), signed(claims(nbf=NOW + 60))
    at = {}
    for seconds in (0, 49, 50, 59, 69, 70, 100):
        reader = Reader()
        reader.now_ms = NOW_MS + seconds * 1000
        at[seconds] = [isinstance(reader.jwt.caller(bearer(each)), Caller) for each in (expiring, coming)]
    assert at == {
        0: [True, False], 49: [True, False], 50: [True, True], 59: [True, True],
        69: [True, True], 70: [False, True], 100: [False, True],
    }  # fmt: skip
    reader = Reader()
    reader.now_ms = NOW_MS + 100_000
    assert reader.refusal(expiring) == "The token has expired"
    assert Reader().refusal(coming) == "The token is not valid yet"


@pytest.mark.parametrize("nbf", ["now", True, float("nan")])
def test_nbf_must_be_a_moment(nbf: Any) -> None:
    assert "must be seconds since 1970" in Reader().refusal(signed(claims(nbf=nbf)))


def test_audience_and_issuer_are_looked_at_where_they_are_set() -> None:
    right = signed(claims(aud=["shop", "else"], iss="https://issuer"))
    reader = Reader(audience="shop", issuer="https://issuer")
    assert reader.caller(right) == Reader().caller(right) == Caller("alice")
    assert reader.refusal(signed(claims(aud="other", iss="https://issuer"))) == "The token is for another audience"
    assert reader.refusal(signed(claims(aud="shop", iss="https://else"))) == "The token is another issuer's"
    assert reader.refusal(signed(claims(iss="https://issuer"))) == "The token lacks the claim aud"
    assert reader.refusal(signed(claims(aud="shop"))) == "The token lacks the claim iss"


# The algorithm is that of the key


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_a_secret_is_for_hs256_alone(algorithm: str) -> None:
    assert Reader().refusal(signed(claims(), SECRET, algorithm)) == OTHER_ALGORITHM


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "PS384", "PS512"])
def test_an_rsa_key_is_for_rs256_alone(algorithm: str) -> None:
    assert Reader(both()).refusal(signed(claims(), RSA, algorithm, "rsa")) == OTHER_ALGORITHM


@pytest.mark.parametrize("spelled", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_none(spelled: str) -> None:
    for kid in (None, "rsa", "ed"):
        for signature in ("", part(b"x" * 32)):
            head = part({"alg": spelled, "typ": "JWT"} | ({"kid": kid} if kid else {}))
            unsigned = f"{head}.{part(claims())}.{signature}"
            for reader in (Reader(), Reader(both()), Reader(SetOfKeys(jwk(RSA)))):
                assert not isinstance(reader.jwt.caller(bearer(unsigned)), Caller)


def test_a_token_signed_with_the_public_key_as_a_secret_is_none() -> None:
    """The oldest trick: the public key is known to all, and HS256 takes any bytes for a secret."""
    public = [public_pem(RSA), public_pem(RSA).strip(), json.dumps(jwk(RSA, "rsa")), jwk(RSA)["n"], jwk(ED)["x"]]
    for known in public:
        for algorithm in ("HS256", "HS384", "HS512"):
            for kid in ("rsa", "ed"):
                head, body = part({"alg": algorithm, "kid": kid}), part(claims())
                mac = jwt.get_algorithm_by_name(algorithm).sign(f"{head}.{body}".encode(), known.encode())
                assert Reader(both()).refusal(f"{head}.{body}.{part(mac)}") == OTHER_ALGORITHM


def test_a_key_of_one_kind_does_not_verify_a_token_of_the_other() -> None:
    assert Reader(both()).refusal(signed(claims(), RSA, "RS256", "ed")) == OTHER_ALGORITHM
    assert Reader(both()).refusal(signed(claims(), ED, "EdDSA", "rsa")) == OTHER_ALGORITHM
    assert Reader().refusal(signed(claims(), RSA, "RS256")) == OTHER_ALGORITHM


def test_another_key_does_not_do() -> None:
    assert Reader(both()).refusal(signed(claims(), OTHER_RSA, "RS256", "rsa")) == HOLDS_NOT
    assert Reader().refusal(signed(claims(), SECRET + "!")) == HOLDS_NOT


# Nothing in the token says where its key is


@pytest.mark.parametrize(
    "kid",
    ["../../../etc/passwd", "/dev/null", "rsa\0", "RSA", " rsa", "' OR 1=1 --", "http://evil.example/keys", "x" * 4000],
)
def test_an_unknown_key_name_is_only_unknown(kid: str) -> None:
    assert Reader(both()).jwt.caller(bearer(signed(claims(), OTHER_RSA, "RS256", kid))) is LATER


@pytest.mark.parametrize("kid", [1, None, True, ["rsa"], {"kid": "rsa"}])
def test_a_key_name_must_be_text(kid: Any) -> None:
    head, body = part({"alg": "RS256", "kid": kid}), part(claims())
    signature = jwt.get_algorithm_by_name("RS256").sign(f"{head}.{body}".encode(), RSA)
    assert not isinstance(Reader(both()).jwt.caller(bearer(f"{head}.{body}.{part(signature)}")), Caller)


def test_a_key_that_a_token_brings_along_is_ignored() -> None:
    own = jwk(OTHER_RSA, "rsa")
    for header in ({"jwk": own}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example"}, {"x5c": ["x"]}):
        assert Reader(both()).refusal(signed(claims(), OTHER_RSA, "RS256", "rsa", **header)) == HOLDS_NOT
        assert Reader(both()).caller(signed(claims(), RSA, "RS256", "rsa", **header)) == Caller("alice")


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": False}, {"b64": False}])
def test_what_a_token_says_must_be_understood_is_refused(header: dict[str, Any]) -> None:
    head, body = part({"alg": "HS256"} | header), part(claims())
    mac = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), SECRET.encode())
    assert Reader().refusal(f"{head}.{body}.{part(mac)}") == MALFORMED


# A token has one spelling


def test_no_token_that_was_changed_is_accepted() -> None:
    """100,000 changes: bytes replaced, put in, left out, swapped; of the signature also what decodes to the same."""
    chance = random.Random(20_260_115)
    readers = [
        (Reader(), signed(claims())), (Reader(both()), signed(claims(), ED, "EdDSA", "ed")),
        (Reader(both()), signed(claims(), RSA, "RS256", "rsa")),
    ]  # fmt: skip
    accepted, began = [], time.monotonic()
    for number in range(100_000):
        reader, token = readers[min(number % 20, 2)]
        changed = _changed(token.encode(), chance)
        if changed.strip() != token.encode() and isinstance(reader.jwt.caller(bearer(changed)), Caller):
            accepted.append(changed)
    assert accepted == []
    assert time.monotonic() - began < 60, "this is to be run every time"
    assert all(reader.caller(token) == Caller("alice") for reader, token in readers)


def _changed(token: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(token)) if chance.random() < 0.7 else len(token) - 1 - chance.randrange(3)
    other = chance.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0\xff")
    match chance.randrange(5):
        case 0 | 1:
            return token[:at] + bytes([other]) + token[at + 1 :]
        case 2:
            return token[: at + 1] + bytes([other]) + token[at + 1 :]
        case 3:
            return token[:at] + token[at + 1 :]
        case _:
            bit = 1 << chance.randrange(8)
            return token[:at] + bytes([token[at] ^ bit]) + token[at + 1 :]


def test_every_other_spelling_of_the_signature_is_refused() -> None:
    """Base64 has bits and padding that mean nothing, and decoders that forgive."""
    token = signed(claims())
    head, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=")
    same = [each for each in map(chr, range(33, 127)) if _decoded(signature[:-1] + each) == raw]
    assert len(same) == 4, "the last character stands for four bits that count and two that do not"
    for last in same:
        accepted = isinstance(Reader().jwt.caller(bearer(f"{head}.{signature[:-1]}{last}")), Caller)
        assert accepted is (last == signature[-1])
    for spelled in (signature + "=", signature + "==", "\n" + signature, signature[:9] + "!" + signature[9:]):
        assert Reader().refusal(f"{head}.{spelled}") == MALFORMED
    standard = base64.b64encode(raw).rstrip(b"=").decode()
    if standard != signature:
        assert Reader().refusal(f"{head}.{standard}") == MALFORMED


def _decoded(text: str) -> bytes | None:
    return base64.urlsafe_b64decode(text + "=") if text.replace("-", "a").replace("_", "a").isalnum() else None


@pytest.mark.parametrize(
    "nonsense",
    [
        b".", b"..", b"...", b"a.b", b"a.b.c", b"a.b.c.d", b"\xff\xfe.\xff.\xff", b"e30..", b"W10.e30.YQ",
        b"bnVsbA.bnVsbA.YQ", b"a" * 10_000, (b"a" * 3000 + b".") * 2 + b"a", b"W" * 8000,
        part(b"[" * 4000).encode() + b".e30.YQ", part(b'{"alg":' * 1500).encode() + b".e30.YQ",
    ],
)  # fmt: skip
def test_nonsense_is_refused_like_any_other_token(nonsense: bytes) -> None:
    assert Reader().refusal(nonsense) == MALFORMED


def test_a_token_that_names_no_algorithm_is_refused() -> None:
    assert Reader().refusal("e30.e30.e30A") == OTHER_ALGORITHM


def test_claims_that_are_no_object_are_refused() -> None:
    for body in (b"[]", b"null", b"1", b'"alice"', b"{", b"\xff", b"[" * 3000):
        head = part({"alg": "HS256"})
        mac = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{part(body)}".encode(), SECRET.encode())
        assert Reader().refusal(f"{head}.{part(body)}.{part(mac)}") in (MALFORMED, "The token lacks the claim sub")


# What was verified is remembered for a while


class Counting(SetOfKeys):
    """How often a key is asked for: once for each token that is verified."""

    asked = 0

    def find(self, kid: str | None) -> Any:
        self.asked += 1
        return super().find(kid)


def test_a_token_is_verified_once_in_a_minute() -> None:
    keys = Counting(jwk(ED, "ed"))
    reader, token = Reader(keys), signed(claims(), ED, "EdDSA", "ed")
    for _ in range(5):
        reader.caller(token)
    assert keys.asked == 1
    reader.now_ms += module.KNOWN_FOR_MS - 1
    reader.caller(token)
    assert keys.asked == 1
    reader.now_ms += 1
    reader.caller(token)
    assert keys.asked == 2


def test_a_remembered_token_expires_with_its_exp() -> None:
    reader, token = Reader(), signed(claims(exp=NOW + 30))
    reader.caller(token)
    reader.now_ms += 30_000 + module.LEEWAY_MS
    assert reader.refusal(token) == "The token has expired"


def test_a_key_that_is_taken_away_counts_no_longer_than_a_minute() -> None:
    keys = both()
    reader, token = Reader(keys), signed(claims(), ED, "EdDSA", "ed")
    reader.caller(token)
    del keys.keys["ed"]
    reader.now_ms += module.KNOWN_FOR_MS
    assert reader.jwt.caller(bearer(token)) is LATER


def test_a_refused_token_is_not_remembered() -> None:
    keys = SetOfKeys(jwk(RSA, "rsa"))
    reader, token = Reader(keys), signed(claims(), ED, "EdDSA", "ed")
    assert reader.jwt.caller(bearer(token)) is LATER
    keys.keys |= both().keys
    assert reader.caller(token) == Caller("alice")


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 3)
    keys = Counting(jwk(ED, "ed"))
    reader = Reader(keys)
    tokens = [signed(claims(f"user-{number}"), ED, "EdDSA", "ed") for number in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):
        reader.caller(token)
    assert keys.asked == 4
    assert len(reader.jwt._known) == 3
    reader.caller(tokens[0])
    assert keys.asked == 4, "it was used lately"
    reader.caller(tokens[1])
    assert keys.asked == 5, "it made room"


def test_one_token_is_remembered_once_however_it_is_spelled() -> None:
    reader = Reader(Counting(jwk(ED, "ed")))
    token = signed(claims(), ED, "EdDSA", "ed").encode()
    for header in [b"Bearer " + b" " * spaces + token for spaces in range(100)] + [b"bEARER " + token]:
        assert reader.jwt.caller(Said(authorization=header)) == Caller("alice")
    assert len(reader.jwt._known) == 1


def test_what_is_remembered_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_BYTES_MAX", 20_000)
    reader = Reader(Counting(jwk(ED, "ed")))
    tokens = [signed(claims(f"user-{number}", note="x" * 3000), ED, "EdDSA", "ed") for number in range(10)]
    for token in tokens * 2:
        reader.caller(token)
    kept = sum(len(header) for header in reader.jwt._known)
    assert kept == reader.jwt._known_bytes
    assert 10_000 < kept <= 20_000


def test_without_any_keys_nobody_is_told_that_his_token_is_bad() -> None:
    found = Reader(SetOfKeys(ready=False)).jwt.caller(bearer(signed(claims(), ED, "EdDSA", "ed")))
    assert (found.refusal.code, found.details) == ("UNAVAILABLE", {"retryAfterSeconds": 1})  # type: ignore[union-attr]
