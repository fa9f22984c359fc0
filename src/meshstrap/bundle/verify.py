"""Look whether a bundle is what its lock says: every blob by its digest, the lock and the index by what blobs say."""

from __future__ import annotations

from typing import Any

from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.document import Node, parse_json
from meshstrap.bundle.errors import BundleError, quoted
from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.platforms import normalize
from meshstrap.bundle.programs import contradictions
from meshstrap.bundle.reference import parse
from meshstrap.bundle.store import REF_NAME, Store, index_json

_REPAIR = "; `meshstrap bundle add` of what it came from, or `meshstrap bundle pull`, puts it right"
_FALSE = "; restore the lock, or `meshstrap bundle remove` it and add it again"


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
    problems = [f"{problem}{_REPAIR}" for problem in bundle.store.verify(lock)]
    if problems:
        return problems
    for image in lock.images:
        problems += _contradictions(bundle, image)
    for program in lock.programs:
        place = f"{bundle.lock_file}: {program.name} ({program.platform})"
        problems += [f"{place}: {each}{_FALSE}" for each in contradictions(program, bundle.store.blob(program.sha256))]
    return [*problems, *_index(bundle, lock)]


def _index(bundle: Bundle, lock: Lock) -> list[str]:
    """Look whether the store lists the lock's images, in whatever order: it is what other tools, and bundles, read."""
    path = bundle.store.directory / "index.json"
    try:
        found = [entry.value for entry in parse_json(path.read_bytes(), str(path)).items("manifests")]
    except (OSError, BundleError):
        found = []
    expected = [
        entry.value for entry in parse_json(index_json(bundle.store, lock.images), str(path)).items("manifests")
    ]
    if len(found) == len(expected) and all(entry in found or _with_tag_alone(entry) in found for entry in expected):
        return []
    return [f"{path}: missing, or does not list the images that {bundle.lock_file} names{_REPAIR}"]


def _with_tag_alone(entry: dict[str, Any]) -> dict[str, Any]:
    """Give an entry as it was written before the store was to be read by skopeo too; the next change writes it anew."""
    annotations = entry["annotations"]
    return {**entry, "annotations": {**annotations, REF_NAME: parse(annotations[REF_NAME]).tag}}


def _contradictions(bundle: Bundle, image: Image) -> list[str]:
    """Compare a lock's entry with the image's manifest and config, whose digests are right."""
    place = f"{bundle.lock_file}: {image.reference} ({image.platform})"
    blobs = (image.manifest, image.config, *(layer.digest for layer in image.layers))
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
            ("size", image.size, sum(bundle.store.blob(each).stat().st_size for each in blobs)),
            (
                "platform",
                image.platform.split("/")[:2],
                normalize(f"{config.text('os')}/{config.text('architecture')}").split("/")[:2],
            ),
        )
    except BundleError as error:
        return [str(error)]
    return [
        f"{place}: its {what}: the lock says {quoted(locked)}, and the image {quoted(said)}{_FALSE}"
        for what, locked, said in pairs
        if locked != said
    ]


def _json(store: Store, digest: str) -> Node:
    return parse_json(store.blob(digest).read_bytes(), str(store.blob(digest)))
