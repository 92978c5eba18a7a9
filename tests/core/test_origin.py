"""Where a request comes from: the marks over which a sale limits units."""

import pytest

from flashsale.core.origin import Shared, is_mark, kind_of, limit_of, marks_of, networks_of

SECRET = b"s" * 32
BOTH = Shared(per_device=2, per_address=3)


def marks(address: str, terms: Shared = BOTH, secret: bytes = SECRET) -> tuple[str, ...]:
    return marks_of(terms, None, address, secret)


def test_an_ipv4_address_counts_by_itself():
    [mark] = marks("192.0.2.1")
    assert limit_of(BOTH, mark) == 3
    assert marks("192.0.2.2") != (mark,)


def test_an_ipv4_address_inside_ipv6_is_the_ipv4_address():
    assert marks("::ffff:192.0.2.1") == marks("192.0.2.1")


@pytest.mark.parametrize(
    ("other", "together"),
    [
        ("2001:db8:aa:bb00::2", 3),  # the same /64
        ("2001:db8:aa:bb01::1", 2),  # the same /56
        ("2001:db8:aa:1::1", 1),  # the same /48
        ("2001:db8:ab::1", 0),
    ],
)
def test_ipv6_addresses_count_together_by_their_64_56_and_48(other, together):
    assert len(set(marks("2001:db8:aa:bb00::1")) & set(marks(other))) == together


def test_wider_networks_have_the_limit_of_an_address_four_and_sixteen_times():
    assert [limit_of(BOTH, mark) for mark in marks("2001:db8::1")] == [3, 12, 48]


def test_a_sale_marks_only_what_it_limits():
    assert marks_of(Shared(None, None), "device", "192.0.2.1", SECRET) == ()
    assert [kind_of(each) for each in marks_of(Shared(1, None), "device", "192.0.2.1", SECRET)] == ["device"]
    assert [kind_of(each) for each in marks_of(Shared(None, 1), "device", "192.0.2.1", SECRET)] == ["address"]
    assert len(marks_of(BOTH, "device", "192.0.2.1", SECRET)) == 2


def test_a_mark_does_not_tell_the_address_to_whom_does_not_know_the_secret():
    assert marks("192.0.2.1") != marks("192.0.2.1", secret=b"t" * 32)
    assert "192" not in marks("192.0.2.1")[0]


def test_a_limit_that_was_taken_out_of_the_terms_limits_nothing_any_more():
    mark = marks_of(BOTH, "device", "192.0.2.1", SECRET)
    assert [limit_of(Shared(None, None), each) for each in mark] == [None, None]


@pytest.mark.parametrize("nonsense", ["", "localhost", "1.2.3", "fe80::1%eth0/64"])
def test_what_is_no_address_has_no_mark(nonsense):
    assert networks_of(nonsense) == {}


def test_marks_are_told_from_other_texts():
    assert all(is_mark(each) for each in (*marks("2001:db8::1"), *marks_of(BOTH, "x", None, SECRET)))
    assert not any(map(is_mark, ["", "d", "x" * 17, "d" + "0" * 15 + " ", "d" + "0" * 17]))
