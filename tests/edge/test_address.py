"""From which address somebody asks: no client can make himself another one."""

import pytest

from flashsale.edge.address import KNOWN_MAX, LIST_MAX, Addresses

TRUSTED = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]
PROXY = "10.0.0.2"
SPOOFED = "6.6.6.6"


def of(peer: str | None, *lists: str) -> str | None:
    return Addresses(TRUSTED).of(peer, ", ".join(lists).encode("latin-1") if lists else None)


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        # Without a trusted peer the header is a stranger's word.
        ("203.0.113.9", SPOOFED, "203.0.113.9"),
        ("203.0.113.9", "10.0.0.1", "203.0.113.9"),
        ("203.0.113.9", "127.0.0.1, 10.0.0.1", "203.0.113.9"),
        ("127.0.0.1", SPOOFED, "127.0.0.1"),
        ("::1", SPOOFED, "::1"),
        # One proxy: the last entry is its peer, whatever the client wrote before it.
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, f"{SPOOFED}, 203.0.113.9", "203.0.113.9"),
        (PROXY, f"{SPOOFED},{SPOOFED},203.0.113.9", "203.0.113.9"),
        (PROXY, "10.0.0.9, 203.0.113.9", "203.0.113.9"),
        (PROXY, "nonsense, 203.0.113.9", "203.0.113.9"),
        # Several proxies: counted over those that are trusted, and no further.
        (PROXY, f"{SPOOFED}, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        (PROXY, f"{SPOOFED}, 203.0.113.9, 192.0.2.7, 10.1.1.1", "203.0.113.9"),
        (PROXY, f"203.0.113.9, {SPOOFED}, 192.0.2.8, 10.1.1.1", "192.0.2.8"),
        (PROXY, "10.3.3.3, 10.2.2.2, 10.1.1.1", "10.3.3.3"),
        # Garbage: the last good one.
        (PROXY, "", PROXY),
        (PROXY, ",", PROXY),
        (PROXY, "unknown", PROXY),
        (PROXY, "_hidden", PROXY),
        (PROXY, f"{SPOOFED}, unknown", PROXY),
        (PROXY, f"{SPOOFED}, , 10.1.1.1", "10.1.1.1"),
        (PROXY, f"{SPOOFED}, 1.2.3.4.5, 10.1.1.1", "10.1.1.1"),
        (PROXY, "203.0.113.9 6.6.6.6", PROXY),
        (PROXY, "203.0.113.9;6.6.6.6", PROXY),
        (PROXY, "0203.0.113.9", PROXY),
        (PROXY, "0xcb007109", PROXY),
        (PROXY, "3405803785", PROXY),
        (PROXY, "203.0.113.9/32", PROXY),
        (PROXY, "for=203.0.113.9", PROXY),
        (PROXY, "\u0661.2.3.4", PROXY),
        (PROXY, "203.0.113.9\x00", PROXY),
        # Ports, brackets, spaces.
        (PROXY, "203.0.113.9:4711", "203.0.113.9"),
        (PROXY, f"{SPOOFED}\t,\t 203.0.113.9:4711 ", "203.0.113.9"),
        (PROXY, "203.0.113.9:", PROXY),
        (PROXY, "203.0.113.9:x", PROXY),
        (PROXY, "203.0.113.9:123456", PROXY),
        (PROXY, "203.0.113.9:80:80", PROXY),
        (PROXY, "2001:db8::9", "2001:db8::9"),
        (PROXY, "[2001:db8::9]", "2001:db8::9"),
        (PROXY, "[2001:db8::9]:4711", "2001:db8::9"),
        (PROXY, "2001:DB8:0:0:0:0:0:9", "2001:db8::9"),
        (PROXY, "[2001:db8::9", PROXY),
        (PROXY, "[2001:db8::9]x", PROXY),
        (PROXY, "[]", PROXY),
        (PROXY, "fe80::1%eth0", PROXY),
        # IPv4 in the clothes of IPv6 is IPv4, at the peer and in the list.
        ("::ffff:203.0.113.9", SPOOFED, "203.0.113.9"),
        ("::ffff:10.0.0.2", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.2", f"{SPOOFED}, 203.0.113.9, [::ffff:10.1.1.1]:80", "203.0.113.9"),
        # Proxies that speak IPv6, and neighbours.
        ("fd00::2", f"{SPOOFED}, 203.0.113.9, fd00::1", "203.0.113.9"),
        ("fe80::2%eth0", SPOOFED, "fe80::2"),
        # A peer without an address.
        (None, SPOOFED, None),
        ("", SPOOFED, None),
    ],
)  # fmt: skip
def test_the_client_is_whom_the_last_trusted_proxy_has_seen(
    peer: str | None, header: str, expected: str | None
) -> None:
    assert Addresses(TRUSTED).of(peer, header.encode()) == expected


def test_without_the_header_it_is_the_peer() -> None:
    assert of("203.0.113.9") == "203.0.113.9"
    assert of(PROXY) == PROXY
    assert of("::ffff:203.0.113.9") == "203.0.113.9"
    assert of(None) is None


def test_with_no_trusted_proxies_every_header_is_ignored() -> None:
    assert Addresses([]).of("10.0.0.2", b"6.6.6.6") == "10.0.0.2"
    assert Addresses([]).of("127.0.0.1", b"6.6.6.6") == "127.0.0.1"


def test_of_a_list_that_is_too_long_only_whole_entries_of_its_end_count() -> None:
    """The client filled it up so that it is cut within his own invention."""
    for filling in range(LIST_MAX - 20, LIST_MAX + 20):
        invented = "1" * filling + "6.6.6.6"
        assert of(PROXY, invented, "203.0.113.9", "10.1.1.1") == "203.0.113.9"
    cut = ",".join(["10.1.1.1"] * 500)
    assert of(PROXY, "6.6.6.6", cut) == "10.1.1.1"
    halved = "11.2.3.4,".ljust(LIST_MAX + 1 - len("10.1.1.1"), " ") + "10.1.1.1"
    assert len(halved) == LIST_MAX + 1
    assert of(PROXY, halved) == "10.1.1.1", "half an address is none"


def test_what_is_remembered_is_bounded_and_strangers_cannot_push_it_out() -> None:
    addresses = Addresses(TRUSTED)
    addresses.of(PROXY, b"203.0.113.9:4711")
    for number in range(3 * KNOWN_MAX):
        addresses.of("203.0.113.66", b"%d" % number)
    assert addresses._counted.cache_info().currsize == 1
    for number in range(2 * KNOWN_MAX):
        addresses.of(PROXY, b"%d" % number)
    assert addresses._counted.cache_info().currsize == KNOWN_MAX
