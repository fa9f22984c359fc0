"""One layer, or one program, on its way into the store: verified while it is read, and gzip when it is there."""

from __future__ import annotations

from meshstrap.bundle.compression import (
    CHUNK,
    DAMAGED,
    GZIP,
    Gzip,
    Hashed,
    Readable,
    Writable,
    buffered,
    decompressed,
    kind,
)
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.images import FoundLayer
from meshstrap.bundle.lock import Layer
from meshstrap.bundle.store import Store

_CHUNKED_MAGIC = b"GNUlInUx"


def layer(store: Store, file: Readable, expected: FoundLayer, place: str) -> Layer:
    """Take a layer. A gzip blob is kept byte for byte; what is plain or zstd becomes gzip, the same for the same.

    gzip, because Docker 20.10 takes no zstd, and a plain layer is more than twice as large.

    Args:
        store: Where it goes.
        file: Its content.
        expected: What its archive says of it.
        place: Archive and member, for people.

    Returns:
        The layer as it is in the store.

    Raises:
        BundleError: It is damaged, or not what its archive says; nothing of it is in the store then.
    """
    source = buffered(file)
    kept = kind(source) == GZIP
    with store.incoming() as incoming:
        packed = Hashed(source, copy=incoming.write if kept else None)
        stream = buffered(packed)
        target = None if kept else Gzip(incoming)
        plain = Hashed(copy=target.write if target else None)
        copy(decompressed(stream), plain, place)
        copy(stream, Hashed(), place)  # what stands behind the compressed data is part of the blob's digest
        if target:
            target.finish()
        if expected.size is not None and packed.size != expected.size:
            raise BundleError(f"{place}: altered: has {packed.size} bytes instead of {expected.size}")
        if expected.digest and f"sha256:{packed.sha256}" != expected.digest:
            raise BundleError(f"{place}: altered: its content does not have the digest {expected.digest}")
        if _is_chunked(packed.tail) and f"sha256:{plain.sha256}" != expected.diff_id:
            raise BundleError(
                f"{place}: a zstd:chunked layer whose content is not what the image's config says (diff ID"
                f" {expected.diff_id}): podman and CRI-O believe such a layer's own list of files and never unpack it"
                " whole. Push the image anew without zstd:chunked (podman push --compression-format gzip"
                " --force-compression) from where it was built, and save that"
            )
        _check_diff_id(plain, expected, place)
        return Layer(digest=incoming.keep(), diff_id=expected.diff_id, size=incoming.size)


def check_kept(store: Store, expected: FoundLayer, place: str) -> None:
    """Look whether a gzip blob that the store has already, with its digest, unpacks to what an archive says.

    Args:
        store: Where it is.
        expected: What the archive says.
        place: Archive and member, for people.

    Raises:
        BundleError: It does not.
    """
    plain = Hashed()
    with store.blob(expected.digest).open("rb") as file:
        copy(decompressed(buffered(file)), plain, str(store.blob(expected.digest)))
    _check_diff_id(plain, expected, place)


def blob(store: Store, file: Readable, digest: str, place: str) -> None:
    """Take a blob as it is.

    Args:
        store: Where it goes.
        file: Its content.
        digest: What it must have.
        place: Where it is read, for people.

    Raises:
        BundleError: It has another digest; nothing of it is in the store then.
    """
    with store.incoming() as incoming:
        copy(file, incoming, place)
        if incoming.digest != digest:
            raise BundleError(f"{place}: altered: its content does not have the digest {digest}")
        incoming.keep()


def copy(file: Readable, target: Writable, place: str) -> None:
    """Copy a stream.

    Args:
        file: What is read to its end.
        target: Where it goes.
        place: What is read, for people.

    Raises:
        BundleError: The stream is damaged.
    """
    try:
        while data := file.read(CHUNK):
            target.write(data)
    except EOFError:
        raise BundleError(f"{place}: ends early: truncated") from None
    except DAMAGED as error:
        raise BundleError(f"{place}: damaged: {error}") from None


def _is_chunked(tail: bytes) -> bool:
    """Tell a zstd:chunked layer by its last bytes.

    Source: containers/storage pkg/chunked/internal/minimal/compression.go, ZstdChunkedFrameMagic at the footer's end.
    """
    return tail.endswith(_CHUNKED_MAGIC)


def _check_diff_id(plain: Hashed, expected: FoundLayer, place: str) -> None:
    if f"sha256:{plain.sha256}" != expected.diff_id:
        raise BundleError(
            f"{place}: altered: unpacked it does not have the diff ID {expected.diff_id} that the image's config gives"
        )
