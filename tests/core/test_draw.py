"""The draw: everybody's place is as likely as any other, and anybody can recompute it."""

import hmac
from base64 import urlsafe_b64decode
from collections import Counter
from hashlib import sha256
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core import draw

DRAWS = 10_000
BEYOND_CHANCE = {19: 43.82, 23: 49.73}
"""By degrees of freedom: what chi-square exceeds in one case of a thousand. The seeds are fixed, so nothing flakes."""


def entrants(count: int, of: int = 0) -> list[bytes]:
    return [draw.ticket_hash(f"tkt_{of}_{number}") for number in range(1, count + 1)]


def seed(number: int) -> bytes:
    return sha256(b"seed %d" % number).digest()


HASHES = st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=40)
SEED = st.binary(min_size=32, max_size=32)


# -- The order is fair


def fair_order(seed: bytes, hashes: list[bytes]) -> list[int]:
    return draw.order(seed, draw.merkle_root(hashes), hashes)


def order_that_favours_the_first(seed: bytes, hashes: list[bytes]) -> list[int]:
    """Wrong by one draw in twenty: number 1 changes places with whoever is in front."""
    drawn = fair_order(seed, hashes)
    if seed[0] < 13:
        drawn.remove(1)
        drawn.insert(0, 1)
    return drawn


def order_by_the_hash_alone(seed: bytes, hashes: list[bytes]) -> list[int]:
    return sorted(range(1, len(hashes) + 1), key=lambda number: hashes[number - 1])


def chi_square(seen: Counter, cells: int) -> float:
    expected = seen.total() / cells
    return sum((count - expected) ** 2 for count in seen.values()) / expected + (cells - len(seen)) * expected


def places_of(number: int, order, draws: int = DRAWS) -> Counter:
    hashes = entrants(20)
    return Counter(order(seed(each), hashes).index(number) for each in range(draws))


@pytest.mark.parametrize("number", [1, 2, 11, 20])
def test_over_10_000_draws_the_place_of_an_entrant_is_uniform(number):
    assert chi_square(places_of(number, fair_order), 20) < BEYOND_CHANCE[19]


def test_with_the_same_seed_over_10_000_crowds_it_is_uniform_too():
    seen = Counter(fair_order(seed(0), entrants(20, of=crowd)).index(7) for crowd in range(DRAWS))
    assert chi_square(seen, 20) < BEYOND_CHANCE[19]


def test_no_order_of_four_is_likelier_than_another():
    hashes = entrants(4)
    seen = Counter(tuple(fair_order(seed(each), hashes)) for each in range(DRAWS))
    assert seen.keys() == set(permutations((1, 2, 3, 4)))
    assert chi_square(seen, 24) < BEYOND_CHANCE[23]


@pytest.mark.parametrize("unfair", [order_that_favours_the_first, order_by_the_hash_alone])
def test_an_order_that_is_not_fair_is_noticed(unfair):
    assert chi_square(places_of(1, unfair), 20) > BEYOND_CHANCE[19]


# -- The order is determined


def test_the_order_is_that_of_hmac_sha256_with_seed_and_root():
    hashes = entrants(50)
    root = draw.merkle_root(hashes)
    by_hmac = sorted(range(1, 51), key=lambda number: hmac.digest(seed(1) + root, hashes[number - 1], "sha256"))
    assert draw.order(seed(1), root, hashes) == by_hmac


@given(SEED, HASHES)
def test_everybody_has_one_place_and_the_order_says_which(seed, hashes):
    root = draw.merkle_root(hashes)
    order, places = draw.order(seed, root, hashes), draw.places(seed, root, hashes)
    assert sorted(order) == list(range(1, len(hashes) + 1))
    assert [order[place - 1] for place in places] == list(range(1, len(hashes) + 1))
    assert places.itemsize == 4


def test_one_more_entrant_changes_everybody_s_place():
    """So nobody can be added behind the others without moving them: the root is in the key."""
    before, after = (fair_order(seed(1), entrants(count)) for count in (200, 201))
    assert before != [number for number in after if number != 201]


@pytest.mark.parametrize("wrong", [b"", b"s" * 31, b"s" * 33])
def test_a_seed_has_32_bytes(wrong):
    with pytest.raises(ValueError, match="32 bytes"):
        draw.commitment(wrong)
    with pytest.raises(ValueError, match="64 bytes"):
        draw.order(wrong, b"r" * 32, [])


# -- The commitment and the hashes


def test_what_is_published_of_seeds_and_tickets_never_changes():
    """Whoever keeps an old document can verify it with any later version."""
    assert draw.ticket_hash("tkt_1").hex() == sha256(b"tkt_1").hexdigest()
    assert draw.commitment(bytes(32)).hex() == "fb573768070e9c308fe1c27bfa505fb8cf7633134b29c7130fe4b5aeade7ed8c"
    assert draw.merkle_root(entrants(5)).hex() == "427cc9a629f33377c06f1e4e99dc242e889f818543b0453086840c8feaa79bd5"
    assert fair_order(bytes(32), entrants(5)) == [1, 2, 5, 4, 3]


def test_another_seed_has_another_commitment_and_none_is_a_bare_hash():
    assert draw.commitment(seed(1)) != draw.commitment(seed(2))
    assert draw.commitment(seed(1)) != sha256(seed(1)).digest()


# -- The entrants' tree


def root_by_the_book(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\1" + root_by_the_book(leaves[:split]) + root_by_the_book(leaves[split:])).digest()


@given(HASHES)
def test_the_root_is_that_of_rfc_9162_over_number_and_hash(hashes):
    leaves = [number.to_bytes(8, "big") + each for number, each in enumerate(hashes, 1)]
    assert draw.merkle_root(hashes) == root_by_the_book(leaves)


@given(HASHES.filter(bool), st.data())
def test_an_entrant_who_is_inserted_dropped_or_moved_changes_the_root(hashes, data):
    at = data.draw(st.integers(0, len(hashes) - 1))
    to = data.draw(st.integers(0, len(hashes) - 1))
    rest = hashes[:at] + hashes[at + 1 :]
    changed = [rest, [*hashes[:at], bytes(32), *hashes[at:]], [*rest[:to], hashes[at], *rest[to:]]]
    for other in changed:
        assert other == hashes or draw.merkle_root(other) != draw.merkle_root(hashes)


@given(HASHES.filter(bool), st.data())
def test_an_entrant_can_be_proven_to_be_under_the_root_as_his_number_and_no_other(hashes, data):
    number = data.draw(st.integers(1, len(hashes)))
    other = data.draw(st.integers(0, len(hashes) + 1).filter(lambda each: each != number))
    root, own, proof = draw.merkle_root(hashes), hashes[number - 1], draw.inclusion_proof(hashes, number)
    assert len(proof) <= 6
    assert draw.verify_inclusion(root, len(hashes), number, own, proof)
    assert not draw.verify_inclusion(root, len(hashes), other, own, proof)
    assert not draw.verify_inclusion(root, len(hashes), number, sha256(own).digest(), proof)
    assert not draw.verify_inclusion(root, len(hashes), number, own, [*proof, own])
    assert not proof or not draw.verify_inclusion(root, len(hashes), number, own, proof[:-1])


@pytest.mark.parametrize("number", [0, 4, -1])
def test_who_is_not_there_has_no_proof(number):
    with pytest.raises(ValueError, match="there are 3 entrants"):
        draw.inclusion_proof(entrants(3), number)
    assert not draw.verify_inclusion(draw.merkle_root(entrants(3)), 3, number, entrants(3)[0], [])


# -- Receipts

URL_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
KEY = draw.signing_key(b"s" * 32)
RECEIPT = draw.Receipt("sale-1", "ab" * 32, "prequeue", 7, 1_700_000_000_000, "cd" * 32)


def test_a_receipt_is_read_as_it_was_signed():
    for receipt in (RECEIPT, draw.Receipt("sale-1", "ab" * 32, "line", 2**40, 1)):
        assert draw.read_receipt(draw.sign(receipt, KEY), KEY.public_key()) == receipt


def test_a_receipt_may_stand_in_a_url_and_is_the_same_each_time():
    text = draw.sign(RECEIPT, KEY)
    assert text == draw.sign(RECEIPT, KEY)
    assert set(text) <= set(URL_LETTERS + ".")
    longest = draw.Receipt("s" * 64, "ab" * 32, "prequeue", 2**63 - 1, 2**63 - 1, "cd" * 32)
    assert len(draw.sign(longest, KEY)) < draw.RECEIPT_CHARACTERS_MAX


def test_a_receipt_of_another_key_says_nothing():
    assert draw.read_receipt(draw.sign(RECEIPT, draw.signing_key(b"t" * 32)), KEY.public_key()) is None


def test_a_signature_under_something_else_is_none_under_a_receipt():
    """The key signs receipts under a title, so that no other text that it may ever sign is taken for one."""
    body, _, _ = draw.sign(RECEIPT, KEY).partition(".")
    raw = urlsafe_b64decode(body + "=" * (-len(body) % 4))
    assert draw.read_receipt(draw._text(raw, KEY.sign(raw)), KEY.public_key()) is None


def test_a_receipt_has_one_spelling():
    """64 bytes leave four bits of their last letter unused, and lenient decoders skip what they do not know."""
    text = draw.sign(RECEIPT, KEY)
    last = URL_LETTERS.index(text[-1])
    others = [text[:-1] + letter for letter in URL_LETTERS if URL_LETTERS.index(letter) >> 4 == last >> 4]
    others += [text + "=", text + "==", text + "\n", " " + text, text[:9] + "!" + text[9:], text.replace(".", "=.")]
    others += [text.replace("-", "+").replace("_", "/")]
    assert [other for other in others if draw.read_receipt(other, KEY.public_key())] == [text]


@pytest.mark.parametrize("text", ["", ".", "a", "..", "a.b.c", "é.é", "\ud800.a", "A" * 1025, "e30." + "A" * 86])
def test_what_is_no_receipt_says_nothing(text):
    assert draw.read_receipt(text, KEY.public_key()) is None


def test_the_published_key_reads_receipts_and_tells_nothing_of_the_secret():
    raw = bytes.fromhex(draw.published_key(KEY))
    assert raw == KEY.public_key().public_bytes_raw() != KEY.private_bytes_raw()
    assert KEY.private_bytes_raw() != b"s" * 32
