"""The way into a queued sale, on one machine: the ledger's own queue and a gate in memory."""

import os
from typing import Any

from flashsale.backends.memory import MemoryGate
from flashsale.flow.lease import Always
from flashsale.flow.ledger_queue import LedgerQueue
from flashsale.flow.queueing import Queueing


def a_queueing(ledger: Any, storefront: Any, clock: Any) -> Queueing:
    queue = LedgerQueue(ledger, storefront, clock, Always().held)
    return Queueing(ledger, queue, MemoryGate(clock), storefront, clock, os.urandom)
