"""What limits cost a reservation: `python bench/limits.py`.

All four limits of an attempt (address, everybody, user, sale) in the buckets of a process, for 50,000 visitors in turn,
with a tier, and with addresses of IPv6, of which three networks are counted. Microseconds a request, best of five.
"""

import time
from collections.abc import Callable

from flashsale.backends.clock import SteadyClock
from flashsale.core.limits import Thresholds, Tier, at_door, inside
from flashsale.core.rate_limit import Buckets
from flashsale.core.refusal import Refused
from flashsale.flow.limiting import Limiting

VISITORS = 50_000
REQUESTS = 200_000


def nothing(refused: Refused | None) -> None:
    assert refused is None


def timed(work: Callable[[int], None]) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for number in range(REQUESTS):
            work(number % VISITORS)
        times.append(time.perf_counter() - began)
    return min(times) / REQUESTS * 1e6


def main() -> None:
    wide = Thresholds(
        address_per_second=900_000, user_per_second=900_000, sale_per_second=900_000, global_per_second=900_000,
        tier_vip_per_minute=900_000,
    )  # fmt: skip
    limiting = Limiting(wide, Buckets(200_000), SteadyClock())
    users = [f"user-{number}" for number in range(VISITORS)]
    fours = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(VISITORS)]
    sixes = [f"2001:db8:{n >> 8:x}:{n & 255:x}::1" for n in range(VISITORS)]

    def take(addresses: list[str], tier: Tier | None, number: int) -> None:
        rates = limiting.rates
        wanted = at_door(rates, addresses[number])
        wanted += inside(rates, users[number], tier, "S1")
        limiting.take(wanted, nothing, tier)

    print(f"nothing, the loop itself       {timed(lambda number: None):.2f}")
    print(f"IPv4: 4 buckets                {timed(lambda number: take(fours, None, number)):.2f}")
    print(f"IPv4, with a tier              {timed(lambda number: take(fours, 'VIP', number)):.2f}")
    print(f"IPv6: 6 buckets                {timed(lambda number: take(sixes, None, number)):.2f}")
    limiting.set(Thresholds(), 1)
    print(f"no limit is set                {timed(lambda number: take(fours, None, number)):.2f}")


main()
