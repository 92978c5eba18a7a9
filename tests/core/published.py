"""A draw as a shop publishes it, and as one that cheats would: for the tests of its verification."""

import dataclasses
from dataclasses import dataclass
from hashlib import sha256

from msgspec.structs import replace

from flashsale.core import draw
from flashsale.core.draw import Published, Receipt
from flashsale.core.draw_checks import Pages

SECRET = b"s" * draw.SEED_BYTES
AT_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Shop:
    """What a shop has written down. `tickets` are the entrants, in the order of their arrival."""

    tickets: tuple[str, ...]
    sale_id: str = "launch"
    seed: bytes = sha256(b"a seed").digest()
    secret: bytes = SECRET

    @property
    def hashes(self) -> list[bytes]:
        return [draw.ticket_hash(ticket) for ticket in self.tickets]

    def replace(self, **changed: object) -> "Shop":
        return dataclasses.replace(self, **changed)

    def published(self, state: str = "DRAWN") -> Published:
        """All of it, made anew from what is written down: it always fits together."""
        hashes = self.hashes
        root = draw.merkle_root(hashes)
        told = Published(
            self.sale_id, state, draw.commitment(self.seed).hex(), draw.published_key(draw.signing_key(self.secret))
        )
        if state != "OPEN":
            told = changed(told, entrants=len(hashes), root=root.hex())
        if state == "DRAWN":
            order = draw.order(self.seed, root, hashes)
            told = changed(told, seed=self.seed.hex(), hashes=[each.hex() for each in hashes], order=order)
        return told

    def receipt(self, number: int, kind: str = "prequeue") -> str:
        entrant = self.tickets[number - 1] if kind == "prequeue" else f"tkt_line_{number}"
        promised = draw.commitment(self.seed).hex() if kind == "prequeue" else None
        receipt = Receipt(self.sale_id, draw.ticket_hash(entrant).hex(), kind, number, AT_MS + number, promised)
        return draw.sign(receipt, draw.signing_key(self.secret))

    def receipts(self) -> list[str]:
        return [self.receipt(number) for number in range(1, len(self.tickets) + 1)]


def changed(published: Published, **facts: object) -> Published:
    return replace(published, **facts)


def a_shop(entrants: int, **facts: object) -> Shop:
    return Shop(tuple(map(a_ticket, range(1, entrants + 1))), **facts)


def a_ticket(number: int) -> str:
    """An id as it might have been given out: what is in it is nobody's business here."""
    return f"tkt_{number:010x}{sha256(b'ticket %d' % number).hexdigest()[:32]}"


def paged(published: Published, size: int) -> list[Published]:
    """The same in pages of so many entrants."""
    starts = range(0, max(1, len(published.hashes)), size)
    return [
        changed(
            published,
            hashes=published.hashes[start : start + size],
            order=published.order[start : start + size],
            next=start + size if start + size < len(published.hashes) else None,
        )
        for start in starts
    ]


def gathered(*pages: Published) -> Pages:
    found = Pages()
    for page in pages:
        found.add(page)
    return found
