"""One tar of images that containerd and Docker both import, streamed straight from the store."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import BinaryIO

from meshstrap.bundle.lock import Image
from meshstrap.bundle.store import LAYOUT, Store, StoreError, index_json


def write(stream: BinaryIO, store: Store, images: Sequence[Image], omit: AbstractSet[str] = frozenset()) -> None:
    """Stream images as a tar of an OCI layout, with Docker's manifest.json beside it.

    Args:
        stream: Where it goes; it is only written to, never sought in.
        store: Where the blobs are.
        images: What the archive holds. A blob that several share is sent once.
        omit: Digests of layers that the node has already: they are left out, which containerd accepts. Manifests
            and configs always go.

    Raises:
        StoreError: A blob is missing or altered, seen while it is sent: the archive ends there, and the runtime
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
    # GNU, because USTAR caps a member at 8 GiB.
    with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20, format=tarfile.GNU_FORMAT) as tar:
        _add_bytes(tar, "oci-layout", LAYOUT)
        _add_bytes(tar, "index.json", index_json(store, images))
        _add_bytes(tar, "manifest.json", json.dumps(docker, separators=(",", ":")).encode())
        for digest in blobs:
            _add_blob(tar, store.blob(digest), digest)


def _member(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _add_blob(tar: tarfile.TarFile, path: Path, digest: str) -> None:
    info = tarfile.TarInfo(_member(digest))
    try:
        with path.open("rb") as file:
            info.size = path.stat().st_size
            hashed = _Hashed(file)
            tar.addfile(info, hashed)
    except FileNotFoundError:
        raise StoreError(f"{path}: missing") from None
    if hashed.digest() != digest:
        raise StoreError(f"{path}: altered: its content no longer has the digest that is its name")


class _Hashed:
    """A file that computes its digest while tarfile reads it, so that no second reading is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and add to the digest."""
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Compute the digest of all that was read."""
        return f"sha256:{self._hash.hexdigest()}"
