"""We test that a node out of reach fails alone: the others go on, and the exit code says so."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]

INVENTORY = """
import runpy as _runpy
_node, _data = _runpy.run_path({shipped!r})["control_plane"][0]
control_plane = leader = [(_node, _data)]
workers = [({name!r}, {{**_data, **{changes!r}}})]
"""

DEPLOY = """
from meshstrap.operations import site
site.lock(name="One operator at a time")
"""


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("switched-off", {"ssh_port": 9}, "Could not connect"),
        ("other-key", {"ssh_known_hosts_file": "known_hosts"}, "Host key for 127.0.0.1 does not match"),
        ("unknown-key", {"ssh_known_hosts_file": "empty"}, "No host key for"),
    ],
)
def test_a_node_out_of_reach_fails_alone(
    name: str,
    changes: dict[str, object],
    said: str,
    bare_node: Lab,
    run_pyinfra: Callable[..., Finished],
    checkout: Path,
    tmp_path: Path,
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    pinned = bare_node.known_hosts.read_text().split()[0]
    (tmp_path / "known_hosts").write_text(f"{pinned} {' '.join((tmp_path / 'key.pub').read_text().split()[:2])}\n")
    (tmp_path / "empty").touch()
    here = {k: str(tmp_path / v) if isinstance(v, str) else v for k, v in changes.items()}
    inventory, deploy = tmp_path / "inventory.py", tmp_path / "work.py"
    inventory.write_text(INVENTORY.format(shipped=str(checkout / "inventory.py"), name=name, changes=here))
    deploy.write_text(DEPLOY)
    run = run_pyinfra(inventory, str(deploy), "-y", lab=bare_node, timeout=120)
    output = run.stdout + run.stderr
    assert run.returncode == 1, output
    assert said in output
    assert f"[{name}]" in output
    assert re.search(r"\[control-1\]\s+No changes", output)
