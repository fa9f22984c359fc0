"""We test that a node whose connection dies between two operations fails alone and with words, whatever comes next."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]

# One machine under two names: two connections, of which one dies.
INVENTORY = """
import runpy as _runpy
_node, _data = _runpy.run_path({shipped!r})["control_plane"][0]
_data = {{**_data, "bundle": {bundle!r}}}
control_plane = leader = [(_node, _data)]
workers = [("dies", _data)]
"""

DEPLOY = '''
from pyinfra import host
from pyinfra.operations import server
from meshstrap.operations import containerd, kubeadm, system

DIE = """
p=$$
while [ "$(cat /proc/$p/comm)" != sshd ]; do p=$(awk '$1 == "PPid:" {{ print $2 }}' /proc/$p/status); done
setsid sh -c "sleep 0.5; kill -9 $p" >/dev/null 2>&1 </dev/null &
"""
if host.name == "dies":
    server.shell(name="Lose the connection soon", commands=[DIE])
else:
    server.shell(name="Until it is lost", commands=["sleep 1.5"])
if host.name == "dies":
    {operation}
server.shell(name="What comes after", commands=["true"])
'''


@pytest.mark.parametrize(
    "operation",
    [
        "system.kernel(name='next')",
        "containerd.programs(name='next', bundle=host.data.bundle)",
        "containerd.images(name='next', bundle=host.data.bundle, kubernetes_version='1.34.10')",
        "kubeadm.kubelet(name='next', bundle=host.data.bundle)",
        "kubeadm.join(name='next', cluster_name='c', ignore_preflight_errors=[])",
        "kubeadm.pod_network(name='next', pod_cidr='10.244.0.0/16', cni_manifests=[])",
        "kubeadm.reset(name='next', cluster_name='c', confirm='c')",
    ],
    ids=lambda operation: operation.partition("(")[0],
)
def test_a_node_lost_in_the_middle_fails_alone(
    operation: str,
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    checkout: Path,
    tmp_path: Path,
) -> None:
    inventory, deploy = tmp_path / "inventory.py", tmp_path / "work.py"
    inventory.write_text(INVENTORY.format(shipped=str(checkout / "inventory.py"), bundle=str(bare_node.bundle)))
    deploy.write_text(DEPLOY.format(operation=operation))
    run = run_pyinfra(inventory, str(deploy), "-y", lab=bare_node, timeout=120)
    said = run.stdout + run.stderr
    assert run.returncode == 1, said
    assert "Traceback" not in said
    assert "dies does not answer" in said
    after = said.partition("What comes after")[2].partition("Results")[0]
    assert "[control-1] Success" in after, said
    assert "[dies]" not in after, said
