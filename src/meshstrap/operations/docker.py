"""Manage the images that a Docker engine holds for the kubelet."""

from __future__ import annotations

from collections.abc import Container, Sequence

from pyinfra.api.command import QuoteString, StringCommand

from meshstrap.bundle.plan import Batch, Runtime
from meshstrap.facts.docker import OURS_FILE
from meshstrap.facts.system import PATH
from meshstrap.operations.containerd import GONE

# Docker has nothing to claim a layer with. It says so when one that the archive leaves out has gone, and takes nothing.
_LOAD = f"""
{PATH}
thin=$1; shift
said=$(docker load 2>&1) || {{
    printf '%s\\n' "$said" >&2
    case $thin$said in thin*"no such file or directory"*) exit {GONE} ;; esac
    exit 1
}}
mkdir -p "$(dirname {OURS_FILE})"
for reference; do
    id=$(docker image inspect --format '{{{{.Id}}}}' "$reference" 2>/dev/null) || continue
    grep -qx "$id" {OURS_FILE} 2>/dev/null || echo "$id" >>{OURS_FILE}
done
exit 0
"""
_REMOVE = f"""
{PATH}
docker image rm "$@" >/dev/null || exit 1
for id in $(cat {OURS_FILE} 2>/dev/null); do
    docker image inspect "$id" >/dev/null 2>&1 && echo "$id"
done >{OURS_FILE}.new
mv {OURS_FILE}.new {OURS_FILE}
"""


def load(runtime: Runtime, batch: Batch, ours: Container[str]) -> StringCommand:
    """Make the command that loads an archive from its standard input.

    Exit code GONE: a layer that the archive leaves out is not there.

    Args:
        runtime: what the node says of its engine.
        batch: what the archive holds and leaves out.
        ours: references of the images to note as brought by us.

    """
    noted = [image.reference for image in batch.images if image.reference in ours]
    return _command(_LOAD, ["thin" if batch.claims else "", *noted])


def remove(runtime: Runtime, names: Sequence[str]) -> StringCommand:
    """Make the command that removes images by the names that the engine has them under."""
    return _command(_REMOVE, names)


def _command(script: str, arguments: Sequence[str]) -> StringCommand:
    return StringCommand("sh", "-c", QuoteString(script), "docker", *(QuoteString(argument) for argument in arguments))
