"""What the lab's bundle is made of, as `images/bundle.yaml` says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from meshstrap.lab.run import BuildError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Go:
    """Which Go compiles.

    Args:
        minimum: The oldest version that will do.
        toolchain: What the go command fetches where this machine's is older.
    """

    minimum: str
    toolchain: str


@dataclass(frozen=True)
class Debian:
    """What is taken from Debian.

    Args:
        suite: Release name.
        node: Packages of the bare node.
        base: Packages of the images' base layer.
        users: Name -> uid (and gid) that the base layer knows beside Debian's own.
    """

    suite: str
    node: list[str]
    base: list[str]
    users: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """One file that is built.

    Args:
        name: Name of the file.
        kind: go | module-file | wheel | c | debian-file.
        folder: Directory with the go.mod (go, module-file).
        package: What is compiled (go), or the package that holds the file (wheel, debian-file).
        module: Go module that gives the version.
        also: Further Go modules that it is made of, for the lock's `source`.
        version: Where it is not the module's version in go.mod.
        tags: Go build tags.
        ldflags: Go linker flags, beside -s -w.
        cgo: Compile with C.
        sha256: Of the wheel.
        file: Path within the module, wheel or Debian tree; for c the source.
    """

    name: str
    kind: str
    folder: str = ""
    package: str = ""
    module: str = ""
    also: list[str] = field(default_factory=list)
    version: str = ""
    tags: list[str] = field(default_factory=list)
    ldflags: list[str] = field(default_factory=list)
    cgo: bool = False
    sha256: str = ""
    file: str = ""


@dataclass(frozen=True)
class ProgramEntry:
    """A program that the lock names.

    Args:
        name: Its file name.
        build: What it is.
        module: Go module that gives its version, where it is not the build's.
    """

    name: str
    build: str
    module: str = ""


@dataclass(frozen=True)
class LayerEntry:
    """An image layer.

    Args:
        name: Its name in the recipe.
        files: Absolute path in the image -> a build's name, or a file below `images/`.
        links: Absolute path in the image -> what it points to.
        applets: Path of a busybox in the image that gets a link for each of its names.
    """

    name: str
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    applets: str = ""


@dataclass(frozen=True)
class ImageEntry:
    """An image.

    Args:
        names: Its references; one without a tag takes kubeadm's.
        layers: Bottom layer first.
        config: What a container of it runs, in the words of the OCI config.
    """

    names: list[str]
    layers: list[str]
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """All of `images/bundle.yaml`, and the directory it stands in."""

    directory: Path
    platform: str
    go: Go
    debian: Debian
    builds: dict[str, Build]
    programs: list[ProgramEntry]
    layers: dict[str, LayerEntry]
    images: list[ImageEntry]

    @property
    def needs_debian(self) -> bool:
        """Whether anything is made from the Debian base tree."""
        return any(DEBIAN_LAYER in image.layers for image in self.images) or any(
            build.kind == "debian-file" for build in self.builds.values()
        )


DEBIAN_LAYER = "debian"


def read(path: Path) -> Recipe:
    """Read the recipe and check that what it refers to is there.

    Args:
        path: `images/bundle.yaml`.

    Returns:
        The recipe.

    Raises:
        BuildError: Missing, not YAML, an unknown or missing key, or a name that stands for nothing.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(f"{path}: no such file: `meshstrap lab build` runs in a checkout of the project") from None
    except yaml.YAMLError as error:
        raise BuildError(f"{path}: not YAML: {error}") from error
    try:
        recipe = Recipe(
            directory=path.parent,
            platform=str(data["platform"]),
            go=_make(Go, "go", data["go"]),
            debian=_make(Debian, "debian", data["debian"]),
            builds={n: _make(Build, f"builds.{n}", entry, name=n) for n, entry in data["builds"].items()},
            programs=[_make(ProgramEntry, f"programs[{i}]", entry) for i, entry in enumerate(data["programs"])],
            layers={n: _make(LayerEntry, f"layers.{n}", entry, name=n) for n, entry in data["layers"].items()},
            images=[_make(ImageEntry, f"images[{i}]", entry) for i, entry in enumerate(data["images"])],
        )
    except KeyError as error:
        raise BuildError(f"{path}: {error.args[0]}: is missing") from None
    except (TypeError, AttributeError) as error:
        raise BuildError(f"{path}: {error}") from None
    _check_names(path, recipe)
    return recipe


def _make(kind: type[_T], place: str, entry: Any, **given: str) -> _T:
    if not isinstance(entry, dict):
        raise TypeError(f"{place}: expected keys and values, found {entry!r}")
    try:
        return kind(**given, **entry)
    except TypeError as error:
        raise TypeError(f"{place}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from None


def _check_names(path: Path, recipe: Recipe) -> None:
    for program in recipe.programs:
        if program.build not in recipe.builds:
            raise BuildError(f"{path}: programs: {program.name}: there is no build {program.build}")
        build = recipe.builds[program.build]
        if not (program.module or build.module or build.version):
            raise BuildError(f"{path}: programs: {program.name}: build {program.build} has no version and no module")
    for layer in recipe.layers.values():
        for source in layer.files.values():
            if source not in recipe.builds and not (recipe.directory / source).is_file():
                raise BuildError(f"{path}: layers.{layer.name}: {source} is neither a build nor a file here")
    for image in recipe.images:
        for name in image.layers:
            if name != DEBIAN_LAYER and name not in recipe.layers:
                raise BuildError(f"{path}: images: {image.names[0]}: there is no layer {name}")
