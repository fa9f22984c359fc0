"""Which images an archive or a directory holds: Docker's and OCI's layouts, and skopeo's plain directory.

Sources of the formats: opencontainers/image-spec (image-layout.md, manifest.md, image-index.md), moby/moby
image/spec/v1.2.md (`manifest.json` beside `<id>/layer.tar`), containers/image docs/containers-transports.5.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meshstrap.bundle.contents import Contents, Member, is_plain
from meshstrap.bundle.document import Node, parse_json
from meshstrap.bundle.errors import BundleError, printable, quoted, shortened
from meshstrap.bundle.platforms import is_part
from meshstrap.bundle.platforms import normalize as normalize_platform
from meshstrap.bundle.reference import ReferenceError, is_digest, normalize

DOCKER, OCI, PLAIN_DIRECTORY = "docker archive", "OCI layout", "skopeo directory"

_CONTAINERD_NAME = "io.containerd.image.name"
_OCI_NAME = "org.opencontainers.image.ref.name"
_ATTESTATION = "vnd.docker.reference.type"
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
# What containerd unpacks as gzip: it goes by the label alone.
_GZIP_TYPES = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
)
# An index of indexes is legal; nobody writes them deeper.
_DEEPEST = 3
# Tells by its diff ID whether a layer is to be had.
Known = Callable[[str], bool]

_DOCKER_CONFIG = re.compile(r"(?:.*/|sha256:)?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True)
class FoundLayer:
    """A layer as an archive describes it.

    Args:
        member: The name of the file that holds it.
        diff_id: Of the uncompressed layer, as the image's config says.
        digest: Of the file, as the manifest says; empty where the format gives none.
        size: Bytes of the file, as the manifest says; None where the format gives none.
    """

    member: str
    diff_id: str
    digest: str = ""
    size: int | None = None


@dataclass(frozen=True)
class FoundImage:
    """An image for one platform, as an archive describes it; manifest and config are verified, layers not yet.

    Args:
        names: Full references.
        platform: `os/architecture`, with a variant where that matters.
        config: The config's bytes.
        manifest: The manifest's bytes; empty where the format has none, or it labels its parts as no gzip image's.
        layers: Bottom layer first.
    """

    names: tuple[str, ...]
    platform: str
    config: bytes
    manifest: bytes
    layers: tuple[FoundLayer, ...]

    @property
    def config_digest(self) -> str:
        """The image's identity for Docker, whatever it is packed in."""
        return f"sha256:{hashlib.sha256(self.config).hexdigest()}"


@dataclass(frozen=True)
class Found:
    """What an archive holds.

    Args:
        images: Its images, in its order.
        format: For people: one of `DOCKER`, `OCI`, `PLAIN_DIRECTORY`.
        left_out: What it names and gives no image for nodes, a line each: platforms that were not exported, other
            systems', signatures, charts.
        incomplete: Images of which parts are missing, a line each.
    """

    images: tuple[FoundImage, ...]
    format: str
    left_out: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()


def _nothing(diff_id: str) -> bool:
    return False


def find(contents: Contents, known: Known = _nothing) -> Found | None:
    """Find the images.

    Args:
        contents: Where to look.
        known: Tells by its diff ID of a layer that is missing there whether it is to be had elsewhere.

    Returns:
        What there is; None where this is nothing that holds images.

    Raises:
        BundleError: It does not hold what it says that it holds.
    """
    if contents.find("index.json"):
        found = _Layout(contents, known).read()
    elif contents.find("version") and contents.find("manifest.json"):
        found = _plain_directory(contents, known)
    elif contents.find("manifest.json"):
        found = _docker(contents, known)
    elif contents.find("repositories"):
        raise BundleError(
            f"{contents.path}: has `repositories` and no manifest.json: written by a Docker before 1.10; "
            "load it there and save it with a newer one"
        )
    else:
        return None
    if not found.images and (found.incomplete or found.left_out):
        raise BundleError(f"{contents.path}: {'; '.join(found.incomplete or found.left_out)}")
    return found


def is_foreign(contents: Contents) -> bool:
    """Tell whether a table of contents that stands in a directory is another tool's: many call theirs so.

    Args:
        contents: The directory.

    Returns:
        Whether it is whole and says nothing of images; a damaged one may be ours.
    """
    try:
        if contents.find("oci-layout") or contents.find("version"):
            return False
        table = "index.json" if contents.find("index.json") else "manifest.json"
        value = parse_json(contents.json(table), contents.place(table)).value
    except BundleError:
        return False
    if isinstance(value, dict):
        return "manifests" not in value
    entries = value if isinstance(value, list) else []
    return not any(isinstance(each, dict) and {"Config", "Layers", "RepoTags"} & each.keys() for each in entries)


@dataclass(frozen=True)
class _NoImage:
    """Why an entry of an index gives no image.

    Args:
        why: A sentence without its beginning.
        foreign: Whether it is none for nodes at all, and not one that is not whole.
    """

    why: str
    foreign: bool = False


class _Layout:
    """An OCI image layout."""

    def __init__(self, contents: Contents, known: Known) -> None:
        self._contents = contents
        self._known = known
        self._left_out: list[str] = []
        self._lacks: list[str] = []

    def read(self) -> Found:
        """Read it all.

        Raises:
            BundleError: A digest or size is not what it should be, or nothing is whole of what a name stands for.
        """
        place = self._contents.place("index.json")
        images: list[FoundImage] = []
        incomplete: list[str] = []
        for descriptor in parse_json(self._contents.json("index.json"), place).items("manifests"):
            self._lacks = []
            found = list(self.below(descriptor))
            if not found:
                incomplete += self._lacks
            names = _names(descriptor) if found else ()
            images += [replace(image, names=names) for image in found]
        images = list(self._named_by_docker(images))
        named = {image.config for image in images if image.names}
        # containerd's export of all that Kubernetes has names each image by its ID once more.
        return Found(
            tuple(each for each in images if each.names or each.config not in named),
            OCI,
            tuple(line for line in self.left_out if line not in incomplete),
            tuple(dict.fromkeys(incomplete)),
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was named so far and gave no image, a line each."""
        return tuple(dict.fromkeys(self._left_out))

    def below(self, descriptor: Node, depth: int = 0) -> Iterator[FoundImage]:
        """Give the images below an entry of an index; what was not exported is noted."""
        if depth > _DEEPEST:
            raise BundleError(f"{descriptor.file}: {descriptor.key}: an index in an index in an index")
        if _is_attestation(descriptor):
            return
        media_type = descriptor.optional("mediaType")
        if media_type not in ("", *_INDEX_TYPES, *_MANIFEST_TYPES):
            self._note(descriptor, _foreign(media_type))
            return
        digest = descriptor.checked("digest", is_digest, "sha256:<64 hex digits>")
        if self._contents.find(blob(digest)) is None:
            self._note(descriptor, _NoImage(f"{blob(digest)} is not in it"))
            return
        content = _blob(self._contents, digest, descriptor.integer("size"))
        node = parse_json(content, self._contents.place(blob(digest)))
        if node.has("manifests"):
            for entry in node.items("manifests"):
                yield from self.below(entry, depth + 1)
            return
        if media_type in _INDEX_TYPES:
            raise BundleError(f"{node.file}: is said to be an index, and lists no manifests")
        image = _image(self._contents, node, content, self._known)
        if isinstance(image, _NoImage):
            self._note(descriptor, image)
        else:
            yield image

    def _note(self, descriptor: Node, what: _NoImage) -> None:
        line = f"{_said(descriptor)}: {what.why}"
        self._left_out.append(line)
        if not what.foreign:
            self._lacks.append(line)

    def _named_by_docker(self, images: list[FoundImage]) -> Iterator[FoundImage]:
        """Give names from `manifest.json`, which Docker writes beside index.json, to images that have none there."""
        tags: dict[str, tuple[str, ...]] = {}
        if any(not image.names for image in images) and self._contents.find("manifest.json"):
            place = self._contents.place("manifest.json")
            for entry in _entries(parse_json(self._contents.json("manifest.json"), place)):
                tags[_docker_digest(entry.text("Config"))] = _tags(entry)
        for image in images:
            named = tags.get(image.config_digest.removeprefix("sha256:"), ())
            yield image if image.names else replace(image, names=named)


def blob(digest: str) -> str:
    """Name the file of a blob in an OCI layout."""
    return f"blobs/{digest.replace(':', '/')}"


def _image(contents: Contents, node: Node, content: bytes, known: Known) -> FoundImage | _NoImage:
    """Read a manifest."""
    config_entry = node.part("config")
    media_type = config_entry.optional("mediaType")
    if media_type not in ("", *_CONFIG_TYPES):
        return _foreign(media_type)
    config_digest = config_entry.checked("digest", is_digest, "sha256:<64 hex digits>")
    digests = [
        (each.checked("digest", is_digest, "sha256:<64 hex digits>"), each.integer("size"))
        for each in node.items("layers")
    ]
    if contents.find(blob(config_digest)) is None:
        return _NoImage(f"{blob(config_digest)} is not in it")
    config = _blob(contents, config_digest, config_entry.integer("size"))
    place = contents.place(blob(config_digest))
    if not parse_json(config, place).optional("os"):
        # cosign's signatures are such.
        return _NoImage(f"{blob(config_digest)} names no system that it is for: no container image", foreign=True)
    platform, diff_ids = _config(config, place)
    if not _is_for_nodes(platform):
        return _NoImage(f"is for {platform}, not for Linux", foreign=True)
    if len(diff_ids) != len(digests):
        raise BundleError(f"{node.file}: has {len(digests)} layers, and its config {len(diff_ids)} diff IDs")
    layers = tuple(
        FoundLayer(blob(digest), diff_id, digest, size)
        for (digest, size), diff_id in zip(digests, diff_ids, strict=True)
    )
    for layer in layers:
        if contents.find(layer.member) is None and not known(layer.diff_id):
            return _NoImage(f"{layer.member} is not in it")
    labelled = media_type in _CONFIG_TYPES and all(
        each.optional("mediaType") in _GZIP_TYPES for each in node.items("layers")
    )
    return FoundImage((), platform, config, content if labelled else b"", layers)


def _plain_directory(contents: Contents, known: Known) -> Found:
    """Read what `skopeo copy ... dir:` writes: the registry's manifest or index, and blobs by their hex digests."""
    renamed = _Renamed(contents)
    content = contents.json("manifest.json")
    node = parse_json(content, contents.place("manifest.json"))
    layout = _Layout(renamed, known)
    if node.has("manifests"):
        images = [image for entry in node.items("manifests") for image in layout.below(entry)]
    else:
        image = _image(renamed, node, content, known)
        if isinstance(image, _NoImage):
            raise BundleError(f"{contents.path}: {image.why}")
        images = [image]
    found = tuple(
        replace(image, layers=tuple(replace(layer, member=renamed.name(layer.member)) for layer in image.layers))
        for image in images
    )
    return Found(found, PLAIN_DIRECTORY, layout.left_out)


class _Renamed:
    """A plain directory, seen as an OCI layout."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self.path = contents.path
        self.sha256 = contents.sha256
        self.read = contents.read

    def place(self, name: str) -> str:
        return self._contents.place(self.name(name))

    def name(self, member: str) -> str:
        digest = member.rpartition("/")[2]
        # With several platforms manifest.json lists them, and each one's manifest stands beside it.
        manifest = f"{digest}.manifest.json"
        return manifest if self._contents.find(manifest) else digest

    def find(self, name: str) -> Member | None:
        return self._contents.find(self.name(name))

    def json(self, name: str) -> bytes:
        return self._contents.json(self.name(name))


def _docker(contents: Contents, known: Known) -> Found:
    """Read what `docker save` and skopeo's docker-archive write: configs by name, layers as tars."""
    images, left_out, incomplete = [], [], []
    for entry in _entries(parse_json(contents.json("manifest.json"), contents.place("manifest.json"))):
        name = entry.text("Config")
        config = contents.json(_plain(entry, name))
        digest = hashlib.sha256(config).hexdigest()
        if _docker_digest(name) not in ("", digest):
            raise BundleError(f"{contents.place(name)}: altered: its content has the digest {digest}")
        platform, diff_ids = _config(config, contents.place(name))
        if not _is_for_nodes(platform):
            left_out.append(f"{name}: is for {platform}, not for Linux")
            continue
        # An image without layers has null.
        members = [_plain(entry, member) for member in (entry.texts("Layers") if entry.has("Layers") else [])]
        if len(members) != len(diff_ids):
            raise BundleError(
                f"{entry.file}: {entry.key}: has {len(members)} layers, and {printable(name)} {len(diff_ids)} diff IDs"
            )
        layers = [_docker_layer(contents, member, diff_id) for member, diff_id in zip(members, diff_ids, strict=True)]
        tags = _tags(entry)
        absent = [
            printable(member)
            for member, layer in zip(members, layers, strict=True)
            if contents.find(layer.member) is None and not known(layer.diff_id)
        ]
        if absent:
            incomplete.append(f"{', '.join(tags) or printable(name)}: has no member {', '.join(absent)}")
        else:
            images.append(FoundImage(tags, platform, config, b"", tuple(layers)))
    return Found(tuple(images), DOCKER, tuple(left_out), tuple(incomplete))


def _docker_layer(contents: Contents, member: str, diff_id: str) -> FoundLayer:
    file = contents.find(member)
    promised = f"sha256:{member.rpartition('/')[2]}" if member.startswith("blobs/sha256/") else ""
    return FoundLayer(file.name if file else member, diff_id, promised)


def _entries(node: Node) -> list[Node]:
    return Node(node.file, "", {"manifest.json": node.value}).items("manifest.json")


def _tags(entry: Node) -> tuple[str, ...]:
    tags = entry.texts("RepoTags") if entry.has("RepoTags") else []
    try:
        return tuple(dict.fromkeys(normalize(tag) for tag in tags if not is_digest(tag)))
    except ReferenceError as error:
        raise BundleError(f"{entry.file}: {entry.key}.RepoTags: {error}") from None


def _plain(entry: Node, name: str) -> str:
    if not is_plain(name):
        raise BundleError(f"{entry.file}: {entry.key}: {printable(name)}: points out of the archive")
    return name


def _docker_digest(name: str) -> str:
    """Give the digest that a config's name promises, in hex; empty where it promises none."""
    promised = _DOCKER_CONFIG.fullmatch(name)
    return promised.group(1) if promised else ""


def _names(descriptor: Node) -> tuple[str, ...]:
    """Give the full reference that an entry of index.json carries; none where it carries a tag alone, or nothing."""
    if not descriptor.has("annotations"):
        return ()
    annotations = descriptor.part("annotations")
    name = annotations.optional(_CONTAINERD_NAME)
    # skopeo writes what its user gave: a full reference, or a tag.
    other = annotations.optional(_OCI_NAME)
    if not name and ("/" in other or ":" in other):
        name = other
    # What CRI records an image's id as is no name of it.
    if not name or is_digest(name):
        return ()
    try:
        return (normalize(name),)
    except ReferenceError as error:
        raise BundleError(f"{descriptor.file}: {descriptor.key}.annotations: {error}") from None


def _is_attestation(descriptor: Node) -> bool:
    """Tell whether an entry is what buildx adds about an image: provenance, SBOM."""
    if descriptor.has("annotations") and descriptor.part("annotations").has(_ATTESTATION):
        return True
    return _said_platform(descriptor) == "unknown/unknown"


def _said_platform(descriptor: Node) -> str:
    if not descriptor.has("platform"):
        return ""
    platform = descriptor.part("platform")
    return "/".join(part for key in ("os", "architecture", "variant") if (part := platform.optional(key)))


def _said(descriptor: Node) -> str:
    """Name an entry of an index for people."""
    annotations = descriptor.part("annotations") if descriptor.has("annotations") else None
    name = annotations and (annotations.optional(_CONTAINERD_NAME) or annotations.optional(_OCI_NAME))
    return shortened(_said_platform(descriptor) or name or descriptor.optional("digest"))


def _foreign(media_type: str) -> _NoImage:
    return _NoImage(f"is a {shortened(media_type)}, no container image", foreign=True)


def _is_for_nodes(platform: str) -> bool:
    return platform.startswith("linux/")


def _blob(contents: Contents, digest: str, size: int) -> bytes:
    content = contents.json(blob(digest))
    place = contents.place(blob(digest))
    if len(content) != size:
        raise BundleError(f"{place}: altered: has {len(content)} bytes instead of {size}")
    if hashlib.sha256(content).hexdigest() != digest.removeprefix("sha256:"):
        raise BundleError(f"{place}: altered: its content does not have the digest that is its name")
    return content


def _config(content: bytes, place: str) -> tuple[str, list[str]]:
    """Read an image's platform and its layers' diff IDs."""
    node = parse_json(content, place)
    parts = [node.checked(key, is_part, "a word") for key in ("os", "architecture")]
    if node.optional("variant"):
        parts.append(node.checked("variant", is_part, "a word"))
    rootfs = node.part("rootfs")
    # An image without layers has null.
    diff_ids = rootfs.texts("diff_ids") if rootfs.has("diff_ids") else []
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise BundleError(f"{place}: rootfs.diff_ids: expected sha256:<64 hex digits>, found {quoted(diff_id)}")
    return normalize_platform("/".join(parts)), diff_ids


def refuse_doubles(path: Path, images: Sequence[FoundImage]) -> None:
    """Look whether each name stands for one image a platform.

    Args:
        path: What they are found in, for people.
        images: Those that are to be taken: of others nobody asks.

    Raises:
        BundleError: One stands for two.
    """
    seen: dict[tuple[str, str], FoundImage] = {}
    for image in images:
        for name in image.names:
            other = seen.setdefault((name, image.platform), image)
            if other.config != image.config:
                raise BundleError(f"{path}: {name} ({image.platform}) stands there twice, with different content")
