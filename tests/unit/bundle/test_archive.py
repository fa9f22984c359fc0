"""The archive: a tar that holds an OCI layout and Docker's manifest, and only what should travel."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from meshstrap.bundle.archive import unpacked_size, write
from meshstrap.bundle.lock import Image, Layer
from meshstrap.bundle.store import Store, StoreError


class Pipe(io.RawIOBase):
    """What a channel gives: bytes in, no way back."""

    def __init__(self) -> None:
        self.got = bytearray()

    def writable(self) -> bool:  # type: ignore[explicit-override]
        return True

    def write(self, data: bytes) -> int:  # type: ignore[explicit-override,override]
        self.got += data
        return len(data)

    def members(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(bytes(self.got))) as tar:
            names = tar.getnames()
            assert len(names) == len(set(names)), "a member stands there twice"
            return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def two_images(store: Store) -> tuple[Image, Image]:
    def layer(content: bytes) -> Layer:
        return Layer(store.add(content), f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))

    shared = layer(b"shared" * 5000)
    first = store.add_image("a/a:1", "linux/amd64", [shared], {}, "-")
    second = store.add_image("b/b:2", "linux/amd64", [shared, layer(b"own" * 5000)], {}, "-")
    return first, second


def send(store: Store, images: tuple[Image, ...], omit: frozenset[str] = frozenset()) -> Pipe:
    pipe = Pipe()
    write(pipe, store, images, omit)  # type: ignore[arg-type]
    return pipe


def test_it_reads_back_as_what_the_store_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    members = send(store, images).members()
    blobs = {name: data for name, data in members.items() if name.startswith("blobs/")}
    wanted = {d for i in images for d in (i.manifest, i.config, *(layer.digest for layer in i.layers))}
    assert {f"sha256:{name.rpartition('/')[2]}" for name in blobs} == wanted
    for name, data in blobs.items():
        assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
    assert set(members) - set(blobs) == {"oci-layout", "index.json", "manifest.json"}


def test_containerd_finds_the_full_name_and_docker_the_config_and_layers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    members = send(store, images).members()
    entries = json.loads(members["index.json"])["manifests"]
    assert [entry["digest"] for entry in entries] == [image.manifest for image in images]
    assert [entry["annotations"] for entry in entries] == [
        {"io.containerd.image.name": "docker.io/a/a:1", "org.opencontainers.image.ref.name": "docker.io/a/a:1"},
        {"io.containerd.image.name": "docker.io/b/b:2", "org.opencontainers.image.ref.name": "docker.io/b/b:2"},
    ]
    docker = json.loads(members["manifest.json"])
    assert [item["RepoTags"] for item in docker] == [["docker.io/a/a:1"], ["docker.io/b/b:2"]]
    for item, image in zip(docker, images, strict=True):
        assert f"sha256:{item['Config'].rpartition('/')[2]}" == image.config
        assert [f"sha256:{path.rpartition('/')[2]}" for path in item["Layers"]] == [
            layer.digest for layer in image.layers
        ]
        assert all(path in members for path in [item["Config"], *item["Layers"]])


def test_omitted_layers_stay_at_home_and_descriptions_go(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    shared = images[0].layers[0].digest
    everything = frozenset(d for i in images for d in (i.manifest, i.config, shared))
    members = send(store, images, omit=everything).members()
    digests = {f"sha256:{name.rpartition('/')[2]}" for name in members if name.startswith("blobs/")}
    assert shared not in digests
    assert {i.manifest for i in images} | {i.config for i in images} <= digests
    assert images[1].layers[1].digest in digests


def test_the_same_images_make_the_same_archive(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    assert send(one, two_images(one)).got == send(two, two_images(two)).got


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    path = store.blob(images[1].layers[1].digest)
    path.unlink()
    with pytest.raises(StoreError, match=f"{path}: missing"):
        send(store, images)


def test_an_altered_blob_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    path = store.blob(images[0].layers[0].digest)
    path.write_bytes(b"SHARED" * 5000)
    with pytest.raises(StoreError, match=f"{path}: altered"):
        send(store, images)


def test_a_blob_that_was_altered_after_it_was_sent_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    send(store, images)
    store.blob(images[0].layers[0].digest).write_bytes(b"SHARED" * 5000)
    with pytest.raises(StoreError, match="altered"):
        send(store, images)


def test_the_archive_is_little_more_than_its_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    images = two_images(store)
    blobs = {d for i in images for d in (i.manifest, i.config, *(layer.digest for layer in i.layers))}
    assert len(send(store, images).got) - sum(store.blob(d).stat().st_size for d in blobs) < 10_000


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_layers_unpacked_size_is_read_from_its_trailer(tmp_path: Path, size: int) -> None:
    store = Store(tmp_path)
    blob = gzip.compress(bytes(size), mtime=0)
    digest = store.add(blob)
    expected = size if size >= len(blob) else 4 * len(blob)
    assert unpacked_size(store, Layer(digest, digest, len(blob))) == expected


def test_a_trailer_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    members = gzip.compress(bytes(range(256)) * 100, mtime=0) + gzip.compress(b"x", mtime=0)
    digest = store.add(members)
    assert unpacked_size(store, Layer(digest, digest, len(members))) == 4 * len(members)
    gone = f"sha256:{'0' * 64}"
    assert unpacked_size(store, Layer(gone, gone, 7)) == 28
