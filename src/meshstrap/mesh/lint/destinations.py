"""Rules of DestinationRules beside each other and beside weights: what of them the mesh keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from meshstrap.kube.ref import Ref
from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding, Object, at, items, namespace_of, texts


def shared_destinations(declared: Declared) -> Iterator[Finding]:
    """Find two DestinationRules of one host that both have a traffic policy: only the older one's is kept.

    Istio merges the subsets of such rules, and takes a policy from a later rule only where the earlier ones have none.
    Rules for chosen workloads or for other namespaces are kept apart, and passed over here.
    """
    for (other, first), (index, second) in combinations(declared.of("DestinationRule", NETWORKING), 2):
        if _host(first) != _host(second) or namespace_of(first) != namespace_of(second):
            continue
        if any(at(rule, "spec", "workloadSelector") for rule in (first, second)):
            continue
        if texts(at(first, "spec", "exportTo")) != texts(at(second, "spec", "exportTo")):
            continue
        policies = [at(rule, "spec", "trafficPolicy") for rule in (first, second)]
        if not all(policies) or policies[0] == policies[1]:
            continue
        yield declared.finding(
            "shared-destination",
            index,
            ("spec", "trafficPolicy"),
            f"{Ref.of(first)} has a trafficPolicy for host {_host(first)} too: only the older object's is kept, whole,"
            " portLevelSettings for other ports included",
            "one DestinationRule a host",
            "istio/istio pilot/pkg/model/destination_rule.go mergeDestinationRule; istio/istio#60165, #33147",
            other,
        )


def sticky_weights(declared: Declared) -> Iterator[Finding]:
    """Find weights between destinations of which one is chosen by consistentHash: clients do not stay with one."""
    for index, item in declared.of("VirtualService", NETWORKING):
        for number, rule in items(at(item, "spec", "http")):
            routes = [route for _, route in items(rule.get("route")) if route.get("weight") != 0]
            if len(routes) > 1 and any(_hashes(declared, route, item) for route in routes):
                yield declared.finding(
                    "sticky-weights",
                    index,
                    ("spec", "http", number, "route"),
                    "consistentHash keeps a client with one pod of a destination, but which destination is drawn anew"
                    " for each request, by weight: a client meets all of them",
                    "match a cookie or header before the weights, with a rule for each destination",
                    "istio/istio#9764, envoyproxy/envoy#8167",
                )


def _hashes(declared: Declared, route: Object, item: Object) -> bool:
    host, subset = at(route, "destination", "host"), at(route, "destination", "subset")
    for _, rule in declared.of("DestinationRule", NETWORKING):
        if namespace_of(rule) != namespace_of(item) or _host(rule) != _named(host, namespace_of(item)):
            continue
        own = [each for _, each in items(at(rule, "spec", "subsets")) if each.get("name") == subset]
        policies = [at(each, "trafficPolicy") for each in own] + [at(rule, "spec", "trafficPolicy")]
        balancers = [found for policy in policies if isinstance(found := at(policy, "loadBalancer"), Mapping)]
        # A subset's own load balancer replaces the rule's.
        if balancers and balancers[0].get("consistentHash"):
            return True
    return False


def _host(rule: Object) -> str:
    return _named(at(rule, "spec", "host"), namespace_of(rule))


def _named(host: object, namespace: str) -> str:
    """Give a host's name with namespace and domain; a name with dots in it is one already."""
    return host if isinstance(host, str) and "." in host else f"{host}.{namespace}.svc.cluster.local"
