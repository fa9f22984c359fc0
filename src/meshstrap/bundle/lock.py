"""The lock: which images and programs a bundle holds, and by which digests they are known everywhere."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from meshstrap.bundle.document import Node
from meshstrap.bundle.errors import BundleError, quoted, shortened
from meshstrap.bundle.reference import ReferenceError, is_digest, normalize

VERSION = 1
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 20
_HEX = re.compile(r"[0-9a-f]{64}")


class LockError(BundleError):
    """The lock cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class Layer:
    """One layer of an image.

    Args:
        digest: Of the gzip blob as it stands in the store (`sha256:<hex>`).
        diff_id: Of the uncompressed tar inside it, which is what runtimes name snapshots by.
        size: Bytes of the gzip blob.
    """

    digest: str
    diff_id: str
    size: int


@dataclass(frozen=True)
class Image:
    """One image for one platform.

    Args:
        reference: The full reference, for example `docker.io/library/busybox:1.28`.
        platform: `os/architecture`, for example `linux/amd64`.
        manifest: Digest of the manifest: the identity that containerd shows.
        config: Digest of the config: the identity that Docker shows.
        layers: Bottom layer first.
        size: Bytes of manifest, config and layers together.
        source: What it was built from or read from, for people.
        archive: sha256 of the archive that it was read from, in hex; empty where it came from none.
    """

    reference: str
    platform: str
    manifest: str
    config: str
    layers: tuple[Layer, ...]
    size: int
    source: str
    archive: str = ""


@dataclass(frozen=True)
class Program:
    """One program that goes onto a node as a file.

    Args:
        name: File name on the node. Several names may share one blob.
        version: As the program states it, for example `v1.34.10`.
        platform: `os/architecture`.
        sha256: Hex digest of the file, and of its blob in the store.
        size: Bytes.
        source: What it was built from or read from, for people.
        archive: sha256 of the archive that it was read from, in hex; empty where it came from none.
    """

    name: str
    version: str
    platform: str
    sha256: str
    size: int
    source: str
    archive: str = ""


@dataclass(frozen=True)
class Lock:
    """Everything a bundle holds. Equal bundles have equal locks."""

    images: tuple[Image, ...] = ()
    programs: tuple[Program, ...] = ()

    def image(self, reference: str, platform: str) -> Image | None:
        """Find an image.

        Args:
            reference: Short or full.
            platform: `os/architecture`.

        Returns:
            The image, or None where the bundle has none of that reference for that platform.

        Raises:
            ReferenceError: `reference` is not one.
        """
        full = normalize(reference)
        return next((i for i in self.images if i.reference == full and i.platform == platform), None)

    def program(self, name: str, platform: str) -> Program | None:
        """Find a program by its file name; None where the bundle has none for that platform."""
        return next((p for p in self.programs if p.name == name and p.platform == platform), None)


def read(path: Path) -> Lock:
    """Read a lock file.

    Args:
        path: The file, usually `<bundle>/bundle.lock.yaml`.

    Returns:
        The lock, every field checked.

    Raises:
        LockError: The file is missing, is not YAML, or a key in it is missing or has a wrong value.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LockError(
            f"{path}: no such file: there is no bundle here. `meshstrap bundle add` makes one of what you have, and "
            "`meshstrap lab build` one of package registries; data `bundle` names the directory that holds it"
        ) from None
    except OSError as error:
        raise LockError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parse(content, path)


def _parse(content: bytes, path: Path) -> Lock:
    try:
        text = content.decode()
        _refuse_depth(text)
        data = yaml.load(text, Loader=_LOADER)
    except Exception as error:  # yaml lets through whatever its constructors stumble over
        raise LockError(f"{path}: not YAML: {shortened(str(error))}") from error
    root = Node(str(path), "", data, LockError)
    version = root.integer("version")
    if version != VERSION:
        raise LockError(f"{path}: version: is {quoted(version)}, and this meshstrap reads version {VERSION}")
    images = tuple(_image(node) for node in root.items("images"))
    programs = tuple(_program(node) for node in root.items("programs"))
    _refuse_doubles(path, "images", [f"{i.reference} ({i.platform})" for i in images])
    _refuse_doubles(path, "programs", [f"{p.name} ({p.platform})" for p in programs])
    return ordered(Lock(images, programs))


def _refuse_depth(text: str) -> None:
    """Refuse what no lock has, before it is made: a short text can stand for more than memory, or the stack, holds."""
    depth = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        place = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"{place}: an alias, *{event.anchor}: a lock has none")
        if depth > _DEEPEST:
            raise ValueError(f"{place}: nested more than {_DEEPEST} deep, which no lock is")


def write(lock: Lock, path: Path) -> None:
    """Write a lock file in a stable order, whole or not at all.

    Args:
        lock: What to write.
        path: The file; its directory is made where it is missing.

    Raises:
        LockError: It could not be read again; what is there stays.
    """
    lock = ordered(lock)
    data = {
        "version": VERSION,
        "images": [_written(image) for image in lock.images],
        "programs": [_written(program) for program in lock.programs],
    }
    content = yaml.safe_dump(data, sort_keys=False, width=200, allow_unicode=True, encoding="utf-8")
    try:
        again = _parse(content, path)
    except LockError as error:
        raise LockError(f"{error}; it is what was to be written: it is not, and what is there stays") from error
    if again != lock:
        raise LockError(f"{path}: what was to be written reads as something else: it is not, and what is there stays")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            # Without it a disk that is pulled has the name and not the content.
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _written(entry: Image | Program) -> dict[str, Any]:
    fields = asdict(entry)
    if isinstance(entry, Image):
        fields["layers"] = list(fields["layers"])  # a tuple is no YAML
    if not entry.archive:
        del fields["archive"]
    return fields


def ordered(lock: Lock) -> Lock:
    """Put a lock into the order in which it is written."""
    return Lock(
        tuple(sorted(lock.images, key=lambda i: (i.reference, i.platform))),
        tuple(sorted(lock.programs, key=lambda p: (p.name, p.platform))),
    )


def _image(node: Node) -> Image:
    return Image(
        reference=node.checked("reference", _is_full_reference, "a full image reference"),
        platform=node.text("platform"),
        manifest=node.checked("manifest", is_digest, "sha256:<64 hex digits>"),
        config=node.checked("config", is_digest, "sha256:<64 hex digits>"),
        layers=tuple(
            Layer(
                digest=layer.checked("digest", is_digest, "sha256:<64 hex digits>"),
                diff_id=layer.checked("diff_id", is_digest, "sha256:<64 hex digits>"),
                size=layer.integer("size"),
            )
            for layer in node.items("layers")
        ),
        size=node.integer("size"),
        source=node.text("source"),
        archive=node.checked("archive", _is_hex, "64 hex digits") if node.has("archive") else "",
    )


def _program(node: Node) -> Program:
    return Program(
        name=node.text("name"),
        version=node.text("version"),
        platform=node.text("platform"),
        sha256=node.checked("sha256", _is_hex, "64 hex digits"),
        size=node.integer("size"),
        source=node.text("source"),
        archive=node.checked("archive", _is_hex, "64 hex digits") if node.has("archive") else "",
    )


def _is_hex(value: str) -> bool:
    return bool(_HEX.fullmatch(value))


def _is_full_reference(value: str) -> bool:
    try:
        return normalize(value) == value
    except ReferenceError:
        return False


def _refuse_doubles(path: Path, key: str, names: list[str]) -> None:
    for name, count in sorted(Counter(names).items()):
        if count > 1:
            raise LockError(f"{path}: {key}: {shortened(name)} stands there more than once")
