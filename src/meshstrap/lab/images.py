"""Put the lab's images together from what was built."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshstrap.bundle.lock import Image, Layer
from meshstrap.bundle.store import Store
from meshstrap.lab.layers import File, Link, add_file_layer
from meshstrap.lab.programs import Made
from meshstrap.lab.recipe import DEBIAN_LAYER, ImageEntry, LayerEntry, Recipe
from meshstrap.lab.run import BuildError

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class DebianLayer:
    """The base layer that images with a C library share.

    Args:
        layer: The layer.
        source: Its release, for example `Debian 12.15`.
    """

    layer: Layer
    source: str


@dataclass(frozen=True)
class Parts:
    """What images are made of.

    Args:
        recipe: What they should be.
        made: Build name -> its file.
        debian: The base layer, if there is one.
    """

    recipe: Recipe
    made: Mapping[str, Made]
    debian: DebianLayer | None = None

    def contents(self, entry: LayerEntry) -> dict[str, str]:
        """Name the content of a layer's files by their digests: what the layer depends on.

        Args:
            entry: The layer.

        Returns:
            Path in the image -> sha256 in hex.
        """
        digests = {}
        for path, name in entry.files.items():
            made = self.made.get(name)
            digests[path] = made.sha256 if made else hashlib.sha256(self._own_file(name).read_bytes()).hexdigest()
        return digests

    def file(self, name: str) -> File:
        """Give a layer's file: a build's (executable if it is a program) or one of ours."""
        made = self.made.get(name)
        if made is None:
            return File(self._own_file(name))
        program = self.recipe.builds[name].kind != "module-file"
        return File(Path(made.path), 0o755 if program else 0o644)

    def source(self, layer: str) -> list[str]:
        """Say what a layer was built from, for people."""
        if layer == DEBIAN_LAYER:
            return [self.debian.source if self.debian else ""]
        files = self.recipe.layers[layer].files.values()
        return [self.made[n].source if n in self.made else f"images/{Path(n).parent}" for n in files]

    def _own_file(self, name: str) -> Path:
        return self.recipe.directory / name


def make_layer(store: Store, parts: Parts, entry: LayerEntry, scratch: Path) -> Layer:
    """Pack one layer and put it into the store.

    Args:
        store: Where it goes.
        parts: What it is made of.
        entry: What it holds.
        scratch: A directory for what is not whole yet.

    Returns:
        The layer.

    Raises:
        BuildError: A busybox did not list its names.
    """
    content: dict[str, File | Link] = {path: parts.file(name) for path, name in entry.files.items()}
    content.update((path, Link(target)) for path, target in entry.links.items())
    if entry.applets:
        program = Path(entry.applets)
        for name in _applets(parts.made[entry.files[entry.applets]].path):
            content.setdefault(str(program.with_name(name)), Link(program.name))
    return add_file_layer(store, content, scratch)


def make_image(
    store: Store, parts: Parts, entry: ImageEntry, layers: Mapping[str, Layer], tags: Mapping[str, str]
) -> list[Image]:
    """Make one image, under each of its names.

    Args:
        store: Holds its layers, and gets its config and manifest.
        parts: What it is made of.
        entry: What it is.
        layers: The recipe's layers.
        tags: Repository -> tag, for names without one.

    Returns:
        One entry of the lock a name.

    Raises:
        BuildError: A name has no tag and kubeadm names none.
    """
    stack = []
    for name in entry.layers:
        if name != DEBIAN_LAYER:
            stack.append(layers[name])
        elif parts.debian is not None:
            stack.append(parts.debian.layer)
    sources = [source for name in entry.layers for source in parts.source(name)]
    settings: dict[str, Any] = {"Env": [_PATH], **entry.config}
    return [
        store.add_image(_tagged(name, tags), parts.recipe.platform, stack, settings, "; ".join(dict.fromkeys(sources)))
        for name in entry.names
    ]


def _tagged(name: str, tags: Mapping[str, str]) -> str:
    if ":" in name.rpartition("/")[2]:
        return name
    if name not in tags:
        raise BuildError(f"images: {name}: has no tag, and `kubeadm config images list` names {', '.join(tags)} only")
    return f"{name}:{tags[name]}"


def _applets(busybox: str) -> list[str]:
    listed = subprocess.run(["busybox", "--list"], executable=busybox, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise BuildError(f"{busybox} --list: {listed.stderr.strip()}")
    return listed.stdout.split()
