"""A sale: its terms, its products, and what it is at time t.

Nothing needs a timer to be correct: the state follows from the window and the operator's flags, and is
computed where it is needed, with the ledger's clock. A sale without a start is a draft.

                 start comes               operator
    DRAFT ──► SCHEDULED ──► ACTIVE ◄──► PAUSED
                               │           │
                               └──► ENDED ◄┘      end comes, or operator
"""

from enum import StrEnum
from functools import cached_property

import msgspec
from msgspec.structs import replace

from flashsale.core.origin import Shared


class SaleState(StrEnum):
    DRAFT = "DRAFT"
    SCHEDULED = "SCHEDULED"
    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"
    ENDED = "ENDED"


class Mode(StrEnum):
    DIRECT = "direct"
    QUEUED = "queued"


class LatePayment(StrEnum):
    """What becomes of money that arrives after its reservation has expired."""

    HONOUR = "honour"
    REFUND = "refund"


class Settlement(StrEnum):
    """How a reservation is paid: by a provider, by an operator's record, or not at all."""

    ONLINE = "online"
    MANUAL = "manual"
    NONE = "none"


class Product(msgspec.Struct, frozen=True, rename="camel"):
    """What is sold, at which price, and how many of it one user may have. Units are in the stock row."""

    sku_id: str
    name: str
    currency: str
    base_price_minor: int
    price_minor: int
    per_user_limit: int
    description: str = ""
    category: str = ""
    image_url: str = ""


class RoomTerms(msgspec.Struct, frozen=True, rename="camel"):
    """The terms of a sale's waiting room."""

    admit_per_second: float = 100.0
    burst: int = 100
    """How many may be let in at once after a pause."""
    max_active: int | None = None
    """How many may hold a pass or an unpaid reservation; None: as many as the rate lets in."""
    max_waiting: int = 1_000_000
    pass_seconds: int = 120
    prequeue_seconds: int = 600
    """How long before the start it opens."""


class Sale(msgspec.Struct, frozen=True, dict=True, rename="camel"):
    """The terms of a sale as the operator set them. `version` rises with each change (If-Match)."""

    sale_id: str
    name: str
    products: tuple[Product, ...]
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    paused: bool = False
    ended: bool = False
    reservation_seconds: int = 120
    mode: Mode = Mode.DIRECT
    late_payment: LatePayment = LatePayment.HONOUR
    settlement: Settlement = Settlement.ONLINE
    one_active_hold: bool = False
    waiting_room: RoomTerms | None = None
    """None: it has none, and whoever comes may buy."""
    require_device: bool = False
    """Whether who gives no device facts looks suspicious (core/risk.py)."""
    per_device_limit: int | None = None
    per_address_limit: int | None = None
    version: int = 1
    created_at_ms: int = 0

    @cached_property
    def by_sku(self) -> dict[str, Product]:
        return {product.sku_id: product for product in self.products}

    @cached_property
    def shared(self) -> Shared | None:
        """How many units those get together who come from one place; None where that is nobody's concern."""
        limits = Shared(self.per_device_limit, self.per_address_limit)
        return None if limits == (None, None) else limits

    def product(self, sku_id: str) -> Product | None:
        return self.by_sku.get(sku_id)


def state_at(sale: Sale, now_ms: int) -> SaleState:
    """What the sale is at `now_ms`. The end wins over the pause, the pause over the window's inside."""
    state = state_when_asked(sale, now_ms)
    if sale.ended and state is not SaleState.DRAFT:
        return SaleState.ENDED
    return SaleState.PAUSED if sale.paused and state is SaleState.ACTIVE else state


def state_when_asked(sale: Sale, at_ms: int) -> SaleState:
    """By its window alone: what the sale was for a request that was taken into the queue at `at_ms`. An operator's end
    closes the window, so that what came before it is still decided; a pause holds what waits and refuses none of it."""
    if sale.starts_at_ms is None:
        return SaleState.DRAFT
    if sale.ends_at_ms is not None and at_ms >= sale.ends_at_ms:
        return SaleState.ENDED
    return SaleState.SCHEDULED if at_ms < sale.starts_at_ms else SaleState.ACTIVE


class Switch(StrEnum):
    """What an operator can do to a running sale."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    END = "end"


ALLOWED: dict[Switch, frozenset[SaleState]] = {
    Switch.START: frozenset({SaleState.DRAFT, SaleState.SCHEDULED}),
    Switch.PAUSE: frozenset({SaleState.ACTIVE}),
    Switch.RESUME: frozenset({SaleState.PAUSED}),
    Switch.END: frozenset({SaleState.ACTIVE, SaleState.PAUSED}),
}
"""From which states a switch may be thrown."""

REACHED: dict[Switch, SaleState] = {
    Switch.START: SaleState.ACTIVE,
    Switch.PAUSE: SaleState.PAUSED,
    Switch.RESUME: SaleState.ACTIVE,
    Switch.END: SaleState.ENDED,
}
"""Where a switch leads; a sale that is there already stays as it is, and the call succeeds."""


def switched(sale: Sale, switch: Switch, now_ms: int) -> Sale | None:
    """The sale after the switch; the same object if it is there already; None if the state forbids it."""
    state = state_at(sale, now_ms)
    if state is REACHED[switch]:
        return sale
    if state not in ALLOWED[switch]:
        return None
    sale = replace(sale, version=sale.version + 1)
    match switch:
        case Switch.START:
            return replace(sale, starts_at_ms=now_ms, paused=False)
        case Switch.PAUSE | Switch.RESUME:
            return replace(sale, paused=switch is Switch.PAUSE)
        case Switch.END:
            # When it ended decides which of the queued requests came in time.
            return replace(sale, ended=True, ends_at_ms=min(now_ms, sale.ends_at_ms or now_ms))
