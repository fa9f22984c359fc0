"""Say what a bundle holds, and how two bundles differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshstrap.bundle.lock import Image, Lock, Program
from meshstrap.bundle.plan import size_of

Entry = Image | Program


def entries(lock: Lock) -> list[Entry]:
    """Give a lock's images and programs, in its order."""
    return [*lock.images, *lock.programs]


def said(entry: Entry) -> str:
    """Name an image or a program with its platform, size and identity, on one line."""
    if isinstance(entry, Image):
        return f"{entry.reference} ({entry.platform}, {_megabytes(entry.size)}) config {entry.config[:19]}"
    return f"{entry.name} {entry.version} ({entry.platform}, {_megabytes(entry.size)}) sha256 {entry.sha256[:12]}"


def lines(lock: Lock) -> list[str]:
    """List all that a bundle holds, a line each, with its origin; the last line counts it together."""
    files = {program.sha256: program.size for program in lock.programs}
    total = size_of(lock.images) + sum(files.values())
    return [
        *(f"{said(entry)}  from {entry.source}" for entry in entries(lock)),
        f"images: {len(lock.images)}, programs: {len(lock.programs)}, together {_megabytes(total)}",
    ]


def difference(mine: Lock, other: Lock) -> list[str]:
    """Compare two bundles by what they give to nodes; where that came from does not count.

    Args:
        mine: The one.
        other: The other.

    Returns:
        A line for each image and program that differs: `+` is in the one alone, `-` in the other alone, `~` in both
        with other content; empty where both give the same.
    """
    ours, theirs = _by_name(mine), _by_name(other)
    found = []
    for key in sorted({*ours, *theirs}):
        here, there = ours.get(key), theirs.get(key)
        if here is None or there is None:
            found.append(f"+ {said(here)}" if here else f"- {said(there)}" if there else "")
        elif here != there:
            found.append(f"~ {key[1]} ({key[2]}): {', '.join(_fields(there, here))}")
    return found


def _by_name(lock: Lock) -> Mapping[tuple[str, str, str], Entry]:
    return {
        (
            type(entry).__name__,
            entry.reference if isinstance(entry, Image) else entry.name,
            entry.platform,
        ): replace(entry, source="", archive="")
        for entry in entries(lock)
    }


def _fields(before: Entry, after: Entry) -> list[str]:
    names = ("config", "manifest") if isinstance(before, Image) else ("version", "sha256")
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [f"{name} {old} -> {new}" for name, old, new in pairs if old != new] or ["layers or sizes"]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
