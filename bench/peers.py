"""Time runs that have nothing to do, of whole jobs, against the best Ansible playbooks for the same jobs.

    uv run python -m bench.peers                # on a lab with site.py and canary.py through
    uv run python -m bench.peers --nodes-only   # on a lab with runtime.py and images.py through, of any number of hosts

Ansible: pipelining, ControlPersist warm, no facts, as many forks as hosts. The nodes have no Python, so their tasks are
`raw`, which is also the fastest (no module is sent); it looks for the images' names alone, where ours looks at digests,
completeness and pins. Its cluster tasks run on this machine and go straight to the published API server, where ours go
through ssh. Contenders take turns and the median counts. Read the figures as ratios: the machine is shared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from bench import canary
from bench.ansible import Ansible, Play, local
from bench.measure import alternating, head, row, run, verdict

from meshstrap.bundle import lock
from meshstrap.lab import access
from meshstrap.lab.directory import Lab, locate
from meshstrap.lab.record import Record, read

ROUNDS = 5
CHECKOUT = Path(__file__).resolve().parents[1]
# The least that tells which images are there; and what ours asks, which on a lab's nodes runs on the same few cores.
NAMES = "/usr/local/bin/ctr -n k8s.io images ls -q"
ALL = """
PATH=$PATH:/usr/local/bin
kubeadm config images list --kubernetes-version $(kubeadm version -o short)
ctr -n k8s.io images ls -q 'labels."io.cri-containerd.pinned"==pinned'
ctr -n k8s.io images check
"""


class Job(NamedTuple):
    """One job: as our deploy, as Ansible's plays, and how many times faster we are to be."""

    what: str
    deploy: list[str]
    plays: list[Play]
    wanted: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--nodes-only", action="store_true", help="images alone: no cluster is needed")
    given = parser.parse_args()
    lab = locate(os.environ, CHECKOUT)
    record = read(lab.nodes_file)
    with tempfile.TemporaryDirectory(prefix="meshstrap-bench-") as directory:
        scratch = Path(directory)
        control = f"-o ControlMaster=auto -o ControlPersist=600s -o ControlPath={scratch}/%C"
        ansible = Ansible(scratch, inventory(lab, record, scratch), control)
        try:
            measure(ansible, jobs(lab, record, scratch, nodes_only=given.nodes_only), given.rounds)
        finally:
            for node in record.nodes:
                command = [*access.ssh(lab, node)[:-1], *control.split(), "-O", "exit", f"{node.user}@{node.ssh_host}"]
                subprocess.run(command, capture_output=True)


def jobs(lab: Lab, record: Record, scratch: Path, *, nodes_only: bool) -> list[Job]:
    """Describe what is measured."""
    count = len(record.nodes)
    wanted = there(lab, record)
    what = f"node part: all images there, on {count} hosts"
    of_nodes = [
        Job(what, ["deploys/images.py"], [images(wanted, NAMES)], 5),
        Job(
            f"{what}; Ansible asks kubeadm, completeness and pins too",
            ["deploys/images.py"],
            [images(wanted, ALL)],
            5,
        ),
    ]
    if nodes_only:
        return of_nodes
    kubeconfig = access.write_kubeconfig(lab, record)
    manifests = scratch / "canary.yaml"
    manifests.write_text(yaml.safe_dump_all(canary.objects()))
    return [
        Job(
            f"whole job: images on {count} nodes, istioctl, the canary's objects, rollouts",
            ["bench/job.py", "--data", "prove=false"],
            [images(wanted, NAMES), istioctl(lab), apply(kubeconfig, manifests)],
            3,
        ),
        Job(
            "deploys/canary.py, prove=false: the canary's objects, rollouts",
            ["deploys/canary.py", "--data", "prove=false"],
            [apply(kubeconfig, manifests)],
            3,
        ),
        *of_nodes,
    ]


def measure(ansible: Ansible, jobs: list[Job], rounds: int) -> None:
    head(f"nothing to do, {ansible.versions()}", "Ansible, s", "meshstrap, s", "ratio")
    for what, deploy, plays, wanted in jobs:
        # One run each beforehand: warm ssh for Ansible, and a failure here is no figure.
        ansible.play(*plays)
        pyinfra(*deploy)
        seconds = alternating(
            rounds,
            {
                "ansible": lambda plays=plays: ansible.play(*plays).seconds,
                "meshstrap": lambda deploy=deploy: pyinfra(*deploy),
            },
        )
        ratio = seconds["ansible"] / seconds["meshstrap"]
        row(what, f"{seconds['ansible']:.2f}", f"{seconds['meshstrap']:.2f}", f"{ratio:.1f}")
        verdict(what, ratio, wanted, at_most=False)
    floor = alternating(rounds, {"pyinfra": lambda: pyinfra("bench/nothing.py")})["pyinfra"]
    row("pyinfra alone: start, connect, end", "-", f"{floor:.2f}", "-")


def pyinfra(*arguments: str) -> float:
    """Run a deploy of which nothing must change; return its seconds."""
    ended = run(["pyinfra", "inventory.py", *arguments, "-y"], env={"PYINFRA_PROGRESS": "off"})
    return ended.seconds


def inventory(lab: Lab, record: Record, scratch: Path) -> str:
    """Write Ansible's inventory of the lab's nodes."""
    file = scratch / "hosts.ini"
    lines = ["[nodes]"]
    lines += [
        f"{node.name} ansible_host={node.ssh_host} ansible_port={node.ssh_port} ansible_user={node.user}"
        for node in record.nodes
    ]
    common = f"-o UserKnownHostsFile={lab.known_hosts} -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR"
    lines += ["[nodes:vars]", f"ansible_ssh_private_key_file={lab.key}", f"ansible_ssh_common_args={common}"]
    file.write_text("\n".join([*lines, ""]))
    return str(file)


def there(lab: Lab, record: Record) -> dict[str, list[str]]:
    """List, for each node, the bundle's images that are there now: both sides are to find just these."""
    held = {image.reference for image in lock.read(lab.bundle / "bundle.lock.yaml").images}
    listed = {}
    for node in record.nodes:
        command = access.ssh(lab, node, ["/usr/local/bin/ctr", "-n", "k8s.io", "images", "ls", "-q"])
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{node.name}: {done.stderr.strip() or done.returncode}")
        listed[node.name] = sorted(held.intersection(done.stdout.split()))
    return listed


def images(wanted: dict[str, list[str]], look: str) -> Play:
    """Make the play that looks on every node for images."""
    return {
        "hosts": "nodes",
        "gather_facts": False,
        "vars": {"wanted": wanted},
        "tasks": [
            {"name": "Images that are there", "raw": look, "register": "there", "changed_when": False},
            {
                "name": "Import what lacks",
                "fail": {"msg": "{{ wanted[inventory_hostname] | difference(there.stdout.split()) }}"},
                "when": "wanted[inventory_hostname] | difference(there.stdout.split()) | length > 0",
            },
        ],
    }


def istioctl(lab: Lab) -> Play:
    """Make the play that compares istioctl's checksum on the control plane."""
    program = lock.read(lab.bundle / "bundle.lock.yaml").program("istioctl", "linux/amd64")
    assert program
    digest = program.sha256.removeprefix("sha256:")
    return {
        "hosts": "control-1",
        "gather_facts": False,
        "tasks": [
            {
                "name": "istioctl is the bundle's",
                "raw": f"echo '{digest}  /usr/local/bin/istioctl' | sha256sum -c --status",
                "register": "same",
                "changed_when": False,
                "failed_when": False,
            },
            {"name": "Install istioctl", "fail": {"msg": "it is not"}, "when": "same.rc != 0"},
        ],
    }


def apply(kubeconfig: Path, manifests: Path) -> Play:
    """Make the play that applies the canary's objects in one task and waits for the rollouts."""
    module: dict[str, Any] = {"kubeconfig": str(kubeconfig), "src": str(manifests), "wait": True}
    return local({"name": "Canary", "kubernetes.core.k8s": module})


if __name__ == "__main__":
    main()
