"""The store: blobs by their digest, images made of them, and what is missing or altered found and named."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from meshstrap.bundle.lock import Image, Layer, Lock, Program
from meshstrap.bundle.store import Store


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def filled(directory: Path) -> tuple[Store, Lock]:
    store = Store(directory)
    plain = b"a tar" * 100
    packed = gzip.compress(plain, mtime=0)
    layer = Layer(store.add(packed), digest(plain), len(packed))
    image = store.add_image("a:1", "linux/amd64", [layer], {"Entrypoint": ["/a"]}, "a test")
    other = store.add_image("b:1", "linux/amd64", [layer], {"Entrypoint": ["/b"]}, "a test")
    program = Program("runc", "v1", "linux/amd64", store.add(b"elf").removeprefix("sha256:"), 3, "a test")
    lock = Lock((image, other), (program,))
    store.write_index(lock.images)
    return store, lock


def test_adding_bytes_and_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert store.add(b"content") == store.add(file) == digest(b"content")
    assert store.blob(digest(b"content")).read_bytes() == b"content"
    assert store.blob(digest(b"content")) == store.blob(hashlib.sha256(b"content").hexdigest())


def test_a_half_written_blob_is_completed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.blob(store.add(b"content"))
    path.write_bytes(b"cont")
    store.add(b"content")
    assert path.read_bytes() == b"content"


def test_an_image_is_a_valid_oci_image(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    image = lock.images[0]
    assert image.reference == "docker.io/library/a:1"
    manifest = json.loads(store.blob(image.manifest).read_bytes())
    config = json.loads(store.blob(image.config).read_bytes())
    assert manifest["config"]["digest"] == image.config
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in image.layers]
    assert config["rootfs"]["diff_ids"] == [digest(gzip.decompress(store.blob(image.layers[0].digest).read_bytes()))]
    assert config["config"] == {"Entrypoint": ["/a"]}
    blobs = [image.manifest, image.config, image.layers[0].digest]
    assert image.size == sum(store.blob(blob).stat().st_size for blob in blobs)
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == [
        "docker.io/library/a:1",
        "docker.io/library/b:1",
    ]
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_the_same_image_twice_has_the_same_digests(tmp_path: Path) -> None:
    assert filled(tmp_path / "one")[1] == filled(tmp_path / "two")[1]


def test_a_whole_store_has_no_problems(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    assert store.verify(lock) == []
    assert store.verify(lock, read=False) == []


def test_a_missing_blob_is_named_with_all_that_need_it(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    gone = store.blob(lock.images[0].layers[0].digest)
    gone.unlink()
    (problem,) = store.verify(lock, read=False)
    assert problem == f"{gone}: missing (needed by docker.io/library/a:1, docker.io/library/b:1)"


def test_an_altered_blob_is_named(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    program = store.blob(lock.programs[0].sha256)
    program.write_bytes(b"ELF")
    (problem,) = store.verify(lock)
    assert problem.startswith(f"{program}: altered") and problem.endswith("(needed by runc)")
    assert store.verify(lock, read=False) == [], "the size alone cannot tell"


def test_a_truncated_blob_is_seen_without_reading(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    program = store.blob(lock.programs[0].sha256)
    program.write_bytes(b"EL")
    (problem,) = store.verify(lock, read=False)
    assert "2 bytes instead of 3" in problem


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_altered_descriptions_are_found(tmp_path: Path, part: str) -> None:
    store, lock = filled(tmp_path)
    path = store.blob(getattr(lock.images[0], part))
    path.write_bytes(path.read_bytes() + b" ")
    (problem,) = store.verify(lock)
    assert str(path) in problem


def test_prune_keeps_what_the_lock_names(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    stale = store.blob(store.add(b"from an earlier build"))
    unfinished = stale.with_name(".adding-x")
    unfinished.touch()
    assert store.prune(lock) == 2
    assert not stale.exists() and not unfinished.exists()
    assert store.verify(lock) == []


def test_an_image_needs_its_manifest_for_the_index(tmp_path: Path) -> None:
    store, lock = filled(tmp_path)
    image: Image = lock.images[0]
    store.blob(image.manifest).unlink()
    with pytest.raises(Exception, match=str(store.blob(image.manifest))):
        store.write_index([image])
