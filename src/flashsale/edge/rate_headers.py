"""The headers of a refusal for its rate. Two families say the same:

    RateLimit-*      the IETF's draft "RateLimit Fields for HTTP" (03 to 06): the reset is a number of seconds from now
    X-RateLimit-*    what came before it: the reset is a moment, in seconds since 1970; the tier is told here

Limit is what can be taken at once, remaining what could be now, and the reset is when the limit is whole again.
"""

from typing import Any

Header = tuple[bytes, bytes]


def rate_headers(details: dict[str, Any], now_ms: int) -> tuple[Header, ...]:
    """Of what `core.limits.refused` says."""
    limit, remaining, reset = (b"%d" % details[name] for name in ("limit", "remaining", "resetSeconds"))
    headers = (
        (b"ratelimit-limit", limit),
        (b"ratelimit-remaining", remaining),
        (b"ratelimit-reset", reset),
        (b"x-ratelimit-limit", limit),
        (b"x-ratelimit-remaining", remaining),
        (b"x-ratelimit-reset", b"%d" % (-(-now_ms // 1000) + details["resetSeconds"])),
    )
    tier = details.get("tier")
    return (*headers, (b"x-ratelimit-tier", tier.encode())) if tier else headers
