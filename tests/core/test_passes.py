"""Passes, tickets and receipts: a genuine one is known without a store, and nothing else is taken for one."""

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core import draw
from flashsale.core.passes import NUMBER_MAX, UNTIL_MS_MAX, NoPass, Pass, new_pass, new_ticket, read_pass, read_ticket
from flashsale.core.pending import fresh_id

SECRET, OTHER_SECRET = b"s" * 32, b"t" * 32
NOW_MS = 1_700_000_000_000
UNTIL_MS = NOW_MS + 600_000
KEY = draw.signing_key(SECRET)
PUBLIC_KEY = KEY.public_key()

SALES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
USERS = st.from_regex(r"[A-Za-z0-9_.@:-]{1,128}", fullmatch=True)
NUMBERS = st.integers(1, NUMBER_MAX)


# -- Passes


@given(SALES, USERS, NUMBERS, st.integers(1, UNTIL_MS_MAX))
def test_a_pass_is_read_as_it_was_given_up_to_its_last_millisecond(sale_id, user_id, number, until_ms):
    text = new_pass(SECRET, sale_id, user_id, number, until_ms)
    assert read_pass(SECRET, sale_id, user_id, text, until_ms - 1) == Pass(number, until_ms)
    assert read_pass(SECRET, sale_id, user_id, text, until_ms) is NoPass.EXPIRED


def test_a_pass_is_short_and_always_the_same():
    text = new_pass(SECRET, "sale-1", "ann", 7, UNTIL_MS)
    assert text == "pass_0000000007018bcfee8fc0" + text[27:] == new_pass(SECRET, "sale-1", "ann", 7, UNTIL_MS)
    assert len(text) == 59


def test_a_pass_of_another_user_sale_or_ledger_is_forged_also_when_it_has_expired():
    text = new_pass(SECRET, "sale-1", "ann", 7, UNTIL_MS)
    for now_ms in (NOW_MS, UNTIL_MS):
        assert read_pass(SECRET, "sale-1", "bob", text, now_ms) is NoPass.FORGED
        assert read_pass(SECRET, "sale-2", "ann", text, now_ms) is NoPass.FORGED
        assert read_pass(OTHER_SECRET, "sale-1", "ann", text, now_ms) is NoPass.FORGED


@given(SALES, USERS, SALES, USERS)
def test_no_two_buyers_share_a_pass_however_their_names_are_put_together(sale_id, user_id, other_sale, other_user):
    same = (sale_id, user_id) == (other_sale, other_user)
    text = new_pass(SECRET, sale_id, user_id, 7, UNTIL_MS)
    assert (text == new_pass(SECRET, other_sale, other_user, 7, UNTIL_MS)) is same


def test_the_border_between_sale_and_user_is_part_of_what_is_sealed():
    text = new_pass(SECRET, "sale", "ann", 7, UNTIL_MS)
    assert read_pass(SECRET, "sal", "eann", text, NOW_MS) is NoPass.FORGED
    ticket = new_ticket(SECRET, "sale", 7, "ann")
    assert read_ticket(SECRET, "sal", ticket, "eann") is None


@pytest.mark.parametrize("text", ["", "é" * 59, "\ud800" * 59, "0" * 59, "x" * 1_000_000, "pass_" + "0" * 54])
def test_what_is_no_pass_is_forged(text):
    assert read_pass(SECRET, "sale-1", "ann", text, NOW_MS) is NoPass.FORGED


@pytest.mark.parametrize(("number", "until_ms"), [(0, 1), (-1, 1), (NUMBER_MAX + 1, 1), (1, -1), (1, UNTIL_MS_MAX + 1)])
def test_a_pass_that_could_not_be_read_is_not_given(number, until_ms):
    with pytest.raises(ValueError, match="no pass"):
        new_pass(SECRET, "sale-1", "ann", number, until_ms)


# -- Tickets


@given(SALES, USERS, NUMBERS, st.sampled_from(["", "s00", "sff"]))
def test_a_ticket_tells_its_number_to_its_owner_and_that_it_is_genuine_to_everybody(sale_id, user_id, number, mark):
    ticket = new_ticket(SECRET, sale_id, number, user_id, mark)
    assert ticket == new_ticket(SECRET, sale_id, number, user_id, mark)
    assert ticket.endswith(mark)
    assert read_ticket(SECRET, sale_id, ticket, user_id) == number
    assert read_ticket(SECRET, sale_id, ticket, None) == number
    assert read_ticket(SECRET, sale_id, ticket, user_id + "x") is None
    assert read_ticket(SECRET, sale_id + "x", ticket, None) is None
    assert read_ticket(OTHER_SECRET, sale_id, ticket, None) is None


def test_a_ticket_with_another_mark_is_another_ticket():
    ticket = new_ticket(SECRET, "sale-1", 7, "ann", "s01")
    for other in (ticket[:-3], ticket[:-3] + "s02"):
        assert read_ticket(SECRET, "sale-1", other, None) is None


def test_a_ticket_with_another_number_is_none_for_anybody():
    ticket = new_ticket(SECRET, "sale-1", 7, "ann")
    assert read_ticket(SECRET, "sale-1", ticket.replace("07", "08", 1), None) is None


@pytest.mark.parametrize("number", [0, -1, NUMBER_MAX + 1])
def test_a_ticket_that_could_not_be_read_is_not_given(number):
    with pytest.raises(ValueError, match="an arrival number is between 1 and"):
        new_ticket(SECRET, "sale-1", number, "ann")


# -- Forgeries


def a_pass(user: int, sale: int = 1) -> str:
    return new_pass(SECRET, f"sale-{sale}", f"user-{user}", user + 1, UNTIL_MS)


def a_ticket(user: int, sale: int = 1) -> str:
    return new_ticket(SECRET, f"sale-{sale}", user + 1, f"user-{user}", "s01" if user % 3 == 0 else "")


def a_receipt(user: int, sale: int = 1) -> str:
    hashed = draw.ticket_hash(a_ticket(user, sale)).hex()
    return draw.sign(draw.Receipt(f"sale-{sale}", hashed, "prequeue", user + 1, NOW_MS, "cd" * 32), KEY)


def flip_a_bit(text: str, chance: Random) -> str:
    at = chance.randrange(len(text))
    return text[:at] + chr(ord(text[at]) ^ 1 << chance.randrange(8)) + text[at + 1 :]


def cut_off(text: str, chance: Random) -> str:
    at = chance.randrange(len(text))
    return chance.choice([text[:at], text[at + 1 :]])


def add(text: str, chance: Random) -> str:
    at, more = chance.randrange(len(text) + 1), chance.choice(["0", "=", " ", "\n", "\0", "_", "s01", text])
    return text[:at] + more + text[at:]


def change_case(text: str, chance: Random) -> str:
    letters = [at for at, letter in enumerate(text) if letter.isalpha()]
    at = chance.choice(letters)
    return chance.choice([text.upper(), text[:at] + text[at].swapcase() + text[at + 1 :]])


def write_another_way(text: str, chance: Random) -> str:
    """Digits of other alphabets, underscores and signs: what `int` takes for numbers."""
    at = chance.randrange(4, len(text))
    return text[:at] + chance.choice(["_", "+", "-", "\u0661", "\uff11", " "]) + text[at + 1 :]


def exchange_parts(text: str, chance: Random) -> str:
    """The beginning of one with the end of another: a genuine seal under another number."""
    other = chance.choice([a_pass, a_ticket, a_receipt])(chance.randrange(50), chance.randrange(1, 3))
    at = chance.randrange(1, len(text))
    return text[:at] + other[at:]


def take_another(text: str, chance: Random) -> str:
    """Something genuine of another kind, user or sale."""
    genuine = chance.choice([a_pass, a_ticket, a_receipt])
    reservation = fresh_id(SECRET, "user-1", NOW_MS, b"chance")
    return chance.choice([genuine(chance.randrange(50), chance.randrange(1, 3)), reservation])


MUTATIONS = (flip_a_bit, cut_off, add, change_case, write_another_way, exchange_parts, take_another)


def mutations(make, count: int) -> Iterator[tuple[int, str]]:
    """Users of sale 1, and texts that were not given to them."""
    chance = Random(make.__name__)
    genuine = [make(user) for user in range(50)]
    found = 0
    while found < count:
        user = chance.randrange(50)
        text = chance.choice(MUTATIONS)(genuine[user], chance)
        if text != genuine[user]:
            found += 1
            yield user, text


def test_of_100_000_mutated_passes_none_is_accepted():
    taken = [
        text
        for user, text in mutations(a_pass, 100_000)
        if read_pass(SECRET, "sale-1", f"user-{user}", text, NOW_MS) is not NoPass.FORGED
    ]
    assert taken == []


def test_of_100_000_mutated_tickets_none_is_accepted_from_whom_it_was_not_given_to():
    taken = [
        text
        for user, text in mutations(a_ticket, 100_000)
        if read_ticket(SECRET, "sale-1", text, f"user-{user}") is not None
    ]
    assert taken == []


def test_of_40_000_mutated_receipts_none_is_accepted():
    """Receipts say themselves whose they are: one of somebody else is genuine, and says so."""
    genuine = {a_receipt(user, sale) for user in range(50) for sale in (1, 2)}
    tried = [text for _, text in mutations(a_receipt, 40_000) if text not in genuine]
    assert len(tried) > 36_000
    assert [text for text in tried if draw.read_receipt(text, PUBLIC_KEY) is not None] == []


def test_without_mutations_all_are_accepted():
    for user in range(50):
        assert read_pass(SECRET, "sale-1", f"user-{user}", a_pass(user), NOW_MS) == Pass(user + 1, UNTIL_MS)
        assert read_ticket(SECRET, "sale-1", a_ticket(user), f"user-{user}") == user + 1
        assert draw.read_receipt(a_receipt(user), PUBLIC_KEY) is not None
