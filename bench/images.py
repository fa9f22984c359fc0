"""Time images onto nodes: meshstrap beside `docker save | ssh ctr images import` and Ansible's copy and import.

    uv run python bench/images.py [--nodes 5]      # makes a lab of its own, with the lab's bundle, and takes it down

pilot and proxyv2 go onto nodes with our containerd: onto an empty one, once more, with one changed layer of 1 MB, and
onto several empty ones at once. Prints what each way took and moved, and the ratios that are to be reached. Read them
as ratios of one run: the machine is shared. Ansible is installed into a directory that is thrown away, and Python onto
the node that it works on, which meshstrap and the pipe need not; where either cannot be had it is left out.
"""

# ruff: noqa: E402
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import contextlib
import gzip
import hashlib
import io
import os
import random
import runpy
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.inventory import Inventory
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.api.state import State
from pyinfra.connectors.ssh import SSHConnector

from meshstrap import transport
from meshstrap.bundle import archive
from meshstrap.bundle import lock as bundle_lock
from meshstrap.bundle.lock import Image, Layer, Lock
from meshstrap.bundle.plan import size_of
from meshstrap.bundle.store import Store
from meshstrap.lab import access
from meshstrap.lab.directory import Lab, locate
from meshstrap.lab.record import hosts, read
from meshstrap.operations import meter, runtime

CHECKOUT = Path(__file__).resolve().parents[1]
KUBERNETES = "1.34.10"
IMPORT = "ctr -n k8s.io images import - >/dev/null 2>&1"
CLEAR = "ctr -n k8s.io images ls -q | xargs -r ctr -n k8s.io images rm --sync >/dev/null 2>&1; true"
PYTHON = (
    "python3", "python3-minimal", "python3.11", "python3.11-minimal", "libpython3-stdlib", "libpython3.11-minimal",
    "libpython3.11-stdlib", "libexpat1", "libffi8", "libsqlite3-0", "libreadline8", "readline-common", "libncursesw6",
    "media-types",
)  # fmt: skip
CONTAINERD = """
from pyinfra import host
from meshstrap.operations import containerd

containerd.programs(name="Install containerd", bundle=host.data.bundle)
containerd.service(
    name="Run containerd", bundle=host.data.bundle, kubernetes_version=host.data.kubernetes_version,
    config=host.data.containerd_config, kubelet_config=host.data.kubelet_config,
)
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - copy: {src: %s, dest: /root/images.tar}
    - command: ctr -n k8s.io images import /root/images.tar
"""


@dataclass(frozen=True)
class Took:
    """What one way took: seconds, bytes sent as images, the operator's CPU seconds, commands on the node."""

    seconds: float
    size: float
    cpu: float = 0.0
    commands: int = 0


class Counted(meter.Meter):
    """A meter that is kept."""

    made: list[meter.Meter] = []

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(total, clock)
        self.made.append(self)


def shell(lab: Lab, node: str, script: str, **settings: Any) -> str:
    command = access.ssh(lab, read(lab.nodes_file).node(node), ["bash", "-c", script])
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **settings)
    if done.returncode:
        sys.exit(f"{node}: {script}: {done.stdout}{done.stderr}")
    return done.stdout


def must(*command: str, **settings: Any) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: {done.stdout}")


@contextlib.contextmanager
def a_lab(directory: Path, nodes: int) -> Iterator[Lab]:
    lab = Lab(directory, locate(os.environ, CHECKOUT).bundle)
    environment = {**os.environ, "MESHSTRAP_LAB": str(lab.directory), "MESHSTRAP_BUNDLE": str(lab.bundle)}
    program = str(Path(sys.executable).parent / "meshstrap")
    try:
        must(program, "lab", "up", "--workers", str(nodes), env=environment, cwd=CHECKOUT)
        (directory / "containerd.py").write_text(CONTAINERD)
        pyinfra = str(Path(sys.executable).parent / "pyinfra")
        must(pyinfra, "inventory.py", str(directory / "containerd.py"), "-y", env=environment, cwd=CHECKOUT)
        for node in read(lab.nodes_file).nodes:
            # In others' cluster: Kubernetes' own images are not ours to bring.
            shell(lab, node.name, "mkdir -p /etc/kubernetes && touch /etc/kubernetes/kubelet.conf")
        yield lab
    finally:
        must(program, "lab", "down", env=environment, cwd=CHECKOUT)


def changed(store: Store, image: Image) -> Image:
    """Put one more layer of 1 MB, which does not pack, onto an image."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("changed")
        entry.size = 1 << 20
        tar.addfile(entry, io.BytesIO(random.Random(time.time()).randbytes(entry.size)))
    blob = gzip.compress(content.getvalue(), mtime=0)
    top = Layer(store.add(blob), f"sha256:{hashlib.sha256(content.getvalue()).hexdigest()}", len(blob))
    return store.add_image(image.reference, image.platform, [*image.layers, top], {}, "bench")


def into_docker(store: Store, images: tuple[Image, ...]) -> None:
    process = subprocess.Popen(["docker", "load"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    archive.write(process.stdin, store, images)  # type: ignore[arg-type]
    process.stdin.close()
    if process.wait():
        sys.exit("docker load failed")


def piped(lab: Lab, nodes: list[str], images: tuple[Image, ...]) -> Took:
    """Bring images onto nodes, one after the other, as people do."""
    names = shlex.join(image.reference for image in images)
    began = time.monotonic()
    for node in nodes:
        ssh = shlex.join(access.ssh(lab, read(lab.nodes_file).node(node), ["bash", "-c", IMPORT]))
        must("bash", "-c", f"set -o pipefail; docker save {names} | {ssh}")
    seconds = time.monotonic() - began
    size = subprocess.run(["bash", "-c", f"docker save {names} | wc -c"], capture_output=True, text=True, check=True)
    return Took(seconds, int(size.stdout) * len(nodes))


def ours(lab: Lab, nodes: list[str], bundle: Path) -> Took:
    """Bring images onto nodes with the operation: its time alone, the connections being open."""
    known = dict(hosts(lab)["control_plane"] + hosts(lab)["worker"])
    # The cipher is the site's own choice, as in any run of pyinfra here.
    data = runpy.run_path(str(CHECKOUT / "group_data" / "all.py"))
    settings = {name: value for name, value in data.items() if name.startswith("ssh_")}
    chosen = [(node, {**settings, **known[node]}) for node in nodes]
    inventory = Inventory((chosen, {}), workers=(nodes, {}), leader=(nodes[:1], {}))
    state = State(inventory, Config())
    state.check_for_changes = False
    connect_all(state)
    for node in inventory:
        # In a run another operation comes first: sshd makes the user's session with the first command.
        transport.execute(node, StringCommand("true"))
    Counted.made.clear()
    commands = 0
    run = SSHConnector.run_shell_command

    def counted(self: Any, *arguments: Any, **settings: Any) -> Any:
        nonlocal commands
        commands += 1
        return run(self, *arguments, **settings)

    SSHConnector.run_shell_command = counted  # type: ignore[method-assign]
    try:
        add_op(
            state, runtime.images, name="images", bundle=str(bundle), kubernetes_version=KUBERNETES,
            kubelet_config={"evictionHard": {"imagefs.available": "0%"}},
        )  # fmt: skip
        began, cpu = time.monotonic(), time.process_time()
        run_ops(state)
        took = Took(
            time.monotonic() - began,
            sum(each.sent for each in Counted.made),
            time.process_time() - cpu,
            commands,
        )
    finally:
        SSHConnector.run_shell_command = run  # type: ignore[method-assign]
    if state.failed_hosts:
        sys.exit(f"the operation failed on {state.failed_hosts}")
    disconnect_all(state)
    return took


class Ansible:
    """Ansible in a directory that is thrown away, and one node that it can work on."""

    def __init__(self, directory: Path, lab: Lab, node: str) -> None:
        self._directory = directory
        must(sys.executable, "-m", "venv", str(directory / "venv"))
        must(str(directory / "venv/bin/pip"), "install", "--quiet", "ansible-core")
        debs = directory / "debs"
        debs.mkdir()
        must("apt-get", "download", "--quiet", *PYTHON, cwd=debs)
        record = read(lab.nodes_file)
        shell(lab, node, "mkdir -p /root/debs")
        for deb in debs.glob("*.deb"):
            must("docker", "cp", str(deb), f"{record.name}-{node}:/root/debs/")
        shell(
            lab, node, "dpkg --install --force-depends /root/debs/*.deb >/dev/null 2>&1; python3 -c 'import ssl, json'"
        )
        known = record.node(node)
        (directory / "inventory").write_text(
            f"{node} ansible_host={known.ssh_host} ansible_port={known.ssh_port} ansible_user={known.user}"
            f" ansible_ssh_private_key_file={lab.key} ansible_python_interpreter=/usr/bin/python3"
            f" ansible_ssh_common_args='-o UserKnownHostsFile={lab.known_hosts}'\n"
        )
        self._tar = directory / "images.tar"
        (directory / "play.yml").write_text(PLAYBOOK % self._tar)

    def bring(self, images: tuple[Image, ...]) -> Took:
        """Save the images, copy the archive and import it, as the playbooks that people write do."""
        began = time.monotonic()
        must("docker", "save", "--output", str(self._tar), *(image.reference for image in images))
        must(
            str(self._directory / "venv/bin/ansible-playbook"), "-i", str(self._directory / "inventory"),
            str(self._directory / "play.yml"),
            env={**os.environ, "PATH": f"{self._directory / 'venv/bin'}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        return Took(time.monotonic() - began, self._tar.stat().st_size)


def cpu_of(record_name: str, nodes: list[str]) -> float:
    """Read the CPU seconds that nodes have used since they were made."""
    total = 0.0
    for node in nodes:
        said = subprocess.run(
            ["docker", "exec", f"{record_name}-{node}", "sh", "-c",
             "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null ||"
             " awk '$1 == \"usage_usec\" { print $2 \"000\" }' /sys/fs/cgroup/cpu.stat"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        total += int(said.stdout) / 1e9
    return total


def row(case: str, way: str, took: Took, note: str = "") -> None:
    print(f"{case:<26} {way:<28} {took.seconds:7.2f} s {took.size / 1e6:8.1f} MB  {note}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--nodes", type=int, default=5)
    several = arguments.parse_args().nodes
    meter.Meter = Counted  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as made, a_lab(Path(made) / "lab", several) as lab:
        scratch = Path(made)
        lock = bundle_lock.read(lab.bundle / "bundle.lock.yaml")
        images = tuple(
            image
            for image in lock.images
            if image.reference.partition(":")[0] in ("docker.io/istio/pilot", "docker.io/istio/proxyv2")
            and not image.reference.endswith("-again")
        )
        # What the bench adds goes beside the bundle's blobs, not among them.
        store = Store(scratch / "store")
        blobs = store.directory / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for image in images:
            for digest in (image.manifest, image.config, *(layer.digest for layer in image.layers)):
                with contextlib.suppress(FileExistsError):
                    store.blob(digest).symlink_to(Store(lab.bundle / "store").blob(digest))
        top = tuple(changed(store, i) if "proxyv2" in i.reference else i for i in images)
        bundles = {}
        for name, content in (("same", images), ("changed", top)):
            bundles[name] = scratch / name
            bundles[name].mkdir()
            (bundles[name] / "store").symlink_to(store.directory)
            bundle_lock.write(Lock(images=content), bundles[name] / "bundle.lock.yaml")
        node = "worker-1"
        record = read(lab.nodes_file)
        try:
            ansible: Ansible | None = Ansible(scratch, lab, node)
        except SystemExit as error:
            print(f"Ansible is left out: {str(error)[-300:]}")
            ansible = None
        into_docker(store, images)

        shell(lab, node, CLEAR)
        naive = piped(lab, [node], images)
        row("empty node", "docker save | ssh import", naive)
        if ansible:
            shell(lab, node, f"{CLEAR}; rm -f /root/images.tar")
            row("empty node", "Ansible copy + import", ansible.bring(images))
        shell(lab, node, CLEAR)
        empty = ours(lab, [node], bundles["same"])
        blob_bytes = size_of(images)
        row("empty node", "meshstrap", empty,
            f"{empty.seconds / naive.seconds:.2f} of the pipe (to reach: 0.6); bytes {empty.size / blob_bytes - 1:+.2%}"
            f" of the blobs (1 %); operator's CPU {empty.cpu:.2f} s")  # fmt: skip

        again = ours(lab, [node], bundles["same"])
        shell(lab, node, CLEAR)
        piped(lab, [node], images)
        naive = piped(lab, [node], images)
        row("nothing missing", "docker save | ssh import", naive)
        if ansible:
            ansible.bring(images)
            row("nothing missing", "Ansible copy + import", ansible.bring(images))
        row("nothing missing", "meshstrap", again,
            f"{again.seconds / naive.seconds:.3f} of the pipe (0.03); {again.commands} round trip")  # fmt: skip

        into_docker(store, top)
        naive = piped(lab, [node], top)
        row("one 1 MB layer changed", "docker save | ssh import", naive)
        if ansible:
            row("one 1 MB layer changed", "Ansible copy + import", ansible.bring(top))
        shell(lab, node, CLEAR)
        ours(lab, [node], bundles["same"])
        one = ours(lab, [node], bundles["changed"])
        row("one 1 MB layer changed", "meshstrap", one, f"{one.seconds / naive.seconds:.3f} of the pipe (0.05)")

        nodes = [f"worker-{number}" for number in range(1, several + 1)]
        for each in nodes:
            shell(lab, each, CLEAR)
        before = cpu_of(record.name, nodes)
        all_at_once = ours(lab, nodes, bundles["same"])
        used = cpu_of(record.name, nodes) - before
        cores = os.cpu_count() or 1
        per_node = all_at_once.cpu / several
        row(f"{several} nodes at once", "meshstrap", all_at_once,
            f"{all_at_once.seconds / (used / cores):.2f} x imports' CPU {used:.1f} s / {cores} cores (1.2);"
            f" operator's CPU {per_node:.2f} s a node = {per_node * 324e6 / (all_at_once.size / several):.2f} s per"
            " 324 MB (1.2)")  # fmt: skip


if __name__ == "__main__":
    main()
