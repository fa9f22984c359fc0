"""Judge the proxies that a machine tells its programs: one that is asked for a node's own address leads nowhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from meshstrap.facts.preflight import Machine
from meshstrap.operations.finding import WARNING, Finding


def judge(machine: Machine, address: str | None) -> Iterator[Finding]:
    """Give a finding for each place that names a proxy and lets nodes' addresses go through it.

    It is a warning: what we run on the node takes no proxy. People's own kubectl there does.

    Args:
        machine: what it says of itself.
        address: the node's own in the cluster, where it is known.

    """
    nodes = [*([address] if address else []), *machine["peers"]]
    for place, proxies in machine["proxies"].items():
        uncovered = [node for node in nodes if not covers(proxies["no_proxy"], node)]
        if proxies["variables"] and uncovered:
            yield Finding(
                WARNING,
                "proxies",
                f"{place} sets {', '.join(proxies['variables'])}, and no_proxy there lacks {', '.join(uncovered)}:"
                " kubectl on the node, and services of others, would ask the proxy for the API server",
                f"Add them to no_proxy in {place}; containerd, the kubelet and kubeadm of ours run without any proxy",
            )


def covers(no_proxy: str, address: str) -> bool:
    """Tell whether a no_proxy keeps an address from the proxy.

    Source: golang.org/x/net/http/httpproxy: an address, one with a port, a network, or * for all; separated by commas.

    Args:
        no_proxy: the variable's value.
        address: IPv4.

    """
    for entry in no_proxy.replace(",", " ").split():
        if entry == "*":
            return True
        try:
            if ipaddress.IPv4Address(address) in ipaddress.IPv4Network(entry.partition(":")[0], strict=False):
                return True
        except ValueError:
            continue  # A domain, or nothing that a proxy goes by.
    return False
