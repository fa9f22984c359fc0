"""A node that the deploys may dress and undress, beside the one that stays bare."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.bundle import lock as bundle_lock
from meshstrap.lab.directory import Lab


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
