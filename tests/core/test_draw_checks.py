"""Verifying a draw: whatever is changed in it is noticed, and who was wronged can prove it."""

import pytest
from core.published import a_shop, changed, gathered, paged
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.draw import Published
from flashsale.core.draw_checks import Check, Outcome, check_draw, check_earlier, check_receipts, is_proven

SIZES = st.integers(1, 30)


def verdict(
    *pages: Published, receipts: list[str] | None = None, earlier: list[Published] | None = None
) -> list[Check]:
    found = gathered(*pages)
    checks = check_draw(found) + [check_earlier(pages[0], each) for each in earlier or []]
    return checks + check_receipts(pages[0], found, receipts or [])


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome is Outcome.FAILED}


def proven(*pages: Published, **told: object) -> bool:
    return is_proven(gathered(*pages), verdict(*pages, **told))


# -- An honest draw


@given(SIZES, st.integers(1, 31))
def test_an_honest_draw_is_proven_with_all_its_receipts_in_pages_of_any_size(entrants, size):
    shop = a_shop(entrants)
    pages = paged(shop.published(), size)
    earlier = [shop.published(state) for state in ("OPEN", "CLOSED", "DRAWN")]
    assert proven(*pages, receipts=shop.receipts(), earlier=earlier)


def test_a_receipt_is_told_its_place():
    shop = a_shop(5)
    published = shop.published()
    *_, check = verdict(published, receipts=[shop.receipt(3)])
    assert (check.number, check.place) == (3, published.order.index(3) + 1)
    *_, check = verdict(published, receipts=[shop.receipt(6, "line")])
    assert (check.number, check.place) == (6, 6)


def test_a_draw_without_entrants_is_proven():
    assert proven(a_shop(0).published())
    assert proven(changed(a_shop(0).published(), root=None))


def test_before_it_is_drawn_nothing_speaks_against_it_and_nothing_is_proven():
    shop = a_shop(5)
    for state in ("OPEN", "CLOSED"):
        checks = verdict(shop.published(state), receipts=[shop.receipt(2), shop.receipt(6, "line")])
        assert failed(checks) == set()
        assert not proven(shop.published(state))


def test_between_the_close_and_the_root_nothing_speaks_against_it():
    assert failed(verdict(changed(a_shop(5).published("CLOSED"), root=None))) == set()


# -- Something in the document was changed: it does not fit the rest

A_FRIEND = "ab" * 32


def moved(each: list, at: int, to: int) -> list:
    rest = each[:at] + each[at + 1 :]
    return [*rest[:to], each[at], *rest[to:]]


def put(each: list, at: int, new: object) -> list:
    return [*each[:at], new, *each[at + 1 :]]


TAMPERINGS = {
    "insert": lambda told, at, _: {"hashes": [*told.hashes[:at], A_FRIEND, *told.hashes[at:]]},
    "drop": lambda told, at, _: {"hashes": told.hashes[:at] + told.hashes[at + 1 :]},
    "move": lambda told, at, to: {"hashes": moved(told.hashes, at, to)},
    "exchange": lambda told, at, _: {"hashes": put(told.hashes, at, A_FRIEND)},
    "repeat": lambda told, at, to: {"hashes": put(told.hashes, at, told.hashes[to])},
    "seed": lambda told, at, _: {"seed": flipped(told.seed, at)},
    "commitment": lambda told, at, _: {"commitment": flipped(told.commitment, at)},
    "root": lambda told, at, _: {"root": flipped(told.root, at)},
    "entrants": lambda told, at, _: {"entrants": told.entrants + 1 + at},
    "swap": lambda told, at, to: {"order": put(put(told.order, at, told.order[to]), to, told.order[at])},
    "rotate": lambda told, at, to: {"order": moved(told.order, at, to)},
    "forget": lambda told, at, _: {"order": told.order[:at] + told.order[at + 1 :]},
    "one more": lambda told, at, _: {"order": [*told.order, at + 1]},
}


def flipped(text: str, at: int) -> str:
    return text[:at] + f"{int(text[at], 16) ^ 1:x}" + text[at + 1 :]


@given(SIZES, st.sampled_from(list(TAMPERINGS)), st.data())
def test_whatever_is_changed_in_the_document_is_noticed(entrants, how, data):
    told = a_shop(entrants).published()
    at, to = data.draw(st.integers(0, entrants - 1)), data.draw(st.integers(0, entrants - 1))
    other = changed(told, **TAMPERINGS[how](told, at, to))
    assert proven(other) is (other == told)


@given(st.integers(2, 30), st.integers(1, 10), st.data())
def test_a_page_that_is_missing_repeated_or_out_of_order_is_noticed(entrants, size, data):
    pages = paged(a_shop(entrants).published(), size)
    at, to = (data.draw(st.integers(0, len(pages) - 1)) for _ in range(2))
    rest = pages[:at] + pages[at + 1 :]
    for other in (rest, [*pages[:at], pages[at], *pages[at:]], [*rest[:to], pages[at], *rest[to:]]):
        assert other in (pages, []) or not proven(*other)


@pytest.mark.parametrize("nexts", [(2, 3, None), (None, 4, None), (2, None, None), (2, 4, 6)])
def test_pages_that_do_not_follow_each_other_are_told_apart_from_wrong_entrants(nexts):
    pages = paged(a_shop(6).published(), 2)
    other = [changed(page, next=after) for page, after in zip(pages, nexts, strict=True)]
    assert failed(verdict(*pages)) == set()
    assert failed(verdict(*other)) == {"pages"}


def test_a_document_that_calls_itself_unfinished_proves_nothing_even_if_all_is_in_it():
    assert not proven(changed(a_shop(3).published(), state="CLOSED"))


def test_nobody_takes_part_twice():
    twice = a_shop(3).replace(tickets=("tkt_1", "tkt_2", "tkt_1")).published()
    assert failed(verdict(twice)) == {"entrants"}


def test_a_page_of_another_draw_is_noticed():
    pages = paged(a_shop(4).published(), 2)
    assert "pages" in failed(verdict(pages[0], changed(pages[1], sale_id="other")))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"seed": "00" * 32}, {"commitment", "order"}),
        ({"commitment": "00" * 32}, {"commitment"}),
        ({"root": "00" * 32}, {"root", "order"}),
        ({"entrants": 4}, {"entrants"}),
        ({"order": [1, 2, 3]}, {"order"}),
        ({"order": [1, 1, 2]}, {"entrants", "order"}),
        ({"seed": None}, {"commitment", "order"}),
        ({"root": None}, {"root"}),
        ({"entrants": None}, {"entrants"}),
        ({"next": 3}, {"pages"}),
    ],
)
def test_the_check_that_failed_says_what_was_changed(change, check):
    assert failed(verdict(changed(a_shop(3).published(), **change))) == check


# -- All of it was made anew, so that it fits: what people hold, and what was told before, shows it


def remade(shop, how: str, at: int, to: int):
    tickets = list(shop.tickets)
    match how:
        case "insert":
            tickets.insert(at, "tkt_of_a_friend")
        case "drop":
            tickets.pop(at)
        case "move":
            tickets.insert(to, tickets.pop(at))
        case "exchange":
            tickets[at] = "tkt_of_a_friend"
        case "seed":
            return shop.replace(seed=bytes([at]) * 32)
        case "key":
            return shop.replace(secret=bytes([at]) * 32)
        case "sale":
            return shop.replace(sale_id="other")
    return shop.replace(tickets=tuple(tickets))


REMADE = st.sampled_from(["insert", "drop", "move", "exchange", "seed", "key", "sale"])


@given(SIZES, REMADE, st.data())
def test_a_document_that_was_made_anew_is_given_away_by_the_receipts_and_by_what_was_told_before(entrants, how, data):
    shop = a_shop(entrants)
    at, to = data.draw(st.integers(0, entrants - 1)), data.draw(st.integers(0, entrants - 1))
    other = remade(shop, how, at, to)
    told = other.published()
    assert proven(told), "it fits together"
    assert proven(told, earlier=[shop.published("CLOSED")]) is (other == shop)
    assert proven(told, receipts=shop.receipts()) is (other == shop)


@given(st.integers(2, 30), st.data())
def test_who_was_left_out_or_moved_proves_it_with_his_own_receipt(entrants, data):
    shop = a_shop(entrants)
    number = data.draw(st.integers(1, entrants))
    out = remade(shop, "drop", number - 1, 0).published()
    *_, check = verdict(out, receipts=[shop.receipt(number)])
    assert check.outcome is Outcome.FAILED
    assert "left out" in check.found
    back = remade(shop, "insert", number - 1, 0).published()
    *_, check = verdict(back, receipts=[shop.receipt(number)])
    assert check.found == f"Number {number}: it was moved to number {number + 1}"


def test_somebody_who_is_added_behind_all_others_is_given_away_by_the_root_and_by_nobody_s_receipt():
    """What the pre-queue cannot prove by itself: who knows the seed may add entrants up to the close."""
    shop = a_shop(5)
    told = shop.replace(tickets=(*shop.tickets, "tkt_of_a_friend")).published()
    assert proven(told, receipts=shop.receipts(), earlier=[shop.published("OPEN")])
    assert failed(verdict(told, earlier=[shop.published("CLOSED")])) == {"earlier document"}


def test_each_promise_of_a_receipt_is_looked_at():
    shop, told = a_shop(3), a_shop(3).published()
    wrong = {
        "one of sale other": shop.replace(sale_id="other").receipt(1),
        "promises another seed": shop.replace(seed=bytes(32)).receipt(1),
        "not signed with the published key": shop.replace(secret=bytes(32)).receipt(1),
        "it was left out": a_shop(4).receipt(4),
        "the ticket is not among the entrants": a_shop(3).replace(tickets=("tkt_1", "tkt_2", "tkt_3")).receipt(2),
        "takes part in the draw": shop.receipt(2, "line"),
    }
    for found, receipt in wrong.items():
        *_, check = verdict(told, receipts=[receipt])
        assert check.outcome is Outcome.FAILED
        assert found in check.found


@pytest.mark.parametrize("fact", ["sale_id", "public_key", "commitment", "entrants", "root", "seed"])
def test_each_fact_that_was_told_before_is_looked_at(fact):
    told = a_shop(3).published()
    other = 4 if fact == "entrants" else "other" if fact == "sale_id" else "00" * 32
    assert check_earlier(told, changed(told, **{fact: other})).outcome is Outcome.FAILED
    assert check_earlier(told, told).outcome is Outcome.OK
