"""In what order kinds go to a cluster, and come off it: Flux's order, in five stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshstrap.kube.discovery import Resource
from meshstrap.kube.ref import Ref

_DEFINITIONS = ("CustomResourceDefinition", "Namespace")

# What intercepts others' requests comes when all that it may refuse, or that serves it, is there.
_INTERCEPTORS = (
    "APIService",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
)

# What starts Pods comes after the accounts, secrets and settings that Pods need to start.
_WORKLOADS = ("CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "ReplicationController", "StatefulSet")


def stages(refs: Iterable[Ref], resources: Mapping[Ref, Resource | None]) -> list[list[Ref]]:
    """Return objects in stages, each to be finished before the next is begun; empty stages are left out.

    Args:
        refs: the objects' names.
        resources: where their kinds are served; None where nobody knows yet.
    """
    ordered: list[list[Ref]] = [[], [], [], [], []]
    for ref in refs:
        ordered[_stage(ref, resources.get(ref))].append(ref)
    return [stage for stage in ordered if stage]


def _stage(ref: Ref, resource: Resource | None) -> int:
    if ref.kind in _DEFINITIONS:
        return 0
    if ref.kind in _INTERCEPTORS:
        return 4
    if ref.kind in _WORKLOADS:
        return 3
    return 1 if resource is not None and not resource.namespaced else 2
