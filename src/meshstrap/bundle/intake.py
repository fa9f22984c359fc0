"""From what an archive describes to what the store holds: only what lacks is read, and it is verified on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from meshstrap.bundle import receive
from meshstrap.bundle.compression import GZIP, kind_of
from meshstrap.bundle.contents import Contents
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.images import FoundImage, FoundLayer
from meshstrap.bundle.lock import Image, Layer, Lock, Program
from meshstrap.bundle.programs import recognise
from meshstrap.bundle.store import Store


def take_images(
    store: Store, lock: Lock, contents: Contents, wanted: Sequence[FoundImage], source: str
) -> list[tuple[Image, ...]]:
    """Put images into the store.

    An image whose layers are all gzip, and labelled so, keeps its registry's manifest, config and blobs byte for byte.
    Any other keeps its config, and gets a manifest of ours for its layers as gzip.

    Args:
        store: Where they go.
        lock: What it holds and is known to be right.
        contents: Where they are read.
        wanted: Which.
        source: What they are read from, for people.

    Returns:
        For each image its entries in the lock, one a name.

    Raises:
        BundleError: A layer is damaged, or not what the archive says.
    """
    expected: dict[str, FoundLayer] = {}
    for image in wanted:
        for layer in image.layers:
            if expected.setdefault(layer.member, layer) != layer:
                raise BundleError(f"{contents.place(layer.member)}: two images say that it is two layers")
    layers = {
        member: found
        for member, layer in expected.items()
        if (found := _in_store(store, lock, contents, layer)) is not None
    }
    for member, file in contents.read([member for member in expected if member not in layers]):
        layers[member] = receive.layer(store, file, expected[member], contents.place(member))
    return [_packed(store, contents, image, [layers[each.member] for each in image.layers], source) for image in wanted]


def take_programs(
    store: Store, contents: Contents, names: Iterable[str], source: str, version: str
) -> Iterator[Program]:
    """Put programs into the store; files that are none which goes onto nodes are passed over.

    Args:
        store: Where they go.
        contents: Where they are read.
        names: Which files may be programs.
        source: What they are read from, for people.
        version: That of a program which does not tell its own; empty for none.

    Yields:
        The programs.

    Raises:
        BundleError: A program does not tell its version, and none is given.
    """
    for name, file in contents.read(list(names)):
        place = contents.place(name)
        with store.incoming() as incoming:
            receive.copy(file, incoming, place)
            incoming.flush()
            program = recognise(incoming.path)
            if program is None:
                continue
            told = program.versions if len(program.versions) == 1 else (version,)
            if not told[0]:
                maybe = f" (it may be {' or '.join(program.versions)})" if program.versions else ""
                raise BundleError(f"{place}: is {program.name}, which does not say its version{maybe}: give --version")
            digest = incoming.keep()
            yield Program(
                name=program.name,
                version=told[0],
                platform=program.platform,
                sha256=digest.removeprefix("sha256:"),
                size=incoming.size,
                source=source,
                archive=contents.sha256,
            )


def is_kept(image: FoundImage, layers: Sequence[Layer]) -> bool:
    """Tell whether an image goes into the store as it is, with its registry's manifest: its layers are what that names.

    The manifest is there only where it labels them as gzip, and a layer that was none is another blob in the store.
    """
    return bool(image.manifest) and [each.digest for each in layers] == [each.digest for each in image.layers]


def known(store: Store, lock: Lock, diff_id: str) -> Layer | None:
    """Give a layer of the store by its diff ID, which an archive may have left out; None where there is none.

    `docker save` leaves out layers that images share, in some versions.
    """
    for image in lock.images:
        for layer in image.layers:
            if layer.diff_id == diff_id and store.has(layer.digest, layer.size):
                return layer
    return None


def _in_store(store: Store, lock: Lock, contents: Contents, layer: FoundLayer) -> Layer | None:
    """Give a layer that need not be read; None for one that must.

    Only a blob that stays as it is can be found by its digest. A layer that becomes gzip is converted again though the
    store may hold a registry's gzip of the same: which blobs an image has shall not depend on what came before it.
    """
    member = contents.find(layer.member)
    if member is None:
        return known(store, lock, layer.diff_id)
    if not layer.digest or kind_of(member.head) != GZIP:
        return None
    if layer.size not in (None, member.size) or not store.has(layer.digest, member.size):
        return None
    found = Layer(layer.digest, layer.diff_id, member.size)
    if not any(found in image.layers for image in lock.images):
        # Left by a run that was interrupted, or another image's with another diff ID: not yet known to be this.
        receive.check_kept(store, layer, contents.place(layer.member))
    return found


def _packed(
    store: Store, contents: Contents, image: FoundImage, layers: Sequence[Layer], source: str
) -> tuple[Image, ...]:
    if is_kept(image, layers):
        first = Image(
            reference=image.names[0],
            platform=image.platform,
            manifest=store.add(image.manifest),
            config=store.add(image.config),
            layers=tuple(layers),
            size=len(image.manifest) + len(image.config) + sum(layer.size for layer in layers),
            source=source,
            archive=contents.sha256,
        )
    else:
        first = store.pack_image(image.names[0], image.platform, image.config, layers, source, contents.sha256)
    return tuple(replace(first, reference=name) for name in image.names)
