"""We test on Debian's own containerd 1.6 and Docker 20.10 that images arrive whole, that only what lacks travels, and
that what these runtimes cannot do is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock

from .one_node import OneNode

NO_CHANGE = r"Bring the images onto the node +1 +- +- +1"
DOCKER = ("containerd", "runc", "docker.io", "tini", "libdevmapper1.02.1", "dmsetup")
ENDPOINT = "/var/lib/kubelet/kubeadm-flags.env"


@pytest.fixture(scope="module")
def bundle(small_bundle: Callable[..., Path]) -> Path:
    """Two images on one base, two megabytes a layer."""
    return small_bundle(one=["base", "one"], two=["base", "two"])


@pytest.fixture(scope="module")
def changed(small_bundle: Callable[..., Path]) -> Path:
    """The same, with another layer on top of one."""
    return small_bundle(one=["base", "new"], two=["base", "two"])


@pytest.fixture(scope="module")
def containerd16(one_node: Callable[[str], OneNode], debian_packages: Callable[..., Path]) -> OneNode:
    """A node with Debian's containerd 1.6."""
    node = one_node("worker-1")
    node.install(debian_packages("containerd", "runc"))
    assert "1.6." in node.sh("systemctl start containerd && ctr version")
    return node


@pytest.fixture(scope="module")
def docker(one_node: Callable[[str], OneNode], debian_packages: Callable[..., Path]) -> OneNode:
    """A node with Debian's Docker, whose kubelet's endpoint leads to it; containerd runs there too, as Docker's own."""
    node = one_node("worker-2")
    # Docker's overlay2 needs a directory that is on no overlay file system itself.
    node.sh('mkdir -p /etc/docker; echo \'{"data-root": "/var/lib/containerd/docker"}\' >/etc/docker/daemon.json')
    node.install(debian_packages(*DOCKER))
    node.sh(
        "systemctl start docker;"
        f" echo 'KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/cri-dockerd.sock\"' >{ENDPOINT}"
    )
    assert node.sh("docker info --format '{{.ServerVersion}} {{.Driver}}'").startswith("20.10")
    return node


def sent(said: str) -> float:
    """Read how many megabytes a run says that it sent."""
    match = re.search(r"\d+ images, ([\d.]+) MB, in", said)
    assert match, said
    return float(match[1])


def checked(node: OneNode) -> list[str]:
    """List the tests' images as `images check` has them: name, complete or not, unpacked or not."""
    table = node.sh("ctr -n k8s.io images check")
    rows = re.findall(r"^docker\.io/tests/(\w+):1 .* (complete|incomplete) \(.* (true|false) *$", table, re.MULTILINE)
    return [" ".join(row) for row in rows]


BOTH = ["one complete true", "two complete true"]


def test_containerd_16_gets_a_shared_base_once_and_then_nothing(containerd16: OneNode, bundle: Path) -> None:
    code, said = containerd16.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(6.3, abs=0.1)
    assert "containerd 1.6.20~ds1 cannot pin them" in said
    assert checked(containerd16) == BOTH
    code, said = containerd16.images(bundle, "-v")
    assert code == 0 and re.search(NO_CHANGE, said), said
    # The cheap question tells it, as on a containerd that heeds the mark.
    assert "complete and marked as pinned" in said


def test_containerd_16_gets_the_changed_layer_alone(containerd16: OneNode, changed: Path, bundle: Path) -> None:
    for each in (changed, bundle):
        code, said = containerd16.images(each)
        assert code == 0, said
        assert sent(said) < 2.2
        assert checked(containerd16) == BOTH


def test_containerd_16s_half_image_is_repaired(containerd16: OneNode, bundle: Path) -> None:
    image = bundle_lock.read(bundle / "bundle.lock.yaml").images[0]
    containerd16.sh(f"ctr -n k8s.io content rm {image.layers[1].digest}")
    assert checked(containerd16) == ["one incomplete true", "two complete true"]
    code, said = containerd16.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(2.1, abs=0.05)
    assert checked(containerd16) == BOTH


def test_an_image_that_came_by_docker_save_is_the_same_image(
    containerd16: OneNode, docker: OneNode, bundle: Path
) -> None:
    config = bundle_lock.read(bundle / "bundle.lock.yaml").images[0].config
    assert docker.images(bundle)[0] == 0
    docker.sh("ctr -n k8s.io images ls -q | xargs -r ctr -n k8s.io images rm --sync")
    docker.sh("docker save tests/one:1 | ctr -n k8s.io images import -")
    docker.sh(f"mv {ENDPOINT} /root/endpoint")
    try:
        code, said = docker.images(bundle)
    finally:
        docker.sh(f"mv /root/endpoint {ENDPOINT}")
    assert code == 0, said
    # Its layers are other blobs, so the other image travels whole.
    assert sent(said) == pytest.approx(4.2, abs=0.1)
    assert config in docker.sh("ctr -n k8s.io images ls -q")
    assert "docker.distribution.manifest" in docker.sh("ctr -n k8s.io images ls name==docker.io/tests/one:1")


DISCARD = """
mkdir -p /etc/containerd
cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  discard_unpacked_layers = true
END
systemctl restart containerd
"""


@pytest.fixture
def discarding(containerd16: OneNode, bundle: Path) -> Iterator[OneNode]:
    """The node with its images, configured to discard layers once unpacked, and with none left."""
    assert containerd16.images(bundle)[0] == 0
    containerd16.sh(DISCARD)
    layers = {layer.digest for image in bundle_lock.read(bundle / "bundle.lock.yaml").images for layer in image.layers}
    containerd16.sh(f"ctr -n k8s.io content rm {' '.join(layers)}")
    yield containerd16
    containerd16.sh("rm /etc/containerd/config.toml; systemctl restart containerd")


def test_where_layers_are_discarded_snapshots_count(discarding: OneNode, bundle: Path, changed: Path) -> None:
    assert checked(discarding) == ["one incomplete true", "two incomplete true"]
    code, said = discarding.images(bundle)
    assert code == 0 and re.search(NO_CHANGE, said), said
    code, said = discarding.images(changed)
    assert code == 0, said
    assert sent(said) == pytest.approx(2.1, abs=0.05)
    code, said = discarding.images(changed)
    assert code == 0 and re.search(NO_CHANGE, said), said
    assert "meshstrap-claim" not in discarding.sh("ctr -n k8s.io snapshots ls")


NATIVE = """
mkdir -p /etc/containerd
cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
END
systemctl restart containerd
"""


def test_images_are_unpacked_for_the_snapshotter_that_the_kubelet_has(containerd16: OneNode, bundle: Path) -> None:
    assert containerd16.images(bundle)[0] == 0
    containerd16.sh(NATIVE)
    try:
        code, said = containerd16.images(bundle)
        assert code == 0, said
        rows = containerd16.sh("CONTAINERD_SNAPSHOTTER=native ctr -n k8s.io images check")
        assert re.findall(r"^docker\.io/tests/(\w+):1 .* (true|false) *$", rows, re.MULTILINE) == [
            ("one", "true"),
            ("two", "true"),
        ]
        code, said = containerd16.images(bundle)
        assert code == 0 and re.search(NO_CHANGE, said), said
    finally:
        containerd16.sh("rm /etc/containerd/config.toml; systemctl restart containerd")


@pytest.fixture
def empty(docker: OneNode) -> OneNode:
    """The Docker node without images."""
    docker.sh("docker ps -aq | xargs -r docker rm >/dev/null; docker image ls -aq | xargs -r docker image rm -f")
    return docker


def tags(node: OneNode) -> set[str]:
    return set(node.sh("docker image ls --format '{{.Repository}}:{{.Tag}}'").split())


def test_docker_gets_a_shared_base_once_and_then_nothing(empty: OneNode, bundle: Path) -> None:
    code, said = empty.images(bundle, "--dry")
    assert code == 0 and "disk /var/lib/containerd/docker: they take about" in said
    assert tags(empty) == set()
    code, said = empty.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(6.3, abs=0.1)
    assert tags(empty) == {"tests/one:1", "tests/two:1"}
    image = bundle_lock.read(bundle / "bundle.lock.yaml").images[0]
    assert empty.sh("docker image inspect --format '{{.Id}}' tests/one:1").strip() == image.config
    # It can be started from: its files are there.
    empty.sh("docker create --name whole tests/one:1 && docker cp whole:/base - | wc -c | grep -q 209")
    code, said = empty.images(bundle, "-v")
    assert code == 0 and re.search(NO_CHANGE, said), said
    assert "docker 20.10.24+dfsg1 cannot pin them" in said


def test_docker_gets_the_changed_layer_alone_and_what_was_removed_back(
    empty: OneNode, bundle: Path, changed: Path
) -> None:
    assert empty.images(bundle)[0] == 0
    code, said = empty.images(changed)
    assert code == 0, said
    assert sent(said) == pytest.approx(2.1, abs=0.05)
    empty.sh("docker image rm tests/two:1")
    code, said = empty.images(changed)
    assert code == 0, said
    assert sent(said) == pytest.approx(2.1, abs=0.05)
    assert tags(empty) >= {"tests/one:1", "tests/two:1"}


def test_prune_on_docker_spares_what_others_brought_or_use(
    empty: OneNode, bundle: Path, small_bundle: Callable[..., Path]
) -> None:
    assert empty.images(bundle)[0] == 0
    empty.sh("docker create --name user tests/two:1; tar c -C /etc hostname | docker import - people/own:1")
    other = small_bundle(other=["other"])
    with empty.without_pods():
        assert empty.images(other, "--data", "images_prune=true")[0] == 0
        assert tags(empty) == {"tests/two:1", "tests/other:1", "people/own:1"}
        code, said = empty.images(other, "--data", "images_prune=true")
    assert code == 0 and re.search(NO_CHANGE, said), said


def test_a_docker_that_is_stopped_is_said_so(docker: OneNode, bundle: Path) -> None:
    docker.sh("systemctl stop docker.socket docker")
    try:
        code, said = docker.images(bundle)
    finally:
        docker.sh("systemctl start docker")
    assert code == 1
    assert "worker-2: docker does not answer at /run/cri-dockerd.sock" in said


def test_a_layer_that_docker_lost_meanwhile_travels_after_all(empty: OneNode, bundle: Path) -> None:
    one = bundle_lock.read(bundle / "bundle.lock.yaml").images[0]
    assert empty.images(bundle)[0] == 0
    empty.sh("docker image rm tests/two:1")
    # Removed when the engine is about to take the other image.
    empty.sh(
        "printf '#!/bin/sh\\ncase $1 in load) [ -e /run/lost ] || /usr/bin/docker image rm tests/one:1 >/run/lost ;;"
        ' esac\\nexec /usr/bin/docker "$@"\\n\' >/usr/local/sbin/docker; chmod 755 /usr/local/sbin/docker'
    )
    try:
        code, said = empty.images(bundle)
    finally:
        empty.sh("rm /usr/local/sbin/docker /run/lost")
    assert code == 0, said
    assert "which was there when the node was asked" in said
    assert tags(empty) == {"tests/one:1", "tests/two:1"}
    assert empty.sh("docker image inspect --format '{{.Id}}' tests/one:1").strip() == one.config


LAYER = 8 << 20
# What goes over a connection before the first byte of an image.
BEFORE = 60_000
COMPLETE = {
    "containerd16": "ctr -n k8s.io images check | sed -n 's,.*/tests/\\([a-z]*\\):.* complete (.* true *$,\\1,p'",
    "docker": "docker image ls --format '{{.Repository}}' tests/* | sed 's,tests/,,'",
}


@pytest.fixture(params=["containerd16", "docker"])
def older(request: pytest.FixtureRequest) -> tuple[OneNode, Callable[[], set[str]]]:
    """A node with an older runtime and none of the tests' images, and what says which of them it has."""
    node: OneNode = request.getfixturevalue(request.param)
    if request.param == "docker":
        node.sh("docker ps -aq | xargs -r docker rm -f; docker image ls -q | sort -u | xargs -r docker image rm -f")
    else:
        node.sh(
            "ctr -n k8s.io leases ls -q | xargs -r ctr -n k8s.io leases rm;"
            " ctr -n k8s.io images ls -q | xargs -r ctr -n k8s.io images rm --sync"
        )
    return node, lambda: set(node.sh(COMPLETE[request.param]).split())


@pytest.fixture(scope="module")
def large(small_bundle: Callable[..., Path]) -> Path:
    """Two images on one base, of layers so large that each is an archive of its own."""
    return small_bundle(size=LAYER, one=["base", "one"], two=["base", "two"])


def test_older_runtimes_lose_no_image_that_was_through_when_the_line_is_cut(
    older: tuple[OneNode, Callable[[], set[str]]], large: Path
) -> None:
    node, there = older
    with node.held(large, BEFORE + 2 * LAYER + LAYER // 2) as (process, proxy):
        assert there() == {"one"}
        proxy.cut()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 0 and "Traceback" not in said, said
    assert "what the node lacks now is sent" in said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert there() == {"one", "two"}


def test_older_runtimes_are_completed_after_an_operator_was_killed(
    older: tuple[OneNode, Callable[[], set[str]]], large: Path
) -> None:
    node, there = older
    with node.held(large, BEFORE + 2 * LAYER + LAYER // 2) as (process, _):
        process.kill()
    code, said = node.images(large)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert there() == {"one", "two"}
    if node.name == "worker-1":
        assert node.sh("ctr -n k8s.io content ls | grep -c meshstrap.dev/claimed || true").strip() == "0"


def test_of_two_runs_at_once_on_an_older_runtime_one_stops(
    older: tuple[OneNode, Callable[[], set[str]]], large: Path
) -> None:
    node, there = older
    with node.held(large, BEFORE + LAYER) as (process, proxy):
        code, said = node.images(large)
        assert code == 1 and "another run is under way" in said
        proxy.go_on()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    assert there() == {"one", "two"}


def test_an_older_runtime_that_stops_midway_fails_the_node_with_words(
    older: tuple[OneNode, Callable[[], set[str]]], large: Path
) -> None:
    node, there = older
    services = "docker.socket docker" if node.name == "worker-2" else "containerd"
    with node.held(large, BEFORE + LAYER) as (process, proxy):
        node.sh(f"systemctl stop {services}")
        proxy.go_on()
        said = process.communicate(timeout=180)[0]
    node.sh(f"systemctl start {services}")
    assert process.returncode == 1 and "Traceback" not in said, said
    assert f"{node.name}: {'docker' if node.name == 'worker-2' else 'containerd'} refused docker.io/tests/" in said, (
        said
    )
    code, said = node.images(large)
    assert code == 0, said
    assert there() == {"one", "two"}


def test_what_cannot_fit_an_older_runtime_is_not_begun(
    older: tuple[OneNode, Callable[[], set[str]]], small_bundle: Callable[..., Path]
) -> None:
    node, there = older
    # Whatever the disk: a kubelet that wants all of it free.
    wish = ("--data", 'kubelet_config={"evictionHard": {"imagefs.available": "100%"}}')
    code, said = node.images(small_bundle(one=["base", "one"]), *wish)
    assert code == 1, said
    assert "are missing: the images take about" in said and "Nothing was sent" in said
    assert there() == set()


def test_cri_o_is_refused_with_words(docker: OneNode, bundle: Path) -> None:
    docker.sh(f"cp {ENDPOINT} /root/endpoint; sed -i 's|unix:[^\"]*|unix:///run/crio/crio.sock|' {ENDPOINT}")
    try:
        code, said = docker.images(bundle)
    finally:
        docker.sh(f"mv /root/endpoint {ENDPOINT}")
    assert code == 1
    assert "worker-2: the kubelet's endpoint /run/crio/crio.sock is CRI-O" in said
