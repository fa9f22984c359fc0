"""From the lock and what a node says: which images it lacks, and how many bytes that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.reference import normalize


class UnknownImageError(Exception):
    """An image is asked for that the bundle does not hold; the message names it and where it is used."""


@dataclass(frozen=True)
class NodeImage:
    """What a node's runtime says of one image reference.

    Args:
        manifest: Digest of the manifest behind the reference.
        complete: Every blob of it is there and it is unpacked.
    """

    manifest: str
    complete: bool


@dataclass(frozen=True)
class Plan:
    """What one node gets.

    Args:
        send: Images that it lacks.
        present: Images that it has: the exact reference, the locked manifest, every blob.
        size: Bytes to send, a blob that several images share counted once.
    """

    send: tuple[Image, ...]
    present: tuple[Image, ...]
    size: int


def plan(lock: Lock, references: Mapping[str, str], platform: str, node_images: Mapping[str, NodeImage]) -> Plan:
    """Decide what a node must be sent.

    Args:
        lock: What the bundle holds.
        references: Reference -> where it is used (a file or an object, for the error).
        platform: The node's `os/architecture`.
        node_images: Reference -> what the node says of it.

    Returns:
        The plan, in the order of the references' full names.

    Raises:
        UnknownImageError: The bundle lacks some; all of them are named.
        ReferenceError: A reference is none.
    """
    on_node = {normalize(reference): image for reference, image in node_images.items()}
    wanted: dict[str, Image] = {}
    unknown = []
    for reference, place in references.items():
        image = lock.image(reference, platform)
        if image is None:
            others = [i.platform for i in lock.images if i.reference == normalize(reference)]
            only = f", which the bundle has for {', '.join(others)} only" if others else ""
            unknown.append(f"{normalize(reference)} for {platform}{only} (used by {place})")
        else:
            wanted[image.reference] = image
    if unknown:
        raise UnknownImageError(f"not in the bundle: {'; '.join(unknown)}")
    ordered = [wanted[reference] for reference in sorted(wanted)]
    present = tuple(i for i in ordered if on_node.get(i.reference) == NodeImage(manifest=i.manifest, complete=True))
    send = tuple(i for i in ordered if i not in present)
    return Plan(send=send, present=present, size=size_of(send))


def size_of(images: Iterable[Image]) -> int:
    """Count the bytes of some images together, a blob that several share once."""
    layers: dict[str, int] = {}
    descriptions: dict[str, int] = {}
    for image in images:
        layers.update((layer.digest, layer.size) for layer in image.layers)
        descriptions[image.manifest] = image.size - sum(layer.size for layer in image.layers)
    return sum(layers.values()) + sum(descriptions.values())
