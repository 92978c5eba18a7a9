"""Whether a published draw is what was promised: everything that can be recomputed is, and every receipt is looked up.

There are two ways to cheat with a document. Something in it can be changed, and then it no longer fits the rest; the
checks on the document find that. Or all of it can be made anew, so that it fits: then it differs from what the world
was told before, and what finds that are the receipts that people hold and the documents that somebody kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import zip_longest

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flashsale.core.draw import Published, Receipt, commitment, merkle_root, order, read_receipt


class Outcome(StrEnum):
    OK = "OK"
    FAILED = "FAILED"
    NOT_YET = "NOT_YET"
    """What it needs has not been published."""


class Check(msgspec.Struct, frozen=True, rename="camel"):
    """What was checked, and what that says."""

    name: str
    outcome: Outcome
    found: str
    number: int | None = None
    place: int | None = None
    """Of a receipt's owner."""


class Pages:
    """A draw as it is put together from its pages, one after the other."""

    def __init__(self) -> None:
        self.first: Published | None = None
        self.hashes: list[bytes] = []
        self.order: list[int] = []
        self.next: int | None = 0
        self.fault: str | None = None

    def add(self, page: Published) -> None:
        number = "The first page" if self.first is None else f"The page after entrant {len(self.hashes)}"
        if self.first is None:
            self.first = _facts(page)
        elif _facts(page) != self.first:
            self.fault = self.fault or f"{number} tells of another draw, or of another moment of it, than the first"
        if self.next is None:
            self.fault = self.fault or f"{number} comes after the last one"
        self.hashes += map(bytes.fromhex, page.hashes)
        self.order += page.order
        self.next = page.next
        if page.next not in (None, len(self.hashes)):
            self.fault = self.fault or f"{number} ends with entrant {len(self.hashes)} and says {page.next}"

    def whole(self) -> Check:
        if self.first is None:
            return Check("pages", Outcome.FAILED, "There is none")
        if self.fault is None and self.next is not None:
            self.fault = f"The last page is missing: after entrant {self.next} there are more"
        if self.fault is not None:
            return Check("pages", Outcome.FAILED, self.fault)
        return Check("pages", Outcome.OK, "They follow each other and tell of one draw")


def _facts(page: Published) -> Published:
    """What all pages have in common."""
    return msgspec.structs.replace(page, hashes=[], order=[], next=None)


def check_draw(pages: Pages) -> list[Check]:
    """Everything that the document itself must fulfil."""
    facts = pages.first
    if facts is None:
        return [pages.whole()]
    checks = (_entrants, _commitment, _root, _order)
    return [pages.whole(), *(check(facts, pages.hashes, pages.order) for check in checks)]


def is_proven(pages: Pages, checks: Iterable[Check]) -> bool:
    """Whether the draw is over and nothing speaks against it."""
    drawn = pages.first is not None and pages.first.state == "DRAWN"
    return drawn and all(check.outcome is Outcome.OK for check in checks)


# -- The document


def _entrants(facts: Published, hashes: Sequence[bytes], drawn: Sequence[int]) -> Check:
    name = "entrants"
    if facts.entrants is None:
        return _not_yet(name, facts, "CLOSED")
    if facts.state != "DRAWN" and not hashes:
        return Check(name, Outcome.NOT_YET, f"{facts.entrants} take part; their hashes are published with the draw")
    if len(hashes) != facts.entrants:
        missing = f"{facts.entrants} are said to take part, and there are {len(hashes)} hashes"
        return Check(name, Outcome.FAILED, f"{missing}: somebody was added or left out")
    if len(set(hashes)) != len(hashes):
        return Check(name, Outcome.FAILED, "A ticket is among them more than once: somebody has two places")
    if sorted(drawn) != list(range(1, len(hashes) + 1)):
        return Check(name, Outcome.FAILED, "The order does not name each of them once: somebody has no place, or two")
    return Check(name, Outcome.OK, f"{facts.entrants} take part, each with one number and one place")


def _commitment(facts: Published, _hashes: Sequence[bytes], _drawn: Sequence[int]) -> Check:
    name = "commitment"
    if facts.seed is None:
        return _not_yet(name, facts, "DRAWN")
    if commitment(bytes.fromhex(facts.seed)).hex() != facts.commitment:
        return Check(name, Outcome.FAILED, "The seed is not the one that was committed to: it was changed")
    return Check(name, Outcome.OK, "The seed is the one that was committed to")


def _root(facts: Published, hashes: Sequence[bytes], _drawn: Sequence[int]) -> Check:
    name = "root"
    if facts.root is None and facts.entrants != 0:
        return _not_yet(name, facts, "DRAWN")
    if facts.state != "DRAWN" and not hashes:
        return Check(name, Outcome.NOT_YET, "It is published; the entrants' hashes are, with the draw")
    if facts.root is not None and merkle_root(hashes).hex() != facts.root:
        found = "The entrants are not those of the close: somebody was added, left out or moved"
        return Check(name, Outcome.FAILED, found)
    return Check(name, Outcome.OK, "The entrants are those of the close, in the order of their arrival")


def _order(facts: Published, hashes: Sequence[bytes], drawn: Sequence[int]) -> Check:
    name = "order"
    if facts.seed is None:
        return _not_yet(name, facts, "DRAWN")
    root = bytes.fromhex(facts.root) if facts.root else merkle_root(hashes)
    right = order(bytes.fromhex(facts.seed), root, hashes)
    for place, (told, drawn_there) in enumerate(zip_longest(drawn, right), 1):
        if told != drawn_there:
            found = f"Place {place} belongs to number {drawn_there}, and is given to number {told}"
            return Check(name, Outcome.FAILED, found)
    return Check(name, Outcome.OK, "It is the one that seed and entrants make")


def _not_yet(name: str, facts: Published, state: str) -> Check:
    """In the state in which it has to be there, it is a fault that it is not."""
    states = ("OPEN", "CLOSED", "DRAWN")
    if states.index(facts.state) >= states.index(state):
        return Check(name, Outcome.FAILED, f"The draw is {facts.state}, and what this needs is not published")
    return Check(name, Outcome.NOT_YET, f"What it needs is published when the draw is {state}")


# -- What was told before

_CHANGED = {
    "sale_id": "it is about another sale",
    "public_key": "the key of the receipts was exchanged",
    "commitment": "the seed was exchanged",
    "entrants": "somebody was added or left out after the close",
    "root": "somebody was added, left out or moved after the close",
    "seed": "the seed was exchanged after it had been published",
}


def check_earlier(facts: Published, earlier: Published) -> Check:
    """Whether a document that somebody kept tells of the same draw."""
    name = "earlier document"
    for field, meaning in _CHANGED.items():
        before, now = getattr(earlier, field), getattr(facts, field)
        if before is not None and before != now:
            return Check(name, Outcome.FAILED, f"Told was {before}, and now {now}: {meaning}")
    return Check(name, Outcome.OK, f"What was told when the draw was {earlier.state} still holds")


def check_receipts(facts: Published, pages: Pages, texts: Iterable[str]) -> list[Check]:
    """Whether everybody who holds a receipt is where it says, and which place he has drawn."""
    texts = list(texts)
    if not texts:
        return []
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(facts.public_key))
    numbers = {each: number for number, each in enumerate(pages.hashes, 1)}
    places = {number: place for place, number in enumerate(pages.order, 1)}
    return [_receipt(facts, read_receipt(text, key), numbers, places) for text in texts]


def _receipt(
    facts: Published, receipt: Receipt | None, numbers: Mapping[bytes, int], places: Mapping[int, int]
) -> Check:
    if receipt is None:
        found = "It is not signed with the published key: it is no receipt of this shop, or the key was exchanged"
        return Check("receipt", Outcome.FAILED, found)
    fault = _promise_broken(facts, receipt) or _misplaced(facts, receipt, numbers)
    if fault:
        return Check("receipt", Outcome.FAILED, f"Number {receipt.number}: {fault}", receipt.number)
    if facts.state != "DRAWN":
        found = f"Number {receipt.number} is promised the seed that was committed to"
        return Check("receipt", Outcome.NOT_YET, found, receipt.number)
    place = places.get(receipt.number, 0) if receipt.kind == "prequeue" else receipt.number
    return Check("receipt", Outcome.OK, f"Number {receipt.number} has place {place}", receipt.number, place)


def _promise_broken(facts: Published, receipt: Receipt) -> str | None:
    if receipt.sale_id != facts.sale_id:
        return f"the receipt is one of sale {receipt.sale_id}"
    if receipt.kind == "prequeue" and receipt.commitment != facts.commitment:
        return "the receipt promises another seed: it was exchanged"
    return None


def _misplaced(facts: Published, receipt: Receipt, numbers: Mapping[bytes, int]) -> str | None:
    at = numbers.get(bytes.fromhex(receipt.ticket_hash))
    entrants = facts.entrants
    if receipt.kind == "line":
        is_drawn = at is not None or (entrants is not None and receipt.number <= entrants)
        return "the receipt is one for the line behind the draw, and takes part in the draw" if is_drawn else None
    if entrants is not None and receipt.number > entrants:
        return f"the receipt is one for the draw, and only {entrants} take part: it was left out"
    if at is None:
        return "the ticket is not among the entrants: it was left out" if facts.state == "DRAWN" else None
    return None if at == receipt.number else f"it was moved to number {at}"
