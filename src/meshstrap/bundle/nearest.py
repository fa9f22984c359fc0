"""What a bundle has of the repository of an image that it has not: the name that was meant is mostly among that."""

from __future__ import annotations

from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.reference import parse

# A repository has seldom more in one bundle, and a finding stays readable.
_SHOWN = 5


def said(lock: Lock, reference: str) -> str:
    """Say what a bundle has of the repository of a reference.

    A runtime finds an image by the name under which it was imported alone: the same content under a tag is none for a
    reference by digest.

    Args:
        lock: What the bundle holds.
        reference: What it does not hold, short or full.

    Returns:
        Words to go behind a sentence, `; of docker.io/library/a it has ...`; empty where it has nothing of that
        repository.

    Raises:
        ReferenceError: `reference` is none.
    """
    wanted = parse(reference)
    of_it = [
        image
        for image in lock.images
        if image.reference != wanted.full and parse(image.reference).repository == wanted.repository
    ]
    same = list(dict.fromkeys(image.reference for image in of_it if wanted.digest in (image.manifest, image.config)))
    if same:
        return f"; it has that content by the name {' and '.join(same)}: ask for it by that name"
    if not of_it:
        return ""
    listed = [_named(image, with_digest=bool(wanted.digest)) for image in of_it[:_SHOWN]]
    more = f" and {len(of_it) - _SHOWN} more" if len(of_it) > _SHOWN else ""
    return f"; of {wanted.repository} it has {', '.join(listed)}{more}"


def _named(image: Image, *, with_digest: bool) -> str:
    name = image.reference.removeprefix(parse(image.reference).repository)
    return f"{name} ({image.platform}{f', {image.manifest}' if with_digest else ''})"
