"""Marked requests through the ingress gateway's NodePort, and what the gateway's own access log says of each.

Two witnesses that know nothing of each other: the reply, which the client sees, and the line, which Envoy writes.
They are joined by the mark that each request carries in its query.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from meshstrap.kube import query, wait
from meshstrap.mesh import access_log, gateway, proxy
from meshstrap.mesh.errors import GatewayError, ProxyError
from meshstrap.mesh.proxy_config import (
    ENDPOINTS,
    ROUTES,
    endpoint_differences,
    held_endpoints,
    held_routes,
    origins,
    route_differences,
)
from meshstrap.scenarios import access_lines, http, restarts
from meshstrap.scenarios.site import Node, Site

NETWORKING = "networking.istio.io/v1beta1"
# Enough to keep a small mesh busy, few enough that neither a 2-core node nor the client becomes the bottleneck.
CONCURRENCY = 8
# A node port that answers does so at once; a firewall that drops says nothing for ever.
REACH_SECONDS = 3.0
# Beyond this a series is stopped; what was not sent is noted as such.
SERIES_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """Where one request goes: through which node, for which Host (None for the bare URL) and path.

    `base` is the URL that people use, `via` another that leads there where it cannot be reached from here.
    """

    node: str
    base: str
    host: str | None = None
    path: str = "/"
    via: str = ""


def base_url(site: Site, node: Node) -> str:
    """Give the URL of the gateway's http port on a node, without path.

    Raises:
        GatewayError: the gateway's Service is not there or has no node port.
        KubeError: the cluster cannot be asked.
    """
    if node.url:
        return node.url.rstrip("/")
    service = query.get(site.client, "v1", "Service", gateway.SERVICE, gateway.NAMESPACE)
    if service is None:
        raise GatewayError(f"there is no Service {gateway.NAMESPACE}/{gateway.SERVICE}; run deploys/istio.py")
    return f"http://{node.address}:{gateway.node_port(service)}"


def asked_url(site: Site, node: Node) -> str:
    """Give the URL by which a node's port is asked from here: the one that people use, or the way around.

    Raises:
        GatewayError, KubeError: as `base_url`.
    """
    return node.via or base_url(site, node)


def targets(site: Site, *, host: str | None = None, path: str = "/") -> list[Target]:
    """Give for each node the target of a request through it, in the nodes' order.

    Raises:
        GatewayError, KubeError: as `base_url`.
    """
    return [Target(node.name, base_url(site, node), host, path, node.via) for node in site.nodes]


def out_of_reach(site: Site, node: Node) -> str:
    """Say why the gateway's NodePort on a node cannot be reached from here; empty when it answers, whatever it says.

    Raises:
        GatewayError, KubeError: as `base_url`.
    """
    return http.get(asked_url(site, node) + "/", timeout=REACH_SECONDS).error


def service_differences(site: Site) -> list[str]:
    """Compare the gateway's live Service with what is declared of it: on which port, and on which nodes, it answers.

    Returns:
        A sentence for each difference, with the URLs that are dead by it; none where there is no Service.

    Raises:
        GatewayError: it has no node port.
        KubeError: the cluster cannot be asked.
    """
    service = query.get(site.client, "v1", "Service", gateway.SERVICE, gateway.NAMESPACE)
    if service is None:
        return []
    name, found = f"Service {gateway.NAMESPACE}/{gateway.SERVICE}", []
    port, policy = gateway.node_port(service), gateway.external_traffic_policy(service)
    if port != site.ingress_node_port:
        found.append(
            f"{name}: the node port of {gateway.HTTP_PORT} is {port}, and {site.ingress_node_port} is declared"
            f" (ingress_node_port), so http://<node>:{site.ingress_node_port} is dead; deploys/istio.py puts it back"
        )
    if policy != site.external_traffic_policy:
        silent = ", ".join(without_gateway(site)) if policy == gateway.LOCAL else ""
        found.append(
            f"{name}: externalTrafficPolicy is {policy}, and {site.external_traffic_policy} is declared"
            + (f", so nodes without a gateway pod do not answer: {silent}" if silent else "")
            + "; deploys/istio.py puts it back"
        )
    return found


def without_gateway(site: Site) -> list[str]:
    """Name the nodes that no ready gateway pod runs on."""
    holders = {pod["spec"].get("nodeName") for pod in gateway_pods(site)}
    return [node.name for node in site.nodes if node.name not in holders]


def answering(site: Site) -> tuple[Site, list[str]]:
    """Leave out the nodes that are declared not to answer: with the policy `Local`, those without a gateway pod.

    Returns:
        The site with the others, and the names of those that are left out.
    """
    silent = without_gateway(site) if site.external_traffic_policy == gateway.LOCAL else []
    return replace(site, nodes=tuple(node for node in site.nodes if node.name not in silent)), silent


def way(site: Site, virtual_service: Mapping[str, Any]) -> str:
    """Follow a request as the gateway would send it: from the first node's port to the pods.

    Read from the live Service of the gateway, and from the routes and endpoints that its first pod holds.

    Args:
        site: where.
        virtual_service: whose routes are followed.

    Raises:
        GatewayError, ProxyError, KubeError: it cannot be read.
    """
    pods, metadata = gateway_pods(site), virtual_service["metadata"]
    if not pods or not site.nodes:
        return ""
    name = str(pods[0]["metadata"]["name"])
    held = held_endpoints(proxy.dump(site.client, gateway.NAMESPACE, name, ENDPOINTS))
    dump = proxy.dump(site.client, gateway.NAMESPACE, name, ROUTES)
    routes = [
        route
        for host in virtual_service["spec"]["hosts"]
        for route in held_routes(dump, host)
        if route.origin == f"{metadata['namespace']}/{metadata['name']}"
    ]
    names = {
        pod.get("status", {}).get("podIP"): pod["metadata"]["name"]
        for pod in query.list(site.client, "v1", "Pod", metadata["namespace"])
    }

    def behind(cluster: str) -> str:
        addresses = sorted(held.get(cluster, ()))
        return ", ".join(f"{names.get(each.rpartition(':')[0], 'pod')} {each}" for each in addresses) or "no pod"

    ways = dict.fromkeys(
        f"Service {_service(cluster)} ({weight} %) -> {behind(cluster)}"
        for route in routes
        for cluster, weight in route.clusters
    )
    return f"{base_url(site, site.nodes[0])} ({site.nodes[0].name}) -> {name} -> {'; '.join(ways) or 'no route'}"


def needs_gateway(objects: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether objects bind anything to a gateway: a VirtualService that names one, or a Gateway. Pure."""
    return any(
        item["kind"] == "Gateway"
        or (item["kind"] == "VirtualService" and set(item["spec"].get("gateways", [])) - {"mesh"})
        for item in objects
    )


def gateway_pods(site: Site) -> list[Mapping[str, Any]]:
    """List the ingress gateway's ready pods."""
    return gateway.ready_pods(_all_gateway_pods(site))


def until_ready(site: Site) -> list[str]:
    """Wait, at most 60 s, for a gateway that is starting, as after a restart of its node.

    Returns:
        Why there is no ready gateway; nothing where there is one.

    Raises:
        KubeError: the cluster cannot be asked.
    """
    return restarts.awaited(
        lambda: [] if gateway_pods(site) else [_no_gateway(site)], lambda: _all_gateway_pods(site), site
    )


def gateway_names(site: Site) -> list[str]:
    """List the names of the ingress gateway's ready pods."""
    return [str(pod["metadata"]["name"]) for pod in gateway_pods(site)]


def missing(site: Site) -> list[str]:
    """Look for what every proof through the gateway needs.

    Args:
        site: where.

    Returns:
        A sentence for each thing that is missing: a node, the gateway, its node port, the shared Gateway.
    """
    lacks = []
    if not site.nodes:
        lacks.append("no node of the cluster is ready, so there is none to send requests to")
    if not gateway_pods(site):
        lacks.append(_no_gateway(site))
    lacks += [f"{node.name}: {node.unknown}" for node in site.nodes if node.unknown]
    try:
        base_url(site, Node("", "", None))
    except GatewayError as error:
        lacks.append(str(error))
    shared = gateway.SHARED_GATEWAY_NAME
    if query.get(site.client, NETWORKING, "Gateway", shared, gateway.NAMESPACE) is None:
        lacks.append(f"there is no Gateway {gateway.NAMESPACE}/{shared}; run deploys/istio.py")
    return lacks


def differences(
    site: Site,
    virtual_service: Mapping[str, Any],
    services: Sequence[Mapping[str, Any]],
    endpoints: Mapping[str, set[str]],
) -> list[str]:
    """Compare what each gateway pod holds with what is declared.

    Args:
        site: where.
        virtual_service: as declared.
        services: the declared Services that it routes to.
        endpoints: for each cluster the addresses of the ready pods that belong to it.

    Returns:
        A sentence for each difference, with the pod's name in front; empty when all hold the declared content.
    """
    pods = gateway_pods(site)
    if not pods:
        return [f"no ready ingress gateway pod in {gateway.NAMESPACE}"]
    found = []
    for pod in pods:
        name = pod["metadata"]["name"]
        try:
            routes = proxy.dump(site.client, gateway.NAMESPACE, name, ROUTES)
            held = proxy.dump(site.client, gateway.NAMESPACE, name, ENDPOINTS)
        except ProxyError as error:
            found.append(str(error))
            continue
        here = route_differences(routes, virtual_service, services) + endpoint_differences(held, endpoints)
        found += [f"{name}: {difference}" for difference in here]
    return found


def remains(site: Site, namespace: str) -> list[str]:
    """Say which gateway pods still hold routes of a namespace's VirtualServices; empty when they are gone."""
    return [
        f"{pod} still holds routes of VirtualService {origin}"
        for pod in gateway_names(site)
        for origin in sorted(origins(proxy.dump(site.client, gateway.NAMESPACE, pod, ROUTES)))
        if origin.startswith(f"{namespace}/")
    ]


def send(site: Site, targets: list[Target]) -> list[dict[str, Any]]:
    """Send one marked request to each target, each once, a bounded number at a time.

    Args:
        site: where.
        targets: where each request goes, in order.

    Returns:
        An observation a target, in order: mark, node, host, path, and status and body, or the error.
    """
    run = secrets.token_hex(8)
    deadline = site.clock.seconds() + SERIES_SECONDS

    def one(index: int) -> dict[str, Any]:
        target, mark = targets[index], f"{run}-{index:04d}"
        path = f"{target.path}?{access_log.MARK}={mark}"
        seen = {"mark": mark, "node": target.node, "url": target.base, "host": target.host, "path": path}
        if site.clock.seconds() > deadline:
            return seen | {
                "status": None,
                "body": "",
                "error": f"had no turn within {SERIES_SECONDS:g} s",
                "sent": False,
            }
        reply = http.get((target.via or target.base) + path, host=target.host, agent=f"{access_log.AGENT}{mark}")
        return seen | {
            "status": reply.status,
            "body": reply.body,
            "error": reply.error,
            "milliseconds": reply.milliseconds,
            "sent": True,
        }

    with ThreadPoolExecutor(CONCURRENCY) as workers:
        return list(workers.map(one, range(len(targets))))


def collect(site: Site, observed: dict[str, Any]) -> bool:
    """Read the gateways' access log for the marks of a series.

    Args:
        site: where.
        observed: an observation with `began` (ISO time) and `requests`; its `log`, by mark, and `gateways_after`, the
            pods that were read, are set.

    Returns:
        Whether every request that got an answer has a line.
    """
    answered = {request["mark"] for request in observed["requests"] if request["status"] is not None}
    pods = gateway_names(site)
    log = access_lines.read(site, gateway.NAMESPACE, pods, observed)
    observed["log"], observed["gateways_after"] = log, pods
    return answered <= set(log)


def _all_gateway_pods(site: Site) -> list[dict[str, Any]]:
    labels = ",".join(f"{key}={value}" for key, value in gateway.SELECTOR.items())
    return query.list(site.client, "v1", "Pod", gateway.NAMESPACE, labels=labels)


def _no_gateway(site: Site) -> str:
    """Say why there is no ready gateway pod, and what to do: wait, scale it up, or install one."""
    said = f"no ready ingress gateway pod in {gateway.NAMESPACE}"
    pods = [pod for pod in _all_gateway_pods(site) if "deletionTimestamp" not in pod["metadata"]]
    if pods:
        waiting = "; ".join(f"Pod {pod['metadata']['name']}: {wait.state(pod).reason}" for pod in pods)
        return f"{said}: it is starting, or restarting ({waiting}); prove again when it is ready"
    workload = query.get(site.client, "apps/v1", "Deployment", gateway.SERVICE, gateway.NAMESPACE)
    if workload is None:
        return f"{said}; run deploys/istio.py with a profile that has one"
    name = f"Deployment {gateway.NAMESPACE}/{gateway.SERVICE}"
    if workload["spec"].get("replicas", 1) == 0:
        scale = f"kubectl scale deployment/{gateway.SERVICE} -n {gateway.NAMESPACE} --replicas=1"
        return f"{said}: {name} is scaled to 0; scale it up: {scale}"
    return f"{said}: {name} has none yet: {wait.state(workload).reason}"


def _service(cluster: str) -> str:
    """Name the Service, its port and subset that an outbound cluster stands for."""
    _, port, subset, host = cluster.split("|")
    return f"{host.partition('.')[0]}:{port}" + (f" subset {subset}" if subset else "")
