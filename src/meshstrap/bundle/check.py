"""Whether all that is applied can start from the bundle alone: every image is in it, and none would be pulled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.bundle import nearest
from meshstrap.bundle.lock import Lock
from meshstrap.bundle.reference import Reference, ReferenceError, parse

# A gateway whose pod is to be injected: the injection names its image.
INJECTED = "auto"


@dataclass(frozen=True)
class Use:
    """A place that asks for an image.

    Args:
        place: The object and the file or command that it comes from, for people.
        reference: As written.
        policy: Its imagePullPolicy; empty where it has none.
    """

    place: str
    reference: str
    policy: str = ""


def uses(objects: Iterable[Mapping[str, Any]], source: str) -> list[Use]:
    """Collect the images that objects ask for, wherever in them their containers and image volumes stand.

    Args:
        objects: Parsed manifests.
        source: The file or command that they come from, for people.

    Returns:
        One entry a container or volume, in the order of the objects.
    """
    found = []
    for item in objects:
        metadata = item.get("metadata", {})
        parts = (item.get("kind"), metadata.get("namespace"), metadata.get("name"))
        place = f"{'/'.join(str(part) for part in parts if part)} in {source}"
        for container in _containers(item):
            if container["image"] != INJECTED:
                found.append(Use(place, str(container["image"]), str(container.get("imagePullPolicy") or "")))
        for volume in _volumes(item):
            found.append(Use(place, str(volume["reference"]), str(volume.get("pullPolicy") or "")))
    return found


def judge(lock: Lock, wanted: Iterable[Use], platforms: Iterable[str] = (), *, holder: str = "the bundle") -> list[str]:
    """Say what would not start on a node without a way out.

    The lock pins every image that it names to a digest, so a mutable tag is pinned if and only if the lock names it.
    Without a policy the kubelet pulls `:latest`, and what has no tag, each time (kubernetes.io, Images).

    Args:
        lock: What the bundle holds.
        wanted: What is asked for.
        platforms: The nodes'; empty where any will do.
        holder: What is said not to hold an image.

    Returns:
        One sentence a fault; empty where all is well.
    """
    there: dict[str, set[str]] = {}
    for image in lock.images:
        there.setdefault(image.reference, set()).add(image.platform)
    faults = []
    for use in wanted:
        try:
            reference = parse(use.reference)
        except ReferenceError as error:
            faults.append(f"{use.place}: {error}")
            continue
        known = there.get(reference.full, set())
        lacking = sorted(set(platforms) - known) if known else []
        if not known:
            faults.append(
                f"{use.place} asks for image {reference.full}, which {holder} does not hold"
                + nearest.said(lock, reference.full)
            )
        elif lacking:
            only = f"holds for {', '.join(sorted(known))} only, not {', '.join(lacking)}"
            faults.append(f"{use.place} asks for image {reference.full}, which {holder} {only}")
        if use.policy == "Always":
            faults.append(f"{use.place} has imagePullPolicy Always for {reference.full}: no node could pull it")
        elif not use.policy and _is_latest(reference):
            faults.append(
                f"{use.place} has no imagePullPolicy for {reference.full}, which for this tag means Always: no node"
                " could pull it"
            )
    return list(dict.fromkeys(faults))


def _is_latest(reference: Reference) -> bool:
    return not reference.digest and reference.tag in ("", "latest")


def _containers(item: Any) -> Iterator[Mapping[str, Any]]:
    for each in _entries(item, ("containers", "initContainers", "ephemeralContainers")):
        if "image" in each:
            yield each


def _volumes(item: Any) -> Iterator[Mapping[str, Any]]:
    for each in _entries(item, ("volumes",)):
        image = each.get("image")
        if isinstance(image, Mapping) and "reference" in image:
            yield image


def _entries(value: Any, keys: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """Give the entries of all lists under some keys, wherever these stand."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key in keys and isinstance(part, list):
                yield from (each for each in part if isinstance(each, Mapping))
            else:
                yield from _entries(part, keys)
    elif isinstance(value, list):
        for part in value:
            yield from _entries(part, keys)
