"""The books of the sandbox payment provider: its rules, its SQLite file, and the shapes it speaks in.

A call is decided by one pure function, `decide`, from the transaction as it is; what it moves, the
transaction and the answer of its key are committed together. A call that the rules do not allow moves
nothing and is answered with the transaction as it is. Several processes may have the same file open:
each batch takes the write lock first and trusts nothing it read before.

An answer is kept under its key for good, with one exception: a capture or refund of a transaction nobody
ever made leaves no trace, so that its key still works once the transaction exists. A void does leave one.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import astuple, replace

from flashsale.core.payment import PaymentStatus, Transaction

LOCK_WAIT_SECONDS = 10.0
BODY_MAX_BYTES = 16 * 1024

TransactionId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}\Z")]
Key = Annotated[str, Meta(pattern=r"^[ -~]{1,255}\Z")]
AmountMinor = Annotated[int, Meta(ge=0, le=10**15)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
StatusName = Literal["CREATED", "FAILED", "AUTHORIZED", "VOIDED", "CAPTURED"]


# -- What can be asked, and what is answered: the bodies on the wire


class Authorise(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="authorise"):
    transaction_id: TransactionId
    amount_minor: AmountMinor
    currency: Currency
    key: Key


class Capture(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="capture"):
    transaction_id: TransactionId
    amount_minor: AmountMinor
    key: Key


class Void(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="void"):
    transaction_id: TransactionId
    key: Key


class Refund(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="refund"):
    transaction_id: TransactionId
    amount_minor: AmountMinor
    key: Key


class Create(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="kind", tag="create"):
    """A transaction the buyer made with the provider before the shop heard of it."""

    transaction_id: TransactionId
    amount_minor: AmountMinor
    currency: Currency
    status: StatusName = "AUTHORIZED"

    @property
    def key(self) -> str:
        """Its id is its key; the tab keeps it apart from the keys that callers can choose."""
        return f"create\t{self.transaction_id}"


Call = Authorise | Capture | Void | Refund | Create


class Report(Struct, frozen=True, rename="camel"):
    """A transaction on the wire."""

    transaction_id: str
    status: StatusName
    amount_minor: int
    currency: str
    refunded_minor: int
    reason: str

    @classmethod
    def of(cls, it: Transaction) -> "Report":
        status = STATUS_NAMES[it.status]
        return cls(it.transaction_id, status, it.amount_minor, it.currency, it.refunded_minor, it.reason)

    def transaction(self) -> Transaction:
        status = PaymentStatus[self.status]
        return Transaction(
            self.transaction_id, status, self.amount_minor, self.currency, self.refunded_minor, self.reason
        )


class Problem(Struct, frozen=True):
    """Why there is no report: `code` is for programs, `message` for people."""

    code: str
    message: str


class Entry(Struct, frozen=True, rename="camel"):
    """One movement, as it stands in the books."""

    seq: int
    time_ms: int
    transaction_id: str
    kind: str
    amount_minor: int
    currency: str
    key: str


class Totals(Struct, rename="camel"):
    """What was moved in one currency, summed over the entries."""

    authorised_minor: int = 0
    declined_minor: int = 0
    captured_minor: int = 0
    voided_minor: int = 0
    refunded_minor: int = 0


class Statement(Struct, frozen=True, rename="camel"):
    """The totals by currency, and one page of transactions; `next` is the `after` of the following page."""

    totals: dict[str, Totals]
    transactions: list[Report]
    next: int | None


class EntryPage(Struct, frozen=True, rename="camel"):
    entries: list[Entry]
    next: int | None


STATUS_NAMES: dict[PaymentStatus, StatusName] = {
    PaymentStatus.CREATED: "CREATED",
    PaymentStatus.FAILED: "FAILED",
    PaymentStatus.AUTHORIZED: "AUTHORIZED",
    PaymentStatus.VOIDED: "VOIDED",
    PaymentStatus.CAPTURED: "CAPTURED",
}


# -- The rules


class Outcome(Enum):
    """What authorising a transaction comes to, by the beginning of its id (the first that fits)."""

    ERROR_RECORDED = "pay_error_recorded"
    ERROR = "pay_error"
    DECLINED = "pay_declined"
    SLOW = "pay_slow"
    APPROVED = ""

    @classmethod
    def of(cls, transaction_id: str) -> "Outcome":
        return next(outcome for outcome in cls if transaction_id.startswith(outcome.value))


DECLINED_REASON = "declined by the issuer"

# How a transaction that was made beforehand came to be what it is.
HISTORY: dict[StatusName, tuple[str, ...]] = {
    "CREATED": (),
    "FAILED": ("decline",),
    "AUTHORIZED": ("authorise",),
    "VOIDED": ("authorise", "void"),
    "CAPTURED": ("authorise", "capture"),
}

Decision = tuple[Transaction | None, tuple[str, ...]]
"""The transaction after the call (None: there is none), and the kinds of entries to write."""


def decide(call: Call, now: Transaction | None) -> Decision:
    match call, now:
        case ((Authorise() | Create()), None):
            return _begin(call)
        case Capture(amount_minor=amount), Transaction(status=PaymentStatus.AUTHORIZED) if amount == now.amount_minor:
            return replace(now, status=PaymentStatus.CAPTURED), ("capture",)
        case Void(), None:  # its authorisation may still be on the way, and must find the door closed
            return Transaction(call.transaction_id, PaymentStatus.VOIDED, 0, ""), ()
        case Void(), Transaction(status=PaymentStatus.AUTHORIZED):
            return replace(now, status=PaymentStatus.VOIDED), ("void",)
        case Refund(amount_minor=amount), Transaction(status=PaymentStatus.CAPTURED) if amount <= _refundable(now):
            return replace(now, refunded_minor=now.refunded_minor + amount), ("refund",)
    return now, ()


def _begin(call: Authorise | Create) -> Decision:
    if isinstance(call, Create):
        status = call.status
    else:
        status = "FAILED" if Outcome.of(call.transaction_id) is Outcome.DECLINED else "AUTHORIZED"
    reason = DECLINED_REASON if status == "FAILED" else ""
    begun = Transaction(call.transaction_id, PaymentStatus[status], call.amount_minor, call.currency, reason=reason)
    return begun, HISTORY[status]


def _refundable(it: Transaction) -> int:
    return it.amount_minor - it.refunded_minor


# -- The file


class BooksBusy(Exception):
    """The books cannot be written just now; nothing was recorded."""


NO_SUCH_TRANSACTION = Problem("NO_SUCH_TRANSACTION", "there is no transaction of this id")
KEY_REUSED = Problem("KEY_REUSED", "this idempotency key was used before with another request")

FIND_ANSWER = "SELECT request, report FROM answer WHERE key = ?"
FIND_PAYMENT = """
    SELECT transaction_id, status, amount_minor, currency, refunded_minor, reason
    FROM payment WHERE transaction_id = ?"""
SAVE_PAYMENT = """
    INSERT INTO payment (transaction_id, status, amount_minor, currency, refunded_minor, reason)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (transaction_id) DO UPDATE SET status = excluded.status, refunded_minor = excluded.refunded_minor"""
ADD_ENTRY = "INSERT INTO entry (time_ms, transaction_id, kind, amount_minor, currency, key) VALUES (?, ?, ?, ?, ?, ?)"
ADD_ANSWER = "INSERT INTO answer (key, request, report) VALUES (?, ?, ?)"
SUM_ENTRIES = "SELECT currency, kind, sum(amount_minor) FROM entry GROUP BY currency, kind"
PAGE_PAYMENTS = """
    SELECT seq, transaction_id, status, amount_minor, currency, refunded_minor, reason
    FROM payment WHERE seq > ? ORDER BY seq LIMIT ?"""
PAGE_ENTRIES = """
    SELECT seq, time_ms, transaction_id, kind, amount_minor, currency, key
    FROM entry WHERE seq > ? ORDER BY seq LIMIT ?"""

TOTAL_OF = {"authorise": "authorised", "decline": "declined", "capture": "captured", "void": "voided",
            "refund": "refunded"}  # fmt: skip


class Books:
    """The file. One thread at a time; open it twice to read while somebody writes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript((files("flashsale.backends") / "sql" / "sandbox.sql").read_text())

    def settle(self, calls: Sequence[Call]) -> list[Report | Problem]:
        """Decide the calls in their order and commit them together."""
        try:
            with self._transaction("IMMEDIATE"):
                return [self._settle_one(call, time.time_ns() // 1_000_000) for call in calls]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                raise BooksBusy(str(error)) from error
            raise

    def look_up(self, transaction_id: str) -> Report | Problem:
        found = self._find(transaction_id)
        return Report.of(found) if found else NO_SUCH_TRANSACTION

    def statement(self, after: int, limit: int) -> Statement:
        with self._transaction("DEFERRED"):
            totals = self._totals()
            rows = self._db.execute(PAGE_PAYMENTS, (after, limit)).fetchall()
        reports = [Report.of(_transaction(row[1:])) for row in rows]
        return Statement(totals, reports, rows[-1][0] if len(rows) == limit else None)

    def entries(self, after: int, limit: int) -> EntryPage:
        entries = [Entry(*row) for row in self._db.execute(PAGE_ENTRIES, (after, limit))]
        return EntryPage(entries, entries[-1].seq if len(entries) == limit else None)

    def close(self) -> None:
        self._db.close()

    def _settle_one(self, call: Call, now_ms: int) -> Report | Problem:
        request = msgspec.json.encode(call).decode()
        if answered := self._db.execute(FIND_ANSWER, (call.key,)).fetchone():
            return msgspec.json.decode(answered[1], type=Report) if answered[0] == request else KEY_REUSED
        before = self._find(call.transaction_id)
        after, kinds = decide(call, before)
        if after is None:
            return NO_SUCH_TRANSACTION
        if after != before:
            self._record(call, after, kinds, now_ms)
        report = Report.of(after)
        self._db.execute(ADD_ANSWER, (call.key, request, msgspec.json.encode(report).decode()))
        return report

    def _record(self, call: Call, after: Transaction, kinds: tuple[str, ...], now_ms: int) -> None:
        self._db.execute(SAVE_PAYMENT, astuple(after))
        amount = call.amount_minor if isinstance(call, Refund) else after.amount_minor
        for kind in kinds:
            self._db.execute(ADD_ENTRY, (now_ms, call.transaction_id, kind, amount, after.currency, call.key))

    def _find(self, transaction_id: str) -> Transaction | None:
        row = self._db.execute(FIND_PAYMENT, (transaction_id,)).fetchone()
        return _transaction(row) if row else None

    def _totals(self) -> dict[str, Totals]:
        totals: dict[str, Totals] = {}
        for currency, kind, amount in self._db.execute(SUM_ENTRIES):
            setattr(totals.setdefault(currency, Totals()), f"{TOTAL_OF[kind]}_minor", amount)
        return totals

    @contextmanager
    def _transaction(self, mode: Literal["IMMEDIATE", "DEFERRED"]) -> Iterator[None]:
        self._db.execute(f"BEGIN {mode}")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _transaction(row: tuple[str, int, int, str, int, str]) -> Transaction:
    transaction_id, status, amount_minor, currency, refunded_minor, reason = row
    return Transaction(transaction_id, PaymentStatus(status), amount_minor, currency, refunded_minor, reason)
