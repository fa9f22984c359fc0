"""Debian trees by debootstrap: the bare node, and the one base layer of the images that need a C library."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshstrap.lab.run import BuildError, run

# What differs between two runs with the same packages, or is of no use without a network.
_STRIP = (
    "etc/.pwd.lock",
    "etc/*-",
    "etc/apt/sources.list",
    "etc/ssh/ssh_host_*",
    "root/.bash_history",
    "run/*",
    "tmp/*",
    "dev/*",
    "var/cache/*",
    "var/lib/apt/lists/*",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/catalog/database",
    "var/lib/systemd/random-seed",
    "var/log/*",
    "var/tmp/*",
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/lintian",
    "usr/share/locale/*",
    "usr/share/man/*",
)
_EMPTY = ("etc/machine-id", "etc/hostname", "etc/resolv.conf")


def bootstrap(suite: str, packages: Sequence[str], target: Path, downloads: Path, log: Path) -> str:
    """Make a tree of Debian's minimal system and some packages, free of what differs between two runs.

    Args:
        suite: Debian release, for example `bookworm`.
        packages: What it holds beside the minimal system.
        target: Where the tree grows; anything there is removed first. The caller removes it afterwards.
        downloads: Directory that keeps the packages, so that they are fetched once.
        log: Where debootstrap's output goes.

    Returns:
        The release, for example `Debian 12.15`.

    Raises:
        BuildError: debootstrap failed; the message ends with its last lines.
    """
    remove(target)
    target.mkdir(parents=True)
    downloads.mkdir(parents=True, exist_ok=True)
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--cache-dir={downloads.resolve()}",
        f"--include={','.join(packages)}",
        suite,
        str(target.resolve()),
        *_mirror(suite),
    ]
    run(command, log=log)
    _strip(target)
    return f"Debian {(target / 'etc/debian_version').read_text().strip()}"


def remove(directory: Path) -> None:
    """Remove a directory with trees in it; what an interrupted debootstrap mounted there is unmounted first.

    Args:
        directory: Need not exist.

    Raises:
        BuildError: Something stays mounted there.
    """
    if not directory.exists():
        return
    below = f"{directory.resolve()}/"
    # Deepest first. Nothing may be removed through a mount: it would be the machine's own /proc and /sys.
    for point in sorted(_mounts(below), reverse=True):
        subprocess.run(["umount", point], capture_output=True, check=False)
    if left := _mounts(below):
        raise BuildError(f"{left[0]}: is still mounted from an interrupted build: run `umount {left[0]}`")
    shutil.rmtree(directory)


def _mounts(below: str) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    return [point for point in points if point.startswith(below)]


def pythons(root: Path) -> list[str]:
    """List the Python interpreters in a tree; a bare node has none."""
    return [str(p.relative_to(root)) for p in sorted(root.glob("usr/**/bin/*")) if re.match("(python|pypy)", p.name)]


def add_users(root: Path, users: Mapping[str, int]) -> None:
    """Let a tree know some users, each with a group of its name and number.

    Args:
        root: The tree.
        users: Name -> uid and gid.
    """
    with (root / "etc/passwd").open("a") as passwd, (root / "etc/group").open("a") as group:
        for name, number in users.items():
            passwd.write(f"{name}:x:{number}:{number}::/home/{name}:/usr/sbin/nologin\n")
            group.write(f"{name}:x:{number}:\n")


def _mirror(suite: str) -> list[str]:
    """Take the mirror from this machine's own apt; without one there debootstrap takes its default."""
    if shutil.which("apt-get") is None:
        return []
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(ORIGIN) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listed.stdout.splitlines():
        release, _, rest = line.partition(" ")
        origin, _, address = rest.rpartition(" ")
        if release == suite and origin in ("Debian", ""):
            return [address]
    return []


def _strip(root: Path) -> None:
    for pattern in _STRIP:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name in _EMPTY:
        path = root / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o644)
    shadow = root / "etc/shadow"
    # The third field is the day on which the account was made.
    shadow.write_text(re.sub(r"(?m)^([^:]*:[^:]*:)\d*", r"\1", shadow.read_text()))
