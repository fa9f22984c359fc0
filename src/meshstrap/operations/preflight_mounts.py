"""Judge what a machine's mounts let run: hardened machines mount some of them noexec."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from meshstrap.facts.preflight import Machine
from meshstrap.operations.finding import ERROR, WARNING, Finding

# Directory -> what follows, and whether the site would not stand. Seen on the lab: containers start from a noexec
# /var/lib/containerd all the same, since their root file system is an overlay mount of its own.
_EFFECTS = {
    "/usr/local/bin": (ERROR, "containerd, the kubelet and kubeadm would not start"),
    "/opt/cni/bin": (ERROR, "no CNI plugin would run, and no pod would get a network"),
    "/var/lib/containerd": (WARNING, "where containerd's snapshots are no overlay mounts, containers would not start"),
    "/var/lib/kubelet": (WARNING, "what pods execute from their volumes would not start"),
    "/tmp": (WARNING, "nothing of ours needs it, but others' installers and scripts may"),
}


def judge(machine: Machine) -> Iterator[Finding]:
    """Give one finding for each mount that is noexec and lets something not run.

    Args:
        machine: what it says of itself.

    """
    held: dict[str, list[str]] = defaultdict(list)
    for directory, mount in machine["noexec"].items():
        if directory in _EFFECTS:
            held[mount].append(directory)
    for mount, directories in held.items():
        effects = [_EFFECTS[directory] for directory in directories]
        fatal = any(level == ERROR for level, _ in effects)
        yield Finding(
            ERROR if fatal else WARNING,
            "noexec",
            f"{mount} is mounted noexec: {'; '.join(effect for _, effect in effects)}",
            f"{'Take' if fatal else 'Leave it where it is meant so; else take'} noexec out of its line in /etc/fstab,"
            f" then mount -o remount,exec {mount}",
        )
