"""What is there of Istio: istioctl on the node, the control plane and the proxies in the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import override

from meshstrap.facts import k8s
from meshstrap.facts.answer import AnswerFact

ISTIOCTL = "/usr/local/bin/istioctl"


class IstioctlVersion(AnswerFact[str]):
    """Returns the version of the node's istioctl, empty where there is none.

    .. code:: python

        "1.31.0"
    """

    default = str

    @override
    def command(self) -> str:
        return f"if test -x {ISTIOCTL}; then {ISTIOCTL} version --remote=false -o json; fi"

    @override
    def read(self, output: list[str]) -> str:
        return istioctl_version("\n".join(output))


class Version(AnswerFact[dict[str, Any]]):
    """Returns the Istio versions that run in the cluster: control planes by revision, and proxies by version.

    .. code:: python

        {
            "control_planes": {"default": {"version": "1.31.0", "namespace": "istio-system", "ready": True}},
            "proxies": {"1.31.0": 4},
        }
    """

    default = dict

    @override
    def command(self) -> str:
        deployments = k8s.get("deployments", "--all-namespaces", "--selector", "app=istiod")
        pods = k8s.get("pods", "--all-namespaces", "--selector", "service.istio.io/canonical-name")
        return f"{deployments} && echo {_BETWEEN} && {pods}"

    @override
    def read(self, output: list[str]) -> dict[str, Any]:
        if _BETWEEN not in output or output[0] == _BETWEEN:
            return {}
        middle = output.index(_BETWEEN)
        return versions(k8s.items(output[:middle]), k8s.items(output[middle + 1 :]))


_BETWEEN = "---"


def istioctl_version(text: str) -> str:
    """Read what `istioctl version --remote=false -o json` prints."""
    return str(json.loads(text)["clientVersion"]["version"])


def versions(deployments: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up the versions of Istio, by the image tags of control planes and proxies.

    Args:
        deployments: the Deployments of istiod.
        pods: pods of the mesh; those without a proxy are passed over.

    Returns:
        Control planes by revision, with version, namespace and readiness; the number of proxies by version.

    """
    planes = {}
    for deployment in deployments:
        metadata, status = deployment["metadata"], deployment.get("status", {})
        planes[metadata.get("labels", {}).get("istio.io/rev", "default")] = {
            "version": _tag(deployment["spec"]["template"]["spec"]["containers"][0]["image"]),
            "namespace": metadata["namespace"],
            "ready": status.get("readyReplicas", 0) >= deployment["spec"].get("replicas", 1),
        }
    proxies: dict[str, int] = {}
    for pod in pods:
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            if container["name"] == "istio-proxy":
                proxies[_tag(container["image"])] = proxies.get(_tag(container["image"]), 0) + 1
    return {"control_planes": planes, "proxies": proxies}


def _tag(image: str) -> str:
    name, _, digest = image.partition("@")
    _, colon, tag = name.rpartition(":")
    # What follows the last colon is the registry's port where a slash comes after it.
    return tag if colon and "/" not in tag else digest
