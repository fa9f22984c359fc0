"""Look whether a bundle is what its lock says: every blob by its digest, and the lock by what the blobs say."""

from __future__ import annotations

from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.document import Node, parse_json
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.lock import Image
from meshstrap.bundle.platforms import normalize
from meshstrap.bundle.store import Store


def verify(bundle: Bundle) -> list[str]:
    """Verify a bundle.

    Args:
        bundle: Which. Every blob is read: about 1 s a GB.

    Returns:
        One line a problem: the file, what is wrong, what needs it. Empty where all is well.

    Raises:
        LockError: There is no bundle, or its lock cannot be used.
    """
    lock = bundle.read()
    problems = bundle.store.verify(lock)
    if problems:
        return problems
    for image in lock.images:
        problems += _contradictions(bundle, image)
    return problems


def _contradictions(bundle: Bundle, image: Image) -> list[str]:
    """Compare a lock's entry with the image's manifest and config, whose digests are right."""
    place = f"{bundle.lock_file}: {image.reference} ({image.platform})"
    try:
        manifest = _json(bundle.store, image.manifest)
        config = _json(bundle.store, image.config)
        named = [layer.text("digest") for layer in manifest.items("layers")]
        rootfs = config.part("rootfs")
        diff_ids = rootfs.texts("diff_ids") if rootfs.has("diff_ids") else []
        pairs = (
            ("config", image.config, manifest.part("config").text("digest")),
            ("layers", [layer.digest for layer in image.layers], named),
            ("diff IDs", [layer.diff_id for layer in image.layers], diff_ids),
            (
                "platform",
                image.platform.split("/")[:2],
                normalize(f"{config.text('os')}/{config.text('architecture')}").split("/")[:2],
            ),
        )
    except BundleError as error:
        return [str(error)]
    return [
        f"{place}: its {what} are not those of the image: {locked!r}, {said!r}"
        for what, locked, said in pairs
        if locked != said
    ]


def _json(store: Store, digest: str) -> Node:
    return parse_json(store.blob(digest).read_bytes(), str(store.blob(digest)))
