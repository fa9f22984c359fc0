"""What a proof gets to work with; its operation fills it in, so that no proof knows pyinfra."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from meshstrap.kube.connect import Client
from meshstrap.mesh import revision


@dataclass(frozen=True)
class Node:
    """A node as requests reach it.

    Args:
        name: the node's name in the inventory.
        address: its IPv4 address; NodePorts are asked for there.
        url: base URL of the gateway's http NodePort where it is published elsewhere (the lab's 127.0.0.1); None to
            build it from the address and the Service's node port.
        by: another node, from which it is asked where it cannot be reached from here; empty where it can.
        via: base URL on this machine that leads there by that way; for requests, never for people.
        unknown: why nobody can tell whether people reach it; empty where somebody can.
    """

    name: str
    address: str
    url: str | None = None
    by: str = ""
    via: str = ""
    unknown: str = ""


class Clock:
    """Time as a proof sees it, so that deadlines can be tested without waiting."""

    def now(self) -> datetime:
        """Tell the time of day in UTC."""
        return datetime.now(UTC)

    def seconds(self) -> float:
        """Tell the seconds since some fixed moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def _silent(message: str) -> None:
    return None


@dataclass(frozen=True)
class Site:
    """A site to prove something on.

    Args:
        client: connection to the cluster's API server.
        nodes: the nodes; the first is the one whose URL is shown and asked most, control-1 in the lab.
        reports: directory of the evidence files.
        revision: the site's revision of Istio.
        cluster: the name that the site's data give the cluster, for people; empty for none.
        clock: time.
        progress: told what the proof is doing, one short line at a time.
        kubectl: how a person calls it from here, in commands that are printed.
        ingress_node_port: the port on which every node is declared to answer.
        external_traffic_policy: the one that is declared for the gateway's Service; with `Local` only nodes that have
            a gateway pod answer.
    """

    client: Client
    nodes: tuple[Node, ...]
    reports: Path
    revision: str = revision.DEFAULT
    clock: Clock = field(default_factory=Clock)
    progress: Callable[[str], None] = _silent
    kubectl: str = "kubectl"
    ingress_node_port: int = 30191
    external_traffic_policy: str = "Cluster"
    cluster: str = ""
