"""We test that work in the cluster goes on when the ssh connection that carries it is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]

DEPLOY = """
import json, time
from pathlib import Path
from pyinfra.context import host
from pyinfra.operations import python, server
from pyinfra.api.command import QuoteString, StringCommand
from meshstrap import transport
from meshstrap.operations import api_server, k8s, site

def config_map(name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}

def cut_between_two_requests():
    seen = {}
    client = api_server.client(host)
    seen["address"] = [client.request("GET", "/version")["gitVersion"], client.host, client.port]
    try:
        transport.execute(host, StringCommand("sh", "-c", QuoteString(SSHD + "; kill -9 $sshd; sleep 5")))
    except transport.TransportError as error:
        seen["under way"] = str(error)
    seen["after"] = [client.request("GET", "/version")["gitVersion"], client.host, client.port]
    Path(SEEN).write_text(json.dumps(seen))

site.lock(name="One operator at a time")
if "leader" in host.groups:
    k8s.manifests([config_map("lost-before")], name="Before")
    server.shell(
        name="Lose the connection soon",
        commands=[SSHD + '; setsid sh -c "sleep 0.5; kill -9 $sshd" >/dev/null 2>&1 </dev/null &'],
    )
    python.call(name="Until it is lost", function=lambda: time.sleep(1.5))
    k8s.manifests([config_map("lost-after")], name="After")
    k8s.manifests([config_map("lost-before"), config_map("lost-after")], name="Gone", present=False)
    python.call(name="In one client's life", function=cut_between_two_requests)
"""


def test_manifests_and_an_open_client_go_on_over_a_connection_made_again(
    standing: Lab, run_pyinfra: Callable[..., Finished], sshd_of_session: str, tmp_path: Path
) -> None:
    deploy, seen_file = tmp_path / "work.py", tmp_path / "seen.json"
    deploy.write_text(f"SSHD = {sshd_of_session!r}\nSEEN = {str(seen_file)!r}\n{DEPLOY}")
    run = run_pyinfra("inventory.py", str(deploy), "-y", lab=standing, timeout=120)
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert "created     ConfigMap/default/lost-after" in said
    assert said.count("has been made again") == 2
    seen: dict[str, Any] = json.loads(seen_file.read_text())
    assert "lost while a command ran" in seen["under way"]
    assert seen["after"] == seen["address"]
