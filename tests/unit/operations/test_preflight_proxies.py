"""We test which addresses a no_proxy keeps from the proxy, and that what lacks some is named, without its secrets."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.facts.preflight import parse
from meshstrap.operations.preflight_proxies import covers, judge

ANSWER = [
    "#peers",
    "192.0.2.11 direct reachable",
    "#proxies",
    "/etc/environment https_proxy ",
    "/etc/environment no_proxy localhost,192.0.2.10",
    "systemd HTTP_PROXY ",
    "systemd no_proxy 192.0.2.0/24",
]


@pytest.mark.parametrize(
    ("no_proxy", "kept"),
    [
        ("", False),
        ("*", True),
        ("192.0.2.10", True),
        ("192.0.2.10:6443", True),
        ("localhost, 192.0.2.0/24", True),
        ("192.0.2.1", False),
        (".example.org,example.com", False),
        ("192.0.3.0/24,10.0.0.0/33,::1,:", False),
    ],
)
def test_what_no_proxy_keeps_from_the_proxy(no_proxy: str, kept: bool) -> None:
    assert covers(no_proxy, "192.0.2.10") is kept


@given(st.ip_addresses(v=4), st.integers(0, 32), st.text(max_size=20))
def test_every_network_that_holds_an_address_keeps_it(address: ipaddress.IPv4Address, bits: int, beside: str) -> None:
    network = ipaddress.IPv4Network((int(address), bits), strict=False)
    assert covers(f"{beside},{network}", str(address))


@given(st.text(), st.text())
def test_no_text_is_too_strange(no_proxy: str, address: str) -> None:
    assert covers(no_proxy, address) in (True, False)


def test_the_place_and_the_addresses_that_it_lacks_are_named() -> None:
    found = list(judge(parse(ANSWER, read_at=0.0), "192.0.2.10"))
    assert [finding.check for finding in found] == ["proxies"]
    assert "/etc/environment sets https_proxy, and no_proxy there lacks 192.0.2.11:" in found[0].message
