"""The thresholds of admission, each with its name, unit, bounds and default: of rate limits and of risk.

A threshold is a field here and a row of the ledger once an operator has set it (docs/rate-limits.md, docs/risk.md).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from flashsale.core.refusal import Refused, invalid
from flashsale.core.risk import RiskTerms
from flashsale.core.sighting import MEMBERS_MAX

RATE_MAX = 1_000_000
RATE_MIN = 0.001
"""Above 0: what is slower than once in a quarter of an hour was meant to be something else."""

PerSecond = Annotated[float, Meta(ge=0, le=RATE_MAX, description="requests a second; 0: no limit")]
PerMinute = Annotated[float, Meta(ge=0, le=RATE_MAX, description="purchase attempts a minute; 0: no limit")]
Burst = Annotated[int, Meta(ge=0, le=RATE_MAX, description="requests at once; 0: those of one second, at least one")]
Score = Annotated[int, Meta(ge=1, le=1_000, description="points (core/risk.py)")]
Attempts = Annotated[int, Meta(ge=1, le=100_000, description="a number of them")]
Share = Annotated[float, Meta(ge=0, le=1, description="a share of the device facts")]
Seen = Annotated[
    int, Meta(ge=0, le=MEMBERS_MAX, description="so many are not too many; the highest turns the rule off")
]
Times = Annotated[int, Meta(ge=1, le=RATE_MAX, description="times the limit of an address")]


Tier = Literal["LIMITED", "STANDARD", "PREFERRED", "VIP"]
"""Of a user: how often he may try to buy. A plain text, because an enum is slow to look up."""
TIERS: dict[str, Tier] = {tier: tier for tier in get_args(Tier)}


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Every threshold of admission. Units are last in their names."""

    address_per_second: PerSecond = 0.0
    address_burst: Burst = 0
    network56_times: Times = 4
    """A /56 is what one household may have: 256 networks of one /64 each."""
    network48_times: Times = 16
    """A /48 is what one site may have, and what anybody can rent."""
    user_per_second: PerSecond = 0.0
    user_burst: Burst = 0
    sale_per_second: PerSecond = 0.0
    """Of purchase attempts."""
    sale_burst: Burst = 0
    global_per_second: PerSecond = 0.0
    global_burst: Burst = 0
    tier_limited_per_minute: PerMinute = 1.0
    tier_standard_per_minute: PerMinute = 50.0
    tier_preferred_per_minute: PerMinute = 100.0
    tier_vip_per_minute: PerMinute = 200.0
    risk_challenge_score: Score = 50
    risk_block_score: Score = 80
    risk_challenge_per_minute: Attempts = 20
    """Of a user without a tier; whoever has one is held to that instead."""
    risk_block_per_minute: Attempts = 50
    risk_device_facts_min: Share = 0.5
    risk_new_for_minutes: Attempts = 60
    risk_address_accounts_some: Seen = 10
    risk_address_accounts_many: Seen = 40
    risk_device_accounts_some: Seen = 2
    risk_device_accounts_many: Seen = 5
    risk_early_attempts_some: Seen = 10
    risk_early_attempts_many: Seen = 40
    risk_unpaid_some: Seen = 3
    risk_unpaid_many: Seen = 6
    risk_address_unpaid_some: Seen = 40
    risk_address_unpaid_many: Seen = 60

    def __post_init__(self) -> None:
        if any(0 < getattr(self, name) < RATE_MIN for name in RATES):
            raise ValueError(f"a rate is 0 or at least {RATE_MIN}")


RATES = tuple(field.name for field in msgspec.structs.fields(Thresholds) if field.type in (PerSecond, PerMinute))
"""Those that may be 0, or RATE_MIN and more."""


def risk_terms_of(thresholds: Thresholds) -> RiskTerms:
    """What the rules of risk go by."""
    return RiskTerms(**{name: getattr(thresholds, f"risk_{name}") for name in RiskTerms.__struct_fields__})


NAMES = {field.encode_name: field.name for field in msgspec.structs.fields(Thresholds)}
"""Of each threshold as clients name it, its field."""


def changed(thresholds: Thresholds, values: Mapping[str, Any]) -> Thresholds | Refused:
    """With some of them set, by the names that clients use; None leaves one as it is."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in values:
        if name not in NAMES:
            return invalid(name[:64], f"is no threshold: they are {', '.join(NAMES)}")
    for name, value in given.items():
        try:
            msgspec.convert({name: value}, Thresholds)
        except msgspec.ValidationError:
            return invalid(name, f"must be {_bounds(name)}")
    return msgspec.convert({**shown(thresholds), **given}, Thresholds)


def with_rows(defaults: Thresholds, rows: Mapping[str, Any]) -> Thresholds:
    """The defaults with what the ledger says. Rows of another version, whose name or value this one does not know, are
    left out: a process must start whatever is there."""
    for name, value in rows.items():
        better = changed(defaults, {name: value})
        defaults = defaults if isinstance(better, Refused) else better
    return defaults


def shown(thresholds: Thresholds) -> dict[str, Any]:
    """By the names that clients use."""
    fields = asdict(thresholds)
    return {name: fields[field] for name, field in NAMES.items()}


def _bounds(name: str) -> str:
    schema = msgspec.json.schema(Thresholds)["$defs"]["Thresholds"]["properties"][name]
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    least = f"{RATE_MIN:g}" if NAMES[name] in RATES else f"{schema['minimum']:,}"
    zero = ", or 0" if NAMES[name] in RATES else ""
    return f"{kind} from {least} to {schema['maximum']:,}{zero}: {schema['description']}"
