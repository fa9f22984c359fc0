"""Tars that come out the same, byte by byte, whenever their content is the same: image layers and root file systems."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from meshstrap.bundle.compression import Gzip, Hashed
from meshstrap.bundle.lock import Layer
from meshstrap.bundle.store import Store


@dataclass(frozen=True)
class File:
    """A file that a layer gets.

    Args:
        source: Where its content is, or the content itself.
        mode: Permission bits.
    """

    source: Path | bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symbolic link that a layer gets.

    Args:
        target: What it points to, as written.
    """

    target: str


def add_tree_layer(store: Store, root: Path, scratch: Path) -> Layer:
    """Pack a directory as a layer and put it into the store.

    Args:
        store: Where it goes.
        root: The directory that becomes `/`. Owners and modes are kept, times are not.
        scratch: A directory for the blob while it grows.

    Returns:
        The layer.
    """
    return _add_layer(store, scratch, lambda tar: _write_tree(tar, root))


def add_file_layer(store: Store, content: Mapping[str, File | Link], scratch: Path) -> Layer:
    """Pack files and links, all owned by root, as a layer and put it into the store.

    Args:
        store: Where it goes.
        content: Absolute path in the image -> what stands there. Directories above it are made.
        scratch: A directory for the blob while it grows.

    Returns:
        The layer.
    """
    return _add_layer(store, scratch, lambda tar: _write_files(tar, content))


def write_tree(root: Path, target: Path) -> str:
    """Pack a directory as a plain tar, whole or not at all.

    Args:
        root: The directory that becomes `/`. Owners and modes are kept, times are not.
        target: The tar.

    Returns:
        Its sha256 in hex.
    """
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            hashed = Hashed(copy=file.write)
            _write_tar(hashed, lambda tar: _write_tree(tar, root))
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return hashed.sha256


def _add_layer(store: Store, scratch: Path, fill: Callable[[tarfile.TarFile], None]) -> Layer:
    fresh = scratch / f"layer.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with fresh.open("wb") as file:
            packed = Gzip(file)
            plain = Hashed(copy=packed.write)
            _write_tar(plain, fill)
            packed.finish()
        return Layer(digest=store.add(fresh), diff_id=f"sha256:{plain.sha256}", size=fresh.stat().st_size)
    finally:
        fresh.unlink(missing_ok=True)


def _write_tar(stream: Hashed, fill: Callable[[tarfile.TarFile], None]) -> None:
    # GNU format: pax headers would carry times and whatever else Python finds.
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="w|", bufsize=1 << 20, format=tarfile.GNU_FORMAT) as tar:
        fill(tar)


def _write_files(tar: tarfile.TarFile, content: Mapping[str, File | Link]) -> None:
    made: set[str] = set()
    for path in sorted(content):
        name = path.lstrip("/")
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                tar.addfile(_info(str(parent), tarfile.DIRTYPE, 0o1777 if str(parent) == "tmp" else 0o755))
        item = content[path]
        if isinstance(item, Link):
            info = _info(name, tarfile.SYMTYPE, 0o777)
            info.linkname = item.target
            tar.addfile(info)
        elif isinstance(item.source, bytes):
            info = _info(name, tarfile.REGTYPE, item.mode)
            info.size = len(item.source)
            tar.addfile(info, io.BytesIO(item.source))
        else:
            info = _info(name, tarfile.REGTYPE, item.mode)
            info.size = item.source.stat().st_size
            with item.source.open("rb") as file:
                tar.addfile(info, file)


def _write_tree(tar: tarfile.TarFile, root: Path) -> None:
    inodes: dict[tuple[int, int], str] = {}
    for path in sorted(root.rglob("*")):  # rglob does not follow links
        name = str(path.relative_to(root))
        status = path.lstat()
        info = _info(name, tarfile.REGTYPE, stat.S_IMODE(status.st_mode))
        info.uid, info.gid = status.st_uid, status.st_gid
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
        elif not stat.S_ISREG(status.st_mode):
            continue  # device nodes and sockets: the runtime makes its own
        elif (status.st_dev, status.st_ino) in inodes:
            info.type, info.linkname = tarfile.LNKTYPE, inodes[status.st_dev, status.st_ino]
        else:
            inodes[status.st_dev, status.st_ino] = name
            info.size = status.st_size
            with path.open("rb") as file:
                tar.addfile(info, file)
            continue
        tar.addfile(info)


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # owner 0:0 with no names, time 0
    info.type, info.mode = kind, mode
    return info
