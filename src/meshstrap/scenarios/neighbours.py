"""What stands beside a scenario on a cluster: whether the proxies' logs can be read, and others' rules that touch it.

The engine asks for every scenario, so that none has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from meshstrap.kube import query
from meshstrap.kube.parallel import each
from meshstrap.mesh import access_logging, gateway, revision
from meshstrap.scenarios import ingress
from meshstrap.scenarios.rivals import KINDS, Rival, Standing, find
from meshstrap.scenarios.site import Site

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Neighbours:
    """What was found: why no proof can be made, a sentence each; and what is to be named beside any verdict."""

    lacks: tuple[str, ...]
    rivals: tuple[Rival, ...]


def look(site: Site, namespace: str, objects: Iterable[Object]) -> Neighbours:
    """Look at what stands beside a scenario; changes nothing.

    Args:
        site: where.
        namespace: the scenario's.
        objects: what it declares.

    Raises:
        KubeError: the cluster cannot be asked.
    """
    declared = tuple(objects)
    outside = ingress.needs_gateway(declared)
    labels = ",".join(f"{key}={value}" for key, value in gateway.SELECTOR.items())
    name = revision.mesh_config(site.revision)
    asked: list[Callable[[], Any]] = [
        lambda: query.get(site.client, "v1", "ConfigMap", name, gateway.NAMESPACE),
        lambda: query.get(site.client, "v1", "Service", gateway.SERVICE, gateway.NAMESPACE),
        lambda: query.list(site.client, "v1", "Pod", namespace),
        lambda: query.list(site.client, "v1", "Pod", gateway.NAMESPACE, labels=labels),
        *((lambda kind=kind: query.list(site.client, *kind)) for kind in KINDS),
    ]
    config, service, pods, gateway_pods, *kinds = each(lambda ask: ask(), asked)
    mesh, wrong = access_logging.settings(config, name)
    standing = Standing(
        namespace=namespace,
        declared=declared,
        pods=tuple(pod for pod in pods if gateway.has_sidecar(pod)),
        gateway_pods=tuple(gateway_pods) if outside else (),
        listeners=gateway.listeners(service) if service else {},
        addresses=frozenset(_hosts(site)),
        root=str(mesh.get("rootNamespace") or gateway.NAMESPACE),
    )
    live = [item for kind in kinds for item in kind]
    lacks, dimmed = _logs(standing, live, mesh, access_logging.place(name))
    return Neighbours((wrong,) if wrong else lacks, (*dimmed, *find(standing, live)))


def _hosts(site: Site) -> Iterator[str]:
    """Give what requests for the bare URL have as their Host, without the port."""
    for node in site.nodes:
        yield node.address
        if node.url and (host := urlsplit(node.url).hostname):
            yield host


def _logs(
    standing: Standing, live: list[Object], mesh: Mapping[str, Any], where: str
) -> tuple[tuple[str, ...], tuple[Rival, ...]]:
    """Say who takes all lines of a pod's log away, and who takes some of them."""
    telemetries = [item for item in live if item["kind"] == "Telemetry"]
    found = dict.fromkeys(
        reason
        for pod in (*standing.pods, *standing.gateway_pods)
        for reason in access_logging.unlogged(pod, telemetries, mesh, where=where, root=standing.root)
    )
    lacks = dict.fromkeys(f"{reason.by} {reason.why}" for reason in found if reason.all)
    dimmed = dict.fromkeys(Rival(reason.by, reason.why) for reason in found if not reason.all)
    return tuple(lacks), tuple(dimmed)
