"""The lab's nodes as `nodes.yaml` records them, for the inventory, the tests and people."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from meshstrap.lab.directory import Lab, LabError


@dataclass(frozen=True)
class Node:
    """One machine of the lab: how the operator reaches it, and where it lives on the lab's network."""

    name: str
    role: str
    ssh_host: str
    ssh_port: int
    address: str
    user: str = "root"
    node_port_url: str | None = None
    api_port: int | None = None


@dataclass(frozen=True)
class Record:
    """A lab that is up."""

    name: str
    subnet: str
    nodes: tuple[Node, ...]

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises:
            LabError: there is none; the text lists those that there are.

        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"the lab has no node {name!r}; it has {', '.join(node.name for node in self.nodes)}")


def write(record: Record, path: Path) -> None:
    """Write the record whole or not at all: readers never see half of it."""
    document = {
        "name": record.name,
        "subnet": record.subnet,
        "nodes": [{key: value for key, value in asdict(node).items() if value is not None} for node in record.nodes],
    }
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(yaml.safe_dump(document, sort_keys=False))
    os.replace(temporary, path)


def read(path: Path) -> Record:
    """Read the nodes of the lab.

    Raises:
        LabError: the lab is not up, or the file is not one that `meshstrap lab up` wrote.

    """
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise LabError(f"the lab is not up ({path} is not there): run `make lab-up`") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise LabError(f"{path} is not YAML ({reason}): run `make lab-up` to write it anew") from None
    try:
        nodes = tuple(Node(**node) for node in document["nodes"])
        return Record(name=document["name"], subnet=document["subnet"], nodes=nodes)
    except (KeyError, TypeError) as error:
        raise LabError(f"{path} does not describe a lab ({error}): run `make lab-up` to write it anew") from None


def hosts(lab: Lab) -> dict[str, list[tuple[str, dict[str, object]]]]:
    """Describe the nodes as pyinfra's inventory wants them: (name, data), by role.

    Raises:
        LabError: the lab is not up.

    """
    by_role: dict[str, list[tuple[str, dict[str, object]]]] = {"control_plane": [], "worker": []}
    for node in read(lab.nodes_file).nodes:
        data: dict[str, object] = {
            "ssh_hostname": node.ssh_host,
            "ssh_port": node.ssh_port,
            "ssh_user": node.user,
            "ssh_key": str(lab.key),
            "ssh_known_hosts_file": str(lab.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "node_address": node.address,
        }
        if node.node_port_url:
            data["node_port_url"] = node.node_port_url
        by_role[node.role].append((node.name, data))
    return by_role
