"""What a Docker engine on a node says of its images."""

from __future__ import annotations

import json

from meshstrap.bundle.plan import NodeImage, Runtime, chain_ids
from meshstrap.facts import system

# Docker takes no labels on an image that is made already: what we brought, an image id a line.
OURS_FILE = "/var/lib/meshstrap/docker-images"
# With containerd's image store (`docker info`) the id is the manifest's digest, and load needs every blob.
_CONTAINERD_STORE = "io.containerd.snapshotter"

_SCRIPT = f"""
command -v docker >/dev/null 2>&1 || exit 0
echo "#installed yes"
v=$(docker version --format '{{{{.Server.Version}}}}' 2>/dev/null)
[ -n "$v" ] || exit 0
echo "#version $v"
docker info --format '#root {{{{.DockerRootDir}}}}
#status {{{{json .DriverStatus}}}}' 2>/dev/null
echo '#images'
docker image ls --quiet --no-trunc 2>/dev/null | sort -u |
    xargs -r docker image inspect --format '{{{{.Id}}}} {{{{json .RepoTags}}}} {{{{json .RootFS.Layers}}}}' 2>/dev/null
echo '#containers'
docker ps --all --quiet --no-trunc 2>/dev/null | xargs -r docker inspect --format '{{{{.Image}}}}' 2>/dev/null
echo '#ours'; cat {OURS_FILE} 2>/dev/null
"""


def script() -> str:
    """Write the script that asks all that the Runtime fact says of a Docker engine."""
    return _SCRIPT


def parse(output: list[str], endpoint: str) -> Runtime:
    """Read what the script printed.

    Args:
        output: its lines.
        endpoint: the kubelet's, which leads to this engine.

    Returns:
        The runtime; where it does not answer its version is empty. Disk and thresholds are not asked here. An image
        without a name has its id for one, `sha256:...`.

    """
    said, values = system.parts(output)
    by_manifest = _CONTAINERD_STORE in values.get("status", "")
    ours, used = set(said.get("ours", [])), set(said.get("containers", []))
    images: dict[str, NodeImage] = {}
    chains: dict[str, None] = {}
    for line in said.get("images", []):
        identity, tags, layers = line.split(" ", 2)
        for name in json.loads(tags) or [identity]:
            images[name] = {
                "manifest": identity if by_manifest else "",
                "config": "" if by_manifest else identity,
                "complete": True,
                "unpacked": True,
                "pinned": False,
                "ours": identity in ours,
                "used": identity in used,
            }
        if not by_manifest:
            chains.update(dict.fromkeys(chain_ids(json.loads(layers) or [])))
    return {
        "kind": "docker",
        "endpoint": endpoint,
        "installed": "installed" in values,
        "version": values.get("version", ""),
        "images": images,
        "blobs": [],
        "chains": list(chains),
        "claims": [],
        "pinnable": False,
        "discards": False,
        "disk": None,
        "eviction": None,
    }
