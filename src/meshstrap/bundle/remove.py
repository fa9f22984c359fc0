"""Take images and programs out of a bundle, with the blobs that nothing else needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshstrap.bundle import nearest
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.listing import Entry, entries, said
from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.reference import ReferenceError, normalize


def remove(bundle: Bundle, names: Sequence[str], platforms: Sequence[str], echo: Callable[[str], None]) -> None:
    """Remove images and programs, all or none.

    Args:
        bundle: From which.
        names: References, short or full, and names of programs.
        platforms: For which platforms; empty for all.
        echo: Prints a line for people.

    Raises:
        BundleError: The bundle has none of a name, is being changed, or cannot be written.
    """
    with bundle.change() as lock:
        found = [(name, _named(lock, name, platforms)) for name in names]
        unknown = [name for name, named in found if not named]
        if unknown:
            on = f" for {' or '.join(platforms)}" if platforms else ""
            raise BundleError(
                f"{bundle.directory}: has no {'; no '.join(f'{each}{on}{_nearest(lock, each)}' for each in unknown)};"
                " `meshstrap bundle list` says what"
            )
        gone = [entry for _, named in found for entry in named]
        left = Lock(
            tuple(image for image in lock.images if image not in gone),
            tuple(program for program in lock.programs if program not in gone),
        )
        # The lock first: what no lock names is rubbish, and a lock that names what is gone would be broken. A full
        # disk, which is what people remove images for, takes it in the space that the bundle has kept for that.
        bundle.release()
        bundle.save(left)
        for entry in dict.fromkeys(gone):
            echo(f"removed  {said(entry)}")
        echo(f"{bundle.store.prune(left)} blobs were needed by nothing else")


def _nearest(lock: Lock, name: str) -> str:
    try:
        return nearest.said(lock, name)
    except ReferenceError:
        return ""  # it would be a program's name


def _named(lock: Lock, name: str, platforms: Sequence[str]) -> list[Entry]:
    try:
        reference = normalize(name)
    except ReferenceError:
        reference = ""
    return [
        entry
        for entry in entries(lock)
        if (entry.reference == reference if isinstance(entry, Image) else entry.name == name)
        and (not platforms or entry.platform in platforms)
    ]
