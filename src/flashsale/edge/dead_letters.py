"""The operators' routes for dead letters: list them, and have one or all of them tried again."""

from base64 import b64encode

from msgspec import UNSET, UnsetType

from flashsale.core.letter import DeadLetter
from flashsale.core.questions import DeadLetters, FindDeadLetter
from flashsale.core.refusal import Refusal, Refused, not_found
from flashsale.core.reservation import Status
from flashsale.core.stock import Decided
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Param
from flashsale.edge.identity import OPERATORS_ONLY
from flashsale.edge.strict_json import ECHO_MAX
from flashsale.edge.wire import Answer, timestamp
from flashsale.engine import Engine
from flashsale.ports import LedgerUnavailable

PATH = "/api/v1/admin/dead-letters"
PAGE = 100
REDRIVEN_MAX = 1_000
"""Letters that one call redrives; more are left to the next."""
ID_MAX = 255

AFTER = Param("after", "`next` of the page before", {"type": "string", "maxLength": ID_MAX})
WAITING = Param("waiting", "`true`: only those that were not redriven", {"type": "string", "enum": ["true", "false"]})


class Letter(schema.Shown):
    """A queued request that could not be decided."""

    id: str
    at: schema.Moment
    topic: str
    partition: int
    offset: int
    tries: int
    error: str
    message: str
    """As it was, if it is text; otherwise its bytes in base64, after `base64:`."""
    reservation_ids: tuple[str, ...]
    redriven_as: tuple[str, ...]
    redriven_at: schema.Moment | None


class Letters(schema.Shown):
    dead_letters: list[Letter]
    next: str | None


class Redriven(schema.Shown):
    """What has come of a letter: its new reservations, or why there are none."""

    id: str
    reservation_ids: tuple[str, ...]
    status: Status | UnsetType = UNSET
    refusal: str | UnsetType = UNSET


class AllRedriven(schema.Shown):
    """`left`: what was not redriven: it cannot be read, its sale is paused, or it failed again."""

    redriven: list[Redriven]
    left: list[Redriven]


class DeadLetterOffice:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def listed(self, ask: Ask) -> Answer:
        waiting = ask.text("waiting", 5) == "true"
        page = await self._engine.find(DeadLetters(ask.text("after", ID_MAX), PAGE, waiting))
        last = page[-1].letter_id if len(page) == PAGE else None
        return views.json(Letters([_shown(letter) for letter in page], last))

    async def redrive(self, ask: Ask) -> Answer | Refused:
        await ask.read_nothing()
        letter = await self._engine.find(FindDeadLetter(ask.params["letterId"]))
        if letter is None:
            return not_found("deadLetterId", ask.params["letterId"][:ECHO_MAX])
        outcome = await self._engine.redrive(letter, ask.who.actor)
        return outcome if isinstance(outcome, Refused) else views.json(_redriven(letter, outcome))

    async def redrive_all(self, ask: Ask) -> Answer:
        await ask.read_nothing()
        told = AllRedriven([], [])
        after = ""
        while len(told.redriven) + len(told.left) < REDRIVEN_MAX:
            page = await self._engine.find(DeadLetters(after, PAGE, waiting=True))
            for letter in page:
                outcome = await self._tried(letter, ask.who.actor)
                row = _redriven(letter, outcome)
                (told.left if isinstance(outcome, Refused) else told.redriven).append(row)
            if len(page) < PAGE:
                break
            after = page[-1].letter_id
        return views.json(told)

    async def _tried(self, letter: DeadLetter, actor: str) -> Decided | Refused:
        """One that fails again does not keep the others from their try."""
        try:
            return await self._engine.redrive(letter, actor)
        except LedgerUnavailable as trouble:
            return Refused(Refusal.UNAVAILABLE, str(trouble))


def _shown(letter: DeadLetter) -> Letter:
    at_ms = letter.redriven_at_ms
    return Letter(
        letter.letter_id, timestamp(letter.at_ms), letter.topic, letter.partition, letter.offset, letter.tries,
        letter.error, _text(letter.message), letter.reservation_ids, letter.redriven_as,
        None if at_ms is None else timestamp(at_ms),
    )  # fmt: skip


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        return "base64:" + b64encode(message).decode()


def _redriven(letter: DeadLetter, outcome: Decided | Refused) -> Redriven:
    if isinstance(outcome, Refused):
        return Redriven(letter.letter_id, (), refusal=outcome.refusal.code)
    rows = outcome.reservations
    return Redriven(letter.letter_id, tuple(row.reservation_id for row in rows), rows[0].status)


def calls(engine: Engine) -> list[Call]:
    office, who, roles = DeadLetterOffice(engine), Audience.OPERATORS, OPERATORS_ONLY
    known = (Refusal.NOT_FOUND, Refusal.ILLEGAL_STATE, Refusal.PAUSED)
    return [
        Call("GET", PATH, who, "Queued requests that could not be decided", office.listed, {200: Letters},
             params=(WAITING, AFTER), roles=roles),
        Call("POST", PATH + "/redrive", who, "Try all of them again", office.redrive_all, {200: AllRedriven},
             roles=roles),
        Call("POST", PATH + "/{letterId}/redrive", who, "Try one again; repeated: the same reservations",
             office.redrive, {200: Redriven}, refusals=known, roles=roles),
    ]  # fmt: skip
