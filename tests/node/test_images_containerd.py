"""We test on containerd that only missing layers travel, that nothing is lost whatever goes wrong midway, and that the
second run completes what the first could not.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.bundle.lock import Image
from meshstrap.lab import access
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

from .one_node import OneNode

Finished = subprocess.CompletedProcess[str]
LAYER = 8 << 20
# What goes over a connection before the first byte of an image: the handshake, the lock, the facts.
BEFORE = 60_000
UNCHANGED = r"Bring the images onto the node +1 +- +- +1"
CLAIMED = "ctr -n k8s.io content ls | grep -c meshstrap.dev/claimed || true"


@pytest.fixture(scope="module")
def node(one_node: Callable[[str], OneNode], image_lab: Lab, run_pyinfra: Callable[..., Finished]) -> OneNode:
    """A node with our containerd 2."""
    node = one_node("control-1")
    node.sh("rm /etc/kubernetes/kubelet.conf")
    run = run_pyinfra("inventory.py", "deploys/runtime.py", "-y", "--limit", "control-1", lab=image_lab)
    assert run.returncode == 0, run.stdout + run.stderr
    return one_node("control-1")


@pytest.fixture(scope="module")
def bundle(small_bundle: Callable[..., Path]) -> Path:
    """Three images on one base, of layers so large that each is an archive of its own."""
    return small_bundle(size=LAYER, one=["base", "one"], two=["base", "two"], three=["base", "three"])


@pytest.fixture
def bare(node: OneNode) -> OneNode:
    """The node without any image of the tests, nor what imports that were cut keep for a day by their leases."""
    node.sh(
        "ctr -n k8s.io leases ls -q | xargs -r ctr -n k8s.io leases rm;"
        "ctr -n k8s.io containers ls -q | xargs -r ctr -n k8s.io containers rm;"
        "ctr -n k8s.io images ls -q | grep -v registry.k8s.io | xargs -r ctr -n k8s.io images rm --sync"
    )
    return node


@pytest.fixture
def loaded(bare: OneNode, bundle: Path) -> OneNode:
    """The node with all images of the bundle."""
    code, said = bare.images(bundle)
    assert code == 0, said
    return bare


def images_of(bundle: Path) -> dict[str, Image]:
    lock = bundle_lock.read(bundle / "bundle.lock.yaml")
    return {image.reference.split("/")[2].partition(":")[0]: image for image in lock.images}


def complete(node: OneNode) -> set[str]:
    """Name the tests' images that are there, whole and unpacked, as the node itself says."""
    table = node.sh("ctr -n k8s.io images check 2>/dev/null")
    return {
        match[1] for match in re.finditer(r"^docker\.io/tests/(\w+):1 .* complete \(.* true *$", table, re.MULTILINE)
    }


def sent(said: str) -> float:
    """Read how many megabytes a run says that it sent."""
    match = re.search(r"\d+ images, ([\d.]+) MB, in", said)
    assert match, said
    return float(match[1])


def test_a_base_travels_once_and_dry_says_all_of_it_and_moves_nothing(bare: OneNode, bundle: Path) -> None:
    code, said = bare.images(bundle, "--dry")
    assert code == 0 and complete(bare) == set()
    assert "3 images to send (33.6 MB, 4 layers), 0 are there" in said
    assert re.search(r"absent +docker.io/tests/three:1 +8.4 MB of 16.8 MB", said)
    assert re.search(r"disk /var/lib/containerd: they take about 6\d.\d MB of the [\d.]+ MB that are free", said)
    code, said = bare.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(33.6, abs=0.3)
    assert complete(bare) == {"one", "two", "three"}


def test_the_second_run_changes_nothing(loaded: OneNode, bundle: Path) -> None:
    code, said = loaded.images(bundle)
    assert code == 0
    assert re.search(UNCHANGED, said)


def test_of_a_changed_image_only_the_new_layer_travels(
    loaded: OneNode, bundle: Path, small_bundle: Callable[..., Path]
) -> None:
    changed = small_bundle(size=LAYER, one=["base", "new"], two=["base", "two"], three=["base", "three"])
    code, said = loaded.images(changed, "--dry")
    assert re.search(r"other content +docker.io/tests/one:1 +8.4 MB of 16.8 MB", said)
    code, said = loaded.images(changed)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    manifest = images_of(changed)["one"].manifest
    assert manifest in loaded.sh("ctr -n k8s.io images ls name==docker.io/tests/one:1")
    assert manifest != images_of(bundle)["one"].manifest


def test_what_somebody_removed_is_put_back_alone(loaded: OneNode, bundle: Path) -> None:
    config = images_of(bundle)["two"].config
    loaded.sh(f"ctr -n k8s.io images rm --sync docker.io/tests/two:1 {config}")
    code, said = loaded.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert complete(loaded) == {"one", "two", "three"}


def test_a_half_image_is_repaired_with_the_lost_layer_alone(loaded: OneNode, bundle: Path) -> None:
    loaded.sh(f"ctr -n k8s.io content rm {images_of(bundle)['two'].layers[1].digest}")
    assert complete(loaded) == {"one", "three"}
    code, said = loaded.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert complete(loaded) == {"one", "two", "three"}


def test_a_flipped_bit_is_found_by_reading_and_mended_with_its_layer_alone(loaded: OneNode, bundle: Path) -> None:
    digest = images_of(bundle)["two"].layers[1].digest
    path = f"/var/lib/containerd/io.containerd.content.v1.content/blobs/{digest.replace(':', '/')}"
    loaded.sh(f"chmod u+w {path}; printf X | dd of={path} bs=1 seek=5000 conv=notrunc status=none")
    code, said = loaded.images(bundle)
    assert code == 0 and re.search(UNCHANGED, said), "nobody reads it unless told"
    verify = ("--data", "images_verify=true")
    code, said = loaded.images(bundle, "--dry", *verify)
    assert code == 0 and f"altered       {digest}" in said, said
    code, said = loaded.images(bundle, *verify)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert loaded.sh(f"sha256sum {path} | cut -d' ' -f1").strip() == digest.removeprefix("sha256:")
    code, said = loaded.images(bundle, *verify)
    assert code == 0 and re.search(UNCHANGED, said) and "all are what they are called" in said, said


@pytest.fixture
def asked(loaded: OneNode) -> Iterator[Callable[[], str]]:
    """What ctr was called with on the loaded node since it was last asked."""
    loaded.sh(
        "printf '%s\\n' '#!/bin/sh' 'echo \"$*\" >>/run/asked' 'exec /usr/local/bin/ctr \"$@\"' >/usr/local/sbin/ctr;"
        "chmod 755 /usr/local/sbin/ctr"
    )
    yield lambda: loaded.sh("cat /run/asked; rm /run/asked")
    loaded.sh("rm -f /usr/local/sbin/ctr /run/asked")


def test_a_node_that_lacks_nothing_is_asked_little(loaded: OneNode, bundle: Path, asked: Callable[[], str]) -> None:
    code, said = loaded.images(bundle)
    assert code == 0 and re.search(UNCHANGED, said)
    assert "images check" not in asked()


PINNED = "io.cri-containerd.pinned"


@pytest.mark.parametrize(
    ("damage", "does"),
    [
        ("images rm --sync docker.io/tests/two:1 CONFIG", "images import"),
        ("content rm LAYER", "images import"),
        ("images tag --force docker.io/tests/one:1 docker.io/tests/two:1", "images import"),
        (f"images label docker.io/tests/two:1 {PINNED}=", f"images label docker.io/tests/two:1 {PINNED}=pinned"),
        ("content label LAYER meshstrap.dev/claimed=yes", "content label LAYER"),
    ],
    ids=["removed", "half", "another", "not pinned", "claimed"],
)
def test_the_little_that_is_asked_shows_whatever_is_missing(
    loaded: OneNode, bundle: Path, asked: Callable[[], str], damage: str, does: str
) -> None:
    two = images_of(bundle)["two"]
    for word, digest in {"CONFIG": two.config, "LAYER": two.layers[1].digest}.items():
        damage, does = damage.replace(word, digest), does.replace(word, digest)
    loaded.sh(f"ctr -n k8s.io {damage}")
    asked()
    code, said = loaded.images(bundle)
    assert code == 0, said
    calls = asked()
    assert "images check" in calls and does in calls
    assert complete(loaded) == {"one", "two", "three"}
    asked()
    assert re.search(UNCHANGED, loaded.images(bundle)[1])
    assert "images check" not in asked()


@pytest.mark.parametrize(("share", "stays"), [(0.0, 0), (0.5, 1), (0.99, 2)], ids=["0 %", "50 %", "99 %"])
def test_a_cut_connection_loses_no_image_that_was_through_and_the_rest_goes_over_a_new_one(
    bare: OneNode, bundle: Path, share: float, stays: int
) -> None:
    with bare.held(bundle, BEFORE + int(share * 4 * LAYER)) as (process, proxy):
        there = complete(bare)
        proxy.cut()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "ssh connection was lost" in said and "what the node lacks now is sent" in said, said
    assert len(there) >= stays
    assert f"{3 - len(there)} images, " in said
    assert complete(bare) == {"one", "two", "three"}


@pytest.mark.parametrize(("share", "stays"), [(0.0, 0), (0.5, 1), (0.99, 2)], ids=["0 %", "50 %", "99 %"])
def test_a_node_that_cannot_be_reached_again_fails_and_the_second_run_sends_the_rest(
    bare: OneNode, bundle: Path, share: float, stays: int
) -> None:
    with bare.held(bundle, BEFORE + int(share * 4 * LAYER)) as (process, proxy):
        proxy.close()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 1, said
    assert "Traceback" not in said and "control-1 does not answer" in said, said
    there = complete(bare)
    assert stays <= len(there) < 3
    code, said = bare.images(bundle)
    assert code == 0, said
    assert f"{3 - len(there)} images, " in said
    assert complete(bare) == {"one", "two", "three"}


def test_a_bundle_for_another_platform_is_refused_before_anything_is_sent(
    bare: OneNode, small_bundle: Callable[..., Path]
) -> None:
    code, said = bare.images(small_bundle(platform="linux/arm64", one=["base", "one"]))
    assert code == 1 and "Traceback" not in said
    assert "docker.io/tests/one:1 for linux/amd64, which the bundle has for linux/arm64 only" in said
    assert complete(bare) == set()


def test_an_operator_killed_midway_loses_no_image_that_was_through_and_the_next_run_sends_the_rest(
    bare: OneNode, small_bundle: Callable[..., Path], bundle: Path
) -> None:
    assert bare.images(small_bundle(size=LAYER, one=["base", "one"]))[0] == 0
    # The third image's own layer is on its way, and its base claimed.
    with bare.held(bundle, BEFORE + LAYER + LAYER // 2) as (process, _):
        there = complete(bare)
        assert len(there) == 2 and bare.sh(CLAIMED).strip() == "1"
        process.kill()
    code, said = bare.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert complete(bare) == {"one", "two", "three"}
    assert bare.sh(CLAIMED).strip() == "0"


def test_a_node_that_loses_its_power_midway_is_completed_and_what_was_claimed_released(
    bare: OneNode, small_bundle: Callable[..., Path], bundle: Path
) -> None:
    assert bare.images(small_bundle(size=LAYER, one=["base", "one"]))[0] == 0
    with bare.held(bundle, BEFORE + LAYER // 2) as (process, _):
        assert bare.sh(CLAIMED).strip() == "1"
        subprocess.run(["docker", "kill", bare.container], check=True, stdout=subprocess.DEVNULL)
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 1 and "control-1 does not answer" in said, said
    subprocess.run(["docker", "start", bare.container], check=True, stdout=subprocess.DEVNULL)
    access.wait_for_ssh(bare.lab, read(bare.lab.nodes_file).node(bare.name), 60, threading.Event())
    bare.sh("for i in $(seq 50); do ctr version >/dev/null 2>&1 && exit; sleep 0.2; done; exit 1")
    assert bare.sh(CLAIMED).strip() == "1"
    code, said = bare.images(bundle)
    assert code == 0, said
    assert complete(bare) == {"one", "two", "three"}
    assert bare.sh(CLAIMED).strip() == "0"


def test_a_runtime_that_is_stopped_is_said_so_before_anything_is_sent(bare: OneNode, bundle: Path) -> None:
    bare.sh("systemctl stop containerd")
    try:
        code, said = bare.images(bundle)
        assert code == 1
        assert "control-1: containerd does not answer at /run/containerd/containerd.sock" in said
    finally:
        bare.sh("systemctl start containerd")
    assert bare.images(bundle)[0] == 0


def test_a_runtime_that_stops_midway_fails_the_node_with_words(bare: OneNode, bundle: Path) -> None:
    with bare.held(bundle, BEFORE + 2 * LAYER) as (process, proxy):
        bare.sh("systemctl stop containerd")
        proxy.go_on()
        said = process.communicate(timeout=180)[0]
    bare.sh("systemctl start containerd")
    assert process.returncode == 1
    assert "control-1: containerd refused docker.io/tests/" in said, said
    code, said = bare.images(bundle)
    assert code == 0, said
    assert complete(bare) == {"one", "two", "three"}


def test_of_two_runs_at_once_one_stops_and_the_other_completes(bare: OneNode, bundle: Path) -> None:
    with bare.held(bundle, BEFORE + 2 * LAYER) as (process, proxy):
        code, said = bare.images(bundle)
        assert code == 1 and "another run is under way" in said
        proxy.go_on()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    assert complete(bare) == {"one", "two", "three"}


# Loses the base's blob when it is claimed for the first time.
LOSE = """
cat >/usr/local/sbin/ctr <<'END'
#!/bin/sh
case "$*" in
    *"content label"*claimed=yes*)
        if mkdir /run/lost 2>/dev/null; then /usr/local/bin/ctr -n k8s.io content rm BASE >/dev/null; fi ;;
esac
exec /usr/local/bin/ctr "$@"
END
chmod 755 /usr/local/sbin/ctr
"""


@pytest.fixture
def losing(bare: OneNode, small_bundle: Callable[..., Path], bundle: Path) -> Iterator[OneNode]:
    """The node with one image, whose base's blob vanishes between the listing and the import."""
    assert bare.images(small_bundle(size=LAYER, one=["base", "one"]))[0] == 0
    bare.sh(LOSE.replace("BASE", images_of(bundle)["one"].layers[0].digest))
    yield bare
    bare.sh("rm -rf /usr/local/sbin/ctr /run/lost")


def test_a_blob_that_vanishes_between_listing_and_import_travels_after_all(losing: OneNode, bundle: Path) -> None:
    code, said = losing.images(bundle)
    assert code == 0, said
    assert "is gone, which was there when the node was asked" in said
    assert complete(losing) == {"one", "two", "three"}


def test_claimed_blobs_outlive_the_garbage_collection_of_the_image_that_held_them(
    bare: OneNode, small_bundle: Callable[..., Path], bundle: Path
) -> None:
    assert bare.images(small_bundle(size=LAYER, three=["base", "three"]))[0] == 0
    image = images_of(bundle)["three"]
    only_two = small_bundle(size=LAYER, two=["base", "two"])
    with bare.held(only_two, BEFORE + LAYER // 2) as (process, proxy):
        bare.sh(f"ctr -n k8s.io images rm --sync docker.io/tests/three:1 {image.config}")
        proxy.go_on()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 0, said
    assert "is gone" not in said
    assert complete(bare) == {"two"}
    assert bare.sh(CLAIMED).strip() == "0"


@pytest.fixture
def small_disk(bare: OneNode) -> Iterator[OneNode]:
    """The node with 88 MB for its images."""
    bare.sh(
        "systemctl stop containerd; mount -t tmpfs -o size=88m tmpfs /var/lib/containerd; systemctl start containerd"
    )
    yield bare
    bare.sh("systemctl stop containerd; umount -l /var/lib/containerd; systemctl start containerd")


def test_what_cannot_fit_is_not_begun_and_says_how_much_is_missing_where(
    small_disk: OneNode, small_bundle: Callable[..., Path]
) -> None:
    large = small_bundle(a=["base", "a"], b=["base", "b"], c=["base", "c"], d=["base", "d"], size=2 * LAYER)
    for arguments in (["--dry"], []):
        code, said = small_disk.images(large, *arguments)
        assert code == (0 if arguments else 1)
        assert re.search(r"control-1: /var/lib/containerd: [\d.]+ MB are missing: the images take about 17\d", said), (
            said
        )
    assert "Nothing was sent" in said
    assert complete(small_disk) == set()


def test_a_disk_that_fills_midway_fails_with_words_and_loses_nothing(small_disk: OneNode, bundle: Path) -> None:
    with small_disk.held(bundle, BEFORE + 3 * LAYER + LAYER // 2) as (process, proxy):
        before = complete(small_disk)
        small_disk.sh("dd if=/dev/zero of=/var/lib/containerd/filler bs=1M 2>/dev/null || true")
        proxy.go_on()
        said = process.communicate(timeout=180)[0]
    assert process.returncode == 1
    assert re.search(r"control-1: containerd refused docker.io/tests/\w+:1: .*no space left on device", said), said
    small_disk.sh("rm /var/lib/containerd/filler")
    assert before and complete(small_disk) == before
    code, said = small_disk.images(bundle)
    assert code == 0 and f"{3 - len(before)} images, " in said, said
    assert complete(small_disk) == {"one", "two", "three"}


def test_images_are_pinned_and_a_lost_pin_is_put_back(loaded: OneNode, bundle: Path) -> None:
    loaded.sh("ctr -n k8s.io images label docker.io/tests/two:1 io.cri-containerd.pinned=")
    _, said = loaded.images(bundle, "--dry")
    assert re.search(r"not pinned +docker.io/tests/two:1", said)
    assert loaded.images(bundle)[0] == 0
    pinned = loaded.sh("ctr -n k8s.io images ls -q 'labels.\"io.cri-containerd.pinned\"==pinned'")
    assert {f"docker.io/tests/{name}:1" for name in ("one", "two", "three")} <= set(pinned.split())


# A kubelet alone, without a cluster, that finds too little disk for images from the start. Before it evicts pods it
# removes every image that no container is of (kubernetes/kubernetes pkg/kubelet/eviction, reclaimNodeLevelResources).
KUBELET = """
cat >/run/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: systemd
failSwapOn: false
enableServer: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {imagefs.available: 60Mi}
imageMinimumGCAge: 1s
END
systemd-run --quiet --unit=collector /usr/local/bin/kubelet --config=/run/kubelet.yaml --root-dir=/run/collector
"""


@pytest.fixture
def short_of_disk(small_disk: OneNode, bundle: Path) -> Iterator[OneNode]:
    """The node with all images, one of which lost its pin, and a disk that is too full for a kubelet."""
    code, said = small_disk.images(bundle)
    assert code == 0, said
    # The record that CRI made of its id has the label too.
    for name in ("docker.io/tests/two:1", images_of(bundle)["two"].config):
        small_disk.sh(f"ctr -n k8s.io images label {name} {PINNED}=")
    yield small_disk
    small_disk.sh("systemctl stop collector; systemctl reset-failed collector; rm -rf /run/collector /run/kubelet.yaml")


def test_pinned_images_survive_the_kubelets_garbage_collection_and_what_it_took_is_put_back(
    short_of_disk: OneNode, bundle: Path
) -> None:
    short_of_disk.sh(KUBELET)
    deadline = time.monotonic() + 120
    while "docker.io/tests/two:1" in short_of_disk.sh("ctr -n k8s.io images ls -q"):
        assert time.monotonic() < deadline, short_of_disk.sh("journalctl -u collector -n 40 --no-pager")
        time.sleep(1)
    short_of_disk.sh("systemctl stop collector")
    assert complete(short_of_disk) == {"one", "three"}
    code, said = short_of_disk.images(bundle)
    assert code == 0, said
    assert sent(said) == pytest.approx(8.4, abs=0.1)
    assert complete(short_of_disk) == {"one", "two", "three"}


def test_prune_removes_what_we_brought_and_nothing_needs_and_nothing_else(
    loaded: OneNode, bundle: Path, small_bundle: Callable[..., Path]
) -> None:
    digest = images_of(bundle)["two"].config
    # Somebody's own name for an image of ours, and a container that was made and not started.
    loaded.sh(
        "ctr -n k8s.io images tag docker.io/tests/one:1 docker.io/people/own:1 >/dev/null;"
        "ctr -n k8s.io containers create docker.io/tests/three:1 kept"
    )
    less = small_bundle(size=LAYER, four=["base", "four"])
    assert loaded.images(less)[0] == 0
    with loaded.without_pods():
        _, said = loaded.images(less, "--dry", "--data", "images_prune=true")
        assert re.findall(r"unused +(\S+), to be removed", said) == [
            "docker.io/tests/one:1",
            "docker.io/tests/two:1",
            digest,
        ]
        assert complete(loaded) == {"one", "two", "three", "four"}
        assert loaded.images(less, "--data", "images_prune=true")[0] == 0
    assert complete(loaded) == {"three", "four"}
    listed = loaded.sh("ctr -n k8s.io images ls -q").split()
    assert "docker.io/people/own:1" in listed and digest not in listed
    assert images_of(bundle)["two"].layers[1].digest not in loaded.sh("ctr -n k8s.io content ls -q")
    with loaded.without_pods():
        _, said = loaded.images(less, "--data", "images_prune=true")
    assert re.search(UNCHANGED, said)


def test_nothing_is_pruned_where_the_cluster_cannot_be_asked_which_images_its_pods_name(
    loaded: OneNode, small_bundle: Callable[..., Path]
) -> None:
    code, said = loaded.images(small_bundle(size=LAYER, four=["base", "four"]), "--data", "images_prune=true")
    assert code == 1
    assert "control-1, the leader, has no /etc/kubernetes/admin.conf to ask with; run this without images_prune" in said
    assert complete(loaded) == {"one", "two", "three"}


def test_prune_removes_what_an_image_of_the_same_name_replaced(
    loaded: OneNode, bundle: Path, small_bundle: Callable[..., Path]
) -> None:
    changed = small_bundle(size=LAYER, one=["base", "new"], two=["base", "two"], three=["base", "three"])
    with loaded.without_pods():
        assert loaded.images(changed, "--data", "images_prune=true")[0] == 0
    old = images_of(bundle)["one"]
    assert old.config not in loaded.sh("ctr -n k8s.io images ls -q")
    assert old.manifest not in loaded.sh("ctr -n k8s.io content ls -q")
    with loaded.without_pods():
        _, said = loaded.images(changed, "--data", "images_prune=true")
    assert re.search(UNCHANGED, said)
