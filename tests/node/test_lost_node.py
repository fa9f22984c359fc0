"""We test that a node that goes for good between two operations fails alone and with words, whatever comes next."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]

# One machine under two names, each with a daemon of its own, of which one dies.
INVENTORY = """
import runpy as _runpy
_node, _data = _runpy.run_path({shipped!r})["control_plane"][0]
_data = {{**_data, "bundle": {bundle!r}}}
control_plane = leader = [(_node, _data)]
workers = [("dies", {{**_data, **{second!r}}})]
"""

DEPLOY = '''
import time
from pyinfra import host
from pyinfra.api.command import StringCommand
from pyinfra.operations import python, server
from meshstrap import transport
from meshstrap.operations import containerd, kubeadm, runtime, system

DIE = {sshd!r} + """
setsid sh -c "sleep 0.5; kill -9 $(cat /run/second-sshd.pid) $sshd" >/dev/null 2>&1 </dev/null &
"""
if host.name == "dies":
    python.call(name="Stand", function=lambda: transport.execute(host, StringCommand("true")))
    server.shell(name="Go soon", commands=[DIE])
python.call(name="Until it is lost", function=lambda: time.sleep(1.5))
if host.name == "dies":
    {operation}
server.shell(name="What comes after", commands=["true"])
'''


OURS = "dies does not answer"


@pytest.fixture
def second_sshd(bare_node: Lab, on_node: Callable[..., Finished], tmp_path: Path) -> Iterator[dict[str, object]]:
    """A second ssh daemon on the bare node, for a name of its own; the data by which pyinfra reaches it."""
    start = "/usr/sbin/sshd -p 2222 -o PidFile=/run/second-sshd.pid"
    made = on_node(bare_node, "control-1", start)
    assert made.returncode == 0, made.stderr
    address = read(bare_node.nodes_file).node("control-1").address
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[{address}]:2222 {' '.join(bare_node.known_hosts.read_text().split()[1:3])}\n")
    yield {"ssh_hostname": address, "ssh_port": 2222, "ssh_known_hosts_file": str(known_hosts)}
    on_node(bare_node, "control-1", 'kill "$(cat /run/second-sshd.pid)"')


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("system.kernel(name='next')", OURS),
        ("containerd.programs(name='next', bundle=host.data.bundle)", OURS),
        ("runtime.images(name='next', bundle=host.data.bundle, kubernetes_version='1.34.10')", OURS),
        ("kubeadm.kubelet(name='next', bundle=host.data.bundle)", OURS),
        ("kubeadm.join(name='next', cluster_name='c', ignore_preflight_errors=[])", OURS),
        ("kubeadm.pod_network(name='next', pod_cidr='10.244.0.0/16', cni_manifests=[])", OURS),
        ("kubeadm.reset(name='next', cluster_name='c', confirm='c')", OURS),
        ("server.shell(name='next', commands=['true'])", "dies: the ssh connection was lost and cannot be made again"),
    ],
    ids=lambda value: value.partition("(")[0] if "(" in value else "",
)
def test_a_node_lost_in_the_middle_fails_alone(
    operation: str,
    words: str,
    bare_node: Lab,
    second_sshd: dict[str, object],
    sshd_of_session: str,
    run_pyinfra: Callable[..., Finished],
    checkout: Path,
    tmp_path: Path,
) -> None:
    inventory, deploy = tmp_path / "inventory.py", tmp_path / "work.py"
    shipped, bundle = str(checkout / "inventory.py"), str(bare_node.bundle)
    inventory.write_text(INVENTORY.format(shipped=shipped, bundle=bundle, second=second_sshd))
    deploy.write_text(DEPLOY.format(operation=operation, sshd=sshd_of_session))
    run = run_pyinfra(inventory, str(deploy), "-y", lab=bare_node, timeout=120)
    said = run.stdout + run.stderr
    assert run.returncode == 1, said
    assert "Traceback" not in said
    assert words in said, said
    after = said.partition("What comes after")[2].partition("Results")[0]
    assert "[control-1] Success" in after, said
    assert "[dies]" not in after, said
