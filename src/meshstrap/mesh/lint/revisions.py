"""The rule of revisions: whose sidecar a pod gets, its namespace's or its own label's."""

from __future__ import annotations

from collections.abc import Iterator

from meshstrap.mesh import injector, revision
from meshstrap.mesh.lint.finding import Declared, Finding, at, namespace_of

_WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")


def overruled_revision(declared: Declared) -> Iterator[Finding]:
    """Find a pod template that asks for another revision than its namespace: the namespace's label decides."""
    asked = {
        item["metadata"]["name"]: (index, revision.injected(item["metadata"].get("labels") or {}))
        for index, item in declared.of("Namespace")
    }
    for kind in _WORKLOADS:
        for index, item in declared.of(kind, "apps"):
            own = at(item, "spec", "template", "metadata", "labels", injector.REVISION)
            other, given = asked.get(namespace_of(item), (None, ""))
            if own and given and own != given:
                yield declared.finding(
                    "overruled-revision",
                    index,
                    ("spec", "template", "metadata", "labels", injector.REVISION),
                    f"the namespace asks for revision {given}, which decides: the pods' own label for {own} is not"
                    " looked at",
                    "the label on the namespace, or on the pods of a namespace without one",
                    "istio/istio istio-discovery/templates/mutatingwebhook.yaml: the webhook for pods' labels selects"
                    " namespaces without one",
                    other,
                )
