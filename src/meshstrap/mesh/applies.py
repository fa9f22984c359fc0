"""Whom an object of Istio is for: pods by namespace and selector, callers by exportTo, hosts by name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshstrap.mesh.lint.finding import at, namespace_of, texts

Object = Mapping[str, Any]

# In the root namespace these with a selector are for the pods of all namespaces; the others for those of their own.
# Source: istio.io reference of each kind ("root namespace"); istio/istio pilot/pkg/model (authorization.go,
# envoyfilter.go, extensions.go against authentication.go, telemetry.go, sidecar.go).
_SELECTS_EVERYWHERE = ("AuthorizationPolicy", "EnvoyFilter", "RequestAuthentication", "WasmPlugin")

DOMAIN = "svc.cluster.local"


def selector(item: Object) -> dict[str, str]:
    """Give the labels that an object asks pods for; empty for all of its namespace."""
    spec = at(item, "spec")
    for path in (("selector", "matchLabels"), ("workloadSelector", "matchLabels"), ("workloadSelector", "labels")):
        if isinstance(labels := at(spec, *path), Mapping):
            return {str(key): str(value) for key, value in labels.items()}
    return {}


def to_pod(item: Object, pod: Object, root: str) -> bool:
    """Tell whether an object that is for pods is for this one.

    Args:
        item: a Sidecar, EnvoyFilter, policy, Telemetry ...
        pod: the pod.
        root: the mesh's root namespace.
    """
    if at(item, "spec", "targetRef") or at(item, "spec", "targetRefs"):
        return False
    wanted, labels = selector(item), pod["metadata"].get("labels") or {}
    if namespace_of(item) != namespace_of(pod):
        everywhere = not wanted or item["kind"] in _SELECTS_EVERYWHERE
        if namespace_of(item) != root or not everywhere:
            return False
    return wanted.items() <= labels.items()


def to_callers_of(item: Object, namespace: str) -> bool:
    """Tell whether a rule for hosts is seen by callers of a namespace, by its exportTo."""
    exported = texts(at(item, "spec", "exportTo"))
    return (
        not exported
        or "*" in exported
        or namespace in exported
        or ("." in exported and namespace_of(item) == namespace)
    )


def full_host(name: str, namespace: str) -> str:
    """Give a host's full name: a short one is a Service of the object's own namespace, one with a dot may be another's.

    Source: istio/istio pkg/config/host, `ResolveShortnameToFQDN`: a name without a dot is the namespace's own.
    """
    return name if "." in name or "*" in name else f"{name}.{namespace}.{DOMAIN}"


def covers(wide: str, host: str) -> bool:
    """Tell whether a host of a rule, which may begin with a wildcard, takes another host, or the same."""
    return wide in (host, "*") or (wide.startswith("*") and host.endswith(wide[1:]) and host != wide)


def older(one: Object, other: Object) -> bool:
    """Tell whether an object is older than another, as istiod sorts them.

    Source: istio/istio pilot/pkg/model/config.go, `sortConfigByCreationTime`: by creation, then name and namespace.
    """
    return _age(one) < _age(other)


def sorted_by_age(items: Iterable[Object]) -> list[Object]:
    """Sort objects as istiod does: the oldest first."""
    return sorted(items, key=_age)


def _age(item: Object) -> tuple[str, str]:
    metadata = item["metadata"]
    return str(metadata.get("creationTimestamp", "")), f"{metadata['name']}.{namespace_of(item)}"
