"""The fields that decide whether a scenario's objects do what they are for, though no manifest spells them out.

Server-side apply leaves alone what others add beside a declaration. In these fields an addition switches the mesh off,
or another way, while every declared field stands as declared.
"""

from __future__ import annotations

from meshstrap.kube.beside import Path
from meshstrap.kube.ref import Ref

_METADATA: tuple[Path, ...] = (("f:metadata",), ("f:spec", "f:template", "f:metadata"))
_NAMESPACE_LABEL = "istio-injection"
# Istio injects nothing into pods of their node's network; a paused Deployment keeps the pods that it has.
_OF_WORKLOADS: tuple[Path, ...] = (("f:spec", "f:template", "f:spec", "f:hostNetwork"), ("f:spec", "f:paused"))


def decides(ref: Ref, path: Path) -> bool:
    """Tell whether an addition to a field is drift: Istio's labels, annotations and rules, or what keeps pods out.

    Sources: istio/istio pkg/kube/inject/inject.go `injectRequired` (labels, annotations, hostNetwork); istio.io,
    Resource Annotations and Resource Labels: all keys are of the domain istio.io but `istio-injection`.

    Args:
        ref: the object.
        path: the field, in the steps of managedFields.
    """
    above, key = path[:-1], path[-1].removeprefix("f:")
    if above[:-1] in _METADATA and above[-1] in ("f:labels", "f:annotations"):
        return key == _NAMESPACE_LABEL or key.partition("/")[0].endswith("istio.io")
    if ref.group.endswith("istio.io"):
        return above == ("f:spec",)
    return path in _OF_WORKLOADS
