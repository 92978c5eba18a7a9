"""The operators' route that shows what risk has decided, and why."""

from typing import Any

from flashsale.core.risk import Decision, Verdict
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Param, Refusing
from flashsale.edge.feed import AFTER
from flashsale.edge.identity import OPERATORS_ONLY
from flashsale.edge.wire import USER_FORM, Answer, invalid_fields, is_user, timestamp
from flashsale.engine import Engine

CURSOR_MAX = 2**63 - 1
USER = Param("userId", "Only what was decided of this user", {"type": "string", "maxLength": 128})


class RiskDecision(schema.Shown):
    """What was decided of an attempt to reserve. Passes are shown from half the score of a challenge on."""

    at: schema.Moment
    user_id: str
    sale_id: str
    verdict: Verdict
    score: int
    reasons: tuple[str, ...]
    """Names of rules (docs/risk.md)."""
    facts: dict[str, Any]
    solved: bool
    """Whether the solution of a challenge let it through."""
    times: int
    """How often within a second."""


class RiskDecisions(schema.Shown):
    """A page, oldest first; `next` goes into `after`, null on the last page."""

    decisions: list[RiskDecision]
    next: int | None


def _shown(each: Decision) -> RiskDecision:
    return RiskDecision(
        timestamp(each.at_ms), each.user_id, each.sale_id, each.verdict, each.score, each.reasons, each.facts,
        each.solved, each.times,
    )  # fmt: skip


def calls(engine: Engine) -> list[Call]:
    async def listed(ask: Ask) -> Answer:
        user_id = ask.text("userId", 128) or None
        if user_id is not None and not is_user(user_id):
            raise Refusing(invalid_fields([("userId", USER_FORM)]))
        page = await engine.risk.decisions.page(user_id, ask.number("after", 0, CURSOR_MAX), views.PAGE)
        last = page[-1][0] if len(page) == views.PAGE else None
        return views.json(RiskDecisions([_shown(decision) for _, decision in page], last))

    return [
        Call("GET", "/api/v1/admin/risk/decisions", Audience.OPERATORS, "What risk has decided, and why", listed,
             {200: RiskDecisions}, params=(USER, AFTER), roles=OPERATORS_ONLY),
    ]  # fmt: skip
