"""The lock: which images and programs a bundle holds, and by which digests they are known everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from meshstrap.bundle.reference import ReferenceError, normalize

VERSION = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")


class LockError(Exception):
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
    """

    reference: str
    platform: str
    manifest: str
    config: str
    layers: tuple[Layer, ...]
    size: int
    source: str


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
    """

    name: str
    version: str
    platform: str
    sha256: str
    size: int
    source: str


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
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockError(
            f"{path}: no such file: there is no bundle here. `meshstrap lab build` makes one; data `bundle` names the "
            "directory that holds it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path}: cannot be read: {error}") from error
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise LockError(f"{path}: not YAML: {error}") from error
    root = _Node(path, "", data)
    version = root.integer("version")
    if version != VERSION:
        raise LockError(f"{path}: version: is {version}, and this meshstrap reads version {VERSION}")
    images = tuple(_image(node) for node in root.items("images"))
    programs = tuple(_program(node) for node in root.items("programs"))
    _refuse_doubles(path, "images", [f"{i.reference} ({i.platform})" for i in images])
    _refuse_doubles(path, "programs", [f"{p.name} ({p.platform})" for p in programs])
    return _sorted(Lock(images, programs))


def write(lock: Lock, path: Path) -> None:
    """Write a lock file in a stable order, whole or not at all.

    Args:
        lock: What to write.
        path: The file; its directory is made where it is missing.
    """
    ordered = _sorted(lock)
    data = {
        "version": VERSION,
        "images": [{**asdict(i), "layers": [asdict(layer) for layer in i.layers]} for i in ordered.images],
        "programs": [asdict(p) for p in ordered.programs],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(yaml.safe_dump(data, sort_keys=False, width=200, allow_unicode=True), encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _sorted(lock: Lock) -> Lock:
    return Lock(
        tuple(sorted(lock.images, key=lambda i: (i.reference, i.platform))),
        tuple(sorted(lock.programs, key=lambda p: (p.name, p.platform))),
    )


def _image(node: _Node) -> Image:
    return Image(
        reference=node.checked("reference", _is_full_reference, "a full image reference"),
        platform=node.text("platform"),
        manifest=node.checked("manifest", _is_digest, "sha256:<64 hex digits>"),
        config=node.checked("config", _is_digest, "sha256:<64 hex digits>"),
        layers=tuple(
            Layer(
                digest=layer.checked("digest", _is_digest, "sha256:<64 hex digits>"),
                diff_id=layer.checked("diff_id", _is_digest, "sha256:<64 hex digits>"),
                size=layer.integer("size"),
            )
            for layer in node.items("layers")
        ),
        size=node.integer("size"),
        source=node.text("source"),
    )


def _program(node: _Node) -> Program:
    return Program(
        name=node.text("name"),
        version=node.text("version"),
        platform=node.text("platform"),
        sha256=node.checked("sha256", lambda value: bool(_HEX.fullmatch(value)), "64 hex digits"),
        size=node.integer("size"),
        source=node.text("source"),
    )


def _is_digest(value: str) -> bool:
    return bool(_DIGEST.fullmatch(value))


def _is_full_reference(value: str) -> bool:
    try:
        return normalize(value) == value
    except ReferenceError:
        return False


def _refuse_doubles(path: Path, key: str, names: list[str]) -> None:
    for name in sorted(names):
        if names.count(name) > 1:
            raise LockError(f"{path}: {key}: {name} stands there more than once")


@dataclass(frozen=True)
class _Node:
    """A value in the file with its place, so that every complaint can name it."""

    path: Path
    key: str
    value: Any

    def _get(self, key: str) -> Any:
        if not isinstance(self.value, Mapping):
            raise LockError(f"{self.path}: {self.key or 'the file'}: expected keys and values")
        if key not in self.value:
            raise LockError(f"{self.path}: {self._name(key)}: is missing")
        return self.value[key]

    def _name(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise LockError(f"{self.path}: {self._name(key)}: expected text, found {value!r}")
        return value

    def integer(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise LockError(f"{self.path}: {self._name(key)}: expected a whole number, found {value!r}")
        return value

    def checked(self, key: str, is_right: Callable[[str], bool], expected: str) -> str:
        value = self.text(key)
        if not is_right(value):
            raise LockError(f"{self.path}: {self._name(key)}: expected {expected}, found {value!r}")
        return value

    def items(self, key: str) -> list[_Node]:
        value = self._get(key)
        if not isinstance(value, list):
            raise LockError(f"{self.path}: {self._name(key)}: expected a list, found {value!r}")
        return [_Node(self.path, f"{self._name(key)}[{index}]", item) for index, item in enumerate(value)]
