"""Archives as the tools write them, made by hand: small, whole, and easy to break."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backports import zstd

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Link:
    """A link in a tar."""

    target: str
    hard: bool = False


def tar(members: Mapping[str, bytes | Link]) -> bytes:
    """A tar of members by name, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, Link):
                info.type = tarfile.LNKTYPE if content.hard else tarfile.SYMTYPE
                info.linkname = content.target
                out.addfile(info)
            else:
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def layer(text: str) -> bytes:
    """A layer with one file."""
    return tar({"etc/motd": text.encode() * 50})


PACK = {"": bytes, "gzip": lambda data: gzip.compress(data, mtime=0), "zstd": zstd.compress}


@dataclass(frozen=True)
class Made:
    """An image made by hand: its config and its layers, uncompressed."""

    layers: tuple[bytes, ...]
    config: bytes

    @property
    def config_digest(self) -> str:
        return digest(self.config)

    @property
    def diff_ids(self) -> list[str]:
        return [digest(each) for each in self.layers]


def image(*texts: str, platform: str = "linux/amd64", command: str = "/a") -> Made:
    """An image with a layer for each text."""
    layers = tuple(layer(text) for text in texts or ("hello",))
    system, architecture, *variant = platform.split("/")
    config = {
        "os": system,
        "architecture": architecture,
        **({"variant": variant[0]} if variant else {}),
        "config": {"Cmd": [command]},
        "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
    }
    return Made(layers, compact(config))


def docker(*images: tuple[Made, Sequence[str] | None]) -> dict[str, bytes | Link]:
    """What `docker save` wrote before version 25: layers that images share are links."""
    members: dict[str, bytes | Link] = {}
    manifest = []
    seen: dict[bytes, str] = {}
    for made, tags in images:
        paths = []
        for number, content in enumerate(made.layers):
            identity = hashlib.sha256(made.config + bytes([number])).hexdigest()
            paths.append(f"{identity}/layer.tar")
            members[f"{identity}/VERSION"] = b"1.0"
            members[f"{identity}/json"] = compact({"id": identity})
            if content in seen:
                members[paths[-1]] = Link(f"../{seen[content]}/layer.tar")
            else:
                seen[content] = identity
                members[paths[-1]] = content
        name = f"{made.config_digest.removeprefix('sha256:')}.json"
        members[name] = made.config
        manifest.append({"Config": name, "RepoTags": tags, "Layers": paths})
    members["manifest.json"] = compact(manifest)
    members["repositories"] = b"{}"
    return members


def docker_archive(made: Made, tags: Sequence[str]) -> dict[str, bytes | Link]:
    """What skopeo writes as docker-archive: a file a layer, named by its diff ID."""
    members: dict[str, bytes | Link] = {
        f"{digest(content).removeprefix('sha256:')}.tar": content for content in made.layers
    }
    layers = list(members)
    name = f"{made.config_digest.removeprefix('sha256:')}.json"
    members[name] = made.config
    members["manifest.json"] = compact([{"Config": name, "RepoTags": tags, "Layers": layers}])
    return members


@dataclass
class Layout:
    """An OCI layout that grows."""

    members: dict[str, bytes | Link]
    entries: list[dict[str, Any]]

    def blob(self, data: bytes) -> dict[str, Any]:
        self.members[f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"] = data
        return {"digest": digest(data), "size": len(data)}

    def manifest(self, made: Made, packed: str = "gzip", media_type: str = MANIFEST) -> dict[str, Any]:
        suffix = {"": "", "gzip": "+gzip", "zstd": "+zstd"}[packed]
        layers = [
            {"mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}", **self.blob(PACK[packed](content))}
            for content in made.layers
        ]
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", **self.blob(made.config)}
        content = compact({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers})
        return {"mediaType": media_type, **self.blob(content)}

    def add(self, entry: dict[str, Any], name: str = "", tag: str = "") -> None:
        annotations = {"io.containerd.image.name": name} if name else {}
        if tag:
            annotations["org.opencontainers.image.ref.name"] = tag
        self.entries.append({**entry, "annotations": annotations})

    def index(self, *entries: tuple[dict[str, Any], str]) -> dict[str, Any]:
        manifests = []
        for entry, platform in entries:
            system, architecture = platform.split("/")
            manifests.append({**entry, "platform": {"os": system, "architecture": architecture}})
        content = compact({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        return {"mediaType": INDEX, **self.blob(content)}

    def finished(self) -> dict[str, bytes | Link]:
        return {
            **self.members,
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": compact({"schemaVersion": 2, "manifests": self.entries}),
        }


def layout() -> Layout:
    return Layout({}, [])


def oci(made: Made, name: str, packed: str = "gzip") -> dict[str, bytes | Link]:
    """An OCI layout with one image, as `ctr images export` and `docker save` from version 25 on name it."""
    out = layout()
    out.add(out.manifest(made, packed), name)
    return out.finished()


def write(path: Path, members: Mapping[str, bytes | Link], packed: str = "") -> Path:
    """Write an archive."""
    path.write_bytes(PACK[packed](tar(members)))
    return path


def unpack(directory: Path, members: Mapping[str, bytes | Link]) -> Path:
    """Write a directory."""
    for name, content in members.items():
        assert isinstance(content, bytes)
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory
