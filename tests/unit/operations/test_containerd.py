"""We test which images a node needs, what it does not have, and the configuration that containerd gets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.plan import Batch, Runtime
from meshstrap.facts.kubeadm import parse_member
from meshstrap.operations.containerd import (
    GONE,
    load,
    pause_image,
    references,
    release,
    takes_workloads,
    undelivered,
)

KUBERNETES = [
    "registry.k8s.io/kube-apiserver:v1.34.10",
    "registry.k8s.io/kube-controller-manager:v1.34.10",
    "registry.k8s.io/kube-scheduler:v1.34.10",
    "registry.k8s.io/kube-proxy:v1.34.10",
    "registry.k8s.io/coredns/coredns:v1.12.1",
    "registry.k8s.io/pause:3.10.1",
    "registry.k8s.io/etcd:3.6.5-0",
]
ISTIO = ["docker.io/istio/pilot:1.31.0", "docker.io/istio/proxyv2:1.31.0"]
ON_EVERY_NODE = {KUBERNETES[3], KUBERNETES[4], KUBERNETES[5]}


def image(reference: str) -> Image:
    layer = Layer(digest=f"sha256:{'1' * 64}", diff_id=f"sha256:{'2' * 64}", size=3)
    return Image(
        reference=reference,
        platform="linux/amd64",
        manifest=f"sha256:{'3' * 64}",
        config=f"sha256:{'4' * 64}",
        layers=(layer,),
        size=10,
        source="test",
    )


LOCK = Lock(images=tuple(image(each) for each in [*KUBERNETES, *ISTIO, "registry.k8s.io/kube-proxy:v1.33.1"]))


@pytest.mark.parametrize("required", [KUBERNETES, []], ids=["kubeadm is there", "no kubeadm yet"])
@pytest.mark.parametrize(
    ("control_plane", "workloads", "expected"),
    [
        (True, False, set(KUBERNETES)),
        (True, True, {*KUBERNETES, *ISTIO}),
        (False, True, {*ON_EVERY_NODE, *ISTIO}),
    ],
)
def test_each_node_needs_what_runs_on_it(
    required: list[str], control_plane: bool, workloads: bool, expected: set[str]
) -> None:
    wanted = references(LOCK, required, "1.34.10", control_plane=control_plane, workloads=workloads)
    assert set(wanted) == expected


def test_in_a_cluster_that_others_made_only_workloads_are_ours_to_bring() -> None:
    wanted = references(LOCK, KUBERNETES, "1.34.10", control_plane=True, workloads=True, kubernetes=False)
    assert set(wanted) == set(ISTIO)


def test_images_that_the_bundle_lacks_are_named_where_no_kubeadm_names_them() -> None:
    wanted = references(LOCK, [], "1.36.0", control_plane=True, workloads=False)
    assert "registry.k8s.io/kube-apiserver:v1.36.0" in wanted


def test_what_kubeadm_names_counts_even_where_the_bundle_lacks_it() -> None:
    required = [*KUBERNETES[:-1], "registry.k8s.io/etcd:3.9.9-0"]
    assert "registry.k8s.io/etcd:3.9.9-0" in references(LOCK, required, "1.34.10", control_plane=True, workloads=False)


def test_the_pause_image_is_kubeadms_else_the_bundles() -> None:
    assert pause_image(["registry.k8s.io/pause:3.10.2"], LOCK) == "registry.k8s.io/pause:3.10.2"
    assert pause_image([], LOCK) == "registry.k8s.io/pause:3.10.1"
    assert pause_image([], Lock()) is None


def test_an_image_is_delivered_with_the_locked_manifest_and_every_blob() -> None:
    names = ["r/there:1", "r/half:1", "r/other:1", "r/gone:1"]
    good = f"sha256:{'3' * 64}"
    on_node = {
        "r/there:1": {"manifest": good, "complete": True, "unpacked": True},
        "r/half:1": {"manifest": good, "complete": False, "unpacked": True},
        "r/other:1": {"manifest": f"sha256:{'9' * 64}", "complete": True, "unpacked": True},
    }
    assert undelivered([image(name) for name in names], on_node) == names[1:]  # type: ignore[arg-type]


# Says what it was asked; the blob `sha256:gone` is not there, and an import fails where the file `fail` is.
CTR = """#!/bin/sh
shift 6
case "$*" in
    "images import -") cat >/dev/null; echo import >>"$LOG"; [ ! -e "$LOG.fail" ]; exit ;;
    *sha256:gone*containerd.io/gc.root=2*) exit 1 ;;
esac
echo "$*" | sed 's/gc.root=2.*Z/gc.root=NOW/' >>"$LOG"
"""


@pytest.fixture
def ctr(tmp_path: Path) -> Path:
    """A ctr on PATH that writes down what it is asked; its log."""
    program = tmp_path / "ctr"
    program.write_text(CTR)
    program.chmod(0o755)
    return tmp_path / "log"


def run(command: object, log: Path) -> int:
    log.unlink(missing_ok=True)
    environment = {"PATH": f"{log.parent}:{os.environ['PATH']}", "LOG": str(log)}
    script = command.get_raw_value()  # type: ignore[attr-defined]
    return subprocess.run(["sh", "-c", script], input=b"tar", env=environment, timeout=30, check=False).returncode


def on_node(**changes: object) -> Runtime:
    known = {"kind": "containerd", "endpoint": "/run/containerd/containerd.sock", "pinnable": True, "claims": []}
    return {**known, **changes}  # type: ignore[typeddict-item]


def batch(*claims: str) -> Batch:
    return Batch((image("r/a:1"), image("r/b:1")), frozenset(), claims)


def test_what_an_archive_leaves_out_is_claimed_before_the_import_and_released_after(ctr: Path) -> None:
    assert run(load(on_node(), batch("sha256:one", "chain:sha256:two"), {"r/a:1"}), ctr) == 0
    calls = ctr.read_text().splitlines()
    # Claims are made at a time, so in any order, and so are they released.
    assert sorted(calls[:2]) == [
        "content label sha256:one containerd.io/gc.root=NOW meshstrap.dev/claimed=yes",
        "snapshots prepare meshstrap-claim-sha256:two sha256:two",
    ]
    assert calls[2] == "import"
    assert sorted(calls[3:6]) == [
        f"content label {image('r/a:1').manifest} meshstrap.dev/brought=yes",
        "images label r/a:1 io.cri-containerd.pinned=pinned meshstrap.dev/brought=yes",
        "images label r/b:1 io.cri-containerd.pinned=pinned",
    ]
    assert sorted(calls[6:]) == [
        "content label sha256:one containerd.io/gc.root= meshstrap.dev/claimed=",
        "snapshots rm meshstrap-claim-sha256:two",
    ]


def test_an_import_that_fails_releases_too_and_marks_nothing(ctr: Path) -> None:
    Path(f"{ctr}.fail").touch()
    assert run(load(on_node(), batch("sha256:one"), {"r/a:1"}), ctr) == 1
    assert ctr.read_text().splitlines()[1:] == [
        "import",
        "content label sha256:one containerd.io/gc.root= meshstrap.dev/claimed=",
    ]


def test_what_is_gone_by_now_stops_the_import_before_anything_is_read(ctr: Path) -> None:
    assert run(load(on_node(), batch("sha256:one", "sha256:gone"), {"r/a:1"}), ctr) == GONE
    assert "import" not in ctr.read_text().splitlines()
    assert "content label sha256:one containerd.io/gc.root= meshstrap.dev/claimed=" in ctr.read_text()


def test_what_is_not_ours_is_pinned_and_not_marked(ctr: Path) -> None:
    assert run(load(on_node(pinnable=False), batch(), set()), ctr) == 0
    calls = ctr.read_text().splitlines()
    assert calls[0] == "import"
    assert sorted(calls[1:]) == [f"images label r/{name}:1 io.cri-containerd.pinned=pinned" for name in "ab"]


def test_what_a_dead_run_claimed_is_released_by_its_kind(ctr: Path) -> None:
    assert run(release(on_node(claims=["sha256:one", "meshstrap-claim-sha256:two"])), ctr) == 0
    # At a time, so in any order.
    assert sorted(ctr.read_text().splitlines()) == [
        "content label sha256:one containerd.io/gc.root= meshstrap.dev/claimed=",
        "snapshots rm meshstrap-claim-sha256:two",
    ]


@pytest.mark.parametrize("takes_pods", [True, False])
def test_a_control_plane_node_beside_workers_runs_what_its_cluster_lets_it(takes_pods: bool) -> None:
    confs = ["hostname n", "conf kubelet", "conf admin"]
    assert takes_workloads(parse_member([*confs, "mark done"]), takes_pods) is takes_pods
    assert takes_workloads(parse_member(confs), False)
    assert not takes_workloads(parse_member(["hostname n"]), False)
