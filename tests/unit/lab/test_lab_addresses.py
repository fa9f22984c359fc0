"""We test that labs get networks and ports that are free, and their own again whenever they can."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.lab.addresses import (
    NODE_PORT,
    Network,
    bridge,
    dead_gateway,
    is_free,
    node_address,
    port,
    routed,
    subnets,
)


def test_a_lab_prefers_the_same_network_each_time_and_another_lab_another_one() -> None:
    assert subnets("a", [])[0] == subnets("a", [])[0]
    assert len({subnets(f"lab-{n}", [])[0] for n in range(20)}) > 15


@given(st.lists(st.integers(0, 255), max_size=20))
def test_networks_in_use_are_never_offered(thirds: list[int]) -> None:
    used = [Network(f"172.29.{third}.0/24") for third in thirds]
    offered = subnets("lab", used)
    assert len(offered) == 256 - len(set(thirds))
    assert not set(offered) & set(used)


def test_a_machine_that_routes_the_whole_range_leaves_nothing() -> None:
    assert subnets("lab", [Network("172.16.0.0/12")]) == []


def test_the_route_table_is_read_without_its_default_route() -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "br-1\t00001DAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert routed(table) == [Network("192.0.2.0/24"), Network("172.29.0.0/16")]
    assert routed("Iface\tDestination\n") == []


def test_every_address_of_a_network_is_somebody_elses() -> None:
    subnet = Network("172.29.7.0/24")
    given = [bridge(subnet), dead_gateway(subnet), *(node_address(subnet, index) for index in range(6))]
    assert given[:3] == ["172.29.7.1", "172.29.7.254", "172.29.7.10"]
    assert len(set(given)) == len(given)


@given(st.text(max_size=10), st.integers(0, 19), st.sets(st.integers(20000, 27999), max_size=50))
def test_ports_keep_off_what_the_kernel_hands_out_and_off_what_is_taken(lab: str, offset: int, taken: set[int]) -> None:
    chosen = port(lab, offset, lambda candidate: candidate not in taken)
    assert 20000 <= chosen < 28000 < NODE_PORT < 32768
    assert chosen not in taken
    assert chosen % 20 == offset


def test_no_port_left_is_said() -> None:
    with pytest.raises(OSError, match=r"no port free on 127\.0\.0\.1 between 20000 and 28000"):
        port("lab", 0, lambda candidate: False)


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert not is_free(taken)
    assert is_free(taken)
