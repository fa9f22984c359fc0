"""We test that archives of every tool come into a bundle whole, once, as the images that they are, and nothing else."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.bundle import contents
from meshstrap.bundle.add import Wishes, add
from meshstrap.bundle.compression import Readable
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.lock import write as write_lock
from meshstrap.bundle.remove import remove
from meshstrap.bundle.verify import verify
from meshstrap.cli import main

from . import archives
from .archives import PACK, Made, image, layout, unpack, write
from .conftest import Put
from .test_programs import ARM64, ISTIOCTL, RUNC, elf

A, C = image("base", "a"), image("base", "c", command="/c")


def is_whole(bundle: Bundle, found: Image | None, made: Made) -> None:
    """Look whether the bundle holds an image just as it was made, in the form that nodes are given."""
    assert found is not None
    assert found.config == made.config_digest
    assert [layer.diff_id for layer in found.layers] == made.diff_ids
    manifest = json.loads(bundle.store.blob(found.manifest).read_bytes())
    assert manifest["config"]["digest"] == found.config
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in found.layers]
    for layer, content in zip(found.layers, made.layers, strict=True):
        blob = bundle.store.blob(layer.digest).read_bytes()
        assert gzip.decompress(blob) == content
        assert len(blob) == layer.size
    assert bundle.store.verify(bundle.read()) == []


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
@pytest.mark.parametrize(
    "members",
    [
        archives.docker((A, ["a:1"])),
        archives.docker_archive(A, ["a:1"]),
        archives.oci(A, "docker.io/library/a:1"),
        archives.oci(A, "docker.io/library/a:1", "zstd"),
        archives.oci(A, "docker.io/library/a:1", ""),
    ],
    ids=["docker", "docker-archive", "oci-gzip", "oci-zstd", "oci-plain"],
)
def test_an_archive_of_any_tool_in_any_packing_is_the_same_image(
    tmp_path: Path,
    bundle: Bundle,
    put: Put,
    members: dict[str, bytes | archives.Link],
    packed: str,
) -> None:
    path = write(tmp_path / "a", members, packed)
    assert put(path) == []
    found = bundle.read().image("a:1", "linux/amd64")
    is_whole(bundle, found, A)
    assert found is not None
    assert found.archive == hashlib.sha256(path.read_bytes()).hexdigest()
    index = json.loads((bundle.directory / "store" / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [found.manifest]


def test_a_registrys_manifest_and_blobs_are_kept_byte_for_byte(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    out = layout()
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    # Compressed by somebody else: our own gzip has no such header.
    packed = [gzip.compress(content, 9, mtime=7) for content in A.layers]
    layers = [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", **out.blob(each)} for each in packed]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", **out.blob(A.config)}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}, indent=3)
    out.add({"mediaType": media_type, **out.blob(manifest.encode())}, "docker.io/library/a:1")
    assert put(write(tmp_path / "a.tar", out.finished())) == []
    found = bundle.read().image("a:1", "linux/amd64")
    is_whole(bundle, found, A)
    assert found is not None
    assert found.manifest == archives.digest(manifest.encode())
    assert [layer.digest for layer in found.layers] == [archives.digest(each) for each in packed]
    index = json.loads((bundle.directory / "store" / "index.json").read_bytes())
    assert index["manifests"][0]["mediaType"] == media_type


def test_zstd_layers_become_gzip_and_it_is_said(tmp_path: Path, bundle: Bundle, put: Put, said: list[str]) -> None:
    assert put(write(tmp_path / "a.tar", archives.oci(A, "docker.io/library/a:1", "zstd"))) == []
    assert any("zstd" in line and "gzip" in line for line in said)
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


@pytest.mark.parametrize(
    ("packed", "label"),
    [
        ("zstd", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("gzip", "application/vnd.oci.image.layer.v1.tar"),
        ("gzip", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("gzip", "application/x-gzip"),
        ("gzip", None),
    ],
)
def test_a_layer_that_lies_about_its_compression_is_known_by_its_content(
    tmp_path: Path, bundle: Bundle, put: Put, packed: str, label: str | None
) -> None:
    """containerd goes by the label: what nodes are given has the right one."""
    out = layout()
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **out.blob(A.config)}
    layers = [{"mediaType": label, **out.blob(PACK[packed](content))} for content in A.layers]
    content = archives.compact({"schemaVersion": 2, "config": config, "layers": layers})
    out.add({"mediaType": archives.MANIFEST, **out.blob(content)}, "docker.io/library/a:1")
    assert put(write(tmp_path / "a.tar", out.finished())) == []
    found = bundle.read().image("a:1", "linux/amd64")
    is_whole(bundle, found, A)
    assert found is not None
    manifest = json.loads(bundle.store.blob(found.manifest).read_bytes())
    assert {each["mediaType"] for each in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}


def test_many_images_in_one_archive_share_layers_by_links(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "two.tar", archives.docker((A, ["a:1", "a:latest"]), (C, ["c/c"])))) == []
    lock = bundle.read()
    for reference, made in (("a:1", A), ("a", A), ("c/c:latest", C)):
        is_whole(bundle, lock.image(reference, "linux/amd64"), made)


@pytest.mark.parametrize("blank", [b"\n", b"\r\n\t ", b" " * 30])
def test_json_may_begin_with_blanks(tmp_path: Path, bundle: Bundle, put: Put, blank: bytes) -> None:
    members = archives.docker((A, ["a:1"]))
    members["manifest.json"] = blank + members["manifest.json"]  # type: ignore[operator]
    assert put(write(tmp_path / "a.tar", members)) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


@pytest.mark.parametrize("magic", [0x50, 0x5F])
def test_zstd_may_begin_with_a_frame_that_is_skipped(tmp_path: Path, bundle: Bundle, put: Put, magic: int) -> None:
    """As pzstd writes it, around the archive and around a layer."""
    skipped = bytes([magic]) + b"\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    out = layout()
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **out.blob(A.config)}
    layers = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", **out.blob(skipped + PACK["zstd"](content))}
        for content in A.layers
    ]
    manifest = archives.compact({"schemaVersion": 2, "config": config, "layers": layers})
    out.add({"mediaType": archives.MANIFEST, **out.blob(manifest)}, "docker.io/library/a:1")
    path = tmp_path / "a.tar.zst"
    path.write_bytes(skipped + PACK["zstd"](archives.tar(out.finished())))
    assert put(path) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


def test_an_image_as_crane_and_kaniko_write_it(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    members: dict[str, bytes | archives.Link] = {A.config_digest: A.config}
    for content in A.layers:
        packed = PACK["gzip"](content)
        members[f"{archives.digest(packed).removeprefix('sha256:')}.tar.gz"] = packed
    layers = [name for name in members if name.endswith(".tar.gz")]
    members["manifest.json"] = archives.compact([{"Config": A.config_digest, "RepoTags": ["a:1"], "Layers": layers}])
    assert put(write(tmp_path / "a.tar", members)) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


@pytest.mark.parametrize("nothing", [[], None])
def test_an_image_without_layers_is_one(tmp_path: Path, bundle: Bundle, put: Put, nothing: object) -> None:
    config = archives.compact({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": nothing}})
    manifest = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": nothing}]
    assert put(write(tmp_path / "a.tar", {"c.json": config, "manifest.json": archives.compact(manifest)})) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), Made((), config))


def test_a_hard_link_to_a_layer_is_that_layer(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    members = archives.docker((A, ["a:1"]), (C, ["c:1"]))
    hard = {
        name: archives.Link(content.target.removeprefix("../"), hard=True)
        if isinstance(content, archives.Link)
        else content
        for name, content in members.items()
    }
    assert hard != members
    assert put(write(tmp_path / "two.tar", hard)) == []
    is_whole(bundle, bundle.read().image("c:1", "linux/amd64"), C)


def test_adding_again_changes_nothing(tmp_path: Path, bundle: Bundle, put: Put, said: list[str]) -> None:
    paths = [
        write(tmp_path / "docker.tar", archives.docker((A, ["a:1"]))),
        write(tmp_path / "oci.tar", archives.oci(C, "docker.io/c/c:1", "zstd")),
    ]
    assert put(*paths) == []
    files = {path: path.stat().st_mtime_ns for path in bundle.directory.rglob("*") if path.is_file()}
    said.clear()
    assert put(*paths) == []
    assert [line.split("  ")[0] for line in said] == ["there already", "there already"]
    files.pop(bundle.directory / ".changing")
    assert files.items() <= {p: p.stat().st_mtime_ns for p in bundle.directory.rglob("*") if p.is_file()}.items()


def test_an_archive_of_which_nothing_is_lacking_is_read_once(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    assert put(path) == []
    reads: list[Path] = []
    whole = contents._Tar.__iter__

    def counted(self: contents._Tar) -> Iterator[tuple[str, tarfile.TarInfo, Readable]]:
        reads.append(path)
        return whole(self)

    monkeypatch.setattr(contents._Tar, "__iter__", counted)
    assert put(path) == []
    assert len(reads) == 1


def test_the_same_image_packed_otherwise_is_there_already(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "oci.tar", archives.oci(A, "docker.io/library/a:1"))) == []
    lock = bundle.read()
    assert put(write(tmp_path / "docker.tar", archives.docker((A, ["a:1"])))) == []
    assert bundle.read() == lock


def test_other_content_under_a_name_is_refused_until_it_is_to_be_replaced(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str]
) -> None:
    put(write(tmp_path / "first.tar", archives.docker((A, ["a:1"]))))
    second = write(tmp_path / "second.tar", archives.docker((image("x"), ["x:1"]), (C, ["a:1"])))
    (failure,) = put(second)
    for part in (str(second), "docker.io/library/a:1 (linux/amd64)", A.config_digest, C.config_digest, "--replace"):
        assert part in failure
    lock = bundle.read()
    is_whole(bundle, lock.image("a:1", "linux/amd64"), A)
    assert lock.image("x:1", "linux/amd64") is None, "a file is added wholly or not at all"
    assert put(second, replace=True) == []
    lock = bundle.read()
    is_whole(bundle, lock.image("a:1", "linux/amd64"), C)
    named = {d for i in lock.images for d in (i.manifest, i.config, *(layer.digest for layer in i.layers))}
    left = {f"sha256:{path.name}" for path in (bundle.directory / "store" / "blobs" / "sha256").iterdir()}
    assert left == named, "what nobody needs any more is gone"


def test_an_image_without_a_name_needs_one(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = write(tmp_path / "nameless.tar", archives.docker((A, None)))
    (failure,) = put(path)
    assert str(path) in failure and "--as" in failure
    assert put(path, name="kennethreitz/httpbin") == []
    is_whole(bundle, bundle.read().image("docker.io/kennethreitz/httpbin:latest", "linux/amd64"), A)


def test_a_given_name_replaces_those_that_the_image_has(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "a.tar", archives.docker((A, ["x:1", "y:2"]))), name="mine:3") == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/mine:3"]


def test_one_name_is_for_one_image(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    two = write(tmp_path / "two.tar", archives.docker((A, ["a:1"]), (C, ["c:1"])))
    (failure,) = put(two, name="mine:3")
    assert "holds 2 images (docker.io/library/a:1, docker.io/library/c:1)" in failure
    with pytest.raises(BundleError, match="--as"):
        put(two, two, name="mine:3")
    with pytest.raises(BundleError, match="--as: 'Not A Name'"):
        put(two, name="Not A Name")


def test_a_tag_alone_is_no_name(tmp_path: Path, put: Put) -> None:
    out = layout()
    out.add(out.manifest(A), tag="latest")
    (failure,) = put(unpack(tmp_path / "layout", out.finished()))
    assert "--as" in failure


def test_skopeo_names_an_image_by_its_full_reference(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    out = layout()
    out.add(out.manifest(A), tag="fortio/fortio:latest_release")
    assert put(unpack(tmp_path / "layout", out.finished())) == []
    is_whole(bundle, bundle.read().image("docker.io/fortio/fortio:latest_release", "linux/amd64"), A)


def test_names_that_only_dockers_list_has_are_found(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    out = layout()
    out.add(out.manifest(A, ""))
    config = f"blobs/{A.config_digest.replace(':', '/')}"
    members = out.finished() | {
        "manifest.json": archives.compact([{"Config": config, "RepoTags": ["a:1"], "Layers": []}])
    }
    assert put(write(tmp_path / "a.tar", members)) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


def two_platforms(whole: tuple[str, ...] = ("amd64", "arm64")) -> dict[str, bytes | archives.Link]:
    """An index of amd64 and arm64, of which some blobs were not exported, and what buildx adds to it."""
    out = layout()
    made = {name: image("base", name, platform=f"linux/{name}") for name in ("amd64", "arm64")}
    entries = [(out.manifest(each), f"linux/{name}") for name, each in made.items()]
    entries.append((out.blob(b'{"provenance": true}'), "unknown/unknown"))
    out.add(out.index(*entries), "docker.io/library/a:1")
    members = out.finished()
    shared = archives.digest(made["amd64"].layers[0])
    for name, each in made.items():
        if name not in whole:
            for content in (each.config, *(PACK["gzip"](x) for x in each.layers if archives.digest(x) != shared)):
                members.pop(f"blobs/{archives.digest(content).replace(':', '/')}", None)
    return members


def test_every_platform_of_an_index_is_taken(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "a.tar", two_platforms())) == []
    lock = bundle.read()
    assert [(each.reference, each.platform) for each in lock.images] == [
        ("docker.io/library/a:1", "linux/amd64"),
        ("docker.io/library/a:1", "linux/arm64"),
    ]
    for each in lock.images:
        is_whole(bundle, each, image("base", each.platform.removeprefix("linux/"), platform=each.platform))


def test_a_platform_that_was_not_exported_is_said_and_left_out(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str]
) -> None:
    path = write(tmp_path / "a.tar", two_platforms(("amd64",)))
    assert put(path) == []
    assert [each.platform for each in bundle.read().images] == ["linux/amd64"]
    assert any("left out: linux/arm64" in line for line in said)


def test_an_index_of_which_nothing_is_whole_is_an_error(tmp_path: Path, put: Put) -> None:
    path = write(tmp_path / "a.tar", two_platforms(()))
    (failure,) = put(path)
    assert str(path) in failure and "linux/arm64" in failure and "is not in it" in failure


def with_windows() -> dict[str, bytes | archives.Link]:
    """As registry.k8s.io/pause is: one image for Windows for each of its versions."""
    out = layout()
    systems = ["linux", "windows", "windows"]
    made = [A, *(image("base", each, platform="windows/amd64") for each in ("ltsc2019", "ltsc2022"))]
    entries = [(out.manifest(each), f"{name}/amd64") for each, name in zip(made, systems, strict=True)]
    out.add(out.index(*entries), "registry.k8s.io/pause:3.9")
    return out.finished()


@pytest.mark.parametrize("platforms", [(), ("linux/amd64",)])
def test_what_is_for_windows_is_said_and_left_out(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str], platforms: tuple[str, ...]
) -> None:
    path = write(tmp_path / "pause.tar", with_windows())
    assert put(path, platforms=platforms) == []
    (found,) = bundle.read().images
    is_whole(bundle, found, A)
    assert f"{path}: left out: windows/amd64: is for windows/amd64, not for Linux" in said


@pytest.mark.parametrize("of_docker", [False, True])
def test_what_is_for_windows_alone_is_an_error(tmp_path: Path, put: Put, of_docker: bool) -> None:
    made = image("x", platform="windows/amd64")
    members = archives.docker((made, ["a:1"])) if of_docker else archives.oci(made, "docker.io/library/a:1")
    (failure,) = put(write(tmp_path / "a.tar", members))
    assert "is for windows/amd64, not for Linux" in failure


def test_doubles_of_a_platform_that_nobody_wants_are_no_error(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    out = layout()
    made = [A, *(image(text, platform="linux/arm64") for text in ("one", "two"))]
    platforms = ["linux/amd64", "linux/arm64", "linux/arm64"]
    entries = [(out.manifest(each), platform) for each, platform in zip(made, platforms, strict=True)]
    out.add(out.index(*entries), "docker.io/library/a:1")
    path = write(tmp_path / "a.tar", out.finished())
    assert put(path, platforms=("linux/amd64",)) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)
    (failure,) = put(path)
    assert "a:1 (linux/arm64) stands there twice" in failure


def test_what_an_index_says_of_a_platform_reaches_no_terminal_raw(tmp_path: Path, bundle: Bundle) -> None:
    out = layout()
    gone = {"digest": archives.digest(b"gone"), "size": 4, "platform": {"os": "\ud800x", "architecture": "\x1b[31m"}}
    kept = {**out.manifest(A), "platform": {"os": "linux", "architecture": "amd64"}}
    index = out.blob(archives.compact({"schemaVersion": 2, "manifests": [gone, kept]}))
    members = {**out.members, "index.json": archives.compact({"manifests": [{"mediaType": archives.INDEX, **index}]})}
    path = write(tmp_path / "a.tar", members)
    arguments = ["bundle", "add", str(path), "--as", "a:1", "--bundle", str(bundle.directory)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert r"left out: \ud800x/\x1b[31m: " in result.output


@pytest.mark.parametrize("key", ["Config", "Layers"])
def test_a_name_that_no_file_can_have_is_not_found(tmp_path: Path, put: Put, key: str) -> None:
    members = archives.docker_archive(A, ["a:1"])
    manifest = json.loads(members["manifest.json"])  # type: ignore[arg-type]
    manifest[0][key] = "\ud800x.json" if key == "Config" else ["\ud800x.json"] * 2
    (failure,) = put(unpack(tmp_path / "d", members | {"manifest.json": archives.compact(manifest)}))
    assert r"\ud800x.json" in failure and ("no such file" in failure or "has no member" in failure)


def test_a_directory_whose_name_is_no_text_is_told(tmp_path: Path, put: Put, said: list[str]) -> None:
    disk = tmp_path / os.fsdecode(b"\xd6\x1b")
    disk.mkdir()
    write(disk / "a.tar", archives.docker((A, ["a:1"])))
    (disk / "bad.tar").write_bytes(PACK["gzip"](b"x" * 600)[:-4])
    (failure,) = put(disk)
    assert r"\udcd6\x1b" in failure
    for line in [*said, failure]:
        assert line.isprintable()


def test_an_id_is_no_name(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    """As `ctr -n k8s.io images export` writes all the names that the kubelet's images have."""
    out = layout()
    manifest = out.manifest(A)
    digest = f"docker.io/library/a@{manifest['digest']}"
    for name in ("docker.io/library/a:1", digest, A.config_digest):
        out.add(manifest, name)
    assert put(write(tmp_path / "a.tar", out.finished())) == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/a:1", digest]


def test_an_image_with_no_name_but_its_id_needs_one(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = write(tmp_path / "a.tar", archives.oci(A, A.config_digest))
    (failure,) = put(path)
    assert "--as" in failure
    assert put(path, name="a:1") == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


def add_foreign(out: archives.Layout, what: str) -> None:
    """Put what is no image into a layout, as helm, cosign and others do."""
    if what == "chart":
        config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", **out.blob(b"{}")}
        content = archives.compact({"schemaVersion": 2, "config": config, "layers": []})
        out.add({"mediaType": archives.MANIFEST, **out.blob(content)}, "docker.io/charts/a:1")
    elif what == "signature":
        payload = b'{"critical": {}}'
        content = archives.compact(
            {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [archives.digest(payload)]}}
        )
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", **out.blob(content)}
        layers = [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", **out.blob(payload)}]
        content = archives.compact({"schemaVersion": 2, "config": config, "layers": layers})
        out.add({"mediaType": archives.MANIFEST, **out.blob(content)}, f"docker.io/library/a:sha256-{'0' * 64}.sig")
    else:
        out.add({"mediaType": "application/octet-stream", **out.blob(b"anything")}, "docker.io/library/x:1")


@pytest.mark.parametrize("what", ["chart", "signature", "blob"])
def test_what_is_no_image_beside_one_is_said_and_left_out(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str], what: str
) -> None:
    out = layout()
    add_foreign(out, what)
    out.add(out.manifest(A), "docker.io/library/a:1")
    assert put(write(tmp_path / "a.tar", out.finished())) == []
    (found,) = bundle.read().images
    is_whole(bundle, found, A)
    assert any("left out" in line and "no container image" in line for line in said)


@pytest.mark.parametrize("what", ["chart", "signature", "blob"])
def test_what_is_no_image_alone_is_an_error(tmp_path: Path, put: Put, what: str) -> None:
    out = layout()
    add_foreign(out, what)
    (failure,) = put(write(tmp_path / "a.tar", out.finished()))
    assert "no container image" in failure


def test_only_wanted_platforms_are_taken(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = write(tmp_path / "a.tar", two_platforms())
    (failure,) = put(path, platforms=("linux/s390x",))
    assert f"{path}: has linux/amd64, linux/arm64 only, not linux/s390x" == failure
    assert put(path, platforms=("linux/arm64",)) == []
    assert [each.platform for each in bundle.read().images] == ["linux/arm64"]


@pytest.mark.parametrize(
    ("given", "locked"),
    [
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v7"),
    ],
)
def test_a_variant_counts_where_runtimes_tell_it_apart(
    tmp_path: Path, bundle: Bundle, put: Put, given: str, locked: str
) -> None:
    """What an image says of itself and what a person asks for have the same one form."""
    path = write(tmp_path / "a.tar", archives.docker((image("x", platform=given), ["a:1"])))
    assert put(path) == []
    assert [each.platform for each in bundle.read().images] == [locked]
    assert verify(bundle) == []
    for platform in (given, locked):
        arguments = ["bundle", "add", str(path), "--platform", platform, "--bundle", str(bundle.directory)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0 and "there already" in result.output


def test_a_platform_that_is_none_is_told(tmp_path: Path, bundle: Bundle) -> None:
    path = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    arguments = ["bundle", "add", str(path), "--platform", "amd64", "--bundle", str(bundle.directory)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "'amd64' is no platform: write os/architecture" in result.output


def test_another_sites_bundle_is_taken_over_as_it_is(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    put(
        write(tmp_path / "docker.tar", archives.docker((A, ["a:1"]))),
        write(tmp_path / "oci.tar", archives.oci(C, "docker.io/c/c:1")),
    )
    mine = Bundle(tmp_path / "mine")
    assert add(mine, [bundle.directory], Wishes(), print) == []
    assert mine.lock_file.read_text() == bundle.lock_file.read_text()
    assert mine.store.verify(mine.read()) == []


@pytest.mark.parametrize(
    ("what", "other"), [("size", 7), ("version", "v9.9.9"), ("platform", "linux/arm64"), ("name", "kubeadm")]
)
def test_what_another_sites_lock_says_of_a_program_is_compared_with_the_program(
    tmp_path: Path, bundle: Bundle, put: Put, what: str, other: str | int
) -> None:
    (tmp_path / "istioctl").write_bytes(elf(ISTIOCTL, ("1.13.1",)))
    assert put(tmp_path / "istioctl") == []
    (program,) = bundle.read().programs
    edited = replace(program, **{what: other})  # type: ignore[arg-type]
    write_lock(Lock(programs=(edited,)), bundle.lock_file)
    mine = Bundle(tmp_path / "mine")
    (failure,) = add(mine, [bundle.directory], Wishes(), print)
    assert f"{bundle.lock_file}: {edited.name} ({edited.platform}): its {what}: the lock says" in failure
    assert not mine.lock_file.exists()


def test_what_another_sites_lock_says_of_an_images_size_is_not_believed(
    tmp_path: Path, bundle: Bundle, put: Put
) -> None:
    put(write(tmp_path / "a.tar", archives.docker((A, ["a:1"]))))
    (found,) = bundle.read().images
    write_lock(Lock((replace(found, size=found.size + 100_000_000),)), bundle.lock_file)
    mine = Bundle(tmp_path / "mine")
    assert add(mine, [bundle.directory], Wishes(), print) == []
    assert verify(mine) == []


def test_only_wanted_platforms_of_another_sites_bundle_are_taken(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    (tmp_path / "runc").write_bytes(elf(RUNC, ("1.3.0",), machine=ARM64))
    (tmp_path / "istioctl").write_bytes(elf(ISTIOCTL, ("1.13.1",)))
    put(tmp_path / "runc")
    mine = Bundle(tmp_path / "mine")
    (failure,) = add(mine, [bundle.directory], Wishes(platforms=("linux/amd64",)), print)
    assert failure == f"{bundle.directory}: has linux/arm64 only, not linux/amd64"
    put(
        tmp_path / "istioctl", write(tmp_path / "arm.tar", archives.docker((image("x", platform="linux/arm64"), ["x"])))
    )
    assert add(mine, [bundle.directory], Wishes(platforms=("linux/amd64",)), print) == []
    assert [each.name for each in mine.read().programs] == ["istioctl"]
    assert mine.read().images == ()
    assert verify(mine) == []


def test_what_the_store_has_of_another_store_is_not_copied_again(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    """Half of a USB disk was copied when it was pulled; the rest, and no more, is read from it the next time."""
    disk = unpack(tmp_path / "disk", archives.oci(A, "docker.io/library/a:1"))
    first, second = (disk / "blobs" / "sha256" / archives.digest(PACK["gzip"](x))[7:] for x in A.layers)
    content = second.read_bytes()
    second.write_bytes(content[:-1])
    assert str(second) in put(disk)[0]
    kept = bundle.store.blob(first.name)
    before = kept.stat()
    second.write_bytes(content)
    unreadable = content[:10] + bytes(first.stat().st_size - 10)
    first.write_bytes(unreadable)  # of the right size, and never looked into
    assert put(disk) == []
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


def test_a_blob_in_the_store_does_not_vouch_for_another_diff_id(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    put(write(tmp_path / "a.tar", archives.oci(A, "docker.io/library/a:1")))
    lie = Made(A.layers, A.config.replace(A.diff_ids[0].encode(), A.diff_ids[1].encode()))
    (failure,) = put(write(tmp_path / "lie.tar", archives.oci(lie, "docker.io/library/lie:1")))
    assert "diff ID" in failure
    assert bundle.read().image("lie:1", "linux/amd64") is None


def test_a_lost_blob_is_brought_back_by_its_archive(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    put(path)
    before = bundle.read()
    bundle.store.blob(before.images[0].layers[1].digest).unlink()
    assert put(path) == []
    assert bundle.read() == before
    is_whole(bundle, before.images[0], A)


def alter(path: Path, at: int = -1) -> None:
    """What a bad disk does: a byte is another, and the size is the same."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


MEMBERS = {"docker": archives.docker((A, ["a:1"])), "oci": archives.oci(A, "docker.io/library/a:1")}


@pytest.mark.parametrize("replace", [False, True], ids=["add", "replace"])
@pytest.mark.parametrize("members", list(MEMBERS.values()), ids=list(MEMBERS))
@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_an_altered_blob_is_put_right_by_its_archive(
    tmp_path: Path, bundle: Bundle, put: Put, part: str, members: dict[str, bytes | archives.Link], replace: bool
) -> None:
    path = write(tmp_path / "a.tar", members)
    assert put(path) == []
    before = bundle.read()
    (found,) = before.images
    alter(bundle.store.blob(found.layers[1].digest if part == "layer" else getattr(found, part)))
    (problem,) = verify(bundle)
    assert "altered" in problem and "`meshstrap bundle add`" in problem
    assert put(path, replace=replace) == []
    assert bundle.read() == before
    is_whole(bundle, before.images[0], A)
    assert verify(bundle) == []


def test_an_altered_layer_of_two_images_is_put_right_by_removing_one_and_adding_it(
    tmp_path: Path, bundle: Bundle, put: Put
) -> None:
    path = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    assert put(path, write(tmp_path / "c.tar", archives.docker((C, ["c:1"])))) == []
    shared = bundle.read().images[1].layers[0].digest
    alter(bundle.store.blob(shared))
    remove(bundle, ["a:1"], [], print)
    assert verify(bundle) != []
    assert put(path) == []
    assert verify(bundle) == []


def test_an_altered_program_is_put_right_by_its_file(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    (tmp_path / "istioctl").write_bytes(elf(ISTIOCTL, ("1.13.1",)))
    assert put(tmp_path / "istioctl") == []
    alter(bundle.store.blob(bundle.read().programs[0].sha256))
    assert put(tmp_path / "istioctl") == []
    assert verify(bundle) == []


def test_a_blob_that_a_dead_run_left_altered_is_not_believed(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    """The time in a gzip header is no part of what it unpacks to, and part of its digest."""
    packed = PACK["gzip"](A.layers[0])
    bundle.store.add(packed)
    alter(bundle.store.blob(archives.digest(packed)), 4)
    assert put(write(tmp_path / "a.tar", archives.oci(A, "docker.io/library/a:1"))) == []
    assert verify(bundle) == []


def test_a_lock_without_its_store_is_filled_one_archive_after_the_other(
    tmp_path: Path, bundle: Bundle, put: Put
) -> None:
    """A clone of the site's repository has the lock alone."""
    a = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    c = write(tmp_path / "c.tar", archives.docker((C, ["c:1"])))
    assert put(a, c) == []
    before = bundle.read()
    shutil.rmtree(bundle.store.directory)
    assert put(a) == []
    (failure,) = add(Bundle(tmp_path / "other"), [bundle.directory], Wishes(), print)
    assert "lacks docker.io/library/c:1" in failure and "bundle verify" in failure
    assert put(c) == []
    assert bundle.read() == before
    assert verify(bundle) == []


@pytest.mark.parametrize("whole", [False, True], ids=["image", "layout"])
def test_a_name_of_a_file_that_is_no_utf_8_is_written_so_that_it_can_be_read(
    tmp_path: Path, bundle: Bundle, put: Put, whole: bool
) -> None:
    """A disk that Windows wrote in GBK."""
    disk = tmp_path / "usb"
    disk.mkdir()
    name = os.fsdecode(b"\xd6\xd0")
    if whole:
        unpack(disk / name, archives.oci(A, "docker.io/library/a:1"))
    else:
        write(disk / name, archives.docker((A, ["a:1"])))
    (disk / f"{name} 2").write_bytes(elf(ISTIOCTL, ("1.13.1",)))
    assert put(disk) == []
    lock = bundle.read()
    assert [each.source.rpartition(" ")[2] for each in lock.images] == [r"\udcd6\udcd0"]
    assert [each.source for each in lock.programs] == [r"file \udcd6\udcd0 2"]
    assert put(disk) == []
    assert bundle.read() == lock


def test_files_beside_archives_are_passed_over_and_said(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str]
) -> None:
    disk = tmp_path / "usb"
    (disk / "images").mkdir(parents=True)
    write(disk / "images" / "a.tar.gz", archives.docker((A, ["a:1"])), "gzip")
    (disk / "photo.tar").write_bytes(archives.tar({"photo.jpg": b"\xff\xd8"}))
    assert put(disk) == []
    assert bundle.read().image("a:1", "linux/amd64")
    assert any("photo.tar" in line and "left out" in line for line in said)
    (failure,) = put(disk / "photo.tar")
    assert "holds neither images nor programs" in failure


def test_a_disk_with_whatever_else_lies_there(tmp_path: Path, bundle: Bundle, put: Put, said: list[str]) -> None:
    disk = tmp_path / "usb"
    others = {
        "README.txt": b"Images for the lab\n" * 50,
        ".keep": b"",
        "._a.tar": b"\0\x05\x16\x07" + bytes(4092),
        "photo.jpg": b"\xff\xd8\xff\xe0" + bytes(range(256)) * 9,
        "sha256sums": b"0" * 64 + b"  a.tar\n",
        "site/manifest.json": b'{"name": "A web application", "icons": []}',
        "site/index.json": b'["pages"]',
    }
    unpack(disk, others)
    write(disk / "a.tar", archives.docker((A, ["a:1"])))
    write(disk / "site" / "c.tar", archives.docker((C, ["c:1"])))
    assert put(disk) == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/a:1", "docker.io/library/c:1"]
    for name in others:
        assert sum(line.startswith(f"{disk / name}: ") and line.endswith(": left out") for line in said) == 1, name
    for name in others:
        (failure,) = put(disk / name)
        assert failure.startswith(f"{disk / name}: ")


def test_a_glob_takes_a_stick_as_its_directory_does(tmp_path: Path, bundle: Bundle, put: Put, said: list[str]) -> None:
    disk = tmp_path / "usb"
    others = {
        "README.txt": b"Read me " * 99,
        "System Volume Information/WPSettings.dat": b"\x0c\0\0\0",
        ".hidden": b"x",
    }
    unpack(disk, others)
    write(disk / "a.tar", archives.docker((A, ["a:1"])))
    assert put(disk) == []
    by_directory, said[:] = {line.partition(": ")[0] for line in said if line.endswith(": left out")}, []
    assert put(*sorted(disk.glob("*"))) == []
    by_glob = {line.partition(": ")[0] for line in said if line.endswith(": left out")}
    assert {str(disk / "README.txt"), str(disk / "System Volume Information")} <= by_glob
    assert {Path(each).relative_to(disk).parts[0] for each in by_directory} == {
        Path(each).relative_to(disk).parts[0] for each in by_glob
    }
    # Where nothing is ours, each is told.
    failures = put(disk / "README.txt", disk / "System Volume Information")
    assert len(failures) == 2
    # What is called an archive and is none is an error beside whatever.
    (disk / "page.tar.gz").write_bytes(b"<html>Not found</html>" * 40)
    (failure,) = put(*sorted(disk.glob("*")))
    assert "page.tar.gz" in failure


@pytest.mark.parametrize("files", [{}, {"README.txt": b"Read me " * 99}])
def test_a_directory_in_which_nothing_is_ours_is_an_error(tmp_path: Path, put: Put, files: dict[str, bytes]) -> None:
    disk = tmp_path / "usb"
    disk.mkdir()
    assert put(unpack(disk, files)) == [f"{disk}: holds neither images nor programs that go onto nodes"]


def test_a_directory_that_cannot_be_read_stops_no_other(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ext4 disk has a lost+found of root's; here root itself runs the tests, so access is refused by hand."""
    disk = tmp_path / "usb"
    lost = disk / "lost+found"
    lost.mkdir(parents=True)
    write(disk / "z.tar", archives.docker((A, ["a:1"])))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != lost and access(path, mode))
    assert put(disk) == []
    assert bundle.read().image("a:1", "linux/amd64")
    assert f"{lost}: cannot be read: Permission denied: left out" in said


def test_an_id_among_dockers_tags_is_no_name(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "a.tar", archives.docker((A, [A.config_digest, "a:1"])))) == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/a:1"]


@pytest.mark.parametrize("how", ["gzip", "zstd", "header", "end"])
def test_a_damaged_archive_in_a_directory_is_an_error(tmp_path: Path, put: Put, how: str) -> None:
    disk = tmp_path / "usb"
    disk.mkdir()
    path = write(disk / "a.tar", archives.docker((A, ["a:1"])), how if how in PACK else "")
    content = bytearray(path.read_bytes())
    if how == "header":
        content[3] ^= 1
    path.write_bytes(content if how == "header" else content[: len(content) // 2])
    (failure,) = put(disk)
    assert str(path) in failure


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>" * 40], ids=["empty", "a page"])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.zst"])
def test_what_is_called_an_archive_and_is_none_is_an_error(
    tmp_path: Path, put: Put, suffix: str, content: bytes
) -> None:
    disk = unpack(tmp_path / "usb", {f"b{suffix}": content})
    write(disk / "a.tar", archives.docker((A, ["a:1"])))
    (failure,) = put(disk)
    assert failure.startswith(f"{disk / f'b{suffix}'}: ")


def test_a_damaged_table_of_a_directory_is_an_error(tmp_path: Path, put: Put) -> None:
    disk = unpack(tmp_path / "usb", {"images/manifest.json": b'[{"Config": "x.json", ', "images/x.json": A.config})
    (failure,) = put(disk)
    assert "manifest.json: not JSON" in failure


def test_a_layout_below_a_directory_of_its_archive_is_told(tmp_path: Path, put: Put) -> None:
    members = {f"x/{name}": content for name, content in archives.oci(A, "docker.io/library/a:1").items()}
    path = write(tmp_path / "a.tar", members)
    (failure,) = put(path)
    assert failure.startswith(f"{path}: its OCI layout stands below x/: ") and "tar -C x -cf FILE ." in failure


@pytest.mark.parametrize("whole", [("amd64", "arm64"), ("amd64",)])
def test_a_plain_directory_of_several_platforms(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str], whole: tuple[str, ...]
) -> None:
    """As `skopeo copy --all ... dir:` writes it."""
    out = layout()
    made = {name: image("base", name, platform=f"linux/{name}") for name in ("amd64", "arm64")}
    entries = [(out.manifest(each), f"linux/{name}") for name, each in made.items()]
    index = out.index(*entries)
    members = {name.rpartition("/")[2]: content for name, content in out.members.items()}
    members["manifest.json"] = members.pop(index["digest"].removeprefix("sha256:"))
    members["version"] = b"Directory Transport Version: 1.1\n"
    for (entry, _), name in zip(entries, made, strict=True):
        content = members.pop(entry["digest"].removeprefix("sha256:"))
        if name in whole:
            members[f"{entry['digest'].removeprefix('sha256:')}.manifest.json"] = content
    assert put(unpack(tmp_path / "a", members), name="a:1") == []
    assert [each.platform for each in bundle.read().images] == [f"linux/{name}" for name in whole]
    for name in whole:
        is_whole(bundle, bundle.read().image("a:1", f"linux/{name}"), made[name])
    assert any("left out: linux/arm64" in line for line in said) == (len(whole) == 1)


def test_a_disk_with_archives_layouts_and_another_sites_bundle(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    disk = tmp_path / "usb"
    (disk / "tars").mkdir(parents=True)
    write(disk / "tars" / "a.tar", archives.docker((A, ["a:1"])))
    unpack(disk / "deep" / "layout", archives.oci(C, "docker.io/c/c:1"))
    theirs = Bundle(disk / "site")
    d = image("d")
    assert add(theirs, [write(tmp_path / "d.tar", archives.docker((d, ["d:1"])))], Wishes(), print) == []
    (disk / "round").symlink_to(disk)
    assert put(disk) == []
    lock = bundle.read()
    for reference, made in (("a:1", A), ("c/c:1", C), ("d:1", d)):
        is_whole(bundle, lock.image(reference, "linux/amd64"), made)
    assert len(lock.images) == 3


def test_one_bad_file_does_not_keep_the_others_out(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no tar at all" * 100)
    good = write(tmp_path / "good.tar", archives.docker((A, ["a:1"])))
    (failure,) = put(bad, good)
    assert str(bad) in failure
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


def test_the_lock_says_the_same_whatever_the_order(tmp_path: Path, put: Put) -> None:
    first = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    second = write(tmp_path / "c.tar", archives.oci(C, "docker.io/c/c:1"))
    texts = []
    for number, paths in enumerate([(first, second), (second, first)]):
        bundle = Bundle(tmp_path / str(number))
        assert add(bundle, paths, Wishes(), print) == []
        texts.append(bundle.lock_file.read_text())
    assert texts[0] == texts[1]


def test_two_commands_do_not_change_one_bundle_at_a_time(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    path = write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))
    with bundle.change(), pytest.raises(BundleError, match="another command is changing this bundle"):
        put(path)
    assert put(path) == []


PACKED: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("how", PACKED)
def test_an_archive_packed_by_other_programs_is_the_same_image(
    tmp_path: Path, bundle: Bundle, put: Put, how: str
) -> None:
    content = archives.tar(archives.docker((A, ["a:1"])))
    half = len(content) // 2
    # Programs write several streams in a row, and xz pads them.
    padding = b"\0" * 4 if how == "xz" else b""
    path = tmp_path / "a.archive"
    path.write_bytes(PACKED[how](content[:half]) + padding + PACKED[how](content[half:]) + padding)
    assert put(path) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


@pytest.mark.parametrize("how", PACKED)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_damaged_archive_of_other_programs_is_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, how: str, data: st.DataObject
) -> None:
    packed = bytearray(PACKED[how](archives.tar(archives.docker((A, ["a:1"])))))
    # A magic of its own kind is left: without it, it is no such archive.
    at = data.draw(st.integers(6, len(packed) - 1))
    cut = data.draw(st.booleans())
    if cut:
        del packed[at:]
    else:
        packed[at] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("damaged")
    path = directory / "a.tar.xz"
    path.write_bytes(bytes(packed))
    said: list[str] = []
    failures = add(Bundle(directory / "bundle"), [path], Wishes(), said.append)
    if failures:
        assert str(path) in failures[0]
    else:
        # xz and bzip2 do not check what pads a stream.
        is_whole(Bundle(directory / "bundle"), Bundle(directory / "bundle").read().image("a:1", "linux/amd64"), A)


def test_an_xz_that_asks_for_too_much_memory_is_refused(tmp_path: Path, put: Put) -> None:
    huge = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    path = tmp_path / "a.tar.xz"
    # The header alone tells what it asks for; the encoder needs ten times as much.
    header = bytearray(lzma.compress(b"x" * 1000, filters=[{**huge[0], "dict_size": 1 << 16}]))
    at = header.index(b"\x21\x01") + 2
    header[at] = 36
    block = header[12 : 12 + 4 * (header[12] + 1)]
    block[-4:] = zlib.crc32(bytes(block[:-4])).to_bytes(4, "little")
    header[12 : 12 + len(block)] = block
    path.write_bytes(bytes(header))
    (failure,) = put(path)
    assert "Memory usage limit" in failure


@pytest.mark.parametrize(
    ("target", "hard"),
    [("{0}.tar", False), ("../{0}.tar", False), ("/{0}.tar", False), ("{0}.tar", True), ("./{0}.tar", True)],
)
def test_a_layer_may_be_a_link_to_a_file_at_the_archives_root(
    tmp_path: Path, bundle: Bundle, put: Put, target: str, hard: bool
) -> None:
    members = archives.docker((A, ["a:1"]))
    rooted: dict[str, bytes | archives.Link] = {}
    for name, content in members.items():
        if name.endswith("/layer.tar") and isinstance(content, bytes):
            number = f"layer{len(rooted)}"
            rooted[f"{number}.tar"] = content
            rooted[name] = archives.Link(target.format(number), hard)
        else:
            rooted[name] = content
    assert put(write(tmp_path / "a.tar", rooted)) == []
    is_whole(bundle, bundle.read().image("a:1", "linux/amd64"), A)


def without(members: dict[str, bytes | archives.Link], made: Made, layer: int) -> dict[str, bytes | archives.Link]:
    """Leave a layer's file out of a docker archive."""
    (entry,) = (
        each
        for each in json.loads(members["manifest.json"])  # type: ignore[arg-type]
        if each["Config"] == f"{made.config_digest.removeprefix('sha256:')}.json"
    )
    return {name: content for name, content in members.items() if name != entry["Layers"][layer]}


def test_of_an_archive_that_is_not_whole_the_whole_images_are_named_and_taken_when_told(
    tmp_path: Path, bundle: Bundle, put: Put, said: list[str]
) -> None:
    d = image("other", "d", command="/d")
    members = without(archives.docker((A, ["a:1"]), (C, ["c:1"]), (d, ["d:1"])), d, 1)
    path = write(tmp_path / "three.tar", members)
    (failure,) = put(path)
    assert "docker.io/library/d:1: has no member " in failure
    assert "Whole are docker.io/library/a:1, docker.io/library/c:1: give --partial" in failure
    assert not bundle.lock_file.exists()
    assert put(path, partial=True) == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/a:1", "docker.io/library/c:1"]
    assert any("left out: docker.io/library/d:1: has no member" in line for line in said)


def test_what_the_store_has_completes_an_archive_that_leaves_out_shared_layers(
    tmp_path: Path, bundle: Bundle, put: Put
) -> None:
    members = without(archives.docker((C, ["c:1"])), C, 0)
    path = write(tmp_path / "c.tar", members)
    (failure,) = put(path)
    assert "docker.io/library/c:1: has no member" in failure
    assert put(write(tmp_path / "a.tar", archives.docker((A, ["a:1"])))) == []
    assert put(path) == []
    is_whole(bundle, bundle.read().image("c:1", "linux/amd64"), C)


def test_what_the_store_has_completes_a_layout(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    whole = archives.oci(C, "docker.io/library/c:1")
    manifest = next(v for v in whole.values() if isinstance(v, bytes) and v.startswith(b"{") and b'"layers":[' in v)
    first = json.loads(manifest)["layers"][0]
    lacking = first["digest"].removeprefix("sha256:")
    thin = {name: content for name, content in whole.items() if not name.endswith(lacking)}
    assert len(thin) == len(whole) - 1
    (failure,) = put(write(tmp_path / "c.tar", thin))
    assert "is not in it" in failure
    assert put(write(tmp_path / "a.tar", archives.oci(A, "docker.io/library/a:1"))) == []
    assert put(write(tmp_path / "c.tar", thin)) == []
    is_whole(bundle, bundle.read().image("c:1", "linux/amd64"), C)


def test_a_zstd_chunked_layer_whose_diff_id_lies_is_told_by_that_name(tmp_path: Path, put: Put) -> None:
    liar = Made((archives.layer("other"),), image("hello").config)
    members = archives.docker((liar, ["a:1"]))
    (name,) = (each for each in members if each.endswith("/layer.tar"))
    footer = b"GNUlInUx"
    frame = b"\x50\x2a\x4d\x18" + len(footer).to_bytes(4, "little") + footer
    members[name] = PACK["zstd"](liar.layers[0]) + frame
    (failure,) = put(write(tmp_path / "a.tar", members))
    assert "a zstd:chunked layer whose content is not what the image's config says" in failure
    assert "altered" not in failure
