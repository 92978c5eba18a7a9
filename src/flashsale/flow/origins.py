"""Where an attempt comes from, as far as its sale limits that: what puts the marks on it (core/origin.py).

Part of every composition: these limits are the sale's and have nothing to do with risk.
"""

from flashsale.core.device import HEADER, mark_of
from flashsale.core.origin import marks_of
from flashsale.core.refusal import first_said, invalid
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt
from flashsale.core.visitor import Visitor

NEEDED = invalid(HEADER, "is needed, with deviceId: this sale limits units per device")


class Origins:
    def __init__(self, secret: bytes) -> None:
        """`secret`: what marks are made with, the same in all processes."""
        self._secret = secret

    def __call__(self, visitor: Visitor, sale: Sale, attempt: Attempt) -> None:
        if sale.shared is not None:
            device = mark_of(visitor.device)
            attempt.marks = marks_of(sale.shared, device, visitor.address, self._secret)
            if sale.shared.per_device is not None and device is None:
                attempt.barred = first_said(attempt.barred, NEEDED)
