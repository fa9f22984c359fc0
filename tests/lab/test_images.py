"""We test on the standing site that what the kubelet sees is what we say: a Pod that may pull nothing starts on every
node, a worker's kubelet finds every image of the bundle, the scenarios run on archives that people have, and nothing is
pruned that the cluster may still start.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshstrap.bundle import archive
from meshstrap.bundle import lock as bundle_lock
from meshstrap.bundle.lock import Image
from meshstrap.bundle.store import Store
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]
Deploy = Callable[..., Any]
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


# The tutorial's images of the scenarios, by the names that its archives have.
ARCHIVES = (
    "kennethreitz/httpbin",
    "fortio/fortio:latest_release",
    "istio/examples-bookinfo-details-v1:1.15.0",
    "istio/examples-bookinfo-ratings-v1:1.15.0",
    "istio/examples-bookinfo-reviews-v1:1.15.0",
    "istio/examples-bookinfo-reviews-v2:1.15.0",
    "istio/examples-bookinfo-reviews-v3:1.15.0",
    "istio/examples-bookinfo-productpage-v1:1.16.2",
    "xianchao/canary:v1",
    "xianchao/canary:v2",
    "busybox:1.28",
    "nginx:1.14-alpine",
    "kubeguide/tomcat-app:v1",
)
# What the shipped scenarios ask for under another tag.
IMAGES = [
    {"name": name, "newTag": tag}
    for name, _, tag in (each.partition(":") for each in ARCHIVES)
    if tag in ("1.15.0", "latest_release")
]


@pytest.fixture
def bundle(standing: Lab, tmp_path: Path) -> Path:
    """A copy of the lab's bundle, its blobs links to the real ones."""
    blobs = tmp_path / "bundle" / "store" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in (standing.bundle / "store" / "blobs" / "sha256").iterdir():
        (blobs / blob.name).symlink_to(blob)
    for name in ("index.json", "oci-layout"):
        (blobs.parents[1] / name).write_bytes((standing.bundle / "store" / name).read_bytes())
    lock = bundle_lock.read(standing.bundle / "bundle.lock.yaml")
    bundle_lock.write(lock, tmp_path / "bundle" / "bundle.lock.yaml")
    return tmp_path / "bundle"


@pytest.fixture
def usb(standing: Lab, bundle: Path, tmp_path: Path) -> Path:
    """The tutorial's archives, as `docker save | gzip` writes them; the bundle has none of these images any more."""
    lock, store = bundle_lock.read(bundle / "bundle.lock.yaml"), Store(bundle / "store")
    known = {image.reference: image for image in lock.images}
    taken: list[Image] = []
    disk = tmp_path / "usb"
    disk.mkdir()
    for name in ARCHIVES:
        found = lock.image(name, "linux/amd64")
        assert found is not None, name
        taken.append(known[found.reference])
    loaded = subprocess.Popen(["docker", "load"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert loaded.stdin is not None
    archive.write(loaded.stdin, store, taken)  # type: ignore[arg-type]
    loaded.stdin.close()
    assert loaded.wait() == 0
    try:
        for number, name in enumerate(ARCHIVES):
            save = f"set -o pipefail; docker save {shlex.quote(name)} | gzip -1 >{disk}/{number}.tar.gz"
            subprocess.run(["bash", "-c", save], check=True)
    finally:
        subprocess.run(["docker", "image", "rm", *ARCHIVES], check=True, stdout=subprocess.DEVNULL)
    left = tuple(image for image in lock.images if image not in taken)
    bundle_lock.write(replace(lock, images=left), bundle / "bundle.lock.yaml")
    return disk


def test_the_scenarios_run_on_the_tutorials_archives(
    standing: Lab,
    meshstrap: Callable[..., Finished],
    on_node: Callable[..., Finished],
    deploy: Deploy,
    kubectl: Callable[..., str],
    bundle: Path,
    usb: Path,
) -> None:
    added = meshstrap(standing, "bundle", "add", str(usb), "--bundle", str(bundle))
    assert added.returncode == 0, added.stdout + added.stderr
    lock = bundle_lock.read(bundle / "bundle.lock.yaml")
    names = []
    for name in ARCHIVES:
        found = lock.image(name, "linux/amd64")
        assert found is not None and found.source.startswith("docker archive ")
        names.append(found.reference)
    removed = on_node(standing, "worker-1", f"ctr -n k8s.io images rm --sync {shlex.join(names)}")
    assert removed.returncode == 0, removed.stderr
    here = ("--data", f"bundle={bundle}")
    try:
        brought = deploy("images", *here)
        assert brought.code == 0 and "Bring the images onto the node" in brought.changed, brought.said
        proved = deploy("scenarios", *here, "--data", f"images={json.dumps(IMAGES)}")
        assert proved.code == 0, proved.said
        used = kubectl("get", "deployments", "-A", "-o", "jsonpath={..containers[*].image}").split()
        for name in names:
            assert name in used or name.removeprefix("docker.io/").removeprefix("library/") in used, name
    finally:
        back = deploy("images")
        again = deploy("scenarios", "--data", "prove=false")
    assert (back.code, again.code) == (0, 0), back.said + again.said


def test_an_image_that_a_deployment_names_is_not_pruned_though_nothing_runs_of_it(
    standing: Lab,
    on_node: Callable[..., Finished],
    deploy: Deploy,
    kubectl: Callable[..., str],
    namespace: str,
    bundle: Path,
) -> None:
    lock = bundle_lock.read(bundle / "bundle.lock.yaml")
    # Nothing on a worker is of the control plane's images, so the layers of this one are in no use there.
    scheduler = next(image for image in lock.images if "/kube-scheduler:" in image.reference)
    unused = replace(scheduler, reference="docker.io/school/unused:1")
    bundle_lock.write(replace(lock, images=(*lock.images, unused)), bundle / "bundle.lock.yaml")

    def there() -> bool:
        return "docker.io/school/unused:1" in on_node(standing, "worker-1", "ctr -n k8s.io images ls -q").stdout.split()

    brought = deploy("images", "--data", f"bundle={bundle}")
    assert brought.code == 0 and there(), brought.said
    kubectl("-n", namespace, "create", "deployment", "idle", "--replicas=0", "--image=school/unused:1")
    kept = deploy("images", "--data", "images_prune=true")
    assert kept.code == 0 and there(), kept.said
    kubectl("-n", namespace, "delete", "deployment", "idle", "--timeout=60s")
    pruned = deploy("images", "--data", "images_prune=true")
    assert pruned.code == 0 and not there(), pruned.said
