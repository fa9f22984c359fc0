"""The store: an OCI image layout on disk that holds every blob of a bundle, images and programs alike."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from meshstrap.bundle.compression import Hashed
from meshstrap.bundle.document import parse_json
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.reference import normalize

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
# By this annotation skopeo, podman and other readers of OCI layouts find an image (image-spec, annotations.md).
REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

_ADDING = ".adding-"
_TOP = ("oci-layout", "index.json")


class StoreError(BundleError):
    """A blob is missing or altered, or cannot be written; the message names its file."""


class Incoming:
    """A blob that is being written; it is in the store once it is whole, and only if it is kept.

    Args:
        path: Where it grows.
        file: The same, open.
        store: Where it goes.
    """

    def __init__(self, path: Path, file: IO[bytes], store: Store) -> None:
        self.path = path
        self._file = file
        self._store = store
        self._written = Hashed(copy=file.write)

    @property
    def digest(self) -> str:
        """The digest of what was written so far, `sha256:<hex>`."""
        return f"sha256:{self._written.sha256}"

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._written.size

    def write(self, data: bytes, /) -> None:
        """Append bytes.

        Raises:
            StoreError: They cannot be written: the disk is full.
        """
        with self._writing():
            self._written.write(data)

    def flush(self) -> None:
        """Have all that was written in the file `path`."""
        with self._writing():
            self._file.flush()

    def keep(self) -> str:
        """Put it into its place, whole and on the disk, unless it is there already; what is altered there is replaced.

        Returns:
            Its digest.
        """
        with self._writing():
            self._file.flush()
            if self._store.has(self.digest, self.size):
                return self.digest
            # A disk that is pulled, or loses its power, shall not have the name without the content.
            os.fsync(self._file.fileno())
            os.chmod(self.path, 0o644)
            os.replace(self.path, self._store.blob(self.digest))
        return self.digest

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self._store.directory}: cannot be written: {error.strerror or error}; what is there already stays"
            ) from error


class Store:
    """An OCI image layout: `oci-layout`, `index.json` and `blobs/sha256/<hex>`.

    Args:
        directory: Where it stands. It is made when the first blob is added.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"

    def blob(self, digest: str) -> Path:
        """Say where a blob stands, whether it is there or not.

        Args:
            digest: `sha256:<hex>`, or the hex alone.
        """
        return self._blobs / digest.removeprefix("sha256:")

    def add(self, source: bytes | Path) -> str:
        """Put a blob into the store, whole or not at all, unless it is there already; what is altered is replaced.

        Args:
            source: The bytes, or a file with them.

        Returns:
            The blob's digest, `sha256:<hex>`.
        """
        if isinstance(source, bytes):
            digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
            size = len(source)
        else:
            digest = digest_of(source)
            size = source.stat().st_size
        if self.has(digest, size):
            return digest
        with self.incoming() as incoming:
            if isinstance(source, bytes):
                incoming.write(source)
            else:
                with source.open("rb") as read:
                    shutil.copyfileobj(read, incoming, 1 << 20)
            return incoming.keep()

    def has(self, digest: str, size: int | None = None) -> bool:
        """Tell whether a blob is there and unaltered: it is read, for a bad disk alters bytes and leaves the size."""
        return self.problem(digest, size) is None

    def lacks(self, image: Image) -> bool:
        """Tell whether a blob of an image is not there, or altered; all of them are read."""
        blobs: list[tuple[str, int | None]] = [(layer.digest, layer.size) for layer in image.layers]
        blobs += [(image.manifest, None), (image.config, None)]
        return not all(self.has(digest, size) for digest, size in blobs)

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Take a blob piece by piece; what is not kept is gone.

        Yields:
            What it is written to.

        Raises:
            StoreError: The store cannot be written.
        """
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._blobs, prefix=_ADDING)
        except OSError as error:
            raise StoreError(f"{self.directory}: cannot be written: {error.strerror or error}") from error
        file = os.fdopen(handle, "wb")
        try:
            yield Incoming(Path(name), file, self)
        finally:
            # What a full disk has refused once it refuses again.
            with suppress(OSError):
                file.close()
            Path(name).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what an interrupted run left half written; returns how many files that were."""
        left = [
            *self._blobs.glob(f"{_ADDING}*"),
            *(path for name in _TOP for path in self.directory.glob(f".{name}.*")),
        ]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def add_image(
        self,
        reference: str,
        platform: str,
        layers: Sequence[Layer],
        settings: Mapping[str, Any],
        source: str,
        *,
        created: str = "1970-01-01T00:00:00Z",
    ) -> Image:
        """Make an image of layers that the store holds: write its config and its manifest.

        Args:
            reference: The image's name, short or full.
            platform: `os/architecture`.
            layers: Bottom layer first.
            settings: What a container of it runs, in the words of the OCI config: Entrypoint, Cmd, Env, User ...
            source: What it was built from, for people.
            created: A fixed time, so that the same content has the same digest.

        Returns:
            The image as the lock describes it.
        """
        config = _json(
            {
                "created": created,
                **_platform(platform),
                "config": dict(settings),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                "history": [{"created": created, "created_by": "meshstrap"} for _ in layers],
            }
        )
        return self.pack_image(reference, platform, config, layers, source)

    def pack_image(
        self, reference: str, platform: str, config: bytes, layers: Sequence[Layer], source: str, archive: str = ""
    ) -> Image:
        """Make an image of a config and of layers that the store holds: write the manifest that names them.

        Args:
            reference: The image's name, short or full.
            platform: `os/architecture`.
            config: The config's bytes, kept as they are: their digest is the image's identity for Docker.
            layers: Bottom layer first.
            source: What it was built or read from, for people.
            archive: sha256 of the archive that it was read from, in hex.

        Returns:
            The image as the lock describes it.
        """
        config_digest = self.add(config)
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": CONFIG_TYPE, "digest": config_digest, "size": len(config)},
                "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers],
            }
        )
        return Image(
            reference=normalize(reference),
            platform=platform,
            manifest=self.add(manifest),
            config=config_digest,
            layers=tuple(layers),
            size=len(manifest) + len(config) + sum(layer.size for layer in layers),
            source=source,
            archive=archive,
        )

    def write_index(self, images: Sequence[Image]) -> None:
        """Write `oci-layout` and `index.json`, so that any tool that knows OCI layouts can read the store.

        Args:
            images: What the index lists.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, content in zip(_TOP, (LAYOUT, index_json(self, images)), strict=True):
            path = self.directory / name
            if path.is_file() and path.read_bytes() == content:
                continue
            fresh = self.directory / f".{name}.{os.getpid()}"
            fresh.write_bytes(content)
            fresh.replace(path)

    def problem(self, digest: str, size: int | None = None, *, read: bool = True) -> str | None:
        """Look at one blob.

        Args:
            digest: `sha256:<hex>`, or the hex alone.
            size: Bytes it should have; None if that is not known.
            read: Compute its digest too. Without it only its presence and size are looked at.

        Returns:
            What is wrong, naming the file; None where all is well.
        """
        path = self.blob(digest)
        try:
            found = path.stat().st_size
            if size is not None and found != size:
                return f"{path}: altered: has {found} bytes instead of {size}"
            if read and digest_of(path) != f"sha256:{path.name}":
                return f"{path}: altered: its content no longer has the digest that is its name"
        except FileNotFoundError:
            return f"{path}: missing"
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror or error}"
        return None

    def verify(self, lock: Lock, *, read: bool = True) -> list[str]:
        """Compare the store with a lock.

        Args:
            lock: What should be there.
            read: Compute every digest (about 1 s a GB). Without it only presence and sizes are looked at.

        Returns:
            One line a problem: the file, what is wrong with it, and which image or program needs it. Empty if
            the store holds all that the lock names.
        """
        needs: dict[str, tuple[int | None, list[str]]] = {}

        def need(digest: str, size: int | None, user: str) -> None:
            needs.setdefault(digest.removeprefix("sha256:"), (size, []))[1].append(user)

        for image in lock.images:
            need(image.manifest, None, image.reference)
            need(image.config, None, image.reference)
            for layer in image.layers:
                need(layer.digest, layer.size, image.reference)
        for program in lock.programs:
            need(program.sha256, program.size, program.name)
        problems = []
        for digest, (size, users) in needs.items():
            found = self.problem(digest, size, read=read)
            if found:
                problems.append(f"{found} (needed by {', '.join(users)})")
        return problems

    def prune(self, lock: Lock) -> int:
        """Remove the blobs that a lock does not name, and what an interrupted `add` left.

        Args:
            lock: What stays.

        Returns:
            How many files went.
        """
        keep = {program.sha256 for program in lock.programs}
        for image in lock.images:
            digests = [image.manifest, image.config, *(layer.digest for layer in image.layers)]
            keep.update(digest.removeprefix("sha256:") for digest in digests)
        stale = [path for path in self._blobs.iterdir() if path.name not in keep] if self._blobs.exists() else []
        for path in stale:
            path.unlink()
        return len(stale)


def digest_of(path: Path) -> str:
    """Compute a file's digest, `sha256:<hex>`."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def index_json(store: Store, images: Sequence[Image]) -> bytes:
    """Write the index of an OCI layout that holds these images.

    Args:
        store: Where their manifests are.
        images: What it lists, in this order.

    Returns:
        The bytes of `index.json`. Each entry carries its full reference for containerd (which imports nothing,
        and says nothing, without it) and again for every other tool: skopeo takes the first entry with the name that
        it is asked for, and a tag alone, `1`, is the name of many images in one store.

    Raises:
        StoreError: A manifest is missing.
    """
    entries = []
    for image in images:
        try:
            manifest = store.blob(image.manifest).read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{store.blob(image.manifest)}: missing (needed by {image.reference})") from None
        # A registry's own manifest may be of Docker's type.
        written = parse_json(manifest, str(store.blob(image.manifest)))
        entries.append(
            {
                "mediaType": written.optional("mediaType") or MANIFEST_TYPE,
                "digest": image.manifest,
                "size": len(manifest),
                "platform": _platform(image.platform),
                "annotations": {
                    "io.containerd.image.name": image.reference,
                    REF_NAME: image.reference,
                },
            }
        )
    return _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})


def _platform(platform: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
