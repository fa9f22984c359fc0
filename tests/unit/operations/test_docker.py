"""We test what a Docker node is asked to do with an archive, and with images that nothing needs any more."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.command import StringCommand

from meshstrap.bundle.lock import Image, Layer
from meshstrap.bundle.plan import Batch, Runtime
from meshstrap.facts.docker import OURS_FILE
from meshstrap.operations import docker
from meshstrap.operations.containerd import GONE

# A docker whose images are the files of a directory; it fails with the words of the file `fail`.
DOCKER = """#!/bin/sh
case "$1 $2" in
    "load ") cat >/dev/null; if [ -e "$IMAGES/../fail" ]; then cat "$IMAGES/../fail" >&2; exit 1; fi ;;
    "image inspect") for last; do :; done; [ -e "$IMAGES/$last" ] && cat "$IMAGES/$last" ;;
    "image rm") shift 2; for name; do rm "$IMAGES/$name" || exit 1; done ;;
esac
"""
IMAGE = Image("r:1", "linux/amd64", "sha256:m", "sha256:c", (Layer("sha256:l", "sha256:d", 3),), 10, "-")
NODE: Runtime = {"kind": "docker"}  # type: ignore[typeddict-item]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A directory with such a docker and its images."""
    (tmp_path / "images").mkdir()
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "images" / "r:1").write_text("sha256:c\n")
    (tmp_path / "images" / "sha256:c").write_text("sha256:c\n")
    return tmp_path


def run(node: Path, command: StringCommand) -> subprocess.CompletedProcess[bytes]:
    script = command.get_raw_value().replace(OURS_FILE, str(node / "ours"))
    environment = {"PATH": f"{node}:{os.environ['PATH']}", "IMAGES": str(node / "images")}
    return subprocess.run(["sh", "-c", script], input=b"", env=environment, capture_output=True, timeout=30)


def load(*claims: str, ours: bool = True) -> StringCommand:
    return docker.load(NODE, Batch((IMAGE,), frozenset(), claims), {IMAGE.reference} if ours else set())


def test_what_we_loaded_is_noted_once(node: Path) -> None:
    assert run(node, load()).returncode == 0
    assert run(node, load()).returncode == 0
    assert (node / "ours").read_text() == "sha256:c\n"


def test_what_is_not_ours_is_not_noted(node: Path) -> None:
    assert run(node, load(ours=False)).returncode == 0
    assert not (node / "ours").exists() or (node / "ours").read_text() == ""


@pytest.mark.parametrize(
    ("said", "claims", "code"),
    [
        ("open /var/lib/docker/tmp/x/blobs/sha256/1: no such file or directory", ("chain:sha256:1",), GONE),
        ("open /var/lib/docker/tmp/x/blobs/sha256/1: no such file or directory", (), 1),
        ("write /var/lib/docker/tmp/x: no space left on device", ("chain:sha256:1",), 1),
    ],
)
def test_a_layer_that_has_gone_is_told_from_other_failures(
    node: Path, said: str, claims: tuple[str, ...], code: int
) -> None:
    (node / "fail").write_text(said)
    ran = run(node, load(*claims))
    assert (ran.returncode, ran.stderr.decode().strip()) == (code, said)


def test_what_is_removed_is_no_longer_noted(node: Path) -> None:
    (node / "images" / "sha256:stays").write_text("sha256:stays\n")
    (node / "ours").write_text("sha256:stays\nsha256:c\n")
    assert run(node, docker.remove(NODE, ["r:1", "sha256:c"])).returncode == 0
    assert (node / "ours").read_text() == "sha256:stays\n"
    assert run(node, docker.remove(NODE, ["r:1"])).returncode == 1
