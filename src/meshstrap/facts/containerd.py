"""What containerd on a node says of its images."""

from __future__ import annotations

from typing import TypedDict

from pyinfra.api.facts import FactBase
from typing_extensions import override

# One round trip (measured: 90 ms on top of ssh, 4 kB for 20 images). `images check` tells whether every blob is there
# and unpacked; its -q prints incomplete images too, so the table is read. ctr 2.x writes deprecations on stderr.
_SCRIPT = r"""
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin
command -v ctr >/dev/null 2>&1 || exit 0
c="ctr -n k8s.io"
$c version >/dev/null 2>&1 || exit 0
echo '##pinned'; $c images ls -q 'labels."io.cri-containerd.pinned"==pinned' 2>/dev/null
echo '##check'
$c images check 2>/dev/null | awk 'NR > 1 { print $1, $3, ($0 ~ / complete \(/ ? "complete" : "incomplete"), $NF }'
"""


class Image(TypedDict):
    """One image reference as containerd has it."""

    manifest: str
    complete: bool
    pinned: bool


class Images(FactBase[dict[str, Image]]):
    """Returns the images in the kubelet's namespace of containerd, by reference.

    `complete` means that every blob is there and unpacked; `pinned`, that the kubelet's garbage collection keeps it.
    Empty where no containerd answers.

    .. code:: python

        {
            "registry.k8s.io/pause:3.10.1": {"manifest": "sha256:278f...", "complete": True, "pinned": True},
        }
    """

    default = dict

    @override
    def command(self) -> str:
        return _SCRIPT

    @override
    def process(self, output: list[str]) -> dict[str, Image]:
        return parse_images(output)


def parse_images(output: list[str]) -> dict[str, Image]:
    """Read what the fact's script printed.

    Args:
        output: its lines.

    Returns:
        The images by reference. References without a tag or by image id (the CRI's own names) are left out.

    """
    pinned: set[str] = set()
    images: dict[str, Image] = {}
    section = ""
    for line in output:
        if line.startswith("##"):
            section = line[2:]
        elif section == "pinned":
            pinned.add(line.strip())
        elif section == "check":
            words = line.split()
            if len(words) != 4 or words[0].startswith("sha256:"):
                continue
            reference, manifest, state, unpacked = words
            images[reference] = {
                "manifest": manifest,
                "complete": state == "complete" and unpacked == "true",
                "pinned": reference in pinned,
            }
    return images
