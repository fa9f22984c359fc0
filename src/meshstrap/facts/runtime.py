"""What a node's kubelet sees of its images: on the runtime that its own configuration names."""

from __future__ import annotations

from typing import TypedDict, cast

from typing_extensions import override

from meshstrap.bundle import plan
from meshstrap.facts import containerd, docker, kubeadm, system
from meshstrap.facts.answer import AnswerFact
from meshstrap.facts.k8s import KUBECONFIG
from meshstrap.facts.kubeadm import MemberState

KUBELET = "/var/lib/kubelet"
DOCKERSHIM = "/var/run/dockershim.sock"
_PART = "##meshstrap "
_ASKED = "#asked"
_POD_IMAGES = " ".join(
    f"{{..spec.{part}}}"
    for part in (
        "containers[*].image",
        "initContainers[*].image",
        "ephemeralContainers[*].image",
        "volumes[*].image.reference",
    )
)

# The kubelet's flags win over its configuration, and those of the running process over what the files say now. One
# that names no endpoint and is older than 1.24 (--container-runtime=docker was the default) has dockershim.
WHICH_RUNTIME = f"""
pid=$(systemctl show kubelet -p MainPID --value 2>/dev/null)
flags=$(
    cat {KUBELET}/kubeadm-flags.env /etc/default/kubelet /etc/sysconfig/kubelet 2>/dev/null
    [ "${{pid:-0}}" -gt 0 ] && tr '\\0' ' ' <"/proc/$pid/cmdline"
)
flag() {{
    printf '%s\\n' "$flags" | tr " \\"'" '\\n\\n\\n' | awk -v f="--$1" '
        index($0, f "=") == 1 {{ v = substr($0, length(f) + 2) }}
        last == f {{ v = $0 }}
        {{ last = $0 }}
        END {{ print v }}'
}}
config=$(flag config); config=${{config:-{KUBELET}/config.yaml}}
named() {{ sed -n "s/^$1:[ \\"']*\\([^ \\"']*\\).*/\\1/p" "$2" 2>/dev/null; }}
endpoint=$(flag container-runtime-endpoint)
[ -n "$endpoint" ] || endpoint=$(named containerRuntimeEndpoint {KUBELET}/instance-config.yaml)
[ -n "$endpoint" ] || endpoint=$(named containerRuntimeEndpoint "$config")
if [ -z "$endpoint" ] && [ -e "$config" ] && [ "$(flag container-runtime)" != remote ]; then
    minor=$(kubelet --version 2>/dev/null | sed -n 's/^Kubernetes v1\\.\\([0-9]*\\).*/\\1/p')
    [ "${{minor:-99}}" -lt 24 ] && endpoint={DOCKERSHIM}
fi
[ -n "$endpoint" ] || endpoint={containerd.SOCKET}
socket=${{endpoint#unix://}}
case ${{socket##*/}} in
    *docker*) kind=docker ;;
    *crio* | *cri-o*) kind=cri-o ;;
    *containerd*) kind=containerd ;;
    *) kind=unknown ;;
esac
"""
_WHICH = f"""{WHICH_RUNTIME}
echo "#endpoint $socket"
echo "#kind $kind"
if [ -e "$config" ]; then
    echo '#eviction'
    thresholds=$(flag eviction-hard)
    if [ -n "$thresholds" ]; then
        printf '%s\n' "$thresholds" | tr ',' '\n' | sed 's/</ /'
    else
        awk '/^evictionHard:/ {{ on = 1; next }} /^[^ ]/ {{ on = 0 }} on {{ sub(":", "", $1); print $1, $2 }}' "$config"
    fi
fi
echo '#runtime'
"""

# `df -P` names the device first: the same one twice is the same file system.
_DISK = f"""
echo '#disk'
for d in "${{root:-/var/lib/$kind}}" {KUBELET}; do
    e=$d; while [ ! -d "$e" ]; do e=$(dirname "$e"); done
    df -Pk "$e" | awk -v d="$d" 'NR == 2 {{ print d, $1, $2, $4 }}'
done
"""


class NodeState(TypedDict):
    """All that bringing images onto a node needs to know of it."""

    platform: str
    member: MemberState
    required: list[str]
    takes_pods: bool
    runtime: plan.Runtime


class HeldState(TypedDict):
    """What tells that a node lacks nothing, or that it must be asked in full. `kubeadm`: whether it has one."""

    platform: str
    member: MemberState
    kubeadm: bool
    takes_pods: bool
    whole: plan.Whole


class Runtime(AnswerFact[plan.Runtime]):
    """Returns the runtime that the node's kubelet uses and the images in it, in one round trip.

    Where nothing of Kubernetes is there yet it is containerd as we install it.

    .. code:: python

        {
            "kind": "containerd",
            "endpoint": "/run/containerd/containerd.sock",
            "installed": True,
            "version": "v2.4.2",
            "images": {"registry.k8s.io/pause:3.10.1": {"manifest": "sha256:278f...", "complete": True, ...}},
            "blobs": ["sha256:278f...", ...],
            "chains": ["sha256:5f70...", ...],
            "claims": [],
            "pinnable": True,
            "discards": False,
            "disk": {"root": "/var/lib/containerd", "size": 270513041408, "free": 84120215552, "nodefs": True},
            "eviction": {"imagefs.available": "15%"},
        }
    """

    @override
    def command(self) -> str:
        return script()

    @override
    def read(self, output: list[str]) -> plan.Runtime:
        return parse(output)


class Node(AnswerFact[NodeState]):
    """Returns the runtime of the node and what it is in its cluster, in one round trip.

    `version` is the Kubernetes whose images kubeadm names; `cluster`: whether to ask the cluster if this node takes
    pods, too.

    .. code:: python

        {"platform": "linux/amd64", "member": {...}, "required": [...], "takes_pods": False, "runtime": {...}}
    """

    @override
    def command(self, version: str, cluster: bool) -> str:
        asked_first = kubeadm.TakesPods().command() if cluster else "true"
        # kubeadm takes as long to start as all that the runtime is asked: a pipe runs both at a time, and keeps the one
        # answer until the other is through. In others' cluster what kubeadm names is not asked for.
        return f"""
{{
echo '{_PART}member'
(
{kubeadm.Member().command()}
)
echo '{_PART}required'
(
[ -e {kubeadm.DIRECTORY}/kubelet.conf ] && [ ! -e {kubeadm.STARTED} ] && [ ! -e {kubeadm.DONE} ] && exit
{kubeadm.list_images(version)}
)
}} | {{
(
echo '{_PART}version {version}'
echo "{_PART}machine $(uname -m)"
echo '{_PART}cluster'
(
{asked_first}
)
echo '{_PART}runtime'
{script()}
) </dev/null
cat
}}"""

    @override
    def read(self, output: list[str]) -> NodeState:
        return parse_node(output)


class Held(AnswerFact[HeldState]):
    """Returns what tells that a node lacks no image, in a tenth of the Node fact's time and one round trip.

    `images` are pairs of a name and its manifest's digest, `cluster`: whether to ask the cluster if this node takes
    pods. Of another runtime than containerd nothing is said.

    .. code:: python

        {
            "platform": "linux/amd64",
            "member": {...},
            "kubeadm": True,
            "takes_pods": False,
            "whole": {"names": ["registry.k8s.io/pause:3.10.1", ...], "blobs": [...], "chains": [...], "claims": []},
        }
    """

    @override
    def command(self, images: list[tuple[str, str]], cluster: bool) -> str:
        asked_first = kubeadm.TakesPods().command() if cluster else "true"
        # kubectl takes as long to start as all else together: at the same time, as in the Node fact.
        return f"""
{{
echo '{_PART}cluster'
(
{asked_first}
)
}} | {{
(
echo "{_PART}machine $(uname -m)"
echo '{_PART}member'
(
{kubeadm.FILES}
)
echo '{_PART}kubeadm'
(
{system.PATH}
command -v kubeadm
)
echo '{_PART}whole'
(
{system.PATH}
{_WHICH}
[ "$kind" = containerd ] || exit 0
{containerd.whole_script(images)}
)
) </dev/null
cat
}}"""

    @override
    def read(self, output: list[str]) -> HeldState:
        return parse_held(output)


class PodImages(AnswerFact[list[str] | None]):
    """Returns the image references that the cluster's pods name, and what makes pods; asked on a control plane node.

    None where the node has nothing to ask a cluster with.

    .. code:: python

        ["docker.io/istio/pilot:1.31.0", ...]
    """

    @override
    def command(self) -> str:
        # Not old ReplicaSets: each revision of a Deployment would keep its image for ever.
        return f"""{system.PATH}
[ -e {KUBECONFIG} ] || exit 0
said=$(kubectl --kubeconfig {KUBECONFIG} --request-timeout=10s get \\
    pods,deployments,daemonsets,statefulsets,jobs,cronjobs --all-namespaces -o jsonpath='{_POD_IMAGES}') || exit 1
echo '{_ASKED}'
printf '%s\\n' "$said" | tr ' ' '\\n'"""

    @override
    def read(self, output: list[str]) -> list[str] | None:
        said = {line.strip() for line in output}
        return sorted(said - {"", _ASKED}) if _ASKED in said else None


def parse_node(output: list[str]) -> NodeState:
    """Read what the Node fact's script printed."""
    said, values = system.parts(output, _PART)
    member = kubeadm.parse_member(said["member"])
    # A kubeadm of another version names other images.
    of_version = member["kubeadm"] == f"v{values['version'].removeprefix('v')}"
    return {
        "platform": system.platform(values["machine"]),
        "member": member,
        "required": [line.strip() for line in said["required"] if line.strip()] if of_version else [],
        "takes_pods": kubeadm.parse_takes_pods(said["cluster"]),
        "runtime": parse(said["runtime"]),
    }


def parse_held(output: list[str]) -> HeldState:
    """Read what the Held fact's script printed."""
    said, values = system.parts(output, _PART)
    return {
        "platform": system.platform(values["machine"]),
        "member": kubeadm.parse_member(said["member"]),
        "kubeadm": bool(said["kubeadm"]),
        "takes_pods": kubeadm.parse_takes_pods(said["cluster"]),
        "whole": containerd.parse_whole(said["whole"]),
    }


def script() -> str:
    """Write the script of the fact. It changes nothing, and works in any POSIX shell."""
    return f"""{system.PATH}
{_WHICH}
said=$(
case $kind in
docker)
{docker.script()}
;;
containerd)
{containerd.script("$socket")}
;;
esac
)
printf '%s\n' "$said"
root=$(printf '%s\n' "$said" | sed -n 's/^#root //p')
{_DISK}
exit 0"""


def parse(output: list[str]) -> plan.Runtime:
    """Read what the script printed."""
    said: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    lines: list[str] = []
    for line in output:
        key, _, value = line.strip().partition(" ")
        if key in ("#endpoint", "#kind"):
            values[key] = value
        elif key in ("#eviction", "#runtime", "#disk"):
            lines = said.setdefault(key, [])
        elif key:
            lines.append(line)
    kind = cast(plan.Kind, values["#kind"])
    read = docker.parse if kind == "docker" else containerd.parse
    runtime: plan.Runtime = read(said.get("#runtime", []), values["#endpoint"])
    thresholds = said.get("#eviction")
    runtime["kind"] = kind
    runtime["disk"] = _disk(said.get("#disk", []))
    runtime["eviction"] = None if thresholds is None else dict(_pair(line) for line in thresholds)
    return runtime


def _disk(lines: list[str]) -> plan.Disk | None:
    mounts = [line.split() for line in lines]
    if not mounts or len(mounts[0]) != 4:
        return None
    root, device, size, free = mounts[0]
    nodefs = len(mounts) > 1 and mounts[1][1] == device
    return {"root": root, "size": int(size) * 1024, "free": int(free) * 1024, "nodefs": nodefs}


def _pair(line: str) -> tuple[str, str]:
    signal, _, threshold = line.strip().partition(" ")
    return signal, threshold.strip("\"'")
