"""Addresses and ports of a lab: free ones, and the same ones again wherever they can be had."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Callable, Iterable

Network = ipaddress.IPv4Network

# The labs' networks are /24s of a range that neither Kubernetes (10.244/16, 10.96/16) nor Docker takes first.
RANGE = Network("172.29.0.0/16")
NODE_PORT = 30191
# Below the ports that kernels hand out by themselves (32768 up), so that a port stays free while a node restarts.
FIRST_PORT = 20000
PORTS_PER_LAB = 20
LABS = 400


def _number(lab: str) -> int:
    return int(hashlib.sha256(lab.encode()).hexdigest(), 16)


def subnets(lab: str, used: Iterable[Network]) -> list[Network]:
    """List the /24 networks that this lab may take, its favourite first.

    Args:
        lab: the lab's name; it decides the favourite, so that a lab finds its own network again.
        used: networks that the machine already routes or that Docker has given away.

    """
    taken = list(used)
    every = list(RANGE.subnets(new_prefix=24))
    first = _number(lab) % len(every)
    ordered = every[first:] + every[:first]
    return [network for network in ordered if not any(network.overlaps(other) for other in taken)]


def routed(table: str) -> list[Network]:
    """Read the networks out of `/proc/net/route`; the default route covers everything and so says nothing."""
    networks = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[i]), "little") for i in (1, 7))
        if mask:
            networks.append(Network((address, mask.bit_count())))
    return networks


def bridge(subnet: Network) -> str:
    """Return the operator's own address on the lab's network."""
    return str(subnet[1])


def dead_gateway(subnet: Network) -> str:
    """Return the nodes' default gateway, which is nobody.

    Nodes keep a default route, without which a ClusterIP has no route before kube-proxy rewrites it; but what takes
    that route ends there. So the air gap depends on no firewall.
    """
    return str(subnet[254])


def node_address(subnet: Network, index: int) -> str:
    """Return the address of the node; control-1 has index 0, worker-N index N."""
    return str(subnet[10 + index])


def is_free(port: int) -> bool:
    """Tell whether nobody listens on this TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        # As Docker's own proxy binds; without it a connection closed a minute ago would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def port(lab: str, offset: int, free: Callable[[int], bool] = is_free) -> int:
    """Choose a port for one thing of the lab: its favourite, or the same place in the next lab's range.

    Args:
        lab: the lab's name.
        offset: what it is for, 0 to 19; every thing of a lab has its own.
        free: tells whether a port is free.

    """
    first = _number(lab) % LABS
    for step in range(LABS):
        candidate = FIRST_PORT + (first + step) % LABS * PORTS_PER_LAB + offset
        if free(candidate):
            return candidate
    raise OSError(f"no port free on 127.0.0.1 between {FIRST_PORT} and {FIRST_PORT + LABS * PORTS_PER_LAB}")
