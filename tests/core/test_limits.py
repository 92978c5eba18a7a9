"""The thresholds of admission: what they are, what follows from them, and what is said to who exceeds them."""

import msgspec
import pytest

from flashsale.core.limits import at_door, drafts_of, inside, networks, own_drafts_of, rates_of, refused
from flashsale.core.rate_limit import Allowance, Buckets
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.thresholds import NAMES, TIERS, Thresholds, changed, shown, with_rows


def limited(**thresholds: float) -> list[tuple[str, float, int]]:
    """The buckets of a purchase attempt: name, rate, burst."""
    rates = rates_of(Thresholds(**thresholds))
    wanted = at_door(rates, "192.0.2.1") + inside(rates, "ann", None, "S1")
    return [(each.bucket, each.rate_per_second, each.burst) for each in drafts_of(wanted)]


# Thresholds


def test_without_any_threshold_nothing_is_counted():
    assert limited() == []
    assert rates_of(Thresholds()).door is False


def test_each_threshold_has_its_bucket():
    assert limited(address_per_second=10) == [("a:192.0.2.1", 10, 10)]
    assert limited(global_per_second=1000, global_burst=50) == [("g", 1000, 50)]
    assert limited(user_per_second=2.5) == [("u:ann", 2.5, 2)]
    assert limited(sale_per_second=0.5) == [("s:S1", 0.5, 1)]


def test_what_is_counted_before_the_body_comes_first():
    names = [
        name for name, *_ in limited(user_per_second=1, address_per_second=1, sale_per_second=1, global_per_second=1)
    ]
    assert names == ["a:192.0.2.1", "g", "u:ann", "s:S1"]


def test_tiers_are_1_50_100_and_200_purchase_attempts_a_minute():
    rates = rates_of(Thresholds())
    told = {tier: drafts_of(inside(rates, "ann", tier, "S1"))[0] for tier in TIERS.values()}
    assert {tier: (each.rate_per_second * 60, each.burst) for tier, each in told.items()} == {
        "LIMITED": (1, 1), "STANDARD": (50, 50), "PREFERRED": (100, 100), "VIP": (200, 200),
    }  # fmt: skip


def test_a_tier_replaces_the_users_default_for_purchase_attempts_and_for_nothing_else():
    rates = rates_of(Thresholds(user_per_second=20))
    assert [name for name, _ in inside(rates, "ann", "VIP", "S1")] == ["t:ann"]
    assert [name for name, _ in inside(rates, "ann", "VIP")] == ["u:ann"]
    assert [name for name, _ in inside(rates, "ann", None, "S1")] == ["u:ann"]


def test_values_are_set_by_the_names_that_clients_use():
    found = changed(Thresholds(), {"userPerSecond": 5, "tierVipPerMinute": 300, "addressBurst": None})
    assert found == Thresholds(user_per_second=5, tier_vip_per_minute=300)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("userPerSecond", -1, "a number from 0.001 to 1,000,000, or 0: requests a second"),
        ("userPerSecond", "5", "a number from 0.001"),
        ("userPerSecond", 5e-324, "a number from 0.001"),
        ("tierVipPerMinute", 0.0009, "a number from 0.001 to 1,000,000, or 0: purchase attempts a minute"),
        ("userBurst", 1.5, "a whole number from 0"),
        ("network48Times", 0, "a whole number from 1 to 1,000,000: times the limit of an address"),
        ("userPerSecond", True, "a number from 0.001"),
        ("perUser", 5, "is no threshold: they are addressPerSecond, addressBurst"),
    ],
)
def test_what_is_wrong_with_a_value_is_said_of_its_name(name, value, words):
    found = changed(Thresholds(), {"userBurst": 7, name: value} if name != "userBurst" else {name: value})
    assert isinstance(found, Refused)
    [error] = found.details["errors"]
    assert error["field"] == name
    assert words in error["message"]


def test_rows_that_another_version_wrote_are_left_out():
    rows = {"userPerSecond": 5, "unheardOf": 1, "userBurst": "many"}
    assert with_rows(Thresholds(global_per_second=9), rows) == Thresholds(user_per_second=5, global_per_second=9)


def test_every_threshold_has_a_unit_bounds_and_a_default():
    for name in NAMES:
        schema = msgspec.json.schema(Thresholds)["$defs"]["Thresholds"]["properties"][name]
        assert {"minimum", "maximum", "description", "default"} <= schema.keys(), name
    assert changed(Thresholds(), shown(Thresholds())) == Thresholds()


# Addresses


def test_ipv6_is_counted_by_its_64_its_56_and_its_48_together():
    assert networks("2001:db8:aaaa:bbcc:1:2:3:4") == ("n64:20010db8aaaabbcc", "n56:20010db8aaaabb", "n48:20010db8aaaa")
    rates = rates_of(Thresholds(address_per_second=10))
    told = drafts_of(at_door(rates, "2001:db8:aaaa:bbcc:1:2:3:4"))
    assert [(each.rate_per_second, each.burst) for each in told] == [(10, 10), (40, 40), (160, 160)]


def test_an_address_of_ipv4_in_the_form_of_ipv6_is_counted_as_that_of_ipv4():
    rates = rates_of(Thresholds(address_per_second=10))
    assert at_door(rates, "::ffff:192.0.2.1") == at_door(rates, "192.0.2.1")


def test_the_spelling_and_the_zone_of_an_address_make_no_difference():
    assert networks("2001:0DB8:0::1") == networks("2001:db8::1%eth0")


def test_10000_addresses_of_one_48_get_no_more_than_the_limit_of_a_48():
    rates, buckets = rates_of(Thresholds(address_per_second=10)), Buckets(200_000)
    seconds = 10
    allowed = sum(
        buckets.admits(at_door(rates, f"2001:db8:1:{number:x}::1"), second * 1e6 + number * 100)
        for second in range(seconds)
        for number in range(10_000)
    )
    assert 160 * seconds <= allowed <= (160 * seconds + 160) * 1.01


def test_a_network_that_hammers_does_not_empty_the_bucket_of_its_neighbours():
    rates, buckets = rates_of(Thresholds(address_per_second=1)), Buckets(1000)
    loud, quiet = at_door(rates, "2001:db8:1:1::1"), at_door(rates, "2001:db8:1:2::1")
    assert sum(buckets.admits(loud, at * 1000.0) for at in range(1000)) <= 2
    assert buckets.admits(quiet, 1e6)


# Several processes


def test_processes_without_a_shared_gate_have_their_share_of_each_limit():
    rates = rates_of(Thresholds(user_per_second=20, sale_per_second=1), processes=4)
    wanted = inside(rates, "ann", None, "S1")
    assert [(each.rate_per_second, each.burst) for each in own_drafts_of(wanted)] == [(5, 5), (0.25, 1)]
    assert [(each.rate_per_second, each.burst) for each in drafts_of(wanted)] == [(20, 20), (1, 1)]


# Refusals


def test_who_is_refused_is_told_the_limit_for_which_he_has_to_wait_longest():
    rates = rates_of(Thresholds(address_per_second=10, user_per_second=20, sale_per_second=1))
    wanted = at_door(rates, "192.0.2.1") + inside(rates, "ann", None, "S1")
    answers = [Allowance(False, 0, 100, 1000), Allowance(True, 7, 0, 650), Allowance(False, 0, 2500, 3000)]
    told = refused(wanted, answers, "VIP")
    assert told is not None
    assert told.refusal is Refusal.RATE_LIMITED
    assert told.message == "Too many requests at this sale: try again in 3 s"
    assert told.details == {
        "scope": "sale", "limit": 1, "remaining": 0, "resetSeconds": 3, "retryAfterSeconds": 3, "tier": "VIP",
    }  # fmt: skip


def test_who_is_allowed_by_all_his_buckets_is_not_refused():
    wanted = inside(rates_of(Thresholds(user_per_second=20)), "ann", None)
    assert refused(wanted, [Allowance(True, 0, 0, 1000)]) is None
