"""Nodes that the deploys may dress and undress, beside the one that stays bare, and small images for them."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.bundle.lock import Layer, Lock
from meshstrap.bundle.store import Store
from meshstrap.lab.directory import Lab

from .one_node import OneNode

Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def dressed_node(make_lab: Callable[..., Lab]) -> Lab:
    """A lab of one node, control-1, for tests that put programs and images onto it."""
    return make_lab(workers=0)


@pytest.fixture
def copied_bundle(bare_node: Lab, tmp_path: Path) -> Path:
    """A copy of the lab's bundle whose files a test may alter: its blobs are links to the real ones."""
    copy = tmp_path / "bundle"
    blobs = copy / "store" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in (bare_node.bundle / "store" / "blobs" / "sha256").iterdir():
        (blobs / blob.name).symlink_to(blob)
    shutil.copy(bare_node.bundle / "bundle.lock.yaml", copy)
    return copy


@pytest.fixture
def alter(copied_bundle: Path) -> Callable[[str], Path]:
    """Alter one byte of a program's, or of an image's largest, blob in the copied bundle: alter("runc") -> its file."""

    def change(name: str) -> Path:
        lock = bundle_lock.read(copied_bundle / "bundle.lock.yaml")
        program = lock.program(name, "linux/amd64")
        if program:
            digest = program.sha256
        else:
            image = lock.image(name, "linux/amd64")
            assert image is not None
            digest = max(image.layers, key=lambda layer: layer.size).digest.removeprefix("sha256:")
        path = copied_bundle / "store" / "blobs" / "sha256" / digest
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()
        path.write_bytes(content)
        return path

    return change


def _layer(store: Store, name: str, size: int) -> Layer:
    """Make a layer of one file, whose bytes depend on its name alone and do not pack."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = size
        tar.addfile(entry, io.BytesIO(random.Random(name).randbytes(size)))
    content = buffer.getvalue()
    blob = gzip.compress(content, compresslevel=1, mtime=0)
    return Layer(store.add(blob), f"sha256:{hashlib.sha256(content).hexdigest()}", len(blob))


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a bundle of small images: small_bundle(one=["base", "own"], size=1 << 20) -> its directory.

    An image docker.io/tests/NAME:1 for each name, of layers that are the same wherever their name is; `size` is the
    bytes of each layer, `platform` that of all images.
    """

    def make(size: int = 2 << 20, platform: str = "linux/amd64", **images: Sequence[str]) -> Path:
        directory = tmp_path_factory.mktemp("bundle")
        store = Store(directory / "store")
        made = [
            store.add_image(
                f"docker.io/tests/{name}:1",
                platform,
                [_layer(store, layer, size) for layer in layers],
                {"Cmd": [f"/{layers[0]}"]},
                "a test",
            )
            for name, layers in images.items()
        ]
        bundle_lock.write(Lock(images=tuple(made)), directory / "bundle.lock.yaml")
        return directory

    return make


@pytest.fixture(scope="session")
def image_lab(make_lab: Callable[..., Lab]) -> Lab:
    """A lab of three bare nodes, for the three runtimes that images are brought into."""
    return make_lab(workers=2)


@pytest.fixture(scope="session")
def one_node(
    image_lab: Lab,
    run_pyinfra: Callable[..., Finished],
    on_node: Callable[..., Finished],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], OneNode]:
    """Take a node of the lab as a site of its own that is in others' cluster: one_node("worker-1").

    So the images of Kubernetes itself are not ours to bring, and a bundle of a few small ones is a whole one.
    """

    def take(name: str) -> OneNode:
        node = OneNode(image_lab, name, tmp_path_factory.mktemp(name), run_pyinfra, on_node)
        node.sh("mkdir -p /etc/kubernetes && touch /etc/kubernetes/kubelet.conf")
        return node

    return take


@pytest.fixture(scope="session")
def debian_packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Fetch packages of this machine's Debian, for nodes that have no network: debian_packages("runc") -> a directory.

    Skips where there is no apt, or its Debian is not the nodes' own.
    """

    def fetch(*packages: str) -> Path:
        if "VERSION_CODENAME=bookworm" not in Path("/etc/os-release").read_text():
            pytest.skip("Debian's containerd and Docker are tested on a Debian 12 machine, as its nodes are")
        directory = tmp_path_factory.mktemp("packages")
        subprocess.run(["apt-get", "download", "--quiet", *packages], cwd=directory, check=True, timeout=300)
        return directory

    return fetch
