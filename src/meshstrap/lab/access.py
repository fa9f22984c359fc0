"""How a person or a test gets into a lab node: ssh with the lab's key and its pinned host keys."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from meshstrap.lab.directory import Lab, LabError
from meshstrap.lab.record import Node, Record

ADMIN_CONF = "/etc/kubernetes/admin.conf"


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key pair at `path` and `path`.pub; a pair that is there stays."""
    public = path.with_name(path.name + ".pub")
    if path.exists() and public.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def write_known_hosts(lab: Lab, nodes: Sequence[Node]) -> None:
    """Pin the nodes' host keys under the addresses and ports by which they are reached."""
    lines = []
    for node in nodes:
        kind, key = (lab.host_keys / f"{node.name}.pub").read_text().split()[:2]
        lines.append(f"[{node.ssh_host}]:{node.ssh_port} {kind} {key}\n")
    temporary = lab.known_hosts.with_name(lab.known_hosts.name + ".new")
    temporary.write_text("".join(lines))
    os.replace(temporary, lab.known_hosts)


def ssh(lab: Lab, node: Node, command: Sequence[str] = (), *, terminal: bool = False) -> list[str]:
    """Build the ssh command line that runs a command on a node, or a shell.

    Args:
        lab: whose key and pinned host keys are used, and nobody else's: the user's own ssh settings stay out.
        node: where to.
        command: program and arguments; they arrive as they are, whatever characters they hold.
        terminal: give the command a terminal.

    """
    options = {
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(lab.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": "5",
        "LogLevel": "ERROR",
    }
    line = ["ssh", "-F", "none", "-i", str(lab.key), "-p", str(node.ssh_port)]
    for name, value in options.items():
        line += ["-o", f"{name}={value}"]
    if terminal:
        line.append("-t")
    line.append(f"{node.user}@{node.ssh_host}")
    return [*line, "--", shlex.join(command)] if command else line


def wait_for_ssh(lab: Lab, node: Node, seconds: float, stop: threading.Event) -> None:
    """Wait until the node lets us in and has finished to boot.

    Args:
        lab: the lab.
        node: the node.
        seconds: how long at most.
        stop: set when nobody waits any more.

    Raises:
        LabError: it did not; the text has ssh's last word.

    """
    deadline = time.monotonic() + seconds
    while True:
        left = max(1.0, deadline - time.monotonic())
        try:
            command = ssh(lab, node, ["systemctl", "is-system-running", "--wait"])
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=left)
            problem = done.stderr.strip() or f"ssh ended with {done.returncode}"
            # Whatever systemd says of its units (a degraded one is a machine, too): it spoke, so boot is over.
            if done.stdout.strip():
                return
        except subprocess.TimeoutExpired:
            problem = "ssh did not answer"
        if "Host key verification failed" in problem or time.monotonic() >= deadline or stop.is_set():
            raise LabError(f"node {node.name} (127.0.0.1:{node.ssh_port}): {problem}")
        stop.wait(0.1)


def kubectl(lab: Lab, record: Record, arguments: Sequence[str], *, terminal: bool = False) -> list[str]:
    """Build the command line that runs the control plane's own kubectl."""
    command = ["kubectl", f"--kubeconfig={ADMIN_CONF}", *arguments]
    return ssh(lab, record.node("control-1"), command, terminal=terminal)


def write_kubeconfig(lab: Lab, record: Record) -> Path:
    """Fetch the cluster's kubeconfig for people, with the API server at its published port.

    Returns:
        The file, readable by its owner alone.

    Raises:
        LabError: there is no cluster yet.

    """
    node = record.node("control-1")
    done = subprocess.run(ssh(lab, node, ["cat", ADMIN_CONF]), capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise LabError(
            f"control-1 has no cluster yet ({done.stderr.strip()}): run `pyinfra inventory.py deploys/site.py`"
        )
    config = published(yaml.safe_load(done.stdout), f"https://127.0.0.1:{node.api_port}")
    temporary = lab.kubeconfig.with_name(lab.kubeconfig.name + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        yaml.safe_dump(config, out, sort_keys=False)
    os.replace(temporary, lab.kubeconfig)
    return lab.kubeconfig


def published(config: Mapping[str, object], server: str) -> dict[str, object]:
    """Return the kubeconfig with every cluster's server replaced; certificates stay embedded and checked.

    Raises:
        LabError: it is not a kubeconfig with its certificates in it.

    """
    clusters = config.get("clusters")
    if not isinstance(clusters, list) or not clusters:
        raise LabError(f"{ADMIN_CONF} of control-1 is not a kubeconfig: it lists no clusters")
    entries = []
    for entry in clusters:
        cluster = dict(entry["cluster"])
        try:
            base64.b64decode(cluster["certificate-authority-data"], validate=True)
        except (KeyError, ValueError):
            raise LabError(f"{ADMIN_CONF} of control-1 holds no certificate authority for {entry['name']}") from None
        entries.append({**entry, "cluster": {**cluster, "server": server}})
    return {**config, "clusters": entries}
