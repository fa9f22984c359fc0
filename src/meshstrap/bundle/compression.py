"""Compressions, known by their first bytes: read whatever comes, write gzip that is the same for the same content."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from typing_extensions import override

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP, ZSTD, XZ, BZIP2, PLAIN = "gzip", "zstd", "xz", "bzip2", ""


class DamagedError(Exception):
    """A compressed stream is damaged."""


# What a damaged stream makes the decompressors raise.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError, DamagedError)
CHUNK = 1 << 20

_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A frame that is skipped, whose first byte tells sixteen of them apart; pzstd begins with one.
_SKIPPED_MAGIC = b"\x2a\x4d\x18"
_XZ_MAGIC = b"\xfd7zXZ\x00"
_BZIP2_MAGIC = b"BZh"
_BZIP2_SIZES = frozenset(bytes([digit]) for digit in b"123456789")
_HEAD = len(_XZ_MAGIC)
_TAIL = 8
_GZIP_LEVEL = 5  # level 9 saves 1 % of a Go binary and takes three times as long
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time, unknown system
# What `zstd` itself takes without being told: a stream may not ask for more memory than this power of two.
_ZSTD_WINDOW = 27
# xz -9 makes streams that take 65 MiB to read.
_XZ_MEMORY = 1 << 28


class Writable(Protocol):
    """Whatever bytes can be written to."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""


class Readable(Protocol):
    """Whatever bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Give that many bytes, fewer only at the end."""


def buffered(file: Readable) -> io.BufferedReader:
    """Put a buffer before a stream, so that its first bytes can be looked at."""
    return io.BufferedReader(_Raw(file), CHUNK)


def kind(file: io.BufferedReader) -> str:
    """Say how a stream is compressed, and leave it where it stands."""
    return kind_of(file.peek(_HEAD)[:_HEAD])


def kind_of(head: bytes) -> str:
    """Say how content is compressed that begins with these bytes: GZIP, ZSTD, XZ, BZIP2 or PLAIN."""
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(_XZ_MAGIC):
        return XZ
    # The block size in 100 kB stands behind the magic.
    if head.startswith(_BZIP2_MAGIC) and head[3:4] in _BZIP2_SIZES:
        return BZIP2
    skipped = head[1:4] == _SKIPPED_MAGIC and head[0] >> 4 == 5
    return ZSTD if skipped or head.startswith(_ZSTD_MAGIC) else PLAIN


def decompressed(file: io.BufferedReader) -> io.BufferedReader:
    """Read a stream as what it was before it was compressed.

    Args:
        file: compressed in one of these ways, or plain.

    Returns:
        The content. Reading it raises one of `DAMAGED` where the stream is.
    """
    how = kind(file)
    if how == GZIP:
        return buffered(gzip.GzipFile(fileobj=file, mode="rb"))
    if how == ZSTD:
        options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW}
        return buffered(zstd.ZstdFile(file, options=options))
    if how == XZ:
        return buffered(_Unpacked(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)))
    if how == BZIP2:
        return buffered(_Unpacked(file, bz2.BZ2Decompressor))
    return file


class _Decompressor(Protocol):
    """What lzma and bz2 have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Unpacked:
    """An xz or bzip2 stream as what it was before; several streams in a row are one, as their own programs read them.

    Python's LZMAFile takes no bound on memory, and BZ2File tells damage from a broken disk by nothing.
    """

    def __init__(self, file: Readable, fresh: Callable[[], _Decompressor]) -> None:
        self._file = file
        self._fresh = fresh
        self._stream = fresh()

    def read(self, size: int, /) -> bytes:
        unpacked = b""
        while not unpacked:
            data = b""
            if self._stream.eof:
                # xz pads its streams with zeros.
                data = self._stream.unused_data.lstrip(b"\0")
                while not data:
                    if not (more := self._file.read(CHUNK)):
                        return b""
                    data = more.lstrip(b"\0")
                self._stream = self._fresh()
            elif self._stream.needs_input and not (data := self._file.read(CHUNK)):
                raise EOFError
            try:
                unpacked = self._stream.decompress(data, size)
            except (lzma.LZMAError, OSError) as error:
                raise DamagedError(str(error)) from None
        return unpacked


class Hashed:
    """Bytes on their way, counted and hashed; `tail` are the last 8 of them.

    Args:
        file: Where they are read from; None where they are only written.
        copy: Gets each piece too.
    """

    def __init__(self, file: Readable | None = None, copy: Callable[[bytes], object] | None = None) -> None:
        self._file = file
        self._copy = copy
        self._hash = hashlib.sha256()
        self.size = 0
        self.tail = b""

    @property
    def sha256(self) -> str:
        """The sha256 so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes, /) -> None:
        """Take bytes."""
        self._hash.update(data)
        self.size += len(data)
        if data:
            self.tail = data[-_TAIL:] if len(data) >= _TAIL else (self.tail + data)[-_TAIL:]
        if self._copy:
            self._copy(data)

    def read(self, size: int, /) -> bytes:
        """Give bytes of the file."""
        data = self._file.read(size) if self._file else b""
        self.write(data)
        return data


class Gzip:
    """A gzip stream with nothing in it but the data; Python's own writes the time and the file's name.

    Args:
        target: Where it is written.
    """

    def __init__(self, target: Writable) -> None:
        self._target = target
        self._deflate = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self._size = 0
        target.write(_GZIP_HEADER)

    def write(self, data: bytes, /) -> int:
        """Compress bytes."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._target.write(self._deflate.compress(data))
        return len(data)

    def finish(self) -> None:
        """Write the end of the stream; the target stays open."""
        self._target.write(self._deflate.flush())
        self._target.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))


class _Raw(io.RawIOBase):
    """A stream as Python's buffers want it."""

    def __init__(self, file: Readable) -> None:
        self._file = file

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
