"""We test which images the injection of Istio adds to pods."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshstrap.mesh.errors import MeshError
from meshstrap.mesh.sidecar import images, of_pods


def injector(**changes: Any) -> dict[str, Any]:
    values = {
        "hub": "docker.io/istio",
        "tag": "1.31.0",
        "imagePullPolicy": "",
        "proxy": {"image": "proxyv2"},
        "proxy_init": {"image": "proxyv2"},
        **changes,
    }
    return {
        "kind": "ConfigMap",
        "metadata": {"name": "istio-sidecar-injector-1-31", "namespace": "istio-system"},
        "data": {"values": json.dumps({"global": values})},
    }


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ["docker.io/istio/proxyv2:1.31.0", "docker.io/istio/proxyv2:1.31.0"]),
        ({"variant": "distroless"}, ["docker.io/istio/proxyv2:1.31.0-distroless"] * 2),
        ({"tag": 1.31, "hub": "gcr.io/x"}, ["gcr.io/x/proxyv2:1.31"] * 2),
        ({"proxy": {"image": "quay.io/mine/proxy:7"}}, ["quay.io/mine/proxy:7", "docker.io/istio/proxyv2:1.31.0"]),
    ],
)
def test_the_proxys_and_the_init_containers_image(changes: dict[str, Any], wanted: list[str]) -> None:
    found = images([{"kind": "Deployment", "metadata": {"name": "istiod"}}, injector(**changes)], "istioctl")
    assert [use.reference for use in found] == wanted
    assert all("ConfigMap/istio-system/istio-sidecar-injector-1-31" in use.place for use in found)


def test_the_injections_policy_counts_too() -> None:
    assert {use.policy for use in images([injector(imagePullPolicy="Always")], "istioctl")} == {"Always"}


def test_values_that_are_none_are_an_error() -> None:
    with pytest.raises(MeshError, match="its values cannot be read"):
        images([injector(proxy=None)], "istioctl")


def test_a_pod_may_name_its_proxys_image_itself() -> None:
    pod = {
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"template": {"metadata": {"annotations": {"sidecar.istio.io/proxyImage": "mine:1"}}}},
    }
    assert [(use.place, use.reference) for use in of_pods([pod], "d.yaml")] == [("Deployment/d in d.yaml", "mine:1")]
