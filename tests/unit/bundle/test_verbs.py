"""We test what `meshstrap bundle list`, `verify`, `remove` and `diff` say and do, as they are typed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.lock import Lock
from meshstrap.bundle.lock import write as write_lock
from meshstrap.cli import main

from . import archives
from .archives import image, write
from .conftest import Put
from .test_programs import BRIDGE, ISTIOCTL, RUNC, elf

A, B = image("base", "a"), image("base", "b")


@pytest.fixture
def filled(tmp_path: Path, bundle: Bundle, put: Put) -> Bundle:
    """A bundle with two images that share a layer, and a program."""
    (tmp_path / "istioctl").write_bytes(elf(ISTIOCTL, ("1.13.1",)))
    path = write(tmp_path / "ab.tar", archives.docker((A, ["a:1"]), (B, ["b:1"])))
    assert put(path, tmp_path / "istioctl") == []
    return bundle


def run(bundle: Bundle, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bundle", *map(str, arguments), "--bundle", str(bundle.directory)])


def test_list_names_everything_with_its_origin(filled: Bundle) -> None:
    lines = run(filled, "list").output.splitlines()
    assert [line.split()[0] for line in lines] == [
        "docker.io/library/a:1",
        "docker.io/library/b:1",
        "istioctl",
        "images:",
    ]
    assert "linux/amd64" in lines[0] and A.config_digest[:19] in lines[0] and "from docker archive ab.tar" in lines[0]
    assert lines[2].startswith("istioctl 1.13.1 (linux/amd64")
    assert lines[3].startswith("images: 2, programs: 1, together ")


def test_the_environment_names_the_bundle(filled: Bundle) -> None:
    environment = {"MESHSTRAP_BUNDLE": str(filled.directory)}
    assert "istioctl" in CliRunner().invoke(main, ["bundle", "list"], env=environment).output


@pytest.mark.parametrize("verb", ["list", "verify"])
def test_where_there_is_no_bundle_it_is_said(tmp_path: Path, verb: str) -> None:
    result = run(Bundle(tmp_path / "none"), verb)
    assert result.exit_code == 1
    assert "there is no bundle here" in result.output


def test_a_whole_bundle_verifies(filled: Bundle) -> None:
    result = run(filled, "verify")
    assert result.exit_code == 0 and "unaltered" in result.output


def test_verify_names_what_is_altered(filled: Bundle) -> None:
    path = filled.store.blob(filled.read().images[0].layers[1].digest)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    result = run(filled, "verify")
    assert result.exit_code == 1
    assert f"{path}: altered" in result.output and "docker.io/library/a:1" in result.output


@pytest.mark.parametrize("what", ["layers", "diff IDs", "config", "platform", "size"])
def test_verify_names_a_lock_that_was_edited(filled: Bundle, what: str) -> None:
    text = filled.lock_file.read_text()
    a, b = filled.read().images
    edited = {
        # The other image's own, so that every blob is there.
        "layers": text.replace(a.layers[1].digest, b.layers[1].digest).replace(
            f"size: {a.layers[1].size}\n", f"size: {b.layers[1].size}\n"
        ),
        "diff IDs": text.replace(a.layers[1].diff_id, a.layers[0].diff_id),
        "config": text.replace(a.config, b.config),
        "platform": text.replace("platform: linux/amd64", "platform: linux/arm64", 1),
        "size": text.replace(f"size: {a.size}\n", f"size: {a.size + 100_000_000}\n", 1),
    }[what]
    assert edited != text
    filled.lock_file.write_text(edited)
    result = run(filled, "verify")
    assert result.exit_code == 1
    assert (
        f"docker.io/library/a:1 ({'linux/arm64' if what == 'platform' else 'linux/amd64'}): its {what}" in result.output
    )


@pytest.mark.parametrize(
    ("what", "other"),
    [("version", "9.9.9"), ("platform", "linux/arm64"), ("name", "kubeadm")],
)
def test_verify_names_a_program_that_is_another(filled: Bundle, what: str, other: str) -> None:
    lock = filled.read()
    program = replace(lock.programs[0], **{what: other})  # type: ignore[arg-type]
    write_lock(replace(lock, programs=(program,)), filled.lock_file)
    result = run(filled, "verify")
    assert result.exit_code == 1
    assert f"its {what}: the lock says '{other}', and the file " in result.output


def test_a_version_that_the_file_does_not_tell_is_what_was_given(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    (tmp_path / "bridge").write_bytes(elf(BRIDGE))
    (tmp_path / "runc").write_bytes(elf(RUNC, ("1.3.0",)))
    assert put(tmp_path / "bridge", tmp_path / "runc", version="v1.9.1") == []
    lock = bundle.read()
    write_lock(
        replace(lock, programs=tuple(replace(p, version=f"v{p.version.strip('v')}") for p in lock.programs)),
        bundle.lock_file,
    )
    assert run(bundle, "verify").exit_code == 0


@pytest.mark.parametrize("repair", ["add", "pull"])
@pytest.mark.parametrize("index", [None, b"{}", b'{"schemaVersion": 2, "manifests": []}', b"no JSON"])
def test_verify_looks_at_the_index_and_adding_or_pulling_writes_it_again(
    filled: Bundle, index: bytes | None, repair: str
) -> None:
    path = filled.store.directory / "index.json"
    path.unlink()
    if index is not None:
        path.write_bytes(index)
    result = run(filled, "verify")
    assert result.exit_code == 1
    assert f"{path}: missing, or does not list the images" in result.output
    archive = [filled.directory.parent / "ab.tar"] if repair == "add" else []
    assert run(filled, repair, *archive).exit_code == 0
    assert run(filled, "verify").exit_code == 0


def test_the_order_of_the_index_is_nobodys_business(filled: Bundle) -> None:
    filled.store.write_index(filled.read().images[::-1])
    assert run(filled, "verify").exit_code == 0


@pytest.mark.parametrize("repair", ["add", "pull", "remove"])
def test_a_store_that_names_its_images_by_their_tags_alone_is_read_and_the_next_change_puts_it_right(
    filled: Bundle, repair: str
) -> None:
    path = filled.store.directory / "index.json"
    right = json.loads(path.read_bytes())
    old = json.loads(path.read_bytes())
    for entry in old["manifests"]:
        name = entry["annotations"]["org.opencontainers.image.ref.name"]
        assert name == entry["annotations"]["io.containerd.image.name"]
        entry["annotations"]["org.opencontainers.image.ref.name"] = name.rpartition(":")[2]
    path.write_text(json.dumps(old))
    assert run(filled, "verify").exit_code == 0
    other = Bundle(filled.directory.parent / "other")
    assert run(other, "add", filled.directory).exit_code == 0
    assert other.read().images == filled.read().images
    assert json.loads((other.store.directory / "index.json").read_bytes()) == right
    what = {"add": [str(filled.directory.parent / "ab.tar")], "pull": [], "remove": ["istioctl"]}[repair]
    assert run(filled, repair, *what).exit_code == 0
    assert json.loads(path.read_bytes()) == right


def test_remove_says_what_there_is_of_a_repository(filled: Bundle) -> None:
    result = run(filled, "remove", "a:7")
    assert result.exit_code == 1
    assert "has no a:7; of docker.io/library/a it has :1 (linux/amd64); `meshstrap bundle list`" in result.output


def test_remove_takes_an_image_and_the_blobs_that_it_alone_needs(filled: Bundle) -> None:
    before = {path.name for path in filled.store.blob("x").parent.iterdir()}
    a, b = filled.read().images
    result = run(filled, "remove", "a:1")
    assert result.exit_code == 0 and "removed  docker.io/library/a:1" in result.output
    gone = before - {path.name for path in filled.store.blob("x").parent.iterdir()}
    assert gone == {digest.removeprefix("sha256:") for digest in (a.manifest, a.config, a.layers[1].digest)}
    assert filled.read().images == (b,)
    assert run(filled, "verify").exit_code == 0
    index = json.loads((filled.directory / "store" / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [b.manifest]


def test_remove_takes_a_program(filled: Bundle) -> None:
    assert run(filled, "remove", "istioctl").exit_code == 0
    assert filled.read().programs == ()


def test_remove_takes_all_or_nothing(filled: Bundle) -> None:
    before = filled.read()
    result = run(filled, "remove", "a:1", "nobody/knows:this")
    assert result.exit_code == 1 and "nobody/knows:this" in result.output
    assert filled.read() == before


def test_remove_takes_one_platform_alone(tmp_path: Path, filled: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "arm.tar", archives.docker((image("arm", platform="linux/arm64"), ["a:1"])))) == []
    assert run(filled, "remove", "a:1", "--platform", "linux/amd64").exit_code == 0
    assert [(each.reference, each.platform) for each in filled.read().images] == [
        ("docker.io/library/a:1", "linux/arm64"),
        ("docker.io/library/b:1", "linux/amd64"),
    ]


def test_remove_frees_a_full_disk(filled: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written but in what the bundle reserves, and no blob goes before the lock is written."""
    written = []

    def full(lock: Lock, path: Path) -> None:
        if (filled.directory / ".changing").stat().st_blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert filled.store.verify(filled.read()) == []
        written.append(lock)
        write_lock(lock, path)

    monkeypatch.setattr("meshstrap.bundle.lock.write", full)
    result = run(filled, "remove", "a:1")
    assert result.exit_code == 0, result.output
    assert written == [filled.read()]
    assert run(filled, "verify").exit_code == 0
    assert (filled.directory / ".changing").stat().st_size > filled.lock_file.stat().st_size, "reserved again"


_ON_A_SMALL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
from meshstrap.bundle.add import Wishes, add
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.remove import remove
from meshstrap.bundle.verify import verify
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
bundle = Bundle(disk / "bundle")
print(add(bundle, [Path(sys.argv[2])], Wishes(), print))
try:
    with (disk / "film").open("wb", buffering=0) as film:
        while film.write(bytes(4096)):
            pass
except OSError as error:
    print(error.strerror)
print(shutil.disk_usage(disk).free)
remove(bundle, ["a:1"], [], print)
print(verify(bundle), [each.reference for each in bundle.read().images])
"""


def test_remove_frees_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    path = write(tmp_path / "ab.tar", archives.docker((A, ["a:1"]), (B, ["b:1"])))
    shown = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", _ON_A_SMALL_DISK, disk, path], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[2:5] == ["[]", "No space left on device", "0"]
    assert lines[-1] == "[] ['docker.io/library/b:1']"


def test_diff_says_what_is_only_here_only_there_and_other(tmp_path: Path, filled: Bundle) -> None:
    other = Bundle(tmp_path / "other")
    assert run(other, "add", filled.directory).exit_code == 0
    same = run(filled, "diff", other.directory)
    assert (same.exit_code, same.output) == (0, "")
    run(filled, "remove", "istioctl")
    run(other, "remove", "b:1")
    c = image("c")
    run(other, "add", "--replace", write(tmp_path / "c.tar", archives.docker((c, ["a:1"]))))
    result = run(filled, "diff", other.lock_file)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert [line[0] for line in lines] == ["~", "+", "-"]
    assert f"docker.io/library/a:1 (linux/amd64): config {c.config_digest} -> {A.config_digest}" in lines[0]
    assert "docker.io/library/b:1" in lines[1] and "istioctl 1.13.1" in lines[2]


def test_origins_are_no_difference(tmp_path: Path, filled: Bundle) -> None:
    other = Bundle(tmp_path / "other")
    for made, name in ((A, "a:1"), (B, "b:1")):
        assert run(other, "add", write(tmp_path / "one.tar.gz", archives.docker((made, [name])), "gzip")).exit_code == 0
    assert run(other, "add", tmp_path / "istioctl").exit_code == 0
    assert run(filled, "diff", other.directory).output == ""


def test_what_cannot_be_added_is_an_error_and_the_exit_code_says_so(tmp_path: Path, filled: Bundle) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"")
    good = write(tmp_path / "good.tar", archives.docker((image("g"), ["g:1"])))
    result = run(filled, "add", bad, good)
    assert result.exit_code == 1
    assert f"Error: {bad}: is empty" in result.output
    assert filled.read().image("g:1", "linux/amd64")
