"""What containerd on a node says of its images."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from meshstrap.bundle.plan import NodeImage, Runtime, Whole
from meshstrap.facts import system
from meshstrap.facts.answer import AnswerFact

NAMESPACE = "k8s.io"
SOCKET = "/run/containerd/containerd.sock"
_PIN_KEY, _PIN_VALUE = "io.cri-containerd.pinned", "pinned"
PIN_LABEL = f"{_PIN_KEY}={_PIN_VALUE}"
# On a reference: we brought it. On a manifest's blob too, for the record of the image's id that CRI makes beside it.
OURS_LABEL = "meshstrap.dev/brought=yes"
# On a blob that an import counts on, and in the name of a snapshot made on top of one.
CLAIM_LABEL = "meshstrap.dev/claimed=yes"
CLAIM_SNAPSHOT = "meshstrap-claim-"

# The first releases whose CRI plugin takes the label from an image that came in by import: containerd's pull requests
# 9381 and 9382, in 1.7.10 and 1.6.25, and everything from 2.0 on.
_PINNABLE = ((1, 6, 25), (1, 7, 10), (2, 0, 0))

# ctr takes the kubelet's snapshotter from the environment. To ask containerd takes a while, and most configure none.
SNAPSHOTTER = r"""
if grep -qs '^[^#]*\(snapshotter\|imports\)' /etc/containerd/config.toml; then
    CONTAINERD_SNAPSHOTTER=$(containerd config dump 2>/dev/null | awk '
        /^ *\[/ { cri = $0 ~ /cri\.v1\.images.?\]$/ || $0 ~ /grpc\.v1\.cri.?\.containerd\]$/ }
        cri && $1 == "snapshotter" { gsub(/["\047]/, "", $3); print $3; exit }')
    if [ "$CONTAINERD_SNAPSHOTTER" = overlayfs ]; then CONTAINERD_SNAPSHOTTER=; fi
    if [ -n "$CONTAINERD_SNAPSHOTTER" ]; then export CONTAINERD_SNAPSHOTTER; else unset CONTAINERD_SNAPSHOTTER; fi
fi"""
# The labels in `content ls` tell an image's config (on its manifest's blob) and its chain ID (on its config's). ctr 2.x
# writes deprecations on stderr.
_CTR = f'{SNAPSHOTTER}\nc="ctr --address $socket --connect-timeout 5s --namespace {NAMESPACE}"'
_STORED = """
echo '#content'
$c content ls 2>/dev/null | awk 'NR > 1 {
    printf "%s", $1
    n = split($NF, labels, ",")
    for (i = 1; i <= n; i++) {
        label = labels[i]
        if (label ~ /^containerd.io\\/gc.ref.content.config=/ || label ~ /^containerd.io\\/gc.ref.snapshot/ ||
            label ~ /^meshstrap.dev\\//) printf " %s", label
    }
    print ""
}'
echo '#snapshots'; $c snapshots ls 2>/dev/null | awk 'NR > 1 { print $NF, $1, (NF > 2 ? $2 : "") }'
"""

# `images check` tells whether every blob is there and unpacked; its -q prints incomplete images too, so the table is
# read. It takes as long as the others together, so a pipe runs both at a time.
_SCRIPT = f"""
command -v ctr >/dev/null 2>&1 || exit 0
echo "#installed yes"
[ -S "$socket" ] || exit 0
{_CTR}
v=$($c version 2>/dev/null | awk '/^Server/ {{ s = 1 }} s && $1 == "Version:" {{ print $2; exit }}')
[ -n "$v" ] || exit 0
echo "#version $v"
{{
containerd config dump 2>/dev/null | tr -d "\\"' " | sed -n 's/^\\(root\\|discard_unpacked_layers\\)=/#\\1 /p'
echo '#check'
$c images check 2>/dev/null | awk 'NR > 1 {{ print $1, ($0 ~ / complete \\(/ ? "complete" : "incomplete"), $NF }}'
}} | {{
(
echo '#images'; $c images ls 2>/dev/null | awk 'NR > 1 {{ print $1, $3, $NF }}'
{_STORED}
echo '#containers'; $c containers ls 2>/dev/null | awk 'NR > 1 {{ print $2 }}'
) </dev/null
cat
}}
"""


class Images(AnswerFact[dict[str, NodeImage]]):
    """Returns the images in the kubelet's namespace of containerd, by reference; empty where none answers.

    Kubernetes may use another runtime: `meshstrap.facts.runtime.Runtime` looks which.

    .. code:: python

        {
            "registry.k8s.io/pause:3.10.1": {
                "manifest": "sha256:278f...",
                "config": "sha256:cd07...",
                "complete": True,
                "unpacked": True,
                "pinned": True,
                "ours": True,
                "used": True,
            },
        }
    """

    default = dict

    @override
    def command(self) -> str:
        return f"{system.PATH}\n{script(SOCKET)}"

    @override
    def read(self, output: list[str]) -> dict[str, NodeImage]:
        images = parse(output, SOCKET)["images"]
        return {name: image for name, image in images.items() if not name.startswith("sha256:")}


class Altered(AnswerFact[dict[str, Any]]):
    """Returns what reading every blob of containerd's store finds: those whose content is not what they are called.

    It reads all that is there, as fast as the node's disk and one of its processors are (`bytes`).

    .. code:: python

        {"blobs": ["sha256:278f..."], "bytes": 1204811776, "read": True}
    """

    default = dict

    @override
    def command(self) -> str:
        # Unfinished ingests lie elsewhere; each file here is called by the SHA-256 of its content.
        return f"""{system.PATH}
root=$(containerd config dump 2>/dev/null | tr -d "\\"' " | sed -n 's/^root=//p')
cd "${{root:-/var/lib/containerd}}/io.containerd.content.v1.content/blobs/sha256" 2>/dev/null || exit 0
bytes=$(du -sb . | cut -f1)
echo "#bytes $bytes"
echo '#altered'
find . -type f -printf '%f\\n' | xargs -r sha256sum | awk '$1 != $2 {{ print $2 }}'"""

    @override
    def read(self, output: list[str]) -> dict[str, Any]:
        return parse_altered(output)


def parse_altered(output: list[str]) -> dict[str, Any]:
    """Read what that script printed."""
    said, values = system.parts(output)
    return {
        "blobs": [f"sha256:{line.strip()}" for line in said.get("altered", [])],
        "bytes": int(values.get("bytes", 0)),
        "read": "altered" in said,
    }


def script(socket: str) -> str:
    """Write the script that asks all that the Runtime fact says of a containerd.

    Args:
        socket: its address, or a shell expression for it.

    """
    return f"socket={socket if socket.startswith('$') else shlex.quote(socket)}\n{_SCRIPT}"


def parse(output: list[str], endpoint: str) -> Runtime:
    """Read what the script printed.

    Args:
        output: its lines.
        endpoint: where it asked.

    Returns:
        The runtime; where it does not answer its version is empty. Disk and thresholds are not asked here.

    """
    said, values = system.parts(output)
    labels, snapshots, claims = _stored(said)
    claimed = [words[1] for words in snapshots if words[1].startswith(CLAIM_SNAPSHOT)]
    on_chain = {
        words[2] for words in snapshots if words[0] != "Committed" and words[1] not in claimed and len(words) > 2
    }
    version = values.get("version", "")
    return {
        "kind": "containerd",
        "endpoint": endpoint,
        "installed": "installed" in values,
        "version": version,
        "images": _images(said, labels, on_chain),
        "blobs": list(labels),
        "chains": [words[1] for words in snapshots if words[0] == "Committed"],
        "claims": claims,
        "pinnable": pinnable(version),
        "discards": values.get("discard_unpacked_layers") == "true",
        "disk": None,
        "eviction": None,
    }


def whole_script(images: Iterable[tuple[str, str]]) -> str:
    """Write the script that asks a containerd at $socket which images it holds whole, in a tenth of the time.

    It does not look at what nobody asks for, nor unpack what `images check` would tell of it: that is computed.

    Args:
        images: their names and the digests of their manifests.

    """
    wanted = " ".join(
        shlex.quote(f'name=="{name}",target.digest=={manifest},labels."{_PIN_KEY}"=={_PIN_VALUE}')
        for name, manifest in images
    )
    # Without a filter all images would be listed.
    named = f"$c images ls -q {wanted} 2>/dev/null" if wanted else "true"
    return f"[ -S \"$socket\" ] || exit 0\n{_CTR}\necho '#named'; {named}\n{_STORED}"


def parse_whole(output: list[str]) -> Whole:
    """Read what that script printed."""
    said, _ = system.parts(output)
    labels, snapshots, claims = _stored(said)
    return {
        "names": said.get("named", []),
        "blobs": list(labels),
        "chains": [words[1] for words in snapshots if words[0] == "Committed"],
        "claims": claims,
    }


def pinnable(version: str) -> bool:
    """Tell whether the kubelet's garbage collection spares images with the label, in this version of containerd."""
    numbers = version.removeprefix("v").partition("-")[0].partition("~")[0].partition("+")[0].split(".")
    if len(numbers) < 3 or not all(number.isdigit() for number in numbers[:3]):
        return False
    known = tuple(int(number) for number in numbers[:3])
    return known >= _PINNABLE[-1] or any(known[:2] == first[:2] and known >= first for first in _PINNABLE)


def _stored(said: dict[str, list[str]]) -> tuple[dict[str, list[str]], list[list[str]], list[str]]:
    """Read the blobs with their labels, the snapshots as words, and what of both a dead run claimed."""
    labels = {digest: rest for digest, *rest in (line.split() for line in said.get("content", []))}
    snapshots = [line.split() for line in said.get("snapshots", [])]
    claims = [digest for digest, each in labels.items() if CLAIM_LABEL in each]
    claims += [words[1] for words in snapshots if words[1].startswith(CLAIM_SNAPSHOT)]
    return labels, snapshots, claims


def _images(said: dict[str, list[str]], labels: dict[str, list[str]], on_chain: set[str]) -> dict[str, NodeImage]:
    checked = {words[0]: words[1:] for line in said.get("check", []) if len(words := line.split()) == 3}
    names = set(said.get("containers", []))
    images: dict[str, NodeImage] = {}
    for line in said.get("images", []):
        words = line.split()
        if len(words) != 3:
            continue
        reference, manifest, own = words
        state, unpacked = checked.get(reference, ["incomplete", "false"])
        described = labels.get(manifest, [])
        config = _label(described, "containerd.io/gc.ref.content.config")
        chain = _label(labels.get(config, []), "containerd.io/gc.ref.snapshot")
        # The record of an image's id is CRI's own, and carries no mark but its manifest's.
        mark = described if reference.startswith("sha256:") else own.split(",")
        images[reference] = {
            "manifest": manifest,
            "config": config,
            "complete": state == "complete",
            "unpacked": unpacked == "true",
            "pinned": PIN_LABEL in own.split(","),
            "ours": OURS_LABEL in mark,
            "used": reference in names or chain in on_chain,
        }
    return images


def _label(labels: list[str], key: str) -> str:
    return next((each.partition("=")[2] for each in labels if each.startswith(key)), "")
