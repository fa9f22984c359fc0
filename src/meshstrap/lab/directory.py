"""Where a lab keeps what it has: one directory, and a name made from its path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class LabError(Exception):
    """Something about the lab is not as it must be; the text says what, where and what to do."""


@dataclass(frozen=True)
class Lab:
    """One lab: its own directory, and the bundle that its nodes are given.

    Labs share nothing but the Docker engine, the node image and, where told, the bundle.
    """

    directory: Path
    bundle: Path

    @property
    def name(self) -> str:
        """Prefix of the lab's containers and name of its network; another directory is another lab."""
        return "meshstrap-" + hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]

    @property
    def nodes_file(self) -> Path:
        """Names, addresses and ports of the nodes; there while the lab is up."""
        return self.directory / "nodes.yaml"

    @property
    def key(self) -> Path:
        """The private ssh key that opens every node."""
        return self.directory / "id_ed25519"

    @property
    def host_keys(self) -> Path:
        """The nodes' own ssh keys, kept over `down`, so that a node is the same machine next time."""
        return self.directory / "host-keys"

    @property
    def known_hosts(self) -> Path:
        """The nodes' public host keys by address and port, for strict checking."""
        return self.directory / "known_hosts"

    @property
    def kubeconfig(self) -> Path:
        """Where `meshstrap lab kubeconfig` writes; deploys never read it."""
        return self.directory / "kubeconfig"

    @property
    def rootfs(self) -> Path:
        """The bare node's root file system as a tar; it is built beside the bundle."""
        return self.bundle.parent / "build" / "node-rootfs.tar"

    @property
    def engine_pid(self) -> Path:
        """Process id of the Docker engine, where this lab started it."""
        return self.directory / "dockerd.pid"

    @property
    def engine_log(self) -> Path:
        """What that Docker engine had to say."""
        return self.directory / "dockerd.log"

    @property
    def lock(self) -> Path:
        """Held while `up` or `down` runs."""
        return self.directory / "lock"

    @property
    def started(self) -> Path:
        """How many workers `up` is for; there before the first thing it makes, until `down` has removed the last."""
        return self.directory / "started"


def locate(environment: Mapping[str, str], checkout: Path) -> Lab:
    """Find the lab that is meant.

    Args:
        environment: `MESHSTRAP_LAB` names another directory than `.lab`; `MESHSTRAP_BUNDLE` another bundle,
            so that a second lab need not build its own.
        checkout: the directory that holds `.lab`.

    """
    directory = Path(environment.get("MESHSTRAP_LAB") or checkout / ".lab").expanduser().resolve()
    bundle = environment.get("MESHSTRAP_BUNDLE")
    return Lab(directory, Path(bundle).expanduser().resolve() if bundle else directory / "bundle")
