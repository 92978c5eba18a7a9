"""What becomes of a message that cannot be decided, and of one that an operator wants tried again.

Nobody who was told 202 is left without an answer: where the message can be read, its reservations become REJECTED in
the transaction that writes the letter down. A letter is redriven once: that makes new reservations, under the sale's
rules of that moment; whoever asks again finds the same ones.
"""

from msgspec.structs import replace

from flashsale.core.books import Books
from flashsale.core.letter import DeadLetter
from flashsale.core.pending import keyed_ids, mark_in
from flashsale.core.refusal import Refusal, Refused, not_found
from flashsale.core.request import Request
from flashsale.core.stock import Attempt, Decided, Slip, decide_queued, reject_queued

TRIES_MAX = 3
"""So often a message may fail by itself."""
UNDECIDED = Refused(Refusal.UNAVAILABLE, "This request could not be processed; nothing is held for it: ask anew")


def attempt_of(request: Request, place: int | None = None) -> Attempt:
    """What the ledger is asked for a queued request; `place` is its own in the ledger's queue."""
    slip = Slip(request.reservation_ids, request.at_ms, request.redrive_of, place)
    return Attempt(
        request.user_id, request.sale_id, request.items, None, request.kind, slip, request.trace_id,
        pass_number=request.pass_number,
        marks=request.marks, hold_seconds=request.hold_seconds,
    )  # fmt: skip


def bury(books: Books, letter: DeadLetter, request: Request | None, now_ms: int) -> None:
    """Writes a letter down, once. `request` is what its message says, if it can be read."""
    if letter.letter_id in books.letters:
        return
    books.letters[letter.letter_id] = letter
    books.new_letters.append(letter)
    body: dict[str, object] = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "tries": letter.tries,
        "error": letter.error,
        "message": letter.message.decode("utf-8", "backslashreplace").replace("\0", "\\x00"),
        "reservationIds": letter.reservation_ids,
    }
    if request is not None:
        body["skuId"] = request.slice_key
        reject_queued(books, attempt_of(request), UNDECIDED, now_ms)
    books.tell_dead(letter, now_ms, body)


def redriven_ids(secret: bytes, letter_id: str, request: Request) -> tuple[str, ...]:
    """The ids of the reservations that redriving makes. No buyer's key can lead to them: it has no such character."""
    key = f"\x01{letter_id}"
    mark = mark_in(request.reservation_ids[0])
    return keyed_ids(secret, request.user_id, request.sale_id, key, request.items, mark)


def redrive(
    books: Books, letter_id: str, request: Request, reservation_ids: tuple[str, ...], actor: str, now_ms: int
) -> Decided | Refused:
    """Decides a letter's request anew. `reservation_ids` are those of `redriven_ids`."""
    letter = books.letters.get(letter_id)
    if letter is None:
        return not_found("deadLetterId", letter_id)
    slip = Slip(reservation_ids, now_ms, request.reservation_ids[0])
    attempt = attempt_of(request)
    attempt.slip, attempt.trace_id = slip, books.trace_id
    outcome = decide_queued(books, attempt, now_ms)
    if isinstance(outcome, Decided) and letter.redriven_at_ms is None:
        letter = replace(letter, redriven_as=reservation_ids, redriven_at_ms=now_ms)
        books.letters[letter_id] = letter
        books.redriven.append(letter)
        details: dict[str, object] = {"reservationIds": reservation_ids}
        books.audited.append((now_ms, actor, "dead-letter.redrive", letter_id, details))
    return outcome
