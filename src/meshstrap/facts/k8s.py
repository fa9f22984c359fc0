"""What the cluster says: nodes, namespaces, node ports, images in use, any object.

For people and inventories: each fact runs `kubectl get ... -o json` on a control plane node and is empty on hosts that
are none. Operations read the API server themselves (`operations/api_server.py`): both sides take lists apart with
`kube/query.py` and sum them up with the functions here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from meshstrap.facts.answer import AnswerFact
from meshstrap.facts.system import PATH
from meshstrap.kube import query
from meshstrap.kube.errors import KubeError

KUBECONFIG = "/etc/kubernetes/admin.conf"
_KIND = re.compile(r"[A-Za-z][\w.,/-]*")

Object = Mapping[str, Any]


def get(*arguments: str) -> str:
    """Give the shell command that prints objects as JSON on a control plane node, and nothing on other hosts."""
    words = ["kubectl", "--kubeconfig", KUBECONFIG, "--request-timeout=20s", "get", *arguments, "-o", "json"]
    return f"{PATH}; if test -e {KUBECONFIG}; then {shlex.join(words)}; fi"


class Nodes(AnswerFact[dict[str, dict[str, Any]]]):
    """Returns the cluster's nodes.

    .. code:: python

        {
            "control-1": {
                "ready": True,
                "roles": ["control-plane"],
                "version": "v1.34.10",
                "address": "172.30.0.2",
                "pod_cidr": "10.244.0.0/24",
                "runtime": "containerd://2.4.2",
                "unschedulable": False,
            },
        }
    """

    default = dict

    @override
    def command(self) -> str:
        return get("nodes")

    @override
    def read(self, output: list[str]) -> dict[str, dict[str, Any]]:
        return nodes(items(output))


class Namespaces(AnswerFact[dict[str, dict[str, Any]]]):
    """Returns the namespaces and whether new pods in them get a sidecar, by which label.

    .. code:: python

        {
            "canary": {"injection": True, "label": "istio-injection=enabled", "phase": "Active"},
            "kube-system": {"injection": False, "label": "", "phase": "Active"},
        }
    """

    default = dict

    @override
    def command(self) -> str:
        return get("namespaces")

    @override
    def read(self, output: list[str]) -> dict[str, dict[str, Any]]:
        return namespaces(items(output))


class NodePorts(AnswerFact[dict[str, dict[str, dict[str, Any]]]]):
    """Returns the node ports by Service and port name, each with a URL ready to paste.

    .. code:: python

        {
            "istio-system/istio-ingressgateway": {
                "http2": {"port": 80, "node_port": 30191, "url": "http://172.30.0.2:30191"},
            },
        }
    """

    default = dict

    @override
    def command(self) -> str:
        return get("nodes,services", "--all-namespaces")

    @override
    def read(self, output: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
        found = items(output)
        return node_ports(
            [item for item in found if item["kind"] == "Service"],
            [item for item in found if item["kind"] == "Node"],
        )


class Images(AnswerFact[dict[str, dict[str, Any]]]):
    """Returns the images that the cluster's pods use.

    .. code:: python

        {
            "docker.io/istio/proxyv2:1.31.0": {
                "ids": ["sha256:5a0c..."],
                "nodes": ["control-1", "worker-1"],
                "pods": ["canary/appv1-6b9c", "istio-system/istio-ingressgateway-7d4f"],
            },
        }
    """

    default = dict

    @override
    def command(self) -> str:
        return get("pods", "--all-namespaces")

    @override
    def read(self, output: list[str]) -> dict[str, dict[str, Any]]:
        return images(items(output))


class Objects(AnswerFact[Any]):
    """Returns objects of one kind as the API server gives them, or what an expression picks from them.

    Secrets are not read: facts are printed at -vvv. Hosts without a cluster give an empty list, whatever is picked.

    + kind: such as `deployments` or `virtualservices.networking.istio.io`
    + namespace: only these; all namespaces when not given
    + select: a jmespath expression over the list of objects, such as `[].metadata.name`
    + labels: a label selector, such as `app=canary`

    .. code:: python

        [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "appv1", ...}, ...}]
    """

    default = list
    _select: str | None = None

    @override
    def command(
        self, kind: str, namespace: str | None = None, select: str | None = None, labels: str | None = None
    ) -> str:
        # No PyinfraError: for one of those `pyinfra ... fact` says nothing and exits with 0.
        if not _KIND.fullmatch(kind):
            raise ValueError(f"the fact Objects reads no {kind!r}: give a kind, such as `deployments`")
        if any(part.split(".")[0].split("/")[0].lower() in ("secret", "secrets") for part in kind.split(",")):
            raise ValueError("the fact Objects reads no Secrets: what a fact reads is printed at -vvv")
        if select is not None:
            # What is JSON too, such as `[0]`, pyinfra's command line has decoded already.
            self._select = select if isinstance(select, str) else json.dumps(select)
            try:
                query.check(self._select)
            except KubeError as error:
                raise ValueError(f"the fact Objects, select: {error}") from None
        where = ["--all-namespaces"] if namespace is None else ["--namespace", str(namespace)]
        return get(kind, *where, *([] if labels is None else ["--selector", str(labels)]))

    @override
    def read(self, output: list[str]) -> Any:
        found = items(output)
        if self._select is None:
            return found
        try:
            return query.select(found, self._select)
        except KubeError as error:
            raise FactProcessError(str(error)) from None


def items(output: Iterable[str]) -> list[dict[str, Any]]:
    """Take the objects out of what `kubectl get -o json` printed: a List, or one object."""
    return query.items(json.loads("\n".join(output)))


def nodes(found: Iterable[Object]) -> dict[str, dict[str, Any]]:
    """Sum up Nodes by name.

    Args:
        found: Nodes as the API server gives them.

    Returns:
        For each its readiness, roles, kubelet version, address, pod CIDR, runtime and whether it is cordoned.

    """
    return {
        node["metadata"]["name"]: {
            "ready": _condition(node, "Ready"),
            "roles": sorted(
                label.removeprefix("node-role.kubernetes.io/")
                for label in node["metadata"].get("labels", {})
                if label.startswith("node-role.kubernetes.io/")
            ),
            "version": node["status"]["nodeInfo"]["kubeletVersion"],
            "address": address(node),
            "pod_cidr": node["spec"].get("podCIDR", ""),
            "runtime": node["status"]["nodeInfo"]["containerRuntimeVersion"],
            "unschedulable": node["spec"].get("unschedulable", False),
        }
        for node in found
    }


def namespaces(found: Iterable[Object]) -> dict[str, dict[str, Any]]:
    """Sum up Namespaces by name: whether new pods get a sidecar, by which label, and the phase."""
    summed = {}
    for namespace in found:
        labels = namespace["metadata"].get("labels", {})
        label = injection_label(labels)
        summed[namespace["metadata"]["name"]] = {
            "injection": label not in ("", "istio-injection=disabled"),
            "label": label,
            "phase": namespace.get("status", {}).get("phase", ""),
        }
    return summed


def injection_label(labels: Mapping[str, str]) -> str:
    """Name the label of a namespace that decides on injection; empty where none does.

    Where both are set `istio-injection` decides: the webhook for revisions asks that it is absent.
    Source: istio/istio manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml.
    """
    for key in ("istio-injection", "istio.io/rev"):
        if key in labels:
            return f"{key}={labels[key]}"
    return ""


def node_ports(services: Iterable[Object], cluster_nodes: Iterable[Object]) -> dict[str, dict[str, dict[str, Any]]]:
    """Sum up the node ports of Services, by `namespace/name` and port name.

    Args:
        services: Services as the API server gives them.
        cluster_nodes: Nodes; every one answers on a node port, the URL takes the first ready one.

    Returns:
        For each port its number, node port and URL (`address:port` where the port's name says no HTTP).

    """
    ready = sorted(
        (node for node in cluster_nodes if _condition(node, "Ready")), key=lambda node: node["metadata"]["name"]
    )
    host = address(ready[0]) if ready else ""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for service in services:
        for port in service["spec"].get("ports", []):
            if port.get("nodePort"):
                name = f"{service['metadata']['namespace']}/{service['metadata']['name']}"
                found.setdefault(name, {})[port.get("name") or str(port["port"])] = {
                    "port": port["port"],
                    "node_port": port["nodePort"],
                    "url": _url(port, host),
                }
    return found


def images(pods: Iterable[Object]) -> dict[str, dict[str, Any]]:
    """Sum up the images that pods use, by the reference in their specification.

    Returns:
        For each the identities that the runtimes report, and the nodes and pods that use it.

    """
    found: dict[str, dict[str, set[str]]] = {}
    for pod in pods:
        status = pod.get("status", {})
        ids = {
            each["name"]: each.get("imageID", "")
            for each in [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
        }
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            use = found.setdefault(container["image"], {"ids": set(), "nodes": set(), "pods": set()})
            use["pods"].add(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
            use["nodes"].add(pod["spec"].get("nodeName", ""))
            use["ids"].add(ids.get(container["name"], "").rpartition("@")[2])
    return {image: {key: sorted(values - {""}) for key, values in use.items()} for image, use in sorted(found.items())}


def address(node: Object) -> str:
    """Give a Node's own IPv4 address, empty where it has none yet."""
    found = [
        each["address"]
        for each in node.get("status", {}).get("addresses", [])
        if each["type"] == "InternalIP" and ":" not in each["address"]
    ]
    return str(found[0]) if found else ""


def _condition(item: Object, kind: str) -> bool:
    return any(
        condition["type"] == kind and condition["status"] == "True"
        for condition in item.get("status", {}).get("conditions", [])
    )


def _url(port: Object, host: str) -> str:
    name = str(port.get("appProtocol") or port.get("name") or "")
    place = f"{host}:{port['nodePort']}"
    if name.startswith("https"):
        return f"https://{place}"
    return f"http://{place}" if name.startswith("http") else place
