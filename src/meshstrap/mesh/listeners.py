"""Which ports of a gateway's pods Gateways open, for which hosts, and where VirtualServices end up there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.mesh.applies import covers
from meshstrap.mesh.lint import claims
from meshstrap.mesh.lint.finding import at, items, namespace_of, texts, whole

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Listeners:
    """The gateway's pods as Gateways see them.

    Args:
        gateways: all Gateways of the cluster.
        pods: the gateway's pods.
        ports: for each port of the gateway's Service the port of the pods behind it: a Gateway may name either
            (istio/istio pilot/pkg/model/gateway.go, `resolvePorts`).
    """

    gateways: list[Object]
    pods: tuple[Object, ...]
    ports: Mapping[int, int]

    def opened(self, item: Object) -> Iterator[tuple[int, str, Object]]:
        """Go through what a Gateway opens on these pods: the pods' port, the host, and the server that says so."""
        wanted = at(item, "spec", "selector")
        labels = wanted.items() if isinstance(wanted, Mapping) else {}.items()
        if not any(labels <= (pod["metadata"].get("labels") or {}).items() for pod in self.pods):
            return
        for _, server in items(at(item, "spec", "servers")):
            number = whole(at(server, "port", "number")) or 0
            for host in texts(server.get("hosts")):
                yield self.ports.get(number, number), host.rpartition("/")[2], server

    def places(self, virtual_service: Object) -> set[tuple[int, str]]:
        """Say on which port and host of these pods a VirtualService's rules end up."""
        bound, named = claims.gateways(virtual_service), claims.hosts(virtual_service)
        mine = namespace_of(virtual_service)
        return {
            (port, host)
            for item in self.gateways
            if f"{namespace_of(item)}/{item['metadata']['name']}" in bound
            for port, opened, server in self.opened(item)
            if _let_in(server, opened, mine, namespace_of(item))
            for name in named
            if (host := narrower(opened, name)) is not None
        }


def narrower(one: str, other: str) -> str | None:
    """Give what two hosts, each perhaps with a wildcard, have in common; None for nothing."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def _let_in(server: Object, host: str, namespace: str, home: str) -> bool:
    """Tell whether a server takes a host's rules from a namespace: `ns/host`, `./host`, `*/host`, or `host`."""
    for each in texts(server.get("hosts")):
        origin, slash, name = each.rpartition("/")
        if name == host and (not slash or origin in ("*", namespace) or (origin == "." and namespace == home)):
            return True
    return False
