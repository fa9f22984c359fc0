"""Layers: the same content gives the same bytes, whatever the files' times, order and places."""

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.bundle.lock import Layer
from meshstrap.bundle.store import Store
from meshstrap.lab.layers import File, Link, add_file_layer, add_tree_layer, write_tree


def unpacked(store: Store, layer: Layer) -> bytes:
    return gzip.decompress(store.blob(layer.digest).read_bytes())


def tree(root: Path, names: list[str], when: int) -> Path:
    root.mkdir()
    for name in names:
        (root / name).write_text(f"content of {name}")
        os.utime(root / name, (when, when))
    (root / "sub").mkdir(mode=0o700)
    (root / "sub" / "link").symlink_to("../a")
    os.link(root / "a", root / "sub" / "twin")
    (root / "a").chmod(0o4755)
    return root


def test_a_tree_packs_the_same_whatever_its_times_and_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = add_tree_layer(store, tree(tmp_path / "one", ["a", "b", "c"], 1_000_000), tmp_path)
    second = add_tree_layer(store, tree(tmp_path / "two", ["c", "b", "a"], 2_000_000), tmp_path)
    assert first == second
    tree(tmp_path / "three", ["a", "b", "d"], 1_000_000)
    assert add_tree_layer(store, tmp_path / "three", tmp_path) != first


def test_a_tree_keeps_modes_links_and_twins_and_no_times(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    layer = add_tree_layer(store, tree(tmp_path / "one", ["a", "b"], 1_000_000), tmp_path)
    with tarfile.open(fileobj=io.BytesIO(unpacked(store, layer))) as tar:
        members = {member.name: member for member in tar}
    assert list(members) == ["a", "b", "sub", "sub/link", "sub/twin"]
    assert members["a"].mode == 0o4755 and members["sub"].mode == 0o700 and members["sub"].isdir()
    assert members["sub/link"].linkname == "../a"
    assert members["sub/twin"].islnk() and members["sub/twin"].linkname == "a"
    assert {member.mtime for member in members.values()} == {0}
    assert {member.uname + member.gname for member in members.values()} == {""}


def test_the_digests_are_what_runtimes_compute(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    layer = add_file_layer(store, {"/usr/bin/x": File(b"x" * 100_000, 0o755)}, tmp_path)
    packed = store.blob(layer.digest).read_bytes()
    assert layer.digest == f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert layer.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(packed)).hexdigest()}"
    assert layer.size == len(packed)
    assert packed[4:8] == b"\0\0\0\0", "gzip's time must be none"
    assert [p.name for p in tmp_path.iterdir()] == ["store"], "something was left behind"


def test_files_get_their_directories_and_links(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(b"program")
    content: dict[str, File | Link] = {
        "/usr/local/bin/one": Link("all"),
        "/usr/local/bin/all": File(source, 0o755),
        "/etc/x": File(b"text"),
    }
    layer = add_file_layer(store, content, tmp_path)
    with tarfile.open(fileobj=io.BytesIO(unpacked(store, layer))) as tar:
        names = tar.getnames()
        assert names == ["etc", "etc/x", "usr", "usr/local", "usr/local/bin", "usr/local/bin/all", "usr/local/bin/one"]
        assert tar.getmember("usr/local/bin/all").mode == 0o755
        assert tar.getmember("usr/local/bin/one").linkname == "all"
        assert all(member.uid == member.gid == 0 for member in tar)
    assert add_file_layer(store, dict(reversed(content.items())), tmp_path) == layer


@settings(deadline=None)
@given(data=st.binary(max_size=5000))
def test_any_content_comes_back(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "store")
        layer = add_file_layer(store, {"/f": File(data)}, Path(directory))
        with tarfile.open(fileobj=io.BytesIO(unpacked(store, layer))) as tar:
            file = tar.extractfile("f")
            assert file is not None and file.read() == data


def test_a_plain_tar_of_a_tree(tmp_path: Path) -> None:
    root = tree(tmp_path / "one", ["a", "b"], 1_000_000)
    digest = write_tree(root, tmp_path / "one.tar")
    assert hashlib.sha256((tmp_path / "one.tar").read_bytes()).hexdigest() == digest
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames()[:2] == ["a", "b"]
