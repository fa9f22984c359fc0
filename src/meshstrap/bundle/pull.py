"""Fill a bundle from registries, by skopeo, on a machine that reaches them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshstrap.bundle import listing
from meshstrap.bundle.add import Wishes, put
from meshstrap.bundle.directory import PULLING, Bundle
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.lock import Image, Lock
from meshstrap.bundle.programs import this_machine
from meshstrap.bundle.reference import ReferenceError, parse


@dataclass(frozen=True)
class Pull:
    """One image to be pulled.

    Args:
        reference: Its full reference.
        platform: `os/architecture`.
        locked: What the lock says of it; None where it says nothing, or is to be renewed.
    """

    reference: str
    platform: str
    locked: Image | None

    @property
    def sources(self) -> list[str]:
        """Where it may be had: what is locked by its digest first, for a tag may have moved since."""
        parsed = parse(self.reference)
        by_digest = [f"{parsed.repository}@{self.locked.manifest}"] if self.locked else []
        # skopeo takes a tag or a digest, not both.
        return [*by_digest, f"{parsed.repository}@{parsed.digest}" if parsed.digest else self.reference]


def pull(
    bundle: Bundle, references: Sequence[str], platforms: Sequence[str], *, replace: bool, echo: Callable[[str], None]
) -> list[str]:
    """Pull images into a bundle, each wholly or not at all. What the bundle has as it is locked moves nothing.

    Where skopeo finds a registry, and by which credentials, is its own configuration (containers-registries.conf,
    `skopeo login`): a mirror keeps the images' names.

    Args:
        bundle: Where they go.
        references: Which; empty for all that the lock names and the store lacks.
        platforms: For which platforms; empty for those of the lock, or this machine's where it names none.
        replace: Whether a tag is asked again, and what it stands for now replaces what is locked.
        echo: Prints a line for people.

    Returns:
        What could not be pulled, a line each; all else is in the bundle.

    Raises:
        BundleError: A reference is none, there is no skopeo, another command changes the bundle, or it cannot be used.
    """
    if not references:
        bundle.read()  # says that there is none, where a change would make a directory first
    failures = []
    # What is downloaded has a place only in a bundle that nobody else changes: that comes first.
    with bundle.change() as lock:
        if bundle.lock_file.exists():
            bundle.save(lock)  # with nothing to pull, and no index
        for wanted in plan(lock, references, platforms, replace=replace):
            if wanted.locked and not bundle.store.lacks(wanted.locked):
                echo(f"there already  {listing.said(wanted.locked)}")
                continue
            lock, failed = _pull(bundle, lock, wanted, replace, echo)
            failures += failed
    return failures


def plan(lock: Lock, references: Sequence[str], platforms: Sequence[str], *, replace: bool) -> list[Pull]:
    """Say what is to be pulled, whether the store has it or not.

    Args:
        lock: What is locked.
        references: Which; empty for all that is locked.
        platforms: For which platforms; empty for those of the lock, or this machine's where it names none.
        replace: Whether what is locked is renewed.

    Raises:
        BundleError: A reference is none.
    """
    if not references:
        return [Pull(each.reference, each.platform, each) for each in lock.images]
    chosen = list(platforms) or sorted({entry.platform for entry in listing.entries(lock)})
    pulls = []
    for reference in references:
        try:
            full = parse(reference).full
        except ReferenceError as error:
            raise BundleError(str(error)) from None
        for each in chosen or [this_machine()]:
            pulls.append(Pull(full, each, None if replace else lock.image(full, each)))
    return pulls


def _pull(
    bundle: Bundle, lock: Lock, wanted: Pull, replace: bool, echo: Callable[[str], None]
) -> tuple[Lock, list[str]]:
    echo(f"pulling  {wanted.reference} ({wanted.platform})")
    try:
        with tempfile.TemporaryDirectory(dir=bundle.directory, prefix=PULLING) as scratch:
            target = Path(scratch) / "image"
            problem = _copy(wanted, target)
            if problem:
                return lock, [problem]
            name = wanted.reference
            wishes = Wishes(name, (wanted.platform,), replace=replace, source=f"registry {parse(name).domain}")
            lock, failures = put(bundle, lock, [target], wishes, echo)
            return lock, [each.replace(str(target), name) for each in failures]
    except OSError as error:
        raise BundleError(f"{bundle.directory}: cannot be written: {error.strerror or error}") from error


def _copy(wanted: Pull, target: Path) -> str:
    """Have skopeo fetch an image, its manifest and blobs byte for byte; returns why it could not, if so."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        raise BundleError("there is no skopeo on this machine, which pulls: install it (package skopeo)")
    system, architecture, *variant = wanted.platform.split("/")
    overrides = [f"--override-os={system}", f"--override-arch={architecture}"]
    overrides += [f"--override-variant={each}" for each in variant]
    problems = []
    for source in wanted.sources:
        shutil.rmtree(target, ignore_errors=True)
        run = subprocess.run(
            [skopeo, *overrides, "copy", "--retry-times=2", f"docker://{source}", f"dir:{target}"],
            stdin=subprocess.DEVNULL,
            stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if run.returncode == 0:
            return ""
        problems.append(f"{source}: {_last(run.stderr)}")
    hint = f"; it was added from {wanted.locked.source}: add that again" if wanted.locked else ""
    return f"{wanted.reference} ({wanted.platform}): cannot be pulled: {'; '.join(problems)}{hint}"


def _last(text: str) -> str:
    """Give the message of skopeo's last line, which is `time="..." level=fatal msg="..."`."""
    line = (text.strip().splitlines() or ["skopeo failed"])[-1]
    return line.partition(" msg=")[2].strip('"').replace('\\"', '"') or line
