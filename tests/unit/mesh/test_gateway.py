"""The gateway's node port by name, its ready pods, sidecars in both lists, and the one Gateway."""

from __future__ import annotations

from typing import Any

import pytest

from meshstrap.kube import manifests
from meshstrap.mesh import gateway
from meshstrap.mesh.errors import GatewayError


def service(kind: str = "NodePort", **ports: int) -> dict[str, Any]:
    listed = [{"name": name, "port": 80, "nodePort": port} for name, port in ports.items()]
    return {
        "metadata": {"namespace": "istio-system", "name": "istio-ingressgateway"},
        "spec": {"type": kind, "ports": listed},
    }


def test_the_port_is_found_by_name() -> None:
    assert gateway.node_port(service(status=30302, http2=30191, https=30749)) == 30191


@pytest.mark.parametrize("broken", [service("ClusterIP"), service(http=30191), service(http2=0)])
def test_a_port_that_is_not_there_names_those_that_are(broken: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match=r"Service istio-system/istio-ingressgateway .* has no node port for http2"):
        gateway.node_port(broken)


def pod(name: str, ready: str = "True", **extra: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **extra},
        "status": {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]},
    }


def test_only_pods_that_take_requests_are_ready() -> None:
    pods = [pod("b"), pod("a"), pod("c", "False"), pod("d", deletionTimestamp="2026-11-23T19:20:01Z")]
    pending = {"metadata": {"name": "e"}, "status": {"phase": "Pending"}}
    assert [each["metadata"]["name"] for each in gateway.ready_pods([*pods, pending])] == ["a", "b"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"containers": [{"name": "nginx"}, {"name": "istio-proxy"}]}, True),
        (
            {"containers": [{"name": "nginx"}], "initContainers": [{"name": "istio-init"}, {"name": "istio-proxy"}]},
            True,
        ),
        ({"containers": [{"name": "nginx"}], "initContainers": None}, False),
        ({"containers": [{"name": "nginx"}]}, False),
    ],
)
def test_a_sidecar_is_found_in_either_list(spec: dict[str, Any], expected: bool) -> None:
    assert gateway.has_sidecar({"spec": spec}) is expected


def test_the_shared_gateway_is_what_the_constants_say() -> None:
    (shared,) = manifests.load(gateway.SHARED_GATEWAY)
    assert (shared["kind"], shared["metadata"]) == (
        "Gateway",
        {"name": gateway.SHARED_GATEWAY_NAME, "namespace": gateway.NAMESPACE},
    )
    assert shared["spec"]["selector"] == gateway.SELECTOR
    assert shared["spec"]["servers"] == [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]
