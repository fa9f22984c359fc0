"""We test that whatever is wrong with an archive is told by its name and member, and that nothing is lost by it."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshstrap.bundle.add import Wishes, add
from meshstrap.bundle.contents import MOST_ENTRIES
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.errors import BundleError

from . import archives
from .archives import PACK, Link, Made, compact, image, unpack, write
from .conftest import Put

A, B = image("base", "a"), image("b")
Members = dict[str, bytes | Link]


def docker() -> Members:
    return archives.docker((A, ["a:1"]))


def oci() -> Members:
    return archives.oci(A, "docker.io/library/a:1")


def blob(content: bytes) -> str:
    return f"blobs/{archives.digest(content).replace(':', '/')}"


@pytest.fixture
def refused(tmp_path: Path, bundle: Bundle, put: Put) -> Iterator[Callable[[Path], str]]:
    """Add an archive that cannot be added: refused(path) -> why; then a good one of that name can be, and the bundle is
    as if the bad one had never been there.
    """
    assert put(write(tmp_path / "b.tar", archives.docker((B, ["b:1"])))) == []
    before = bundle.read()
    paths = []

    def run(path: Path) -> str:
        paths.append(path)
        (failure,) = put(path)
        assert str(path) in failure
        assert bundle.read() == before
        assert bundle.store.verify(before) == []
        return failure

    yield run
    write(paths[0], docker())
    assert put(paths[0]) == []
    assert bundle.store.verify(bundle.read()) == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert not list((bundle.directory / "store" / "blobs" / "sha256").glob(".adding-*"))


def test_an_empty_file(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    path = tmp_path / "a.tar"
    path.touch()
    assert refused(path) == f"{path}: is empty"


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("members", [docker, oci], ids=["docker", "oci"])
def test_a_truncated_archive(
    tmp_path: Path, refused: Callable[[Path], str], packed: str, share: float, members: Callable[[], Members]
) -> None:
    whole = write(tmp_path / "a.tar", members(), packed)
    content = whole.read_bytes().rstrip(b"\0")  # a tar may have any number of zeros at its end
    whole.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in refused(whole)


def test_an_archive_cut_between_two_members(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    """Nothing is cut in two, and a program would simply not be there."""
    path = write(tmp_path / "a.tar", docker())
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_an_archive_without_its_checksum(tmp_path: Path, refused: Callable[[Path], str], packed: str) -> None:
    path = write(tmp_path / "a.tar", docker(), packed)
    path.write_bytes(path.read_bytes()[:-4])
    assert "truncated" in refused(path)


def test_a_flipped_bit_in_a_layer(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    path = write(tmp_path / "a.tar", docker())
    with tarfile.open(path) as tar:
        info = next(each for each in tar if each.name.endswith("layer.tar"))
    content = bytearray(path.read_bytes())
    content[info.offset_data + 700] ^= 1
    path.write_bytes(content)
    failure = refused(path)
    assert info.name in failure and "altered" in failure


def test_a_flipped_bit_in_a_header(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    """tarfile takes it for the end of the archive."""
    path = write(tmp_path / "a.tar", docker())
    with tarfile.open(path) as tar:
        info = tar.getmembers()[-1]
    content = bytearray(path.read_bytes())
    content[info.offset + 3] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_flipped_bit_in_what_is_compressed(tmp_path: Path, refused: Callable[[Path], str], packed: str) -> None:
    path = write(tmp_path / "a.tar", docker(), packed)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    refused(path)


def test_a_name_that_ends_in_gz_is_no_gzip(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"<html>404 Not Found</html>" * 40)
    assert "not a tar archive, nor a compressed one" in refused(path)


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"], ids=["gzip", "zstd"])
def test_what_only_begins_as_if_it_were_compressed(tmp_path: Path, refused: Callable[[Path], str], head: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(head + b"nonsense" * 200)
    refused(path)


def test_a_layer_that_only_begins_as_gzip(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    broken = PACK["gzip"](A.layers[0])[:-20] + bytes(20)
    out = archives.layout()
    config = out.blob(A.config)
    layers = [out.blob(broken), out.blob(PACK["gzip"](A.layers[1]))]
    out.add(out.blob(compact({"schemaVersion": 2, "config": config, "layers": layers})), "docker.io/library/a:1")
    assert blob(broken) in refused(write(tmp_path / "a.tar", out.finished()))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE], ids=["file", "link", "directory"])
def test_a_hundred_thousand_entries(tmp_path: Path, refused: Callable[[Path], str], kind: bytes) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("000000")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ") - 6 * ord("0")
    with path.open("wb") as file:
        for number in range(100_000):
            name = b"%06d" % number
            header[:6] = name
            header[148:155] = b"%06o\0" % (checksum + sum(name))
            file.write(header)
        file.write(bytes(1024))
    start = time.monotonic()
    assert f"more than {MOST_ENTRIES} entries" in refused(path)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/cron.d/x", "a/../../x"])
def test_a_member_that_points_out_of_the_archive(tmp_path: Path, refused: Callable[[Path], str], name: str) -> None:
    failure = refused(write(tmp_path / "a.tar", {name: b"* * * * * root true\n", **docker()}))
    assert name in failure and "points out of the archive" in failure


@pytest.mark.parametrize("key", ["Config", "Layers"])
def test_a_manifest_that_points_out_of_the_archive(tmp_path: Path, refused: Callable[[Path], str], key: str) -> None:
    members = docker()
    manifest = json.loads(members["manifest.json"])  # type: ignore[arg-type]
    manifest[0][key] = "../../../etc/passwd" if key == "Config" else ["../../../etc/passwd"] * 2
    members["manifest.json"] = compact(manifest)
    assert "../../../etc/passwd: points out of the archive" in refused(write(tmp_path / "a.tar", members))


@pytest.mark.parametrize("hard", [False, True], ids=["symbolic", "hard"])
def test_a_link_out_of_the_archive_is_not_followed(tmp_path: Path, refused: Callable[[Path], str], hard: bool) -> None:
    (tmp_path / "secret").write_bytes(A.layers[0])
    members = docker()
    path = next(name for name in members if name.endswith("layer.tar"))
    members[path] = Link("../../../../../../../.." + str(tmp_path / "secret"), hard)
    assert f"has no member {path}" in refused(write(tmp_path / "a.tar", members))


def test_links_in_a_circle(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    members = docker()
    first, second = [name for name in members if name.endswith("layer.tar")]
    members[first], members[second] = Link(f"../{second}"), Link(f"../{first}")
    assert "a link to a link" in refused(write(tmp_path / "a.tar", members))


def test_a_member_twice(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    path = write(tmp_path / "a.tar", docker())
    with tarfile.open(path, "a", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    assert "manifest.json stands there twice" in refused(path)


def test_a_manifest_that_lies_about_a_layers_size(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    out = archives.layout()
    config = out.blob(A.config)
    layers = [out.blob(PACK["gzip"](each)) for each in A.layers]
    layers[1]["size"] += 1
    out.add(out.blob(compact({"schemaVersion": 2, "config": config, "layers": layers})), "docker.io/library/a:1")
    failure = refused(write(tmp_path / "a.tar", out.finished()))
    assert blob(PACK["gzip"](A.layers[1])) in failure and "bytes instead of" in failure


def test_a_manifest_that_lies_about_its_configs_size(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    out = archives.layout()
    config = out.blob(A.config) | {"size": len(A.config) + 1}
    layers = [out.blob(PACK["gzip"](each)) for each in A.layers]
    out.add(out.blob(compact({"schemaVersion": 2, "config": config, "layers": layers})), "docker.io/library/a:1")
    failure = refused(write(tmp_path / "a.tar", out.finished()))
    assert f"{blob(A.config)}: altered: has {len(A.config)} bytes instead of {len(A.config) + 1}" in failure


@pytest.mark.parametrize(
    ("header", "why"),
    [
        # A size of -1024 in base 256.
        ({124: b"\xff" * 10 + b"\xfc\x00"}, "a member of negative size"),
        ({124: b"%011o\0" % (64 << 20), 156: b"x"}, "a header of"),
    ],
    ids=["negative", "pax-of-64-MiB"],
)
def test_a_header_that_nobody_would_write(
    tmp_path: Path, refused: Callable[[Path], str], header: dict[int, bytes], why: str
) -> None:
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    for place, what in header.items():
        block[place : place + len(what)] = what
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + archives.tar(docker()))
    assert why in refused(path)


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_a_blob_that_has_not_the_digest_that_it_is_called_by(
    tmp_path: Path, refused: Callable[[Path], str], part: str
) -> None:
    members = oci()
    manifest = json.loads(members["index.json"])["manifests"][0]["digest"]  # type: ignore[arg-type]
    name = {
        "manifest": f"blobs/{manifest.replace(':', '/')}",
        "config": blob(A.config),
        "layer": blob(PACK["gzip"](A.layers[0])),
    }[part]
    content = members[name]
    assert isinstance(content, bytes)
    members[name] = PACK["gzip"](A.layers[0][:-1] + b"x") if part == "layer" else content.replace(b"a", b"b", 1)
    failure = refused(write(tmp_path / "a.tar", members))
    assert name in failure and "altered" in failure


@pytest.mark.parametrize("form", ["{}.json", "sha256:{}", "configs/{}", "blobs/sha256/{}"])
def test_a_config_that_has_not_the_digest_in_its_name(
    tmp_path: Path, refused: Callable[[Path], str], form: str
) -> None:
    """As docker save, crane and kaniko, and others name it."""
    members = docker()
    old = f"{A.config_digest.removeprefix('sha256:')}.json"
    name = form.format(A.config_digest.removeprefix("sha256:"))
    del members[old]
    members[name] = A.config.replace(b"/a", b"/x")
    manifest = members["manifest.json"]
    assert isinstance(manifest, bytes)
    members["manifest.json"] = manifest.replace(old.encode(), name.encode())
    failure = refused(write(tmp_path / "a.tar", members))
    assert name in failure and "altered" in failure


@pytest.mark.parametrize("members", [docker, oci], ids=["docker", "oci"])
def test_a_config_that_lies_about_diff_ids(
    tmp_path: Path, refused: Callable[[Path], str], members: Callable[[], Members]
) -> None:
    lie = Made(A.layers, A.config.replace(A.diff_ids[1].encode(), archives.digest(b"else").encode()))
    made = archives.docker((lie, ["a:1"])) if members is docker else archives.oci(lie, "docker.io/library/a:1")
    assert "does not have the diff ID" in refused(write(tmp_path / "a.tar", made))


def test_more_layers_than_diff_ids(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    lie = Made((*A.layers, archives.layer("more")), A.config)
    assert "has 3 layers" in refused(write(tmp_path / "docker.tar", archives.docker((lie, ["a:1"]))))
    assert "has 3 layers" in refused(write(tmp_path / "oci.tar", archives.oci(lie, "docker.io/library/a:1")))


def test_a_layer_that_is_not_there(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    members = docker()
    gone = next(name for name in members if name.endswith("layer.tar"))
    del members[gone]
    assert f"has no member {gone}" in refused(write(tmp_path / "a.tar", members))


def test_one_tag_for_two_images(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    path = write(tmp_path / "a.tar", archives.docker((A, ["a:1"]), (image("z"), ["x:1", "a:1"])))
    assert "docker.io/library/a:1 (linux/amd64) stands there twice, with different content" in refused(path)


def test_the_same_tag_twice_for_one_image_is_one_image(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    assert put(write(tmp_path / "a.tar", archives.docker((A, ["a:1", "docker.io/library/a:1"])))) == []
    assert [each.reference for each in bundle.read().images] == ["docker.io/library/a:1"]


def test_a_name_that_is_none(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    failure = refused(write(tmp_path / "a.tar", archives.docker((A, ["../../x:1"]))))
    assert "RepoTags" in failure and "is not an image reference" in failure


@pytest.mark.parametrize(
    "manifests",
    [
        "x" * 3_000_000,
        [{"digest": "x" * 3_000_000}],
        [{"digest": list(range(300_000))}],
        [{"annotations": {"io.containerd.image.name": "X" * 3_000_000}}],
    ],
    ids=["text", "digest", "list", "name"],
)
def test_a_manifest_of_megabytes_is_quoted_in_part(
    tmp_path: Path, refused: Callable[[Path], str], manifests: object
) -> None:
    members: Members = {"index.json": compact({"schemaVersion": 2, "manifests": manifests})}
    assert len(refused(write(tmp_path / "a.tar", members))) < 1000


def test_an_archive_of_a_docker_before_manifests(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    members = docker()
    del members["manifest.json"]
    assert "Docker before 1.10" in refused(write(tmp_path / "a.tar", members))


def test_what_is_no_container_image(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    out = archives.layout()
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", **out.blob(b"{}")}
    out.add(out.blob(compact({"schemaVersion": 2, "config": config, "layers": []})), "docker.io/library/a:1")
    assert "helm.config.v1+json, no container image" in refused(write(tmp_path / "a.tar", out.finished()))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, put: Put) -> None:
    (failure,) = put(tmp_path / "gone.tar")
    assert str(tmp_path / "gone.tar") in failure


# A child of its own, since a limit on file sizes holds for the whole process.
_ADD = "import sys; from pathlib import Path; from meshstrap.bundle.add import Wishes, add; \
from meshstrap.bundle.directory import Bundle; \
print('\\n'.join(add(Bundle(Path(sys.argv[1])), [Path(sys.argv[2])], Wishes(), lambda line: None)))"


def test_a_full_disk(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    put(write(tmp_path / "b.tar", archives.docker((B, ["b:1"]))))
    before = bundle.read()
    large = Made((archives.tar({"big": os.urandom(3 << 20)}),), b"")
    large = Made(large.layers, compact({**json.loads(B.config), "rootfs": {"diff_ids": large.diff_ids}}))
    path = write(tmp_path / "large.tar", archives.docker((large, ["large:1"])))
    run = subprocess.run(
        [sys.executable, "-c", _ADD, bundle.directory, path],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert run.returncode == 0, run.stderr
    assert f"{bundle.directory / 'store'}: cannot be written: File too large" in run.stdout
    assert bundle.read() == before and bundle.store.verify(before) == []
    assert not list((bundle.directory / "store" / "blobs" / "sha256").glob(".adding-*"))
    assert put(path) == []
    assert bundle.store.verify(bundle.read()) == []


def test_killed_in_the_middle_the_next_run_completes(tmp_path: Path, bundle: Bundle, put: Put) -> None:
    layers = tuple(archives.tar({"big": os.urandom(2 << 20)}) for _ in range(4))
    config = {**json.loads(B.config), "rootfs": {"diff_ids": [archives.digest(each) for each in layers]}}
    path = write(tmp_path / "a.tar", archives.docker((Made(layers, compact(config)), ["a:1"])))
    blobs = bundle.directory / "store" / "blobs" / "sha256"
    run = subprocess.Popen([sys.executable, "-c", _ADD, bundle.directory, path])
    deadline = time.monotonic() + 60
    while not (list(blobs.glob("[!.]*")) and list(blobs.glob(".adding-*"))):
        assert run.poll() is None and time.monotonic() < deadline, "it was over before it could be killed"
        time.sleep(0.002)
    run.kill()
    run.wait()
    assert list(blobs.glob(".adding-*")) and not bundle.lock_file.exists()
    assert put(path) == []
    assert bundle.store.verify(bundle.read()) == []
    assert not list(blobs.glob(".adding-*"))


SEEDS = [
    archives.tar(members).rstrip(b"\0") + bytes(1024)
    for members in (
        docker(),
        oci(),
        archives.oci(A, "docker.io/library/a:1", "zstd"),
        archives.docker((A, ["a:1"]), (B, ["b:1"])),
    )
]


# What headers hold: sizes and types that nobody would write.
SIZES = [b"7" * 11 + b"\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-" * 12, b"0" * 12]
KINDS = [b"0", b"1", b"2", b"S", b"x", b"g", b"L", b"K"]
EDITS = st.one_of(
    st.tuples(st.just("change"), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("insert"), st.binary(min_size=1, max_size=40)),
    st.tuples(st.sampled_from(["cut", "double"]), st.integers(1, 700)),
    st.tuples(st.just("name"), st.binary(min_size=1, max_size=100)),
    st.tuples(st.just("size"), st.sampled_from(SIZES)),
    st.tuples(st.just("kind"), st.sampled_from(KINDS)),
)


def edited(content: bytes, where: float, how: str, what: object) -> bytes:
    """Break an archive at a place, a share of its length; a header that is changed keeps a right checksum."""
    data = bytearray(content)
    place = int(where * len(data))
    if isinstance(what, int):
        data[place : place + (what if how == "cut" else 0)] = data[place : place + what] if how == "double" else b""
        return bytes(data)
    assert isinstance(what, bytes)
    if how in ("change", "insert"):
        data[place : place + (len(what) if how == "change" else 0)] = what
        return bytes(data)
    block = place // 512 * 512
    start = block + {"name": 0, "size": 124, "kind": 156}[how]
    data[start : start + len(what)] = what
    data[block + 148 : block + 156] = b" " * 8
    data[block + 148 : block + 155] = b"%06o\0" % (sum(data[block : block + 512]) & 0o777777)
    return bytes(data)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    seed=st.integers(0, len(SEEDS) - 1),
    edits=st.lists(st.tuples(st.floats(0, 1), EDITS), min_size=1, max_size=4),
    packed=st.sampled_from(["", "gzip", "zstd"]),
)
def test_no_broken_archive_does_harm(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    edits: list[tuple[float, tuple[str, object]]],
    packed: str,
) -> None:
    content = SEEDS[seed]
    for where, (how, what) in edits:
        content = edited(content, where, how, what)
    root = tmp_path_factory.mktemp("fuzz")
    path = root / "a.tar"
    path.write_bytes(PACK[packed](content))
    does_no_harm(root, path)


# What JSON may hold, and a file's name or a terminal may not.
HOSTILE = ["\ud800x", "\x1b[31m", "a\nb", "a" * 300, "\0", "", "..", "/"]


TABLES: list[Members] = [archives.docker_archive(A, ["a:1"]), oci()]


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("seed", TABLES, ids=["docker", "oci"])
def test_no_hostile_text_does_harm(
    tmp_path_factory: pytest.TempPathFactory, seed: Members, what: str, unpacked: bool
) -> None:
    """Each text of each table in turn is something that no file's name nor a terminal may hold."""
    for name in seed:
        content = seed[name]
        assert isinstance(content, bytes)
        if not name.endswith(".json"):
            continue
        for text in set(re.findall(rb'"[^"]*"', content)):
            root = tmp_path_factory.mktemp("fuzz")
            members = {**seed, name: content.replace(text, json.dumps(what).encode())}
            does_no_harm(root, unpack(root / "a.tar", members) if unpacked else write(root / "a.tar", members))


def does_no_harm(root: Path, path: Path) -> None:
    """An image that is added is whole; anything else is an error of ours that a terminal can show; no file is written
    beside the bundle.
    """
    bundle = Bundle(root / "bundle")
    said: list[str] = []
    try:
        failures = add(bundle, [path], Wishes(), said.append)
    except BundleError as error:
        failures = [str(error)]
    assert all(failures), "an error says something"
    for line in [*said, *failures]:
        line.encode()
        assert line.isprintable()
    assert {each.name for each in root.iterdir()} <= {"a.tar", "bundle"}
    assert {each.name for each in bundle.directory.iterdir()} <= {".changing", "bundle.lock.yaml", "store"}
    if bundle.lock_file.exists():
        lock = bundle.read()
        assert bundle.store.verify(lock) == []
        for found in lock.images:
            for layer in found.layers:
                unpacked = gzip.decompress(bundle.store.blob(layer.digest).read_bytes())
                assert archives.digest(unpacked) == layer.diff_id
    else:
        assert failures


TEXT = st.text(max_size=9) | st.sampled_from(HOSTILE)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT | st.just(archives.digest(A.layers[0])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "manifests",
                    "config",
                    "layers",
                    "digest",
                    "size",
                    "mediaType",
                    "annotations",
                    "platform",
                    "Config",
                    "Layers",
                    "RepoTags",
                    "rootfs",
                    "diff_ids",
                    "os",
                    "architecture",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(value=JSON, place=st.sampled_from(["index.json", "manifest.json", "config", "manifest"]), unpacked=st.booleans())
def test_no_json_makes_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, value: object, place: str, unpacked: bool
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    members = docker() if place in ("manifest.json", "config") else oci()
    content = compact(value)
    if place == "config":
        members[f"{A.config_digest.removeprefix('sha256:')}.json"] = content
        members["x.json"] = content
        members["manifest.json"] = compact([{"Config": "x.json", "RepoTags": ["a:1"], "Layers": []}])
        del members[f"{A.config_digest.removeprefix('sha256:')}.json"]
    elif place == "manifest":
        members[blob(content)] = content
        entry = {"digest": archives.digest(content), "size": len(content)}
        members["index.json"] = compact({"schemaVersion": 2, "manifests": [entry]})
    else:
        members[place] = content
    path = unpack(root / "a.tar", members) if unpacked else write(root / "a.tar", members)
    said: list[str] = []
    for failure in add(Bundle(root / "bundle"), [path], Wishes(), said.append):
        assert str(path) in failure
        said.append(failure)
    for line in said:
        line.encode()
        assert line.isprintable()
