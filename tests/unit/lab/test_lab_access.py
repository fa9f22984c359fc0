"""We test the ways into a lab: ssh command lines, kubeconfigs, and whose Docker engine it is."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from meshstrap.lab.access import make_key, published, ssh, write_known_hosts
from meshstrap.lab.directory import Lab, LabError
from meshstrap.lab.docker import own_engine
from meshstrap.lab.nodes import parse_containers
from meshstrap.lab.record import Node

NODE = Node(name="control-1", role="control_plane", ssh_host="127.0.0.1", ssh_port=20000, address="172.29.7.10")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, tmp_path / "bundle")


def test_a_command_arrives_as_it_is(lab: Lab) -> None:
    command = ["sh", "-c", "echo \"$HOME\" '; rm *'", "", "--flag=a b"]
    line = ssh(lab, NODE, command)
    assert line[-2] == "--"
    assert shlex.split(line[-1]) == command


def test_ssh_takes_the_labs_keys_and_nobody_elses(lab: Lab) -> None:
    line = ssh(lab, NODE)
    assert line[-1] == "root@127.0.0.1"
    assert line[:5] == ["ssh", "-F", "none", "-i", str(lab.key)]
    assert {"StrictHostKeyChecking=yes", f"UserKnownHostsFile={lab.known_hosts}"} <= set(line)
    assert "GlobalKnownHostsFile=/dev/null" in line


def test_keys_are_made_once_and_pinned_by_port(lab: Lab) -> None:
    make_key(lab.host_keys / "control-1", "control-1")
    key = (lab.host_keys / "control-1").read_bytes()
    make_key(lab.host_keys / "control-1", "control-1")
    assert (lab.host_keys / "control-1").read_bytes() == key

    write_known_hosts(lab, [NODE])
    kind, public = (lab.host_keys / "control-1.pub").read_text().split()[:2]
    assert lab.known_hosts.read_text() == f"[127.0.0.1]:20000 {kind} {public}\n"


def test_a_key_pair_that_was_left_half_made_is_made_whole(lab: Lab) -> None:
    lab.key.write_text("half")
    make_key(lab.key, "x")
    assert lab.key.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert lab.key.with_name("id_ed25519.pub").exists()


KUBECONFIG = {
    "clusters": [
        {"name": "k", "cluster": {"server": "https://172.29.7.10:6443", "certificate-authority-data": "QUJD"}}
    ],
    "users": [{"name": "u", "user": {"client-certificate-data": "QUJD", "client-key-data": "QUJD"}}],
    "current-context": "u@k",
}


def test_a_kubeconfig_for_people_differs_in_its_server_alone() -> None:
    made = published(KUBECONFIG, "https://127.0.0.1:20006")
    assert made["clusters"] == [
        {"name": "k", "cluster": {"server": "https://127.0.0.1:20006", "certificate-authority-data": "QUJD"}}
    ]
    assert {key: made[key] for key in ("users", "current-context")} == {
        key: KUBECONFIG[key] for key in ("users", "current-context")
    }


def test_a_kubeconfig_without_clusters_or_authority_is_refused() -> None:
    with pytest.raises(LabError, match="lists no clusters"):
        published({}, "https://127.0.0.1:1")
    with pytest.raises(LabError, match="no certificate authority for k"):
        published({"clusters": [{"name": "k", "cluster": {"server": "x"}}]}, "https://127.0.0.1:1")


def test_a_pid_file_alone_makes_no_engine_ours(lab: Lab) -> None:
    assert own_engine(lab) is None
    for content in ("", "x", str(os.getpid()), "999999999"):
        lab.engine_pid.write_text(content)
        assert own_engine(lab) is None


def inspected(node: str, status: str, ports: dict[str, str]) -> dict[str, object]:
    return {
        "Config": {"Labels": {"meshstrap.node": node}, "Image": "meshstrap-node:0a44"},
        "State": {"Status": status},
        "HostConfig": {"PortBindings": {inner: [{"HostIp": "127.0.0.1", "HostPort": p}] for inner, p in ports.items()}},
        "NetworkSettings": {"Networks": {"lab": {"IPAMConfig": {"IPv4Address": "172.29.7.10"}}}},
    }


def test_containers_are_read_control_plane_first_and_workers_by_number() -> None:
    text = json.dumps(
        [
            inspected("worker-2", "exited", {"22/tcp": "20002"}),
            inspected("worker-1", "running", {"22/tcp": "20001"}),
            inspected("control-1", "running", {"22/tcp": "20000", "6443/tcp": "20006", "30191/tcp": "20007"}),
        ]
    )
    found = parse_containers(text, "lab")
    assert [(c.node, c.index, c.status) for c in found] == [
        ("control-1", 0, "running"),
        ("worker-1", 1, "running"),
        ("worker-2", 2, "exited"),
    ]
    control = found[0].record()
    assert (control.role, control.ssh_port, control.api_port) == ("control_plane", 20000, 20006)
    assert control.node_port_url == "http://127.0.0.1:20007"
    assert (found[1].record().role, found[1].record().node_port_url) == ("worker", None)
