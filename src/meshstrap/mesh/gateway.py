"""The ingress gateway: its Service's node ports, its pods, and the one Gateway that all scenarios share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meshstrap.mesh.errors import GatewayError

NAMESPACE = "istio-system"
SERVICE = "istio-ingressgateway"
SELECTOR = {"istio": "ingressgateway"}
HTTP_PORT = "http2"
PROXY = "istio-proxy"
CLUSTER, LOCAL = "Cluster", "Local"

# Applied by istio.py, not by a scenario: two Gateways with the same hosts and port are IST0145 and merge by luck.
SHARED_GATEWAY = Path(__file__).with_name("gateway.yaml")
SHARED_GATEWAY_NAME = "meshstrap-gateway"


def node_port(service: Mapping[str, Any], name: str = HTTP_PORT) -> int:
    """Find the node port of a Service's port by the port's name; a number would differ from install to install.

    Args:
        service: the Service as the API server gives it.
        name: the port's name, `http2` for the ingress gateway's port 80.

    Returns:
        The port that every node answers on.

    Raises:
        GatewayError: the Service has no such port, or the port has no node port.
    """
    metadata, spec = service["metadata"], service["spec"]
    for port in spec.get("ports", []):
        if port.get("name") == name and port.get("nodePort"):
            return int(port["nodePort"])
    known = ", ".join(f"{port.get('name')}:{port.get('nodePort', '-')}" for port in spec.get("ports", []))
    raise GatewayError(
        f"Service {metadata['namespace']}/{metadata['name']} (type {spec.get('type')}) has no node port for {name}"
        f" (its ports: {known or 'none'}); it should be of type NodePort"
    )


def listeners(service: Mapping[str, Any]) -> dict[int, int]:
    """Give for each port of a Service the port of the pods behind it, as far as that is told by number."""
    return {
        int(port["port"]): target
        for port in service["spec"].get("ports", [])
        if isinstance(target := port.get("targetPort", port["port"]), int)
    }


def external_traffic_policy(service: Mapping[str, Any]) -> str:
    """Read a Service's externalTrafficPolicy: with `Local`, nodes without a pod of it do not answer on its node ports.

    Source: kubernetes.io/docs/reference/networking/virtual-ips#external-traffic-policy; `Cluster` is the default.
    """
    return str(service["spec"].get("externalTrafficPolicy", CLUSTER))


def ready_pods(pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pick the pods that take requests: Ready, and not being deleted.

    Args:
        pods: Pods as the API server gives them.

    Returns:
        The ready ones, by name.
    """
    return sorted(
        (
            pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
            and any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in pod.get("status", {}).get("conditions", [])
            )
        ),
        key=lambda pod: str(pod["metadata"]["name"]),
    )


def has_sidecar(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod carries a proxy: an ordinary container, or a native sidecar among the init containers."""
    spec = pod["spec"]
    return any(
        container["name"] == PROXY for container in [*spec.get("containers", []), *(spec.get("initContainers") or [])]
    )
