"""`meshstrap lab build`: the lab's bundle and its bare node, from package registries alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshstrap.bundle.lock import Image, Layer, Lock, Program, write
from meshstrap.bundle.store import Store
from meshstrap.lab import debian, programs
from meshstrap.lab.images import DebianLayer, Parts, make_image, make_layer
from meshstrap.lab.layers import add_tree_layer, write_tree
from meshstrap.lab.programs import Made, Workshop
from meshstrap.lab.recipe import Recipe, read
from meshstrap.lab.run import BuildError
from meshstrap.lab.steps import Steps, StoppedError

PARTS = ("node", "bundle")

# Raise it when what the same inputs give has changed: how layers are packed, or trees stripped.
_FORMAT = 1


def build(lab_directory: Path, checkout: Path, echo: Callable[[str], None], only: Collection[str] = PARTS) -> None:
    """Make the lab's bundle and the bare node's file system; what is there and still right is left alone.

    Args:
        lab_directory: The lab's directory: `bundle/` and `build/` in it are written.
        checkout: The project's checkout, which holds `images/bundle.yaml`.
        echo: Prints a line for people.
        only: Which parts: `node` (`build/node-rootfs.tar` and `build/node-rootfs.sha256`), `bundle`.

    Raises:
        BuildError: The recipe is wrong, a tool is missing or failed, or another build of this lab runs.
    """
    recipe = read(checkout / "images" / "bundle.yaml")
    directory = lab_directory.resolve() / "build"
    with _alone(directory):
        _check_machine()
        debian.remove(directory / "scratch")
        (directory / "scratch").mkdir()
        workshop = Workshop(recipe, directory, programs.find_go(recipe, directory))
        store = Store(lab_directory.resolve() / "bundle" / "store")
        steps = Steps(directory / "steps", echo)
        # Two lanes: debootstrap waits for the network and for dpkg while Go compiles.
        go_lane, debian_lane = _lanes(
            steps,
            lambda: _compile(workshop, store, steps, ("go", "module-file")) if "bundle" in only else {},
            lambda: _take(workshop, store, steps, only),
        )
        if "bundle" in only:
            made, debian_layer = debian_lane
            lock = _pack(workshop, store, steps, Parts(recipe, {**go_lane, **made}, debian_layer))
            store.write_index(lock.images)
            write(lock, lab_directory / "bundle" / "bundle.lock.yaml")
            store.prune(lock)
        if steps.done == 0:
            echo("Nothing to build: everything is there and unchanged.")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BuildError(f"{directory}: another build runs here (process {file.read().strip()})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise BuildError("`meshstrap lab build` must run as root: debootstrap makes a file system with its owners")
    missing = programs.missing_packages()
    if missing:
        raise BuildError(f"this machine lacks {', '.join(missing)}: run `apt-get install {' '.join(missing)}`")


def _lanes(steps: Steps, *lanes: Callable[[], Any]) -> list[Any]:
    """Run lanes at a time; the error that stopped them is raised, not those that it caused."""
    with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
        tasks = [pool.submit(lane) for lane in lanes]
        try:
            errors = [task.exception() for task in tasks]
        except KeyboardInterrupt:
            steps.stop()
            raise
    real = [e for e in errors if e is not None and not isinstance(e, StoppedError)]
    for error in real or [e for e in errors if e is not None]:
        raise error
    return [task.result() for task in tasks]


def _compile(workshop: Workshop, store: Store, steps: Steps, kinds: Sequence[str]) -> dict[str, Made]:
    on_nodes = {program.build for program in workshop.recipe.programs}
    results = {}
    for entry in workshop.recipe.builds.values():
        if entry.kind not in kinds:
            continue

        def work(entry: Any = entry) -> tuple[Any, list[Path]]:
            made = programs.make(workshop, entry)
            files = [Path(made.path)]
            if entry.name in on_nodes:
                files.append(store.blob(store.add(Path(made.path))))
            return asdict(made), files

        inputs = [_FORMAT, programs.inputs(workshop, entry), entry.name in on_nodes]
        results[entry.name] = Made(**steps.run(entry.name, inputs, work))
    return results


def _take(
    workshop: Workshop, store: Store, steps: Steps, only: Collection[str]
) -> tuple[dict[str, Made], DebianLayer | None]:
    """Make what needs no Go: the bare node, the base layer, wheels and C."""
    if "node" in only:
        _node(workshop, steps)
    if "bundle" not in only:
        return {}, None
    made: dict[str, Made] = {}
    layer = None
    if workshop.recipe.needs_debian:
        made, layer = _base(workshop, store, steps)
    return {**made, **_compile(workshop, store, steps, ("wheel", "c"))}, layer


def _node(workshop: Workshop, steps: Steps) -> None:
    wanted = workshop.recipe.debian
    target = workshop.directory / "node-rootfs.tar"
    checksum = workshop.directory / "node-rootfs.sha256"

    def work() -> tuple[Any, list[Path]]:
        root = workshop.scratch / "node"
        downloads = workshop.directory / "debs"
        release = debian.bootstrap(wanted.suite, wanted.node, root, downloads, workshop.log("node"))
        found = debian.pythons(root)
        if found:
            raise BuildError(f"the bare node must hold no Python, and a package brought {', '.join(found)}")
        digest = write_tree(root, target)
        checksum.write_text(f"{digest}\n")
        debian.remove(root)
        return {"sha256": digest, "source": release}, [target, checksum]

    steps.run("node", [_FORMAT, wanted.suite, wanted.node], work)


def _base(workshop: Workshop, store: Store, steps: Steps) -> tuple[dict[str, Made], DebianLayer]:
    wanted = workshop.recipe.debian
    builds = [b for b in workshop.recipe.builds.values() if b.kind == "debian-file"]

    def work() -> tuple[Any, list[Path]]:
        root = workshop.scratch / "base"
        downloads = workshop.directory / "debs"
        release = debian.bootstrap(wanted.suite, wanted.base, root, downloads, workshop.log("base"))
        debian.add_users(root, wanted.users)
        taken = [programs.take_from_debian(workshop, build, root, release) for build in builds]
        layer = add_tree_layer(store, root, workshop.scratch)
        debian.remove(root)
        result = {
            "layer": asdict(layer),
            "source": release,
            "files": {build.name: asdict(made) for build, made in zip(builds, taken, strict=True)},
        }
        return result, [store.blob(layer.digest), *(Path(made.path) for made in taken)]

    inputs = [_FORMAT, wanted.suite, wanted.base, wanted.users, [asdict(build) for build in builds]]
    result = steps.run("base layer", inputs, work)
    files = {name: Made(**made) for name, made in result["files"].items()}
    return files, DebianLayer(Layer(**result["layer"]), result["source"])


def _pack(workshop: Workshop, store: Store, steps: Steps, parts: Parts) -> Lock:
    recipe = workshop.recipe
    layers: dict[str, Layer] = {}
    for entry in recipe.layers.values():

        def work(entry: Any = entry) -> tuple[Any, list[Path]]:
            layer = make_layer(store, parts, entry, workshop.scratch)
            return asdict(layer), [store.blob(layer.digest)]

        inputs = [_FORMAT, asdict(entry), parts.contents(entry)]
        layers[entry.name] = Layer(**steps.run(f"layer {entry.name}", inputs, work))
    tags = _kubeadm_tags(recipe, steps, parts.made) if "kubeadm" in (p.name for p in recipe.programs) else {}
    images: list[Image] = []
    for image in recipe.images:
        images += make_image(store, parts, image, layers, tags)
    return Lock(images=tuple(images), programs=tuple(_programs(recipe, parts.made)))


def _kubeadm_tags(recipe: Recipe, steps: Steps, made: Mapping[str, Made]) -> dict[str, str]:
    """Ask the built kubeadm which images it will start: repository -> tag."""
    entry = next(program for program in recipe.programs if program.name == "kubeadm")
    kubeadm = made[entry.build]

    def work() -> tuple[Any, list[Path]]:
        listed = subprocess.run(
            ["kubeadm", "config", "images", "list", "--kubernetes-version", kubeadm.version],
            executable=kubeadm.path,
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode:
            raise BuildError(f"kubeadm config images list: {listed.stderr.strip()}")
        return dict(line.rsplit(":", 1) for line in listed.stdout.split()), []

    tags: dict[str, str] = steps.run("image tags by kubeadm", [_FORMAT, kubeadm.sha256, kubeadm.version], work)
    return tags


def _programs(recipe: Recipe, made: Mapping[str, Made]) -> Iterator[Program]:
    for entry in recipe.programs:
        file = made[entry.build]
        yield Program(
            name=entry.name,
            version=programs.version(recipe, recipe.builds[entry.build], entry.module),
            platform=recipe.platform,
            sha256=file.sha256,
            size=Path(file.path).stat().st_size,
            source=file.source,
        )
