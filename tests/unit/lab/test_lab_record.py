"""We test that nodes.yaml comes back as it was written, and that a lab that is not up is said so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshstrap.lab.directory import Lab, LabError, locate
from meshstrap.lab.record import Node, Record, hosts, read, write

RECORD = Record(
    name="meshstrap-123456",
    subnet="172.29.7.0/24",
    nodes=(
        Node(
            name="control-1",
            role="control_plane",
            ssh_host="127.0.0.1",
            ssh_port=20000,
            address="172.29.7.10",
            node_port_url="http://127.0.0.1:30191",
            api_port=20006,
        ),
        Node(name="worker-1", role="worker", ssh_host="127.0.0.1", ssh_port=20001, address="172.29.7.11"),
    ),
)


def test_a_record_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "nodes.yaml"
    write(RECORD, path)
    assert read(path) == RECORD
    assert [entry.name for entry in tmp_path.iterdir()] == ["nodes.yaml"]


def test_what_a_node_lacks_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nodes.yaml"
    write(RECORD, path)
    assert yaml.safe_load(path.read_text())["nodes"][1] == {
        "name": "worker-1",
        "role": "worker",
        "ssh_host": "127.0.0.1",
        "ssh_port": 20001,
        "address": "172.29.7.11",
        "user": "root",
    }


def test_a_lab_that_is_not_up_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"not up .*nodes\.yaml is not there.*run `make lab-up`"):
        read(tmp_path / "nodes.yaml")


@pytest.mark.parametrize("text", ["nodes: [", "", "[]", "name: x\nsubnet: y\nnodes: [{name: a, color: red}]\n"])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nodes.yaml"
    path.write_text(text)
    with pytest.raises(LabError, match=f"{path} .*run `make lab-up`"):
        read(path)


def test_a_node_that_is_not_there_is_named_with_those_that_are() -> None:
    assert RECORD.node("worker-1") is RECORD.nodes[1]
    with pytest.raises(LabError, match="no node 'worker-2'; it has control-1, worker-1"):
        RECORD.node("worker-2")


def test_hosts_are_checked_by_their_pinned_keys(tmp_path: Path) -> None:
    lab = Lab(tmp_path, tmp_path / "bundle")
    write(RECORD, lab.nodes_file)
    by_role = hosts(lab)
    assert [name for name, _ in by_role["control_plane"]] == ["control-1"]
    [(name, data)] = by_role["worker"]
    assert (name, data["ssh_port"], data["node_address"]) == ("worker-1", 20001, "172.29.7.11")
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert data["ssh_known_hosts_file"] == str(tmp_path / "known_hosts")
    assert "node_port_url" not in data


def test_the_environment_says_which_lab_and_which_bundle(tmp_path: Path) -> None:
    own = locate({}, tmp_path)
    assert (own.directory, own.bundle) == (tmp_path / ".lab", tmp_path / ".lab" / "bundle")
    assert own.rootfs == tmp_path / ".lab" / "build" / "node-rootfs.tar"

    second = locate({"MESHSTRAP_LAB": str(tmp_path / "b"), "MESHSTRAP_BUNDLE": str(own.bundle)}, tmp_path)
    assert (second.directory, second.bundle, second.rootfs) == (tmp_path / "b", own.bundle, own.rootfs)
    assert second.name != own.name

    assert locate({"MESHSTRAP_LAB": "", "MESHSTRAP_BUNDLE": ""}, tmp_path) == own
