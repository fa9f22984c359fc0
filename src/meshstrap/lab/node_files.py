"""What one lab node has beside the common root file system: its identity, its keys and its first process."""

from __future__ import annotations

import hashlib
import io
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path

# Files that are the same on every node, at their places.
COMMON = Path(__file__).parent / "node"
# The first process of a node, from COMMON.
INIT = "/usr/local/sbin/lab-init"
ENABLED = "/etc/systemd/system/sysinit.target.wants/lab-kubelet-cgroup.service"
# Units that manage hardware or consoles, which a container has none of; each would cost start-up time or fail.
MASKED = (
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "systemd-firstboot.service",
    "systemd-logind.service",
    "systemd-timesyncd.service",
    "systemd-networkd-wait-online.service",
    "console-getty.service",
    "getty.target",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)


@dataclass(frozen=True)
class Identity:
    """What makes a node this node."""

    lab: str
    name: str
    address: str
    host_key: bytes
    host_key_public: bytes
    authorized_key: bytes

    @property
    def machine_id(self) -> str:
        """The node's own /etc/machine-id: the same whenever this lab makes this node."""
        return hashlib.sha256(f"machine {self.lab} {self.name}".encode()).hexdigest()[:32]

    @property
    def product_uuid(self) -> str:
        """The node's own product uuid, which a machine has from its firmware."""
        return str(uuid.UUID(hashlib.sha256(f"product {self.lab} {self.name}".encode()).hexdigest()[:32]))


def archive(identity: Identity) -> bytes:
    """Pack the node's own files as a tar to unpack at its root.

    The bytes depend on the arguments and the files under `node/` alone.
    """
    files = {"/" + str(path.relative_to(COMMON)): path for path in sorted(COMMON.rglob("*")) if path.is_file()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, path in files.items():
            _file(tar, name, path.read_bytes(), 0o755 if "/sbin/" in name else 0o644)
        _directory(tar, "/etc/lab", 0o755)
        _directory(tar, "/root/.ssh", 0o700)
        _file(tar, "/root/.ssh/authorized_keys", identity.authorized_key, 0o600)
        _file(tar, "/etc/ssh/ssh_host_ed25519_key", identity.host_key, 0o600)
        _file(tar, "/etc/ssh/ssh_host_ed25519_key.pub", identity.host_key_public, 0o644)
        _file(tar, "/etc/machine-id", f"{identity.machine_id}\n".encode(), 0o444)
        _file(tar, "/etc/lab/product_uuid", f"{identity.product_uuid}\n".encode(), 0o444)
        _file(tar, "/etc/lab/resolv.conf", f"nameserver {identity.address}\n".encode(), 0o644)
        _link(tar, ENABLED, "/etc/systemd/system/lab-kubelet-cgroup.service")
        for unit in MASKED:
            _link(tar, f"/etc/systemd/system/{unit}", "/dev/null")
    return buffer.getvalue()


def _entry(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.mode = mode
    return entry


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = _entry(name, mode)
    entry.type = tarfile.DIRTYPE
    tar.addfile(entry)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = _entry(name, 0o777)
    entry.type = tarfile.SYMTYPE
    entry.linkname = target
    tar.addfile(entry)
