"""We test on the standing site that what the kubelet sees is what we say: a Pod that may pull nothing starts on every
node, the kubelet's garbage collection spares the images that are pinned, and what it took is put back alone.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]
Deploy = Callable[..., Any]
PAUSE = "registry.k8s.io/pause:3.10.1"
# In the bundle, and nothing of a standing site runs it.
SPARE = "docker.io/kubeguide/tomcat-app:v1"
CONFIG = "/var/lib/kubelet/config.yaml"
# The kubelet collects once when it starts, and then every five minutes.
COLLECT = f"""
cp {CONFIG} /root/kubelet-config.yaml
sed -i -e '/^imageGC/d' -e '/^imageMinimumGCAge/d' {CONFIG}
printf 'imageGCHighThresholdPercent: 1\\nimageGCLowThresholdPercent: 0\\nimageMinimumGCAge: 0s\\n' >>{CONFIG}
systemctl restart kubelet
"""
RESTORE = f"mv /root/kubelet-config.yaml {CONFIG} && systemctl restart kubelet"


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


@pytest.fixture
def collected(standing: Lab, on_node: Callable[..., Finished]) -> Iterator[Callable[[], set[str]]]:
    """What is left on worker-1 after the kubelet was made to collect garbage; one image had lost its pin."""

    def names() -> set[str]:
        return set(on_node(standing, "worker-1", "ctr -n k8s.io images ls -q").stdout.split())

    assert SPARE in names()
    # A container that another test had of it keeps it from being collected, until the kubelet has removed that too.
    end = time.monotonic() + 90
    while SPARE in on_node(standing, "worker-1", "ctr -n k8s.io containers ls").stdout:
        assert time.monotonic() < end, "a container of it is still there"
        time.sleep(1)
    on_node(standing, "worker-1", f"ctr -n k8s.io images label {SPARE} io.cri-containerd.pinned=")
    assert on_node(standing, "worker-1", COLLECT).returncode == 0
    try:
        end = time.monotonic() + 120
        while SPARE in names() and time.monotonic() < end:
            time.sleep(1)
        yield names
    finally:
        on_node(standing, "worker-1", RESTORE)


def test_garbage_collection_spares_what_is_pinned_and_the_next_run_puts_back_what_it_took(
    standing: Lab, deploy: Deploy, collected: Callable[[], set[str]]
) -> None:
    lock = bundle_lock.read(standing.bundle / "bundle.lock.yaml")
    wanted = {image.reference for image in lock.images if not image.reference.startswith("registry.k8s.io/")}
    assert wanted - collected() == {SPARE}
    run = deploy("images")
    assert run.code == 0, run.said
    assert "[worker-1] 1 images, " in run.said and "[control-1] " + "1 images, " not in run.said
    assert wanted <= collected()
