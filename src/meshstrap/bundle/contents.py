"""What stands in an archive or a directory, by name: listed first, read afterwards, and never unpacked by its names.

An archive is read twice, from its beginning to its end: a compressed one cannot be read in any other order, and what
says which of its members are wanted (`manifest.json`) mostly stands last.
"""

from __future__ import annotations

import posixpath
import stat
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meshstrap.bundle.compression import CHUNK, DAMAGED, Hashed, Readable, buffered, decompressed
from meshstrap.bundle.errors import BundleError, printable

# An archive of images has some hundred entries, a release of Istio some thousand.
MOST_ENTRIES = 50_000
# What registries take for a manifest; configs stay far below it.
MOST_JSON = 4 << 20
# All that is kept of an archive while it is listed.
_MOST_KEPT = 64 << 20
# What a header of a tar may hold: long names, and pax records.
_MOST_HEADER = 1 << 20
_HEAD = 20


@dataclass(frozen=True)
class Member:
    """A file in an archive or a directory.

    Args:
        name: Its own name, where it was found by a link's.
        size: Its bytes.
        head: The first bytes of it.
        link: For a link, the name of the file that it stands for; else empty.
        root_link: The same, read from the archive's root.
        json: All of it, where it is small and may be JSON; else None.
    """

    name: str
    size: int
    head: bytes = b""
    link: str = ""
    root_link: str = ""
    json: bytes | None = None


class Contents(Protocol):
    """Files by name, wherever they stand.

    Args:
        path: The archive or directory.
        sha256: Of the archive, in hex; empty for a directory.
    """

    path: Path
    sha256: str

    def place(self, name: str) -> str:
        """Say where a file is, for people."""

    def find(self, name: str) -> Member | None:
        """Give a file, links followed; None where there is none of that name."""

    def json(self, name: str) -> bytes:
        """Give the content of a small file.

        Raises:
            BundleError: There is none of that name, or it is too large to be JSON.
        """

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Readable]]:
        """Give the content of some files, in the order in which they stand; each is read before the next is given.

        Args:
            names: Their own names, not those of links.

        Raises:
            BundleError: It cannot be read, or is damaged.
        """


class Archive:
    """A tar, plain or compressed with gzip, zstd, xz or bzip2.

    Args:
        path: The file.

    Raises:
        BundleError: It is no tar, is damaged, ends early, or holds what no archive of images or programs does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, Member] = {}
        kept = 0
        tar = _Tar(path)
        for number, (name, info, content) in enumerate(tar, 1):
            if number > MOST_ENTRIES:
                raise BundleError(f"{path}: has more than {MOST_ENTRIES} entries: no archive of images or programs")
            if name in self.members:
                raise BundleError(f"{path}: {printable(name)} stands there twice")
            if info.issym() or info.islnk():
                root = posixpath.normpath(info.linkname).lstrip("/")
                self.members[name] = Member(name, 0, link=self._target(name, info), root_link=root)
                continue
            if not info.isreg() or info.issparse():
                continue
            head = content.read(_HEAD)
            json = None
            if head.lstrip()[:1] in (b"", b"{", b"[") and info.size <= MOST_JSON:
                json = head + _rest(content)
                kept += len(json)
                if kept > _MOST_KEPT:
                    raise BundleError(f"{path}: holds more than {_MOST_KEPT >> 20} MiB of JSON: no archive of images")
            self.members[name] = Member(name, info.size, head, json=json)
        self.sha256 = tar.sha256

    def place(self, name: str) -> str:
        """Say where a file is, for people."""
        return f"{self.path}: {printable(name)}"

    def find(self, name: str) -> Member | None:
        """Give a file, links followed; None where there is none of that name."""
        resolved = self._resolved(name)
        return self.members[resolved] if resolved else None

    def json(self, name: str) -> bytes:
        """Give the content of a small file.

        Raises:
            BundleError: There is none of that name, or it is too large to be JSON.
        """
        member = self.find(name)
        if member is None:
            raise BundleError(f"{self.path}: has no member {printable(name)}")
        if member.json is None:
            raise BundleError(f"{self.place(name)}: not JSON, or more than {MOST_JSON >> 20} MiB of it")
        return member.json

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Readable]]:
        """Give the content of some files, in the order in which they stand; each is read before the next is given.

        Args:
            names: Their own names, not those of links.

        Raises:
            BundleError: The archive is not what it was when it was listed.
        """
        wanted = set(names)
        if not wanted:
            return
        tar = _Tar(self.path)
        for name, info, content in tar:
            if name in wanted and info.isreg():
                wanted.remove(name)
                yield name, content
        if wanted or tar.sha256 != self.sha256:
            raise BundleError(f"{self.path}: changed while it was read")

    def _resolved(self, name: str) -> str | None:
        # `docker save` before version 25 wrote a layer that several images share once, and links for the others.
        for _ in range(3):
            member = self.members.get(name)
            if member is None:
                return None
            if not member.link:
                return name
            # Some write where the file stands from the archive's root, whatever kind of link it is.
            name = member.link if member.link in self.members else member.root_link
        raise BundleError(f"{self.place(name)}: a link to a link to a link")

    def _target(self, name: str, info: tarfile.TarInfo) -> str:
        # A hard link names its file from the archive's root, a symbolic one from the directory that it stands in.
        base = "" if info.islnk() else posixpath.dirname(name)
        return posixpath.normpath(posixpath.join(base, info.linkname))


class Directory:
    """A directory.

    Args:
        path: Where it is.
    """

    sha256 = ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> str:
        """Say where a file is, for people."""
        return printable(str(self.path / name))

    def find(self, name: str) -> Member | None:
        """Give a file, links followed; None where there is none of that name."""
        path = self.path / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return None
            with path.open("rb") as file:
                return Member(name, status.st_size, file.read(_HEAD))
        except (FileNotFoundError, ValueError):  # no file has a name that is no text
            return None
        except OSError as error:
            raise _unreadable(path, error) from error

    def json(self, name: str) -> bytes:
        """Give the content of a small file.

        Raises:
            BundleError: There is none of that name, or it is too large to be JSON.
        """
        member = self.find(name)
        if member is None:
            raise BundleError(f"{self.place(name)}: no such file")
        if member.size > MOST_JSON:
            raise BundleError(f"{self.place(name)}: more than {MOST_JSON >> 20} MiB, which is too large for JSON")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise _unreadable(self.path / name, error) from error

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Readable]]:
        """Give the content of some files; each is read before the next is given."""
        for name in names:
            path = self.path / name
            try:
                with path.open("rb") as file:
                    yield name, _Reads(file, path)
            except OSError as error:
                raise _unreadable(path, error) from error


def is_plain(name: str) -> bool:
    """Tell whether a name stays below the directory that it is looked up in."""
    return bool(name) and not posixpath.isabs(name) and ".." not in name.split("/") and "\0" not in name


def _rest(content: Readable) -> bytes:
    parts = []
    while data := content.read(CHUNK):
        parts.append(data)
    return b"".join(parts)


class _Tar:
    """The members of a tar, once, in their order; afterwards `sha256` is that of the whole file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sha256 = ""

    def __iter__(self) -> Iterator[tuple[str, tarfile.TarInfo, Readable]]:
        try:
            raw = self._path.open("rb")
        except OSError as error:
            raise _unreadable(self._path, error) from error
        with raw:
            hashed = Hashed(_Reads(raw, self._path))
            stream = _Forward(self._path, decompressed(buffered(hashed)))
            tar = self._opened(stream)
            while (info := self._next(tar)) is not None:
                name = posixpath.normpath(info.name)
                if not is_plain(info.name):
                    raise BundleError(f"{self._path}: {printable(info.name)}: points out of the archive")
                yield name, info, _Content(stream, self._path, name, info.size)
                tar.members = []  # type: ignore[attr-defined] # they are listed by who reads them
            stream.finish()
            while hashed.read(CHUNK):
                pass
            self.sha256 = hashed.sha256

    def _opened(self, stream: _Forward) -> tarfile.TarFile:
        try:
            return tarfile.TarFile(fileobj=stream, mode="r")  # type: ignore[arg-type] # reads, seeks forward, tells
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"{self._path}: not a tar archive, nor a compressed one: {error}") from None

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        try:
            return tar.next()
        except BundleError:
            raise
        except Exception as error:  # tarfile lets through whatever its parsers stumble over
            raise BundleError(f"{self._path}: damaged: {error}") from None


class _Forward:
    """A stream as tarfile wants it, read once from its beginning to its end.

    tarfile takes a header that it cannot read for the end of the archive. So the last block that it read is kept: a
    whole archive ends with zeros.
    """

    def __init__(self, path: Path, file: Readable) -> None:
        self._path = path
        self._file = file
        self._position = 0
        self._last = b""

    def read(self, size: int) -> bytes:
        if size > _MOST_HEADER:
            raise BundleError(f"{self._path}: damaged: a header of {size} bytes")
        self._last = self._read(size)
        return self._last

    def content(self, size: int) -> bytes:
        return self._read(min(size, CHUNK))

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise BundleError(f"{self._path}: damaged: a member of negative size")
        while self._position < position:
            if not self._read(min(position - self._position, CHUNK)):
                raise BundleError(f"{self._path}: ends early: the archive is truncated")

    def finish(self) -> None:
        """Read what is left, so that the compression's own checksum is compared too.

        Raises:
            BundleError: The archive has no end: it is truncated, or a header in it is damaged.
        """
        if len(self._last) < tarfile.BLOCKSIZE:
            raise BundleError(f"{self._path}: ends early: the archive is truncated")
        if self._last.strip(b"\0"):
            raise BundleError(f"{self._path}: damaged: no header where one should be, at byte {self._position}")
        while self._read(CHUNK):
            pass

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except EOFError:
            raise BundleError(f"{self._path}: ends early: the archive is truncated") from None
        except DAMAGED as error:
            raise BundleError(f"{self._path}: damaged: {error}") from None
        self._position += len(data)
        return data


class _Content:
    """The content of one member."""

    def __init__(self, stream: _Forward, path: Path, name: str, size: int) -> None:
        self._stream = stream
        self._place = f"{path}: {printable(name)}"
        self._left = size

    def read(self, size: int, /) -> bytes:
        if self._left <= 0:
            return b""
        data = self._stream.content(min(size, self._left))
        if not data:
            raise BundleError(f"{self._place}: ends early: the archive is truncated")
        self._left -= len(data)
        return data


class _Reads:
    """A file whose own errors are told from those of whoever reads it."""

    def __init__(self, file: Readable, path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise _unreadable(self._path, error) from error


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path}: cannot be read: {error.strerror or error}")
