"""The operators' routes of rate limits: every threshold of admission, and how a single user stands.

A change is answered when all processes go by it; one that does not come to say so is waited for a second and counted.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from flashsale.core.limits import Limit, LimitsChange, ResetUser, SetThresholds, SetTier, seconds_of
from flashsale.core.rate_limit import Allowance
from flashsale.core.refusal import Refusal, Refused, invalid
from flashsale.core.thresholds import TIERS, Thresholds, Tier, shown
from flashsale.edge import schema, views
from flashsale.edge.call import Ask, Audience, Call, Handler, Refusing
from flashsale.edge.identity import OPERATORS_ONLY
from flashsale.edge.wire import USER_FORM, Answer, is_user
from flashsale.engine import Engine
from flashsale.flow.in_force import Settled

ADMIN = "/api/v1/admin"

R = Refusal

ThresholdsBody = msgspec.defstruct(
    "ThresholdsBody",
    [(field.name, field.type | None | UnsetType, UNSET) for field in msgspec.structs.fields(Thresholds)],
    bases=(schema.Body,),
    namespace={"__doc__": "Those to be changed; null: back to the default that the server was started with."},
)


class TierBody(schema.Body):
    tier: Tier | None
    """null: as everybody."""


class Processes(schema.Shown):
    """Those that answer buyers."""

    live: int
    behind: int
    """How many of them did not say within a second that they go by what was set."""


class LimitsView(schema.Shown):
    """What is in force."""

    version: int
    thresholds: Thresholds
    defaults: Thresholds
    """What holds where no operator has set anything else."""
    users_with_tier: int
    """To whom an operator gave one."""
    processes: Processes


class BucketView(schema.Shown):
    """A limit of a user, and how it stands."""

    scope: Annotated[str, Meta(extra_json_schema=schema.choice("user", "tier"))]
    per_second: float
    limit: int
    """So many at once."""
    remaining: int
    reset_seconds: int
    """Until it is whole again; 0: it is."""


class UserLimits(schema.Shown):
    user_id: schema.UserId
    tier: Tier | None
    """Given by an operator; one that his token names is not known here."""
    buckets: list[BucketView]


class LimitsDesk:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limiting = engine.limiting
        self._in_force = engine.in_force

    async def show(self, ask: Ask) -> Answer:
        return self._view()

    async def set(self, ask: Ask) -> Answer | Refused:
        values = await ask.read(dict[str, Any])
        if not values:
            return invalid("body", f"must name a threshold: {', '.join(shown(Thresholds()))}")
        await self._change(SetThresholds(values, ask.who.actor))
        return self._view()

    async def user(self, ask: Ask) -> Answer:
        return await self._user(_user_id(ask))

    async def reset(self, ask: Ask) -> Answer:
        await self._change(ResetUser(_user_id(ask), ask.who.actor))
        return Answer(204, b"")

    async def give_tier(self, ask: Ask) -> Answer:
        user_id = _user_id(ask)
        wish = await ask.read(TierBody)
        await self._change(SetTier(user_id, wish.tier, ask.who.actor))
        return await self._user(user_id)

    async def _change(self, change: LimitsChange) -> Settled:
        outcome = await self._engine.change_limits(change)
        if isinstance(outcome, Refused):
            raise Refusing(outcome)
        return outcome

    def _view(self) -> Answer:
        in_force, limiting = self._in_force, self._limiting
        processes = Processes(*in_force.fleet)
        return views.json(
            LimitsView(in_force.version, limiting.thresholds, in_force.defaults, len(limiting.tiers), processes)
        )

    async def _user(self, user_id: str) -> Answer:
        standing = await self._limiting.standing(user_id)
        buckets = [_bucket(limit, answer) for limit, answer in standing]
        return views.json(UserLimits(user_id, self._limiting.tiers.get(user_id), buckets))


def _bucket(limit: Limit, answer: Allowance) -> BucketView:
    reset_seconds = seconds_of(answer.reset_ms) if answer.reset_ms else 0
    return BucketView(limit.scope, limit.per_second, limit.burst, answer.remaining, reset_seconds)


def _user_id(ask: Ask) -> str:
    user_id = ask.params["userId"]
    if not is_user(user_id):
        raise Refusing(invalid("userId", USER_FORM))
    return user_id


def calls(engine: Engine) -> list[Call]:
    desk = LimitsDesk(engine)
    user = "/limits/users/{userId}"
    whole, one = {200: LimitsView}, {200: UserLimits}
    return [
        _call("GET", "/limits", "Every threshold of admission", desk.show, whole),
        _call("PUT", "/limits", "Change thresholds, in every process", desk.set, whole, ThresholdsBody),
        _call("GET", user, "How the limits of a user stand", desk.user, one),
        _call("DELETE", user, "Let a user begin anew", desk.reset, {204: None}),
        _call("PUT", "/users/{userId}/tier", f"Give a user a tier: {', '.join(TIERS)}, or null", desk.give_tier, one,
              TierBody, (R.ILLEGAL_STATE,)),
    ]  # fmt: skip


def _call(
    method: str,
    path: str,
    summary: str,
    handle: Handler,
    answers: dict[int, Any],
    body: type | None = None,
    refusals: tuple[Refusal, ...] = (),
) -> Call:
    refusals = (R.UNAUTHENTICATED, *refusals)
    return Call(
        method, ADMIN + path, Audience.OPERATORS, summary, handle, answers, body, refusals, roles=OPERATORS_ONLY
    )
