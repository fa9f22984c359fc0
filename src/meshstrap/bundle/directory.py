"""A bundle on disk: its lock and its store, changed by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from meshstrap.bundle import lock as lock_file
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.lock import Lock
from meshstrap.bundle.store import Store

# Before the name of a directory into which an image is being downloaded.
PULLING = ".pulling-"
# Beside the lock's and the index's own size: for a bundle whose first images fill the disk, and for blocks.
_RESERVE = 1 << 16


@dataclass(frozen=True)
class Bundle:
    """A directory with `bundle.lock.yaml` and `store/`.

    Args:
        directory: Where it is; it is made by the first change.
    """

    directory: Path

    @property
    def lock_file(self) -> Path:
        """The lock."""
        return self.directory / "bundle.lock.yaml"

    @property
    def store(self) -> Store:
        """The store."""
        return Store(self.directory / "store")

    @property
    def _changing(self) -> Path:
        return self.directory / ".changing"

    def read(self) -> Lock:
        """Read the lock.

        Raises:
            LockError: There is none, or it cannot be used.
        """
        return lock_file.read(self.lock_file)

    def save(self, lock: Lock) -> None:
        """Write the lock, and the store's index; a bundle that is as it should be is not touched.

        Raises:
            BundleError: The disk is full, or cannot be written.
        """
        try:
            if not self.lock_file.exists() or self.read() != lock:
                lock_file.write(lock, self.lock_file)
            # A lock of whose images some are still to be pulled, or added again, is no reason to take none of them.
            self.store.write_index([image for image in lock.images if self.store.has(image.manifest)])
        except OSError as error:
            raise BundleError(f"{self.directory}: cannot be written: {error.strerror or error}") from error

    @contextmanager
    def change(self) -> Iterator[Lock]:
        """Be the only one who changes the bundle, and sweep what an interrupted change left.

        Yields:
            The lock as it is; an empty one where there is none yet.

        Raises:
            BundleError: Another process changes it, it cannot be written, or its lock cannot be used.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = self._changing.open("a")
        except OSError as error:
            raise BundleError(f"{self.directory}: cannot be written: {error.strerror or error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BundleError(f"{self.directory}: another command is changing this bundle: wait for it") from None
            # Who holds the bundle is the only one who writes: whatever is half written here is a dead one's.
            self._sweep()
            self._reserve(file)
            try:
                yield self.read() if self.lock_file.exists() else Lock()
            finally:
                self._reserve(file)

    def release(self) -> None:
        """Give back the space that each change reserves, so that a smaller lock can be written on a full disk.

        Raises:
            BundleError: The disk cannot be written.
        """
        try:
            os.truncate(self._changing, 0)
        except OSError as error:
            raise BundleError(f"{self.directory}: cannot be written: {error.strerror or error}") from error

    def _reserve(self, file: IO[str]) -> None:
        # Blobs may go only when the lock no longer names them, and the new lock needs space before the old one goes.
        rewritten = (self.lock_file, self.store.directory / "index.json")
        size = _RESERVE + sum(path.stat().st_size for path in rewritten if path.exists())
        with suppress(OSError):  # there is none on a disk that is full already
            os.posix_fallocate(file.fileno(), 0, size)

    def _sweep(self) -> None:
        self.store.sweep()
        for path in self.directory.glob(f".{self.lock_file.name}.*"):
            path.unlink(missing_ok=True)
        for path in self.directory.glob(f"{PULLING}*"):
            # A skopeo that outlived its command may still write here: the next change finds what is left.
            shutil.rmtree(path, ignore_errors=True)
