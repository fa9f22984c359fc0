"""We test that versions of Istio are read from image tags, and that nothing there means empty facts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshstrap.facts import istio


def deployment(image: str, *, ready: int = 1) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "istiod", "namespace": "istio-system", "labels": {"istio.io/rev": "default"}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "discovery", "image": image}]}}},
        "status": {"readyReplicas": ready},
    }


def pod(*images: str) -> dict[str, Any]:
    sidecars = [{"name": "istio-proxy", "image": image} for image in images]
    return {"kind": "Pod", "spec": {"containers": [{"name": "app", "image": "app:1"}], "initContainers": sidecars}}


def printed(deployments: list[dict[str, Any]], pods: list[dict[str, Any]]) -> list[str]:
    parts = [json.dumps({"kind": "List", "items": items}, indent=1).splitlines() for items in (deployments, pods)]
    return [*parts[0], "---", *parts[1]]


def test_control_planes_and_proxies_are_told_by_their_images() -> None:
    seen = istio.Version().process(
        printed(
            [deployment("docker.io/istio/pilot:1.31.0")],
            [pod("docker.io/istio/proxyv2:1.31.0"), pod("docker.io/istio/proxyv2:1.30.5"), pod()],
        )
    )
    assert seen == {
        "control_planes": {"default": {"version": "1.31.0", "namespace": "istio-system", "ready": True}},
        "proxies": {"1.31.0": 1, "1.30.5": 1},
    }


def test_a_control_plane_that_does_not_run_is_not_ready() -> None:
    seen = istio.versions([deployment("docker.io/istio/pilot:1.31.0", ready=0)], [])
    assert seen["control_planes"]["default"]["ready"] is False


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("registry:5000/istio/pilot:1.13.9", "1.13.9"),
        ("docker.io/istio/pilot:1.31.0@sha256:aa", "1.31.0"),
        ("docker.io/istio/pilot@sha256:aa", "sha256:aa"),
        ("registry:5000/istio/pilot@sha256:aa", "sha256:aa"),
    ],
)
def test_the_version_is_the_tag_or_else_the_digest(image: str, version: str) -> None:
    assert istio.versions([deployment(image)], [])["control_planes"]["default"]["version"] == version


def test_a_host_that_is_no_control_plane_has_no_version() -> None:
    # `test -e` is false for both kubectl calls: only the line between them is printed.
    assert istio.Version().process(["---"]) == {}


def test_istioctl_says_its_version() -> None:
    text = '{"clientVersion": {"version": "1.31.0", "revision": "eed52ebb66ad", "tag": "1.31.0"}}'
    assert istio.IstioctlVersion().process(text.splitlines()) == "1.31.0"
