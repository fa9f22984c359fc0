"""Put archives of images, and programs, into a bundle: read, verified and converted once."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meshstrap.bundle import images, intake, receive
from meshstrap.bundle.compression import PLAIN, ZSTD, kind_of
from meshstrap.bundle.contents import Archive, Contents, Directory
from meshstrap.bundle.directory import Bundle
from meshstrap.bundle.errors import BundleError, printable
from meshstrap.bundle.images import Found, FoundImage
from meshstrap.bundle.listing import said
from meshstrap.bundle.lock import Image, Lock, Program, ordered
from meshstrap.bundle.programs import ELF_MAGIC, contradictions
from meshstrap.bundle.reference import ReferenceError, normalize
from meshstrap.bundle.store import Store

# Where a directory that is one thing has its table of contents; any other stands for the files in it.
_TABLES = ("index.json", "manifest.json")
# Where the header of a tar, of POSIX or GNU, has its magic.
_USTAR = 257
# What people call archives: one that is none was cut off, or is a page that says why it was not to be had.
_SUFFIXES = (".tar", ".tgz", ".gz", ".zst", ".xz", ".txz", ".bz2", ".tbz2", ".tbz")


@dataclass(frozen=True)
class Wishes:
    """How a person wants files to be added.

    Args:
        name: What the one image of the one file is called, instead of the names that it has; empty for those.
        platforms: Which platforms are taken; empty for all that are there.
        version: The version of a program that does not tell its own; empty for none.
        replace: Whether other content under a name that the bundle has is replaced.
        partial: Whether the whole images of a file are taken though others of it are not whole.
        source: What the lock says of where an image came from; empty for the file's format and name.
    """

    name: str = ""
    platforms: tuple[str, ...] = ()
    version: str = ""
    replace: bool = False
    partial: bool = False
    source: str = ""


class NothingError(BundleError):
    """A file is nothing that a bundle holds."""


def add(bundle: Bundle, paths: Sequence[Path], wishes: Wishes, echo: Callable[[str], None]) -> list[str]:
    """Put files and directories into a bundle, each wholly or not at all.

    Args:
        bundle: Where they go; it is made where it is not there.
        paths: Archives, programs, OCI layouts, bundles; any other directory stands for the files in it.
        wishes: How.
        echo: Prints a line for people.

    Returns:
        What could not be added, a line each; all else is in the bundle.

    Raises:
        BundleError: The wishes contradict each other, or the bundle itself cannot be changed.
    """
    if wishes.name:
        if len(paths) != 1:
            raise BundleError("--as names the image of one file: add the others by themselves")
        try:
            wishes = replace(wishes, name=normalize(wishes.name))
        except ReferenceError as error:
            raise BundleError(f"--as: {error}") from None
    with bundle.change() as lock:
        return put(bundle, lock, paths, wishes, echo)[1]


def put(
    bundle: Bundle, lock: Lock, paths: Sequence[Path], wishes: Wishes, echo: Callable[[str], None]
) -> tuple[Lock, list[str]]:
    """Put files and directories into a bundle that is ours to change, each wholly or not at all.

    Args:
        bundle: Where they go.
        lock: What it holds.
        paths: As for `add`.
        wishes: How; a name is a full one.
        echo: Prints a line for people.

    Returns:
        What the bundle holds then, and what could not be added, a line each.

    Raises:
        BundleError: The bundle itself cannot be written.
    """
    failures: list[str] = []
    # What was named and is nothing of ours: beside other things, as a glob names them, that is no error.
    nothing: list[str] = []
    taken = False

    def say(line: str) -> None:
        # Files are called, and say of themselves, what would break a terminal.
        echo(printable(line))

    barren = dict.fromkeys(path for path in paths if path.is_dir())
    for path, given in _files(paths):
        intent = _Intent(bundle.store, lock, wishes, say)
        try:
            intent.read(path)
        except BundleError as error:
            if not isinstance(error, NothingError):
                failures.append(printable(str(error)))
            elif path == given:
                nothing.append(printable(str(error)))
            else:
                say(f"{error}: left out")
                continue
        else:
            taken = True
            lock = intent.lock
            bundle.save(lock)
            if intent.replaced:
                bundle.store.prune(lock)
        barren.pop(given, None)
    nothing += [f"{printable(str(path))}: holds neither images nor programs that go onto nodes" for path in barren]
    if taken:
        for line in nothing:
            say(f"{line}: left out")
        return lock, failures
    return lock, failures + nothing


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Give what is to be read, and what a person named for it: what merely lies beside other files may be anything."""
    for path in paths:
        for found in _walk(path):
            yield found, path


def _walk(path: Path) -> Iterator[Path]:
    """Give a file, a directory that is one thing, or all of these below any other directory."""
    if not path.is_dir() or not _is_open(path) or _is_whole(path):
        yield path
        return
    for each in sorted(path.iterdir()):
        if each.is_file() or (each.is_dir() and not each.is_symlink()):
            yield from _walk(each)


def _is_open(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK)


def _is_whole(path: Path) -> bool:
    if (path / "bundle.lock.yaml").is_file():
        return True
    return any((path / name).is_file() for name in _TABLES) and not images.is_foreign(Directory(path))


def _is_called_archive(path: Path) -> bool:
    # macOS writes a ._a.tar beside each a.tar.
    return path.suffix in _SUFFIXES and not path.name.startswith(".")


class _Intent:
    """What becomes of the lock by one file or directory; it takes effect when all of it is in the store."""

    def __init__(self, store: Store, lock: Lock, wishes: Wishes, echo: Callable[[str], None]) -> None:
        self._store = store
        self._before = lock
        self._wishes = wishes
        self._echo = echo
        self._images = {(image.reference, image.platform): image for image in lock.images}
        self._programs = {(program.name, program.platform): program for program in lock.programs}
        self.replaced = False

    @property
    def lock(self) -> Lock:
        """The lock as it is to be."""
        return ordered(Lock(tuple(self._images.values()), tuple(self._programs.values())))

    def read(self, path: Path) -> None:
        """Read a file or directory.

        Raises:
            NothingError: It is nothing that a bundle holds.
            BundleError: It is damaged, lies about itself, or contradicts the bundle.
        """
        if path.is_dir():
            self._read_directory(path)
        else:
            self._read_file(path)

    def _read_directory(self, path: Path) -> None:
        if not _is_open(path):
            # Each ext4 disk has a lost+found of root's.
            raise NothingError(f"{path}: cannot be read: Permission denied")
        if (path / "bundle.lock.yaml").is_file():
            self._read_bundle(Bundle(path))
            return
        contents = Directory(path)
        found = images.find(contents, self._is_known)
        if found is None:
            raise NothingError(f"{path}: is no OCI layout, no bundle and no directory of archives")
        self._put_images(contents, found, self._wishes.source or f"{found.format} {path.resolve().name}")

    def _read_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                head = file.read(tarfile.BLOCKSIZE)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not head:
            raise (BundleError if _is_called_archive(path) else NothingError)(f"{path}: is empty")
        if head.startswith(ELF_MAGIC):
            self._put_programs(Directory(path.parent), [path.name], f"file {path.name}", path)
            return
        try:
            contents = Archive(path)
        except BundleError as error:
            if kind_of(head) != PLAIN or head[_USTAR:].startswith(b"ustar") or _is_called_archive(path):
                raise  # It was an archive once, or was to be one.
            raise NothingError(str(error)) from None
        found = images.find(contents, self._is_known)
        if found is not None:
            self._put_images(contents, found, f"{found.format} {path.name}")
            return
        for name in contents.members:
            directory, _, base = name.rpartition("/")
            if base == "oci-layout":
                raise BundleError(
                    f"{path}: its OCI layout stands below {directory}/: unpack it and add that directory, or pack it"
                    f" with `tar -C {directory} -cf FILE .`"
                )
        names = [name for name, member in contents.members.items() if member.head.startswith(ELF_MAGIC)]
        self._put_programs(contents, names, f"release archive {path.name}", path)

    def _read_bundle(self, other: Bundle) -> None:
        """Take another bundle over: it keeps what its lock says of where everything came from."""
        theirs = self._of_platforms(other)
        contents = Directory(other.store.directory)
        if theirs.images:
            found = images.find(contents)
            if found is None:
                raise BundleError(f"{contents.path}: has no index.json, though {other.lock_file} names images")
            listed = {(name, image.platform) for image in found.images for name in image.names}
            if lacking := [each.reference for each in theirs.images if (each.reference, each.platform) not in listed]:
                raise BundleError(
                    f"{contents.path}: lacks {', '.join(lacking)}, which {other.lock_file} names: `meshstrap bundle"
                    f" verify --bundle {other.directory}` says what is missing"
                )
            self._put_images(contents, found, f"bundle {other.directory.resolve().name}", theirs)
        for program in theirs.programs:
            if self._is_wanted(program, other.directory):
                member = images.blob(f"sha256:{program.sha256}")
                if contents.find(member) is None:
                    raise BundleError(f"{contents.place(member)}: is not there, which is {program.name}")
                for _, file in contents.read([member]):
                    receive.blob(self._store, file, f"sha256:{program.sha256}", contents.place(member))
                if false := contradictions(program, self._store.blob(program.sha256)):
                    place = f"{other.lock_file}: {program.name} ({program.platform})"
                    raise BundleError(f"{place}: {'; '.join(false)}: have it put right there, or add its own file")
                self._put(program)

    def _of_platforms(self, other: Bundle) -> Lock:
        """Give what of another bundle is wanted by its platform."""
        theirs, platforms = other.read(), self._wishes.platforms
        if not platforms:
            return theirs
        chosen = Lock(
            tuple(image for image in theirs.images if image.platform in platforms),
            tuple(program for program in theirs.programs if program.platform in platforms),
        )
        if chosen == Lock() != theirs:
            there = ", ".join(sorted({i.platform for i in theirs.images} | {p.platform for p in theirs.programs}))
            raise BundleError(f"{other.directory}: has {there} only, not {' or '.join(platforms)}")
        return chosen

    def _put_images(self, contents: Contents, found: Found, source: str, theirs: Lock | None = None) -> None:
        if found.incomplete and not self._wishes.partial:
            whole = ", ".join(dict.fromkeys(name for image in found.images for name in image.names))
            raise BundleError(
                f"{contents.path}: not all of its images are whole: {'; '.join(found.incomplete)}. Whole are"
                f" {whole or 'those without a name'}: give --partial to add these; save the others anew, or add first"
                " what has the layers that they lack"
            )
        for line in (*found.left_out, *found.incomplete):
            self._echo(f"{contents.path}: left out: {line}")
        wanted = [
            replace(image, names=names)
            for image in self._chosen(contents.path, found.images)
            if (names := tuple(name for name in image.names if self._lacks(contents.path, name, image)))
        ]
        for image, entries in zip(
            wanted, intake.take_images(self._store, self._before, contents, wanted, printable(source)), strict=True
        ):
            for entry in entries:
                self._put_image(contents.path, entry, theirs)
            if any(kind_of(m.head) == ZSTD for each in image.layers if (m := contents.find(each.member))):
                self._echo(
                    "  its zstd layers are gzip now, for Docker takes no zstd: its manifest is this bundle's own"
                )

    def _is_known(self, diff_id: str) -> bool:
        return intake.known(self._store, self._before, diff_id) is not None

    def _chosen(self, path: Path, found: Sequence[FoundImage]) -> list[FoundImage]:
        """Choose the images that are wanted, under the names that they are to have."""
        platforms = self._wishes.platforms
        chosen = [image for image in found if not platforms or image.platform in platforms]
        if not chosen:
            there = ", ".join(dict.fromkeys(image.platform for image in found))
            only = f"has {there} only, not {' or '.join(platforms)}" if found else "holds no image"
            raise BundleError(f"{path}: {only}")
        images.refuse_doubles(path, chosen)
        if self._wishes.name:
            if len({image.platform for image in chosen}) != len(chosen):
                names = ", ".join(dict.fromkeys(name for image in chosen for name in image.names)) or "none with a name"
                raise BundleError(f"{path}: holds {len(chosen)} images ({names}), and --as names one")
            return [replace(image, names=(self._wishes.name,)) for image in chosen]
        if unnamed := sum(not image.names for image in chosen):
            raise BundleError(
                f"{path}: {unnamed} of its {len(chosen)} images has no name: add it with --as NAME:TAG"
                + (", each from a file of its own" if len(chosen) > 1 else "")
            )
        return chosen

    def _lacks(self, path: Path, name: str, image: FoundImage) -> bool:
        """Tell whether the bundle lacks an image.

        Raises:
            BundleError: It has another under that name, which is not to be replaced.
        """
        mine = self._images.get((name, image.platform))
        if mine is None:
            return True
        if mine.config != image.config_digest:
            if not self._wishes.replace:
                raise BundleError(
                    f"{path}: {name} ({image.platform}) is in the bundle with other content: config {mine.config}"
                    f" ({mine.source}), and here it is {image.config_digest}; give --replace to put this in its place"
                )
            return True
        if self._store.lacks(mine):
            return True
        self._echo(f"there already  {said(mine)}")
        return False

    def _put_image(self, path: Path, image: Image, theirs: Lock | None) -> None:
        key = (image.reference, image.platform)
        mine = self._images.get(key)
        if mine and mine.config == image.config and mine.manifest != image.manifest and not self._wishes.replace:
            raise BundleError(
                f"{path}: {image.reference} ({image.platform}) is locked with manifest {mine.manifest}, of whose blobs"
                f" one is missing or altered; the same image is packed otherwise here ({image.manifest}): give"
                " --replace to lock that"
            )
        known = theirs.image(*key) if theirs else None
        if known and replace(known, source=image.source, archive=image.archive) == image:
            image = known
        if mine and replace(mine, source=image.source, archive=image.archive) == image:
            image = mine
        self.replaced |= mine not in (None, image)
        self._images[key] = image
        self._echo(f"{'replaced' if mine not in (None, image) else 'added'}  {said(image)}")

    def _put_programs(self, contents: Contents, names: Sequence[str], source: str, path: Path) -> None:
        found = list(intake.take_programs(self._store, contents, names, printable(source), self._wishes.version))
        if not found:
            raise NothingError(f"{path}: holds neither images nor programs that go onto nodes")
        chosen = [each for each in found if not self._wishes.platforms or each.platform in self._wishes.platforms]
        if not chosen:
            there = ", ".join(sorted({each.platform for each in found}))
            raise BundleError(f"{path}: has {there} only, not {' or '.join(self._wishes.platforms)}")
        for program in chosen:
            if self._is_wanted(program, path):
                self._put(program)

    def _is_wanted(self, program: Program, path: Path) -> bool:
        mine = self._programs.get((program.name, program.platform))
        if mine is None:
            return True
        if mine.sha256 == program.sha256:
            if self._store.has(mine.sha256, mine.size):
                self._echo(f"there already  {said(mine)}")
                return False
            return True
        if not self._wishes.replace:
            raise BundleError(
                f"{path}: {program.name} ({program.platform}) is in the bundle with other content: {mine.version},"
                f" sha256 {mine.sha256}, and here it is {program.version}, {program.sha256}; give --replace to put this"
                " in its place"
            )
        return True

    def _put(self, program: Program) -> None:
        mine = self._programs.get((program.name, program.platform))
        changed = mine is not None and mine.sha256 != program.sha256
        self.replaced |= changed
        if mine is None or changed:
            self._programs[program.name, program.platform] = program
        self._echo(f"{'replaced' if changed else 'added'}  {said(program)}")
