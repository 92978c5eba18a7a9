"""Every "no" a buyer can cause, in the order in which it is said.

In a flash sale almost every answer is a refusal, so "no" is a value and not an exception. The members
below stand in their order of precedence: where several apply, the first one is the answer. One entry
drives the HTTP status, the title of the error, the metric label and the tests.
"""

from enum import Enum
from typing import Any

import msgspec


class Refusal(Enum):
    """`(status, title)` of each refusal; the member's name is its code on the wire."""

    RATE_LIMITED = (429, "Too Many Requests")
    VALIDATION_FAILED = (400, "Validation Failed")
    UNAUTHENTICATED = (401, "Unauthenticated")
    ACCESS_DENIED = (403, "Access Denied")
    KEY_REUSED = (422, "Request Key Reused")
    BLOCKED = (403, "Blocked")
    CHALLENGE_REQUIRED = (403, "Challenge Required")
    NOT_FOUND = (404, "Not Found")
    NOT_STARTED = (409, "Sale Not Started")
    ENDED = (409, "Sale Ended")
    PAUSED = (409, "Sale Paused")
    PASS_REQUIRED = (403, "Pass Required")
    LIMIT_EXCEEDED = (403, "Purchase Limit Exceeded")
    SOLD_OUT = (409, "Out of Stock")
    RESERVATION_EXPIRED = (410, "Reservation Expired")
    ILLEGAL_STATE = (409, "Illegal State")
    PAYMENT_DECLINED = (402, "Payment Declined")
    PAYMENT_MISMATCH = (409, "Payment Mismatch")
    PAYMENT_REUSED = (409, "Payment Reused")
    UNAVAILABLE = (503, "Service Unavailable")

    def __init__(self, status: int, title: str) -> None:
        self.status = status
        self.title = title
        self.place = len(type(self).__members__)
        """In their order."""

    @property
    def code(self) -> str:
        return self.name


class Refused(msgspec.Struct, frozen=True):
    """A refusal with what the one who is refused needs to know."""

    refusal: Refusal
    message: str
    details: dict[str, Any] = {}


def first_said(*refused: Refused | None) -> Refused | None:
    """Of the refusals that apply, the one that is said."""
    return min((each for each in refused if each), key=lambda each: each.refusal.place, default=None)


def kept(refused: Refused) -> str:
    """A refusal as text, to be kept in a row."""
    return msgspec.json.encode((refused.refusal.code, refused.message, refused.details)).decode()


def recalled(text: str) -> Refused:
    """The refusal that `kept` has written."""
    code, message, details = msgspec.json.decode(text)
    return Refused(Refusal[code], message, details)


def invalid(field: str, message: str) -> Refused:
    """A request that names no existing thing wrongly, but is wrong in itself."""
    errors = [{"field": field, "message": message}]
    return Refused(Refusal.VALIDATION_FAILED, f"{field}: {message}", {"errors": errors})


def not_found(what: str, name: str) -> Refused:
    return Refused(Refusal.NOT_FOUND, f"No such {what}: {name}", {what: name})
