"""How a proxy treats a cluster: limits and outlier detection from Envoy's dumps, against a DestinationRule.

A trafficPolicy holds in two places: in the clients' outbound cluster and, for its connectionPool, in the inbound
cluster of each server too, where several clients together run into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meshstrap.mesh.duration import seconds

CLUSTERS = "config_dump?resource=dynamic_active_clusters"
STATUSES = "clusters?format=json"

# What a policy says, by the DestinationRule's own paths, in words in which both spellings read alike. What is not
# declared is not in it.
Policy = dict[str, str]

_POOL = "connectionPool"
_OUTLIER = "outlierDetection"
# Path in a trafficPolicy -> Envoy's threshold. Istio takes 0 as not declared, and then sets "no limit".
_THRESHOLDS = {
    "tcp.maxConnections": "max_connections",
    "http.http1MaxPendingRequests": "max_pending_requests",
    "http.http2MaxRequests": "max_requests",
    "http.maxRetries": "max_retries",
}
_NO_LIMIT = 4294967295
_PER_CONNECTION = "http.maxRequestsPerConnection"
_IDLE = "http.idleTimeout"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Field of outlierDetection -> Envoy's.
_ERRORS = {"consecutive5xxErrors": "consecutive_5xx", "consecutiveGatewayErrors": "consecutive_gateway_failure"}
_TIMES = {"interval": "interval", "baseEjectionTime": "base_ejection_time"}
_PERCENT = {"maxEjectionPercent": "max_ejection_percent"}


def declared_policy(rule: Mapping[str, Any]) -> Policy:
    """Read what a DestinationRule says of its host.

    Source: istio/istio pilot/pkg/networking/core/cluster_traffic_policy.go, `applyConnectionPool` and
    `applyOutlierDetection`.

    Args:
        rule: the object as declared.

    Returns:
        Its policy; empty for a rule without any, as one that only names subsets.

    Raises:
        ValueError: it holds something that is not compared here, so that nothing is passed over in silence.
    """
    name = f"DestinationRule {rule['metadata']['namespace']}/{rule['metadata']['name']}"
    spec = rule["spec"]
    unknown = set(spec) - {"host", "trafficPolicy", "subsets"}
    unknown |= {f"subsets.{key}" for subset in spec.get("subsets", []) for key in set(subset) - {"name", "labels"}}
    policy = spec.get("trafficPolicy", {})
    unknown |= {f"trafficPolicy.{key}" for key in set(policy) - {_POOL, _OUTLIER}}
    flat = {
        f"{part}.{key}": value for part in ("tcp", "http") for key, value in policy.get(_POOL, {}).get(part, {}).items()
    }
    unknown |= {f"{_POOL}.{key}" for key in set(policy.get(_POOL, {})) - {"tcp", "http"}}
    unknown |= {f"{_POOL}.{key}" for key in set(flat) - {*_THRESHOLDS, _PER_CONNECTION, _IDLE}}
    outlier = policy.get(_OUTLIER, {})
    unknown |= {f"{_OUTLIER}.{key}" for key in set(outlier) - {*_ERRORS, *_TIMES, *_PERCENT}}
    if unknown:
        raise ValueError(f"{name}: cannot compare {', '.join(sorted(unknown))}")
    said = {
        f"{_POOL}.{key}": f"{seconds(value):g} s" if key == _IDLE else str(value)
        for key, value in flat.items()
        if value
    }
    if _OUTLIER in policy:
        said[_OUTLIER] = "on"
        for key, value in outlier.items():
            if key in _TIMES:
                said[f"{_OUTLIER}.{key}"] = f"{seconds(value):g} s"
            elif key in _ERRORS or value:
                said[f"{_OUTLIER}.{key}"] = str(value)
    return said


def refuse_incomparable(objects: Iterable[Mapping[str, Any]]) -> None:
    """Refuse DestinationRules with something that is not compared here, before they are applied.

    Args:
        objects: all that is declared together.

    Raises:
        ValueError: as `declared_policy`.
    """
    for item in objects:
        if item["kind"] == "DestinationRule":
            declared_policy(item)


def at_the_server(policy: Policy) -> Policy:
    """Give the part of a policy that holds in the servers' inbound clusters too: the connectionPool."""
    return {path: value for path, value in policy.items() if path.startswith(f"{_POOL}.")}


def cluster_differences(dump: Mapping[str, Any], declared: Mapping[str, Policy]) -> list[str]:
    """Say where a proxy treats clusters otherwise than declared.

    Args:
        dump: the proxy's parsed answer to `CLUSTERS`.
        declared: for each cluster its policy; an empty one where nothing may hold, as for a control without the rule.

    Returns:
        A sentence for each cluster that is not there, and for each limit that is other than declared, absent, or held
        though not declared.
    """
    held = {
        # Istio 1.23 puts the stat delimiter `;` at the end of some names.
        entry["cluster"]["name"].rstrip(";"): entry["cluster"]
        for entry in dump.get("configs", [])
        if "cluster" in entry
    }
    differences = []
    for cluster, policy in declared.items():
        if cluster not in held:
            differences.append(f"cluster {cluster}: is not there")
            continue
        seen = _held_policy(held[cluster])
        differences += [
            f"cluster {cluster}: {path} is {seen.get(path, 'not set')}, declared {policy.get(path, 'nothing')}"
            for path in sorted({*seen, *policy})
            if seen.get(path) != policy.get(path)
        ]
    return differences


def ejected(statuses: Mapping[str, Any], cluster: str) -> set[str] | None:
    """Read which endpoints of a cluster a proxy's outlier detection has ejected.

    Args:
        statuses: the proxy's parsed answer to `STATUSES`.
        cluster: its name.

    Returns:
        Their addresses, `address:port`, by the flag `failed_outlier_check`; what EDS says of them stays HEALTHY. None
        when the proxy does not show the cluster.
    """
    for status in statuses.get("cluster_statuses", []):
        if status["name"].rstrip(";") == cluster:
            return {
                f"{address['address']}:{address['port_value']}"
                for host in status.get("host_statuses", [])
                if host.get("health_status", {}).get("failed_outlier_check")
                for address in [host["address"]["socket_address"]]
            }
    return None


def _held_policy(cluster: Mapping[str, Any]) -> Policy:
    """Say what an Envoy cluster limits, as `declared_policy` says it of a DestinationRule."""
    return dict(_held_pool(cluster)) | dict(_held_outlier(cluster))


def _held_pool(cluster: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for threshold in cluster.get("circuit_breakers", {}).get("thresholds", []):
        if threshold.get("priority", "DEFAULT") != "DEFAULT":
            continue
        for path, key in _THRESHOLDS.items():
            if threshold.get(key, _NO_LIMIT) != _NO_LIMIT:
                yield f"{_POOL}.{path}", str(threshold[key])
    options = cluster.get("typed_extension_protocol_options", {}).get(_HTTP_OPTIONS, {})
    common = options.get("common_http_protocol_options", {})
    if requests := common.get("max_requests_per_connection"):
        yield f"{_POOL}.{_PER_CONNECTION}", str(requests)
    if idle := common.get("idle_timeout"):
        yield f"{_POOL}.{_IDLE}", f"{seconds(idle):g} s"


def _held_outlier(cluster: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    outlier = cluster.get("outlier_detection")
    if outlier is None:
        return
    yield _OUTLIER, "on"
    for path, key in _ERRORS.items():
        if key in outlier:
            enforced = outlier.get(f"enforcing_{key}")
            # Istio enforces all or, for a number of 0, nothing; another share was set by somebody else.
            odd = f", enforced for {enforced} %" if outlier[key] and enforced not in (None, 100) else ""
            yield f"{_OUTLIER}.{path}", f"{outlier[key]}{odd}"
    for path, key in _TIMES.items():
        if key in outlier:
            yield f"{_OUTLIER}.{path}", f"{seconds(outlier[key]):g} s"
    for path, key in _PERCENT.items():
        if key in outlier:
            yield f"{_OUTLIER}.{path}", str(outlier[key])
