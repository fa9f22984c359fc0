"""What a proxy really holds: its routes and endpoints from Envoy's config dump, compared with what was declared.

Gateways and sidecars hold the same routes in other places: a gateway by the hosts of its Gateway, a sidecar by the
Services' names and ports.

istiod may have accepted, sent and even had acknowledged a configuration that does not do what the objects say (an
older VirtualService wins, a Service port is missing), so content is compared, not status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from meshstrap.mesh.duration import seconds as _seconds

ROUTES = "config_dump?resource=dynamic_route_configs"
ENDPOINTS = "config_dump?include_eds&resource=dynamic_endpoint_configs"

# Envoy's metadata of a route names the VirtualService that it was made from; the API version in it varies.
_ORIGIN = re.compile(r"/namespaces/(?P<namespace>[^/]+)/virtual-service/(?P<name>[^/]+)$")
_CATCH_ALL = "prefix /"
# What a rule may say besides where requests go, and is compared.
_POLICIES = ("fault", "mirror", "mirrorPercentage", "retries", "timeout")


@dataclass(frozen=True)
class Route:
    """The part of a route that is compared: which paths, which clusters in which proportion, and what is done besides.

    Args:
        match: the paths that it takes, as `prefix /`.
        clusters: each cluster with its weight, by name.
        origin: the VirtualService that it was made from, as `namespace/name`; empty for none.
        policy: what it does besides, by key: `abort`, `delay`, `mirror`, `retries`, `timeout`, each in the words of
            this module, so that both spellings (Istio's and Envoy's) read alike. Sorted by key.
    """

    match: str
    clusters: tuple[tuple[str, int], ...]
    origin: str = ""
    policy: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The route as people read it."""
        to = ", ".join(f"{cluster} {weight} %" for cluster, weight in self.clusters) or "nothing"
        return f"{self.match} -> {to}" + "".join(f", {key} {value}" for key, value in self.policy)


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
    if other := set(virtual_service["spec"]) - {"hosts", "gateways", "http", "exportTo"}:
        raise ValueError(f"VirtualService {namespace}/{name}: cannot compare {', '.join(sorted(other))}")
    for rule in virtual_service["spec"].get("http", []):
        unknown = set(rule) - {"name", "match", "route", *_POLICIES}
        if unknown:
            raise ValueError(f"VirtualService {namespace}/{name}: cannot compare {', '.join(sorted(unknown))}")
        try:
            clusters = _declared_clusters(rule["route"], namespace, ports)
            policy = _declared_policy(rule, namespace, ports)
        except KeyError as error:
            raise ValueError(f"VirtualService {namespace}/{name}: a rule lacks {error.args[0]}") from None
        for match in rule.get("match") or [{}]:
            routes.append(Route(_declared_match(match), clusters, f"{namespace}/{name}", policy))
    return routes


def refuse_incomparable(objects: Iterable[Mapping[str, Any]]) -> None:
    """Refuse VirtualServices with something that is not compared here, before they are applied.

    Args:
        objects: all that is declared together, the Services among them.

    Raises:
        ValueError: as `declared_routes`.
    """
    known = list(objects)
    services = [item for item in known if item["kind"] == "Service"]
    for item in known:
        if item["kind"] == "VirtualService":
            declared_routes(item, services)


def held_routes(dump: Mapping[str, Any], host: str, port: int | None = None) -> list[Route]:
    """Read the HTTP routes that a proxy holds for a host, in the order in which Envoy tries them.

    Args:
        dump: the parsed answer to `ROUTES`.
        host: a host name, or `*`, exactly as a virtual host lists it.
        port: of the Service, in a sidecar, whose route configurations are named `80` or `<host>:80`; None for a
            gateway, where they are named `http.<port>`.

    Returns:
        Every route of the virtual hosts that list the host; empty when there is none.
    """
    return [route for config in _by_config(dump, host, port) for route in config]


def _by_config(dump: Mapping[str, Any], host: str, port: int | None) -> list[list[Route]]:
    """Read the routes for a host as `held_routes`, each route configuration (each port) for itself."""

    def here(name: str) -> bool:
        return name.startswith("http.") if port is None else name.rpartition(":")[2] == str(port)

    return [
        [
            _held_route(route)
            for virtual_host in config.get("virtual_hosts", [])
            if host in virtual_host.get("domains", [])
            for route in virtual_host.get("routes", [])
        ]
        for config in _configs(dump, "route_config")
        if here(config.get("name", ""))
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
        for held in _where_ours_are(dump, host, declared[0].origin)
        for difference in _compare(declared, held)
    ]


def _where_ours_are(dump: Mapping[str, Any], host: str, origin: str) -> list[list[Route]]:
    """Give the gateway's routes for a host on those ports that have a VirtualService's routes.

    A Gateway of another port has a host of the same name too, which is nothing to ours; where ours are nowhere, all
    ports are looked at.
    """
    ports = _by_config(dump, host, None)
    ours = [held for held in ports if any(route.origin == origin for route in held)]
    return ours or [[route for held in ports for route in held]]


def sidecar_route_differences(
    dump: Mapping[str, Any], virtual_service: Mapping[str, Any], services: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Say where a sidecar's routes are not what a VirtualService for Services of the mesh declares.

    Args:
        dump: the sidecar's parsed answer to `ROUTES`.
        virtual_service: the object as declared; its hosts are Services, by short or full name.
        services: the declared Services, those of its hosts among them.

    Returns:
        One sentence for each difference, as `route_differences`.

    Raises:
        ValueError: as `declared_routes`; or a host is no declared Service.
    """
    known = list(services)
    ports = {_host(service): [port["port"] for port in service["spec"]["ports"]] for service in known}
    declared = declared_routes(virtual_service, known)
    differences = []
    for short in virtual_service["spec"]["hosts"]:
        host = _full(short, virtual_service["metadata"]["namespace"])
        if host not in ports:
            raise ValueError(f"host {short} is no declared Service")
        differences += [
            f"host {host}:{port}: {difference}"
            for port in ports[host]
            for difference in _compare(declared, held_routes(dump, host, port))
        ]
    return differences


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
    if (compared := _comparable(ours, declared)) != declared:
        differences.append(f"holds {_list(compared)}, declared {_list(declared)}")
    last = max(index for index, route in enumerate(held) if route.origin == origin)
    differences += [
        f"VirtualService {route.origin or 'unnamed'} is tried first with the same match, {route.match}"
        for route in held[:last]
        if route.origin != origin and (route.match == _CATCH_ALL or route.match in {r.match for r in declared})
    ]
    return differences


def _comparable(held: list[Route], declared: list[Route]) -> list[Route]:
    """Leave out of what is held what the mesh's defaults give: retries, or their causes, that are not declared."""
    compared = []
    for route, wanted in zip_longest(held, declared[: len(held)], fillvalue=declared[-1]):
        policy, said = dict(route.policy), dict(wanted.policy).get("retries")
        if said is None:
            policy.pop("retries", None)
        elif " on " not in said and "retries" in policy:
            policy["retries"] = policy["retries"].partition(" on ")[0]
        compared.append(replace(route, policy=tuple(sorted(policy.items()))))
    return compared


def _declared_policy(
    rule: Mapping[str, Any], namespace: str, ports: dict[str, list[int]]
) -> tuple[tuple[str, str], ...]:
    """Say what a rule does besides routing, as `_held_policy` says it of Envoy's route."""
    policy = {}
    if "timeout" in rule and (seconds := _seconds(rule["timeout"])):
        policy["timeout"] = f"{seconds:g} s"
    if "retries" in rule:
        policy["retries"] = _declared_retries(rule["retries"])
    if "fault" in rule:
        fault = dict(rule["fault"])
        if abort := fault.pop("abort", None):
            policy["abort"] = f"{abort['httpStatus']} for {abort['percentage']['value']:g} %"
        if delay := fault.pop("delay", None):
            policy["delay"] = f"{_seconds(delay['fixedDelay']):g} s for {delay['percentage']['value']:g} %"
        if fault:
            raise ValueError(f"cannot compare {', '.join(sorted(fault))} of a fault")
    if "mirror" in rule:
        share = rule.get("mirrorPercentage", {"value": 100}).get("value", 0)
        # Of 0 % istiod makes no policy at all (the same route.go, `MirrorPercent`).
        if share:
            policy["mirror"] = f"{share:g} % to {_declared_cluster(rule['mirror'], namespace, ports)}"
    return tuple(sorted(policy.items()))


def _declared_retries(retries: Mapping[str, Any]) -> str:
    unknown = set(retries) - {"attempts", "retryOn", "perTryTimeout"}
    if unknown:
        raise ValueError(f"cannot compare {', '.join(sorted(unknown))} of retries")
    if not retries["attempts"]:
        return "none"
    text = str(retries["attempts"])
    if "perTryTimeout" in retries:
        text += f" of {_seconds(retries['perTryTimeout']):g} s"
    if "retryOn" in retries:
        text += f" on {_causes(str(retries['retryOn']).split(','))}"
    return text


def _held_policy(route: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Say what Envoy's route does besides routing.

    Source: istio/istio pilot/pkg/networking/core/route (route.go `TranslateFault`, `MirrorPercent`;
    retry/retry.go `ConvertPolicy`).
    """
    action, policy = route.get("route", {}), {}
    if seconds := _seconds(action.get("timeout", "0s")):
        policy["timeout"] = f"{seconds:g} s"
    if retries := action.get("retry_policy"):
        causes = [cause for cause in retries.get("retry_on", "").split(",") if cause != "retriable-status-codes"]
        each = f" of {_seconds(retries['per_try_timeout']):g} s" if "per_try_timeout" in retries else ""
        causes += [str(code) for code in retries.get("retriable_status_codes", [])]
        policy["retries"] = f"{retries.get('num_retries', 0)}{each} on {_causes(causes)}"
    else:
        policy["retries"] = "none"
    fault = route.get("typed_per_filter_config", {}).get("envoy.filters.http.fault", {})
    if abort := fault.get("abort"):
        policy["abort"] = f"{abort.get('http_status')} for {_percent(abort.get('percentage', {})):g} %"
    if delay := fault.get("delay"):
        delayed = _seconds(delay.get("fixed_delay", "0s"))
        policy["delay"] = f"{delayed:g} s for {_percent(delay.get('percentage', {})):g} %"
    if mirrors := action.get("request_mirror_policies"):
        policy["mirror"] = ", ".join(
            f"{_percent(each.get('runtime_fraction', {}).get('default_value', {'numerator': 100})):g} %"
            f" to {each['cluster']}"
            for each in mirrors
        )
    return tuple(sorted(policy.items()))


def _causes(causes: list[str]) -> str:
    return "+".join(sorted({cause.strip() for cause in causes} - {"", "retriable-status-codes"}))


def _percent(fraction: Mapping[str, Any]) -> float:
    """Read Envoy's FractionalPercent in percent."""
    scale = {"HUNDRED": 1, "TEN_THOUSAND": 100, "MILLION": 10_000}
    return float(fraction.get("numerator", 0) / scale[fraction.get("denominator", "HUNDRED")])


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
    full = _full(host, namespace)
    port = destination.get("port", {}).get("number")
    if port is None:
        known = ports.get(full)
        if known is None or len(known) != 1:
            raise ValueError(f"destination {host}: no port is named, and no declared Service has exactly one")
        port = known[0]
    return cluster_name(full, destination.get("subset", ""), port)


def _full(host: str, namespace: str) -> str:
    """Give a Service's full name: a short one is of the VirtualService's own namespace."""
    return host if "." in host else f"{host}.{namespace}.svc.cluster.local"


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
        _held_policy(route),
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
