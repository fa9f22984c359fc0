"""From the lock and what a node says: which images it lacks, which blobs must travel, and whether they fit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from meshstrap.bundle import nearest
from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.reference import ReferenceError, normalize

Kind = Literal["containerd", "docker", "cri-o", "unknown"]
State = Literal["absent", "other content", "incomplete", "present"]

# What the kubelet evicts pods below where it is told nothing (pkg/kubelet/apis/config/v1beta1/defaults_linux.go).
EVICTION = {"imagefs.available": "15%", "nodefs.available": "10%"}
# Files take whole blocks, and directories and inodes something too.
_BLOCKS = 1.05

# An archive of many small images is taken in less time than as many archives.
BATCH = 8_000_000

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(k|[KMGTPE]i|[MGTPE])?")
_UNITS = {"": 1, "k": 1000} | {
    unit: factor
    for power, letter in enumerate("KMGTPE", start=1)
    for unit, factor in ((f"{letter}i", 1024**power), (letter, 1000**power))
}


class UnknownImageError(Exception):
    """An image is asked for that the bundle does not hold; the message names it and where it is used."""


class NodeImage(TypedDict):
    """One image reference as a node's runtime has it.

    `manifest` is the digest that containerd shows and empty on Docker, `config` the one that Docker shows and the
    kubelet's image id. `complete`: every blob is there; `unpacked`: a container can start from it; `pinned`: the
    kubelet's garbage collection keeps it; `ours`: meshstrap brought it; `used`: a container, running or not, is of it.
    """

    manifest: str
    config: str
    complete: bool
    unpacked: bool
    pinned: bool
    ours: bool
    used: bool


class Disk(TypedDict):
    """The file system under the runtime's root: where that is, bytes, and whether the kubelet's own is the same."""

    root: str
    size: int
    free: int
    nodefs: bool


class Runtime(TypedDict):
    """What the runtime that a node's kubelet uses says of itself and of its images.

    `version` is empty where it does not answer. `blobs` are the digests in its content store, `chains` the chain IDs of
    its snapshots (the OCI image specification's, of a layer on top of those below it), `claims` what an earlier run
    that died protected from garbage collection and did not release. `discards`: layers' blobs go once they are
    unpacked. `eviction`: the kubelet's thresholds by signal; None where there is no kubelet's configuration yet.
    """

    kind: Kind
    endpoint: str
    installed: bool
    version: str
    images: dict[str, NodeImage]
    blobs: list[str]
    chains: list[str]
    claims: list[str]
    pinnable: bool
    discards: bool
    disk: Disk | None
    eviction: dict[str, str] | None


class Whole(TypedDict):
    """What a runtime says where it is only asked whether nothing is missing.

    `names` are those of the images asked for that it has with exactly the manifest asked for, pinned; the others as in
    Runtime.
    """

    names: list[str]
    blobs: list[str]
    chains: list[str]
    claims: list[str]


@dataclass(frozen=True)
class Shipment:
    """One image that a node gets.

    Args:
        image: The image.
        state: Why: what the node has under its name.
        layers: Those that travel.
        claims: What the node has of the others and must not lose meanwhile: digests of blobs, or `chain:<chain ID>`
            for a snapshot.
    """

    image: Image
    state: State
    layers: tuple[Layer, ...]
    claims: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes that travel: the layers, and manifest and config always."""
        return descriptions(self.image) + sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class Batch:
    """Images that go as one archive, which the runtime takes as a whole.

    Args:
        images: The images.
        omit: Digests of their layers that stay at home.
        claims: What the node has of these and must not lose meanwhile, as in Shipment.
    """

    images: tuple[Image, ...]
    omit: frozenset[str]
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What one node gets.

    Args:
        send: Images that it lacks, in the order in which they go.
        present: Images that it has: the exact reference, the locked identity, all that a container needs.
        unpinned: Those of `present` that the kubelet's garbage collection may take. A containerd that does not heed the
            pin yet keeps it for the day when it is upgraded.
        need: Bytes that the images to send will take on its disk.
        missing: How many of them are not free there, the kubelet's eviction threshold kept; 0 where all fit.
        reserve: Bytes that must stay free for the kubelet not to evict pods; 0 where nothing is to be sent.
    """

    send: tuple[Shipment, ...]
    present: tuple[Image, ...]
    unpinned: tuple[Image, ...]
    need: int
    missing: int
    reserve: int

    @property
    def size(self) -> int:
        """Bytes that travel."""
        return sum(shipment.size for shipment in self.send)


def plan(
    images: Sequence[Image],
    runtime: Runtime,
    unpacked_size: Callable[[Layer], int],
    kubelet_config: Mapping[str, object] | None = None,
) -> Plan:
    """Decide what a node must be sent.

    Args:
        images: What it needs, for its platform.
        runtime: What its runtime says.
        unpacked_size: Gives the bytes of a layer on the disk, unpacked.
        kubelet_config: The configuration that the kubelet will get where it has none yet, for its thresholds.

    Returns:
        The plan, in the order of the images. A layer that several of them share travels once.
    """
    on_node = by_reference(runtime)
    states = {image.reference: state(image, on_node.get(image.reference), runtime) for image in images}
    present = tuple(image for image in images if states[image.reference] == "present")
    send, need = _shipments([image for image in images if image not in present], states, runtime, unpacked_size)
    disk = runtime["disk"]
    reserve = _reserve(disk, _eviction(runtime, kubelet_config)) if disk and send else 0
    return Plan(
        send=send,
        present=present,
        unpinned=tuple(i for i in present if runtime["kind"] == "containerd" and not on_node[i.reference]["pinned"]),
        need=need,
        missing=max(0, need + reserve - disk["free"]) if disk and send else 0,
        reserve=reserve,
    )


def without(images: Sequence[Image], runtime: Runtime, altered: Collection[str]) -> Runtime:
    """Give what a runtime says without blobs that were read and found to be others, and images of them as incomplete.

    Args:
        images: What the node needs, for its platform.
        runtime: What its runtime says.
        altered: Digests of the blobs.
    """
    broken = {image.reference for image in images if not blobs_of(image).isdisjoint(altered)}
    names = {
        name: {**there, "complete": False} if name in broken else there for name, there in runtime["images"].items()
    }
    return cast(
        Runtime, {**runtime, "images": names, "blobs": [blob for blob in runtime["blobs"] if blob not in altered]}
    )


def blobs_of(image: Image) -> set[str]:
    """Name an image's blobs: manifest, config and layers."""
    return {image.manifest, image.config, *(layer.digest for layer in image.layers)}


def nothing_missing(images: Sequence[Image], whole: Whole) -> bool:
    """Tell whether a node has all of some images as the lock has them, pinned, and nothing is left of a dead run.

    Where not, only the whole answer of its runtime tells what it lacks, and whether it lacks anything: an image that
    came another way may have another manifest, and a runtime may discard layers that it has unpacked.

    Args:
        images: What it needs, for its platform.
        whole: What its runtime says of these.
    """
    names, blobs, chains = set(whole["names"]), set(whole["blobs"]), set(whole["chains"])
    return not whole["claims"] and all(
        image.reference in names
        and blobs_of(image) <= blobs
        and set(chain_ids(layer.diff_id for layer in image.layers)) <= chains
        for image in images
    )


def batches(shipments: Sequence[Shipment], least: int = BATCH) -> list[Batch]:
    """Put shipments together, so that small images do not cost an import each and a cut one loses little.

    Args:
        shipments: What goes to one node, in its order.
        least: Bytes after which an archive is full.
    """
    groups: list[list[Shipment]] = []
    room = 0
    for shipment in shipments:
        if room <= 0:
            groups.append([])
            room = least
        groups[-1].append(shipment)
        room -= shipment.size
    return [_batch(group) for group in groups]


def _batch(group: Sequence[Shipment]) -> Batch:
    images = tuple(shipment.image for shipment in group)
    travel = {layer.digest for shipment in group for layer in shipment.layers}
    made = {
        f"chain:{chain}"
        for shipment in group
        for layer, chain in zip(shipment.image.layers, chain_ids(i.diff_id for i in shipment.image.layers), strict=True)
        if layer.digest in travel
    }
    claims = dict.fromkeys(claim for shipment in group for claim in shipment.claims if claim not in travel | made)
    omit = frozenset(layer.digest for image in images for layer in image.layers) - travel
    return Batch(images, omit, tuple(claims))


def find(lock: Lock, references: Mapping[str, str], platform: str) -> list[Image]:
    """Find images in the lock, in the order of their full names.

    Args:
        lock: What the bundle holds.
        references: Reference -> where it is used (a file or an object, for the error).
        platform: The node's `os/architecture`.

    Raises:
        UnknownImageError: The bundle lacks some; all of them are named.
        ReferenceError: A reference is none.
    """
    wanted: dict[str, Image] = {}
    unknown = []
    for reference, place in references.items():
        image = lock.image(reference, platform)
        if image is None:
            others = [i.platform for i in lock.images if i.reference == normalize(reference)]
            only = f", which the bundle has for {', '.join(others)} only" if others else nearest.said(lock, reference)
            unknown.append(f"{normalize(reference)} for {platform}{only} (used by {place})")
        else:
            wanted[image.reference] = image
    if unknown:
        raise UnknownImageError(f"not in the bundle: {'; '.join(unknown)}")
    return [wanted[reference] for reference in sorted(wanted)]


def by_reference(runtime: Runtime) -> dict[str, NodeImage]:
    """Give a node's images by their full names.

    Docker says names in short; containerd keeps whatever it is given, and the kubelet finds full names alone. Records
    of image ids, which are no names, are left out.
    """
    names = {name: _full(name) if runtime["kind"] == "docker" else name for name in runtime["images"]}
    return {full: runtime["images"][name] for name, full in names.items() if not name.startswith("sha256:")}


def state(image: Image, there: NodeImage | None, runtime: Runtime) -> State:
    """Compare what a node has under an image's name with the lock.

    Args:
        image: As the lock has it.
        there: What the node has under this reference.
        runtime: The rest of what it says.

    Returns:
        `present` only where a container of exactly this image can start. The image's identity is its manifest's digest
        or its config's, which names the content of every layer too: an image that came by `docker save` has other blobs
        and another manifest, and is the same image.
    """
    if there is None:
        return "absent"
    if there["manifest"] != image.manifest and there["config"] != image.config:
        return "other content"
    if not there["unpacked"]:
        return "incomplete"
    described = {image.manifest, image.config} <= set(runtime["blobs"])
    return "present" if there["complete"] or (runtime["discards"] and described) else "incomplete"


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """Compute the chain ID of each layer (OCI image specification, config.md, "Layer ChainID"), bottom layer first."""
    chains: list[str] = []
    for diff_id in diff_ids:
        link = f"{chains[-1]} {diff_id}".encode() if chains else None
        chains.append(f"sha256:{hashlib.sha256(link).hexdigest()}" if link else diff_id)
    return chains


def size_of(images: Iterable[Image]) -> int:
    """Count the bytes of some images together, a blob that several share once."""
    layers: dict[str, int] = {}
    described: dict[str, int] = {}
    for image in images:
        layers.update((layer.digest, layer.size) for layer in image.layers)
        described[image.manifest] = descriptions(image)
    return sum(layers.values()) + sum(described.values())


def descriptions(image: Image) -> int:
    """Count the bytes of an image's manifest and config."""
    return image.size - sum(layer.size for layer in image.layers)


def unused(runtime: Runtime, wanted: Sequence[Image], named: Iterable[str]) -> list[str]:
    """Say which of the images that we brought a node needs no more.

    Args:
        runtime: What its runtime says.
        wanted: The images that it needs.
        named: References that pods of the cluster name, wherever they run.

    Returns:
        The names, as the runtime has them. None that we did not bring, that a container is of, or that is wanted; and a
        record of an image id only where no other name of the same image stays.
    """
    keep = {image.reference for image in wanted} | {_full(name) for name in named}
    configs = {image.config for image in wanted}
    names = [
        name
        for name, image in runtime["images"].items()
        if not name.startswith("sha256:") and image["ours"] and not image["used"] and _full(name) not in keep
    ]
    stays = {
        image["config"]
        for name, image in runtime["images"].items()
        if not name.startswith("sha256:") and name not in names
    }
    identifiers = [
        name
        for name, image in runtime["images"].items()
        if name.startswith("sha256:") and image["ours"] and not image["used"] and name not in stays | configs
    ]
    return sorted(names) + sorted(identifiers)


def quantity(text: str, whole: int) -> int:
    """Read one of the kubelet's thresholds.

    Args:
        text: `10%`, or a quantity of Kubernetes: `1Gi`, `500M`, `1000000`.
        whole: What a percentage is of.

    Returns:
        Bytes; 0 for what is neither.
    """
    text = text.strip().strip("\"'")
    if text.endswith("%"):
        try:
            return int(whole * float(text[:-1]) / 100)
        except ValueError:
            return 0
    match = _QUANTITY.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0


def _full(name: str) -> str:
    # containerd takes any text for an image's name; what is no reference is nobody's but its maker's.
    try:
        return normalize(name)
    except ReferenceError:
        return name


def _shipments(
    images: Sequence[Image],
    states: Mapping[str, State],
    runtime: Runtime,
    unpacked_size: Callable[[Layer], int],
) -> tuple[tuple[Shipment, ...], int]:
    blobs, chains = set(runtime["blobs"]), set(runtime["chains"])
    by_chain = runtime["kind"] == "docker" or runtime["discards"]
    send = []
    stored = unpacked = largest = 0
    for image in images:
        layers = []
        claims = []
        whole = True  # Every layer so far is there as a snapshot: the runtime finds this one by its chain.
        for layer, chain in zip(image.layers, chain_ids(layer.diff_id for layer in image.layers), strict=True):
            whole = whole and chain in chains
            if runtime["kind"] == "containerd" and layer.digest in blobs:
                claims.append(layer.digest)
            elif by_chain and whole:
                claims = [each for each in claims if not each.startswith("chain:")] + [f"chain:{chain}"]
            elif layer not in layers:
                layers.append(layer)
            if chain not in chains:
                unpacked += unpacked_size(layer)
                chains.add(chain)
        shipment = Shipment(image, states[image.reference], tuple(layers), tuple(dict.fromkeys(claims)))
        blobs.update(layer.digest for layer in image.layers)
        stored += shipment.size
        largest = max(largest, shipment.size)
        send.append(shipment)
    # Docker keeps no blobs, and unpacks the archive of one image at a time beside its layers.
    return tuple(send), int(unpacked * _BLOCKS) + (largest if runtime["kind"] == "docker" else stored)


def _eviction(runtime: Runtime, kubelet_config: Mapping[str, object] | None) -> Mapping[str, str]:
    """Choose the thresholds: the kubelet's own, those that it will get, its defaults. Where some are set, all count."""
    if runtime["eviction"] is not None:
        return runtime["eviction"] or EVICTION
    declared = (kubelet_config or {}).get("evictionHard")
    return (
        {str(signal): str(value) for signal, value in declared.items()} if isinstance(declared, Mapping) else EVICTION
    )


def _reserve(disk: Disk, eviction: Mapping[str, str]) -> int:
    signals = ["imagefs.available", *(["nodefs.available"] if disk["nodefs"] else [])]
    return max(quantity(eviction.get(signal, "0"), disk["size"]) for signal in signals)
