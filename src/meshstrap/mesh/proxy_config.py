"""What a proxy really holds: its routes and endpoints from Envoy's config dump, compared with what was declared.

istiod may have accepted, sent and even had acknowledged a configuration that does not do what the objects say (an
older VirtualService wins, a Service port is missing), so content is compared, not status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ROUTES = "config_dump?resource=dynamic_route_configs"
ENDPOINTS = "config_dump?include_eds&resource=dynamic_endpoint_configs"

# Envoy's metadata of a route names the VirtualService that it was made from; the API version in it varies.
_ORIGIN = re.compile(r"/namespaces/(?P<namespace>[^/]+)/virtual-service/(?P<name>[^/]+)$")
_CATCH_ALL = "prefix /"


@dataclass(frozen=True)
class Route:
    """The part of a route that is compared: which paths, and which clusters in which proportion."""

    match: str
    clusters: tuple[tuple[str, int], ...]
    origin: str = ""

    @property
    def text(self) -> str:
        """The route as people read it."""
        return f"{self.match} -> {', '.join(f'{cluster} {weight} %' for cluster, weight in self.clusters) or 'nothing'}"


def declared_routes(virtual_service: Mapping[str, Any], services: Iterable[Mapping[str, Any]]) -> list[Route]:
    """Compile a VirtualService's http rules to the routes that Envoy should hold.

    Follows istio/istio pilot/pkg/networking/core/route/route.go: a destination without port takes its Service's only
    port; a destination of weight 0 beside others is left out.

    Args:
        virtual_service: the object as declared.
        services: the declared Services that it may route to.

    Returns:
        One route for each match of each rule, in order.

    Raises:
        ValueError: a rule holds something that is not compared here (so that nothing is passed over in silence), or
            a destination is no declared Service or leaves its port open.
    """
    namespace, name = virtual_service["metadata"]["namespace"], virtual_service["metadata"]["name"]
    ports = {_host(service): [port["port"] for port in service["spec"]["ports"]] for service in services}
    routes: list[Route] = []
    for rule in virtual_service["spec"]["http"]:
        unknown = set(rule) - {"name", "match", "route"}
        if unknown:
            raise ValueError(f"VirtualService {namespace}/{name}: cannot compare {', '.join(sorted(unknown))}")
        clusters = _declared_clusters(rule["route"], namespace, ports)
        for match in rule.get("match") or [{}]:
            routes.append(Route(_declared_match(match), clusters, f"{namespace}/{name}"))
    return routes


def held_routes(dump: Mapping[str, Any], host: str) -> list[Route]:
    """Read the HTTP routes that a gateway holds for a host, in the order in which Envoy tries them.

    Args:
        dump: the parsed answer to `ROUTES`.
        host: a host name, or `*`, exactly as a virtual host lists it.

    Returns:
        Every route of the virtual hosts that list the host; empty when there is none.
    """
    return [
        _held_route(route)
        for config in _configs(dump, "route_config")
        if config.get("name", "").startswith("http.")
        for virtual_host in config.get("virtual_hosts", [])
        if host in virtual_host.get("domains", [])
        for route in virtual_host.get("routes", [])
    ]


def origins(dump: Mapping[str, Any]) -> set[str]:
    """List the VirtualServices, as `namespace/name`, of which a proxy holds routes."""
    return {
        origin
        for config in _configs(dump, "route_config")
        for virtual_host in config.get("virtual_hosts", [])
        for route in virtual_host.get("routes", [])
        if (origin := _held_route(route).origin)
    }


def route_differences(
    dump: Mapping[str, Any], virtual_service: Mapping[str, Any], services: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Say where a gateway's routes are not what a VirtualService declares.

    Args:
        dump: the gateway's parsed answer to `ROUTES`.
        virtual_service: the object as declared.
        services: the declared Services that it may route to.

    Returns:
        One sentence for each difference: a host without routes, a route that is other than declared, a route of
        another VirtualService that is tried first and takes the same requests. Empty when the content is equal.
    """
    declared = declared_routes(virtual_service, services)
    return [
        f"host {host}: {difference}"
        for host in virtual_service["spec"]["hosts"]
        for difference in _compare(declared, held_routes(dump, host))
    ]


def held_endpoints(dump: Mapping[str, Any]) -> dict[str, set[str]]:
    """Read the healthy endpoints that a proxy holds.

    Args:
        dump: the parsed answer to `ENDPOINTS`.

    Returns:
        For each cluster the addresses of its healthy endpoints, as `address:port`.
    """
    return {
        config["cluster_name"]: {
            f"{address['address']}:{address['port_value']}"
            for group in config.get("endpoints", [])
            for endpoint in group.get("lb_endpoints", [])
            # Envoy leaves out what is the default; UNKNOWN is served like HEALTHY.
            if endpoint.get("health_status", "UNKNOWN") in ("HEALTHY", "UNKNOWN")
            for address in [endpoint["endpoint"]["address"].get("socket_address")]
            if address
        }
        for config in _configs(dump, "endpoint_config")
    }


def endpoint_differences(dump: Mapping[str, Any], declared: Mapping[str, set[str]]) -> list[str]:
    """Say where a proxy's endpoints are not the pods that should be behind a cluster.

    Args:
        dump: the proxy's parsed answer to `ENDPOINTS`.
        declared: for each cluster the addresses, `address:port`, of the ready pods that belong to it.

    Returns:
        One sentence for each cluster that has no endpoint or others; empty when all are equal.
    """
    held = held_endpoints(dump)
    differences = []
    for cluster, addresses in declared.items():
        seen = held.get(cluster, set())
        if not addresses:
            differences.append(f"cluster {cluster}: no ready pod is behind it")
        elif seen != addresses:
            differences.append(f"cluster {cluster}: holds {_set(seen)}, the ready pods are {_set(addresses)}")
    return differences


def cluster_name(host: str, subset: str, port: int) -> str:
    """Give Istio's name of the outbound cluster for a subset (empty for the whole Service)."""
    return f"outbound|{port}|{subset}|{host}"


def _compare(declared: list[Route], held: list[Route]) -> list[str]:
    origin = declared[0].origin
    ours = [route for route in held if route.origin == origin]
    if not held:
        return ["holds no route"]
    if not ours:
        return [f"holds no route of VirtualService {origin}, only of {', '.join(sorted({r.origin for r in held}))}"]
    differences = []
    if ours != declared:
        differences.append(f"holds {_list(ours)}, declared {_list(declared)}")
    last = max(index for index, route in enumerate(held) if route.origin == origin)
    differences += [
        f"VirtualService {route.origin or 'unnamed'} is tried first with the same match, {route.match}"
        for route in held[:last]
        if route.origin != origin and (route.match == _CATCH_ALL or route.match in {r.match for r in declared})
    ]
    return differences


def _declared_clusters(
    destinations: list[dict[str, Any]], namespace: str, ports: dict[str, list[int]]
) -> tuple[tuple[str, int], ...]:
    weighted = []
    for entry in destinations:
        unknown = set(entry) - {"destination", "weight"}
        if unknown:
            raise ValueError(f"cannot compare {', '.join(sorted(unknown))} of a destination")
        weight = entry.get("weight", 100 if len(destinations) == 1 else 0)
        if weight:
            weighted.append((_declared_cluster(entry["destination"], namespace, ports), weight))
    # One destination takes all, whatever its weight says.
    return ((weighted[0][0], 100),) if len(weighted) == 1 else tuple(sorted(weighted))


def _declared_cluster(destination: dict[str, Any], namespace: str, ports: dict[str, list[int]]) -> str:
    host = destination["host"]
    full = host if "." in host else f"{host}.{namespace}.svc.cluster.local"
    port = destination.get("port", {}).get("number")
    if port is None:
        known = ports.get(full)
        if known is None or len(known) != 1:
            raise ValueError(f"destination {host}: no port is named, and no declared Service has exactly one")
        port = known[0]
    return cluster_name(full, destination.get("subset", ""), port)


def _declared_match(match: dict[str, Any]) -> str:
    unknown = set(match) - {"name", "uri"}
    if unknown:
        raise ValueError(f"cannot compare a match on {', '.join(sorted(unknown))}")
    uri = match.get("uri", {"prefix": "/"})
    kind, value = next(iter(uri.items()))
    return f"{kind} {value}"


def _held_route(route: Mapping[str, Any]) -> Route:
    config = route.get("metadata", {}).get("filter_metadata", {}).get("istio", {}).get("config", "")
    origin = _ORIGIN.search(config)
    action = route.get("route", {})
    if "cluster" in action:
        clusters = [(action["cluster"], 100)]
    else:
        weighted = action.get("weighted_clusters", {}).get("clusters", [])
        clusters = [(entry["name"], int(entry.get("weight", 0))) for entry in weighted]
        if len(clusters) == 1:
            clusters = [(clusters[0][0], 100)]
    return Route(
        _held_match(route.get("match", {})),
        tuple(sorted(clusters)),
        f"{origin['namespace']}/{origin['name']}" if origin else "",
    )


def _held_match(match: Mapping[str, Any]) -> str:
    parts = []
    if "path" in match:
        parts.append(f"exact {match['path']}")
    elif "prefix" in match:
        parts.append(f"prefix {match['prefix']}")
    elif "safe_regex" in match:
        parts.append(f"regex {match['safe_regex'].get('regex')}")
    # Whatever else narrows the match (headers, query parameters, ...) makes it another one.
    rest = {key for key in match if key not in ("path", "prefix", "safe_regex", "case_sensitive")}
    return " ".join(parts + [f"with {key}" for key in sorted(rest)])


def _configs(dump: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [entry[key] for entry in dump.get("configs", []) if key in entry]


def _host(service: Mapping[str, Any]) -> str:
    metadata = service["metadata"]
    return f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local"


def _list(routes: list[Route]) -> str:
    return "; ".join(route.text for route in routes)


def _set(addresses: set[str]) -> str:
    return ", ".join(sorted(addresses)) or "none"
