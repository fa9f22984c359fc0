"""We test that a node gets the images that it lacks and no others, that an import that did not deliver is an error,
and that a bundle's altered file is named.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]
IMAGES = ("inventory.py", "deploys/images.py")
PAUSE = "registry.k8s.io/pause:3.10.1"
COREDNS = "registry.k8s.io/coredns/coredns:v1.12.1"
# Takes every import for good and keeps none of it.
SWALLOW = """
cat >/usr/local/sbin/ctr <<'END'
#!/bin/sh
case "$*" in *"images import"*) cat >/dev/null; exit 0 ;; esac
exec /usr/local/bin/ctr "$@"
END
chmod 755 /usr/local/sbin/ctr
"""


@pytest.fixture(scope="module")
def loaded(dressed_node: Lab, run_pyinfra: Callable[..., Finished]) -> Lab:
    """The node with runtime and images."""
    for deploy in ("runtime", "images"):
        run = run_pyinfra("inventory.py", f"deploys/{deploy}.py", "-y", lab=dressed_node)
        assert run.returncode == 0, run.stdout + run.stderr
    return dressed_node


@pytest.fixture
def ctr(loaded: Lab, on_node: Callable[..., Finished]) -> Callable[[str], str]:
    """Run ctr on the node, in the kubelet's namespace: ctr("images ls -q")."""

    def run(arguments: str) -> str:
        done = on_node(loaded, "control-1", f"ctr -n k8s.io {arguments}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_image_has_the_locked_manifest_and_is_pinned(loaded: Lab, ctr: Callable[[str], str]) -> None:
    lock = bundle_lock.read(loaded.bundle / "bundle.lock.yaml")
    there = dict(line.split()[:3:2] for line in ctr("images ls").splitlines()[1:])
    assert {image.reference: image.manifest for image in lock.images}.items() <= there.items()
    pinned = set(ctr("images ls -q 'labels.\"io.cri-containerd.pinned\"==pinned'").split())
    assert {image.reference for image in lock.images} <= pinned


def test_the_second_run_changes_nothing(loaded: Lab, run_pyinfra: Callable[..., Finished]) -> None:
    run = run_pyinfra(*IMAGES, "-y", lab=loaded)
    assert run.returncode == 0
    assert re.search(r"Bring the images onto the node +1 +- +- +1", run.stdout + run.stderr)


def test_only_what_lacks_is_sent_and_dry_says_it(
    loaded: Lab, run_pyinfra: Callable[..., Finished], ctr: Callable[[str], str]
) -> None:
    ctr(f"images rm {COREDNS}")
    ctr(f"images label {PAUSE} io.cri-containerd.pinned=")
    dry = run_pyinfra(*IMAGES, "--dry", lab=loaded)
    assert "1 images to send" in dry.stdout + dry.stderr
    assert COREDNS not in ctr("images ls -q")
    run = run_pyinfra(*IMAGES, "-y", lab=loaded)
    assert run.returncode == 0, run.stderr
    pinned = ctr("images ls -q 'labels.\"io.cri-containerd.pinned\"==pinned'")
    assert COREDNS in pinned
    assert PAUSE in pinned


def test_an_image_without_all_its_blobs_is_not_there(
    loaded: Lab, run_pyinfra: Callable[..., Finished], ctr: Callable[[str], str]
) -> None:
    image = bundle_lock.read(loaded.bundle / "bundle.lock.yaml").image(PAUSE, "linux/amd64")
    assert image is not None
    ctr(f"content rm {image.layers[0].digest}")
    run = run_pyinfra(*IMAGES, "-y", lab=loaded)
    assert run.returncode == 0, run.stderr
    assert "1 images" in run.stdout + run.stderr
    assert " complete (" in ctr(f"images check name=={PAUSE}")


@pytest.fixture
def swallowing(loaded: Lab, on_node: Callable[..., Finished], ctr: Callable[[str], str]) -> Iterator[Lab]:
    """The node with a ctr that imports nothing and says that it did."""
    ctr(f"images rm {COREDNS}")
    assert on_node(loaded, "control-1", SWALLOW).returncode == 0
    yield loaded
    on_node(loaded, "control-1", "rm /usr/local/sbin/ctr")


def test_an_import_that_did_not_deliver_is_an_error_that_names_node_and_image(
    swallowing: Lab, run_pyinfra: Callable[..., Finished]
) -> None:
    run = run_pyinfra(*IMAGES, "-y", lab=swallowing)
    assert run.returncode == 1
    said = run.stdout + run.stderr
    assert f"control-1: containerd took the images without an error, but does not have: {COREDNS}" in said


def test_an_altered_blob_is_named_and_the_next_run_brings_the_image(
    loaded: Lab,
    run_pyinfra: Callable[..., Finished],
    ctr: Callable[[str], str],
    copied_bundle: Path,
    alter: Callable[[str], Path],
) -> None:
    if COREDNS in ctr("images ls -q"):
        ctr(f"images rm --sync {COREDNS}")
    path = alter(COREDNS)
    # containerd collects what an image leaves behind when it likes; a layer that is still there would not be sent.
    layer = f"sha256:{path.name}"
    if layer in ctr("content ls -q"):
        ctr(f"content rm {layer}")
    run = run_pyinfra(*IMAGES, "-y", "--data", f"bundle={copied_bundle}", lab=loaded)
    assert run.returncode == 1
    assert f"{path}: altered" in run.stdout + run.stderr
    assert run_pyinfra(*IMAGES, "-y", lab=loaded).returncode == 0
    assert COREDNS in ctr("images ls -q")


def test_without_a_runtime_it_says_what_is_missing(bare_node: Lab, run_pyinfra: Callable[..., Finished]) -> None:
    run = run_pyinfra(*IMAGES, "-y", lab=bare_node)
    assert run.returncode == 1
    assert "control-1: there is no containerd; run deploys/runtime.py first" in run.stdout + run.stderr
