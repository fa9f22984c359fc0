"""Rules of a DestinationRule's outlierDetection, alone and with the workloads behind its host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding, Object, Path, at, items, namespace_of, whole

# Envoy 1.28, which Istio 1.20 brought, holds to maxEjectionPercent for the first host too; before, one always went.
HOLDS_TO_MAXIMUM = (1, 20)
# Envoy's defaults, which hold where Istio's field is absent; 0 is Istio's absent for the percentage.
MAX_EJECTION_PERCENT = 10
CONSECUTIVE_5XX = 5
# The limits past which a proxy answers 503 UO. maxRequestsPerConnection only closes connections.
LIMITS = (("tcp", "maxConnections"), ("http", "http1MaxPendingRequests"), ("http", "http2MaxRequests"))


@dataclass(frozen=True)
class Policy:
    """One trafficPolicy with outlierDetection.

    Args:
        index: the DestinationRule's index among the objects.
        path: of the policy.
        settings: the policy.
        replicas: the number of hosts that it governs; None where the manifests do not say.
    """

    index: int
    path: Path
    settings: Object
    replicas: int | None

    @property
    def outlier(self) -> Object:
        """Its outlierDetection."""
        found: Object = self.settings["outlierDetection"]
        return found

    @property
    def percent(self) -> int:
        """The share of hosts that may be ejected."""
        return whole(self.outlier.get("maxEjectionPercent")) or MAX_EJECTION_PERCENT


def max_ejection_percent(declared: Declared) -> Iterator[Finding]:
    """Find a maxEjectionPercent that can eject no host."""
    if declared.istio < HOLDS_TO_MAXIMUM:
        return
    for policy in _policies(declared):
        if not policy.replicas or 100 / policy.replicas <= policy.percent:
            continue
        given = whole(policy.outlier.get("maxEjectionPercent"))
        hosts = "the only host" if policy.replicas == 1 else f"one of {policy.replicas} hosts"
        needed = -(-100 // policy.replicas)
        yield declared.finding(
            "max-ejection",
            policy.index,
            (*policy.path, "outlierDetection", *(["maxEjectionPercent"] if given is not None else [])),
            f"{hosts} is {100 / policy.replicas:.3g} %, more than maxEjectionPercent"
            f" {policy.percent}{'' if given else ', the default,'} allows: no host is ever ejected",
            "two replicas or more: ejecting the only one leaves none"
            if policy.replicas == 1
            else f"maxEjectionPercent: {needed} or more, or more replicas",
            "Envoy 1.28 release notes (check_mep_on_first_eject), in Istio from 1.20; seen: 10 with 3 hosts ejects"
            " nothing",
        )


def gateway_errors(declared: Declared) -> Iterator[Finding]:
    """Find a consecutiveGatewayErrors that is never reached."""
    for policy in _policies(declared):
        gateway = whole(policy.outlier.get("consecutiveGatewayErrors"))
        given = policy.outlier.get("consecutive5xxErrors")
        all_errors = CONSECUTIVE_5XX if given is None else whole(given)
        if gateway and all_errors and gateway > all_errors:
            yield declared.finding(
                "gateway-errors",
                policy.index,
                (*policy.path, "outlierDetection", "consecutiveGatewayErrors"),
                f"gateway errors are 5xx errors too, and after {all_errors} of these"
                f" (consecutive5xxErrors{'' if given else ', by default'}) the host is ejected:"
                f" {gateway} in a row are never reached",
                f"consecutive5xxErrors: 0 beside it, or a number up to {all_errors}",
                "Istio's DestinationRule reference (OutlierDetection.consecutiveGatewayErrors) (C6)",
            )


def self_ejection(declared: Declared) -> Iterator[Finding]:
    """Find connection limits and outlierDetection on the only replica."""
    for policy in _policies(declared):
        pool = policy.settings.get("connectionPool")
        limits = [name for part, name in LIMITS if whole(at(pool, part, name))]
        ejects = declared.istio < HOLDS_TO_MAXIMUM or policy.percent >= 100
        counts = policy.outlier.get("consecutive5xxErrors") != 0 or policy.outlier.get("consecutiveGatewayErrors")
        if policy.replicas == 1 and limits and ejects and counts:
            yield declared.finding(
                "self-ejection",
                policy.index,
                policy.path,
                f"the limits ({', '.join(limits)}) hold in the server's inbound proxy too; its overflow is a 503 that"
                " outlierDetection counts, and ejects the only replica: then every request gets 503 UH",
                "the connectionPool in a DestinationRule without outlierDetection, and outlierDetection with two"
                " replicas or more",
                "istio/istio cluster_builder.go (connectionPool is for inbound clusters too), istio/istio#31920; seen"
                " in 2 of 17 tries (C4)",
            )


def _policies(declared: Declared) -> Iterator[Policy]:
    """Go through the traffic policies with outlierDetection: of a whole host, of its ports and of its subsets."""
    for index, item in declared.of("DestinationRule", NETWORKING):
        service = declared.service(at(item, "spec", "host"), namespace_of(item))
        spec = at(item, "spec")
        subsets = [(("spec", "subsets", i), subset, at(subset, "labels")) for i, subset in items(at(spec, "subsets"))]
        for path, holder, labels in [(("spec",), spec, {}), *subsets]:
            policy = at(holder, "trafficPolicy")
            replicas = _replicas(declared, service, labels or {})
            here: Path = (*path, "trafficPolicy")
            levels = [(here, policy)] + [
                ((*here, "portLevelSettings", i), settings) for i, settings in items(at(policy, "portLevelSettings"))
            ]
            for where, settings in levels:
                if isinstance(at(settings, "outlierDetection"), Mapping):
                    yield Policy(index, where, settings, replicas)


def _replicas(declared: Declared, service: Object | None, labels: object) -> int | None:
    """Count the pods that the declared workloads put behind a Service; None where the manifests do not tell."""
    selector = at(service, "spec", "selector")
    if service is None or not isinstance(selector, Mapping) or not selector or not isinstance(labels, Mapping):
        return None
    wanted = {**selector, **labels}
    total, found = 0, False
    for kind in ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet"):
        for _, workload in declared.of(kind, "apps"):
            has = at(workload, "spec", "template", "metadata", "labels")
            if namespace_of(workload) != namespace_of(service) or not _selected(has, wanted):
                continue
            replicas = whole(at(workload, "spec", "replicas"))
            # Without a number a HorizontalPodAutoscaler may set it, or the number of nodes does.
            if replicas is None or _scaled(declared, workload):
                return None
            total, found = total + replicas, True
    return total if found else None


def _selected(labels: object, wanted: Mapping[str, Any]) -> bool:
    return isinstance(labels, Mapping) and all(key in labels and labels[key] == wanted[key] for key in wanted)


def _scaled(declared: Declared, workload: Object) -> bool:
    """Tell whether a declared HorizontalPodAutoscaler sets a workload's replicas."""
    return any(
        at(scaler, "spec", "scaleTargetRef", "kind") == workload["kind"]
        and at(scaler, "spec", "scaleTargetRef", "name") == workload["metadata"]["name"]
        and namespace_of(scaler) == namespace_of(workload)
        for _, scaler in declared.of("HorizontalPodAutoscaler", "autoscaling")
    )
