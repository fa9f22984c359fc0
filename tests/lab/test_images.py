"""We test on the standing site that what the kubelet sees is what we say: a Pod that may pull nothing starts on every
node, and a worker's kubelet finds every image of the bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

PAUSE = "registry.k8s.io/pause:3.10.1"


def pod(name: str, node: str, images: list[str]) -> dict[str, Any]:
    containers = [
        {"name": f"c{number}", "image": image, "imagePullPolicy": "Never"} for number, image in enumerate(images)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "images-test", "labels": {"sidecar.istio.io/inject": "false"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": containers},
    }


@pytest.fixture
def namespace(kubectl: Callable[..., str]) -> Iterator[str]:
    """A namespace that is taken away again."""
    kubectl("create", "namespace", "images-test")
    yield "images-test"
    kubectl("delete", "namespace", "images-test", "--timeout=100s")


def test_a_pod_that_may_pull_nothing_starts_on_every_node(
    standing: Lab, kubectl: Callable[..., str], namespace: str
) -> None:
    nodes = read(standing.nodes_file).nodes
    for node in nodes:
        manifest = pod(f"on-{node.name}", node.name, [PAUSE])
        kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    kubectl("-n", namespace, "wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s")


def test_every_image_of_the_bundle_is_found_by_a_workers_kubelet(
    standing: Lab, kubectl: Callable[..., str], namespace: str
) -> None:
    lock = bundle_lock.read(standing.bundle / "bundle.lock.yaml")
    images = [image.reference for image in lock.images if not image.reference.startswith("registry.k8s.io/")]
    kubectl("create", "-f", "-", stdin=json.dumps(pod("all", "worker-1", images)))
    end = time.monotonic() + 60
    waiting: dict[str, str] = {"": "nothing said yet"}
    while waiting and time.monotonic() < end:
        time.sleep(1)
        statuses = json.loads(kubectl("-n", namespace, "get", "pod", "all", "-o", "json"))["status"].get(
            "containerStatuses", []
        )
        # Which of them run for long is not the question; a name that is not found never leaves this state.
        waiting = {each["image"]: str(each["state"]) for each in statuses if not each.get("imageID")}
        if len(statuses) < len(images):
            waiting[""] = "not all containers are known yet"
    assert waiting == {}
