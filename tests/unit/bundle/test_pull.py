"""We test what `bundle pull` does with the bundle, by a skopeo that copies directories of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.pull import pull
from meshstrap.bundle.remove import remove
from meshstrap.bundle.verify import verify

from . import archives
from .archives import Made, image
from .conftest import Put
from .test_add import alter

SMALL, BIG = image("base", "small"), image("base", "big")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What skopeo finds at docker.io/library, a directory an image; `asked` there has a line a copy."""
    directory = tmp_path / "registry"
    for name, made in (("small:1", SMALL), ("big:1", BIG)):
        push(directory / name, made)
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "skopeo"
    script.write_text(
        "#!/bin/sh\n"
        "for last; do from=${to#docker://docker.io/library/}; to=$last; done\n"
        f'echo "$from" >> {directory}/asked\n'
        f'exec cp -r "{directory}/$from" "${{to#dir:}}"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return directory


def push(directory: Path, made: Made) -> None:
    """Make what `skopeo copy ... dir:` writes."""
    out = archives.layout()
    entry = out.manifest(made)
    members = {name.rpartition("/")[2]: content for name, content in out.members.items()}
    manifest = members.pop(entry["digest"].removeprefix("sha256:"))
    archives.unpack(directory, {**members, "manifest.json": manifest, "version": b"Directory Transport Version: 1.1"})


def asked(registry: Path) -> list[str]:
    path = registry / "asked"
    return path.read_text().splitlines() if path.exists() else []


def fetch(bundle: Bundle, *references: str) -> list[str]:
    return pull(bundle, references, ["linux/amd64"], replace=False, echo=print)


def test_images_are_pulled_one_after_the_other(registry: Path, bundle: Bundle) -> None:
    assert fetch(bundle, "small:1", "big:1") == []
    assert [each.config for each in bundle.read().images] == [BIG.config_digest, SMALL.config_digest]
    assert verify(bundle) == []
    assert asked(registry) == ["small:1", "big:1"]
    assert {each.name for each in bundle.directory.iterdir()} == {".changing", "bundle.lock.yaml", "store"}
    assert fetch(bundle, "small:1", "big:1") == []
    assert fetch(bundle) == []
    assert len(asked(registry)) == 2


def test_nothing_is_downloaded_while_another_command_changes_the_bundle(registry: Path, bundle: Bundle) -> None:
    with bundle.change(), pytest.raises(BundleError, match="another command is changing this bundle"):
        fetch(bundle, "small:1", "big:1")
    assert asked(registry) == []


def test_no_other_command_changes_the_bundle_meanwhile(registry: Path, bundle: Bundle) -> None:
    taken = []

    def take(line: str) -> None:
        with pytest.raises(BundleError, match="another command"), bundle.change():
            pass
        taken.append(line)

    assert pull(bundle, ["small:1"], ["linux/amd64"], replace=False, echo=take) == []
    assert [line.split("  ")[0] for line in taken] == ["pulling", "added"]


def test_an_altered_blob_is_pulled_again(registry: Path, bundle: Bundle) -> None:
    assert fetch(bundle, "small:1") == []
    before = bundle.read()
    by_digest = before.images[0].manifest
    shutil.copytree(registry / "small:1", registry / f"small@{by_digest}")
    alter(bundle.store.blob(before.images[0].layers[1].digest))
    assert verify(bundle) != []
    assert fetch(bundle) == []
    assert asked(registry) == ["small:1", f"small@{by_digest}"]
    assert bundle.read() == before
    assert verify(bundle) == []


def test_a_lock_without_its_store_is_filled(registry: Path, bundle: Bundle) -> None:
    assert fetch(bundle, "small:1", "big:1") == []
    before = bundle.read()
    for each in before.images:
        name = each.reference.rpartition("/")[2]
        (registry / name).rename(registry / f"{name.removesuffix(':1')}@{each.manifest}")
    shutil.rmtree(bundle.store.directory)
    assert fetch(bundle) == []
    assert bundle.read() == before
    assert verify(bundle) == []


def test_what_a_dead_pull_left_is_swept_by_the_next_change(registry: Path, bundle: Bundle) -> None:
    assert fetch(bundle, "small:1") == []
    tool = Path(os.environ["PATH"].partition(":")[0]) / "skopeo"
    tool.write_text(f"{tool.read_text().replace('exec cp', 'cp')}kill -9 $PPID\n")
    command = "from meshstrap.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", command, "bundle", "pull", "big:1", "--bundle", bundle.directory])
    assert run.returncode == -9
    assert list(bundle.directory.glob(".pulling-*/image/manifest.json"))
    dead = [bundle.directory / ".bundle.lock.yaml.4711", bundle.store.directory / ".index.json.4711"]
    for path in dead:
        path.write_text("half of")
    remove(bundle, ["small:1"], [], print)
    assert {each.name for each in bundle.directory.iterdir()} == {".changing", "bundle.lock.yaml", "store"}
    assert {each.name for each in bundle.store.directory.iterdir()} == {"blobs", "index.json", "oci-layout"}


def test_what_a_living_pull_writes_is_left_alone(registry: Path, bundle: Bundle, put: Put) -> None:
    seen = []

    def look(line: str) -> None:
        scratch = bundle.directory / ".pulling-x"
        scratch.mkdir(exist_ok=True)
        with pytest.raises(BundleError, match="another command"):
            put(registry / "big:1")
        seen.append(scratch.exists())

    assert pull(bundle, ["small:1"], ["linux/amd64"], replace=False, echo=look) == []
    assert seen and all(seen)


def test_without_a_lock_and_a_name_nothing_is_made(registry: Path, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="there is no bundle here"):
        fetch(bundle)
    assert not bundle.directory.exists()
