"""One tar of images that containerd and Docker both import, streamed straight from the store."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import BinaryIO

from meshstrap.bundle.lock import Image, Layer
from meshstrap.bundle.store import LAYOUT, Store, StoreError, index_json

_CHUNK = 1 << 20
_GZIP_TRAILER = 4
# Layers of binaries and text pack to a third or a half; what cannot be told is taken to be larger than that.
_UNKNOWN_RATIO = 4
# Blobs that were read and had their digests, as they were then: several nodes get the same ones in one run.
_verified: set[tuple[str, int, int, int]] = set()


def write(stream: BinaryIO, store: Store, images: Sequence[Image], omit: AbstractSet[str] = frozenset()) -> None:
    """Stream images as a tar of an OCI layout, with Docker's manifest.json beside it.

    Args:
        stream: Where it goes; it is only written to, never sought in.
        store: Where the blobs are.
        images: What the archive holds. A blob that several share is sent once.
        omit: Digests of layers that the node has already: they are left out, which containerd accepts, and Docker
            where they are the lowest layers of the image. Manifests and configs always go.

    Raises:
        StoreError: A blob is missing or altered, seen before it is sent: the archive ends there, and the runtime
            refuses the image whose blob it was.
    """
    docker = []
    blobs: dict[str, None] = {}
    for image in images:
        layers = [layer.digest for layer in image.layers]
        docker.append(
            {
                "Config": _member(image.config),
                "RepoTags": [image.reference],
                "Layers": [_member(digest) for digest in layers],
            }
        )
        blobs.update(dict.fromkeys([image.manifest, image.config]))
        blobs.update(dict.fromkeys(digest for digest in layers if digest not in omit))
    _add_bytes(stream, "oci-layout", LAYOUT)
    _add_bytes(stream, "index.json", index_json(store, images))
    _add_bytes(stream, "manifest.json", json.dumps(docker, separators=(",", ":")).encode())
    for digest in blobs:
        _add_blob(stream, store, digest)
    stream.write(tarfile.NUL * (2 * tarfile.BLOCKSIZE))


def unpacked_size(store: Store, layer: Layer) -> int:
    """Estimate the bytes of a layer's tar from the trailer of its gzip blob, without unpacking it.

    The trailer holds the size modulo 4 GiB (RFC 1952, 2.3.1), and of the last member alone where there are several.
    Tars pack; a trailer that says less than the blob's own size is not believed, and four times that is assumed.

    Args:
        store: Where the blob is.
        layer: Which. Its blob may be missing, as what is not to be sent may.
    """
    try:
        with store.blob(layer.digest).open("rb") as file:
            file.seek(-_GZIP_TRAILER, 2)
            stated = int.from_bytes(file.read(), "little")
    except OSError:
        stated = 0
    return stated if stated >= layer.size else _UNKNOWN_RATIO * layer.size


def _member(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    # GNU, because USTAR caps a member at 8 GiB.
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return tarfile.NUL * (-size % tarfile.BLOCKSIZE)


def _add_bytes(stream: BinaryIO, name: str, content: bytes) -> None:
    stream.write(_header(name, len(content)) + content + _padding(len(content)))


def _add_blob(stream: BinaryIO, store: Store, digest: str) -> None:
    # By hand: tarfile's own stream copies every byte three times, which several nodes at once would wait for.
    path = store.blob(digest)
    _verify(store, path, digest)
    size = path.stat().st_size
    stream.write(_header(_member(digest), size))
    left = size
    with path.open("rb") as file:
        while chunk := file.read(min(_CHUNK, left)):
            stream.write(chunk)
            left -= len(chunk)
    if left:
        raise StoreError(f"{path}: altered: it became shorter while it was read")
    stream.write(_padding(size))


def _verify(store: Store, path: Path, digest: str) -> None:
    try:
        found = path.stat()
    except OSError:
        known = None
    else:
        known = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
    if known in _verified:
        return
    problem = store.problem(digest)
    if problem:
        raise StoreError(problem)
    if known:
        _verified.add(known)
