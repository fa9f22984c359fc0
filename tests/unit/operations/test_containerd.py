"""We test which images a node needs, what it does not have, and the configuration that containerd gets."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.store import Store, StoreError
from meshstrap.operations.containerd import (
    check_files,
    configuration,
    images_of,
    pause_image,
    references,
    toml,
    undelivered,
)
from meshstrap.operations.system import merge

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


def test_the_images_of_manifests_are_those_of_all_their_containers() -> None:
    pod = {"initContainers": [{"name": "i", "image": "r/init:1"}], "containers": [{"image": "r/main:1"}, {"name": "x"}]}
    objects = [
        {"kind": "DaemonSet", "spec": {"template": {"spec": pod}}},
        {"kind": "Pod", "spec": {"containers": [{"image": "r/pod:1"}]}},
        {"kind": "ConfigMap", "data": {"image": "r/none:1", "containers": "none"}},
    ]
    assert images_of(objects) == {"r/init:1", "r/main:1", "r/pod:1"}
    assert images_of([]) == set()


def test_the_pause_image_is_kubeadms_else_the_bundles() -> None:
    assert pause_image(["registry.k8s.io/pause:3.10.2"], LOCK) == "registry.k8s.io/pause:3.10.2"
    assert pause_image([], LOCK) == "registry.k8s.io/pause:3.10.1"
    assert pause_image([], Lock()) is None


def test_an_image_is_delivered_with_the_locked_manifest_and_every_blob() -> None:
    names = ["r/there:1", "r/half:1", "r/other:1", "r/gone:1"]
    good = f"sha256:{'3' * 64}"
    on_node = {
        "r/there:1": {"manifest": good, "complete": True, "pinned": True},
        "r/half:1": {"manifest": good, "complete": False, "pinned": True},
        "r/other:1": {"manifest": f"sha256:{'9' * 64}", "complete": True, "pinned": True},
    }
    assert undelivered([image(name) for name in names], on_node) == names[1:]  # type: ignore[arg-type]


def test_missing_and_altered_files_are_all_named_before_anything_is_sent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wanted = image("r/a:1")
    with pytest.raises(StoreError) as error:
        check_files(store, [wanted])
    assert str(error.value).count(": missing") == 3
    for digest in (wanted.manifest, wanted.config, wanted.layers[0].digest):
        path = store.blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"four")
    with pytest.raises(StoreError, match="altered: has 4 bytes instead of 3"):
        check_files(store, [wanted])
    store.blob(wanted.layers[0].digest).write_bytes(b"abc")
    check_files(store, [wanted])


def test_the_configuration_is_what_containerd_reads() -> None:
    over = {"plugins": {"io.containerd.cri.v1.runtime": {"disable_apparmor": True}}}
    read = tomllib.loads(toml(merge(configuration("registry.k8s.io/pause:3.10.1", systemd_cgroup=False), over)))
    runtime = read["plugins"]["io.containerd.cri.v1.runtime"]
    assert read["version"] == 3
    assert runtime["disable_apparmor"] is True
    assert runtime["cni"]["bin_dirs"] == ["/opt/cni/bin"]
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is False
    assert read["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == "registry.k8s.io/pause:3.10.1"


# TOML knows no character that stands for half of one, nor integers beyond 64 bits.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
VALUES = st.recursive(
    PLAIN | st.lists(PLAIN, max_size=3), lambda inner: st.dictionaries(TEXT, inner, max_size=3), max_leaves=10
)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_toml_is_read_back_as_it_was(settings: dict[str, object]) -> None:
    assert tomllib.loads(toml(settings)) == settings
