"""What a node says of its part in a cluster made by kubeadm, and what the cluster says of its nodes."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal, TypedDict

from typing_extensions import override

from meshstrap.facts.answer import AnswerFact
from meshstrap.facts.system import PATH
from meshstrap.kube.events import newest

DIRECTORY = "/etc/kubernetes"
# Where every CNI puts its configuration; the first file by name is in force.
CNI_FILES = "/etc/cni/net.d"
# Written before kubeadm begins and renamed when it is through: a half-made node is known as ours, and as half-made.
STARTED = f"{DIRECTORY}/meshstrap.started"
DONE = f"{DIRECTORY}/meshstrap.done"
# Held while kubeadm works, so that a run that follows a killed one waits for what goes on alone.
RUNNING = "/run/meshstrap.kubeadm"

Phase = Literal["bare", "unfinished", "ours", "foreign"]

# All of the Member fact but kubeadm's version, for which the program is started: 0.15 s of a processor.
FILES = f"""
{PATH}
echo "hostname $(uname -n)"
for f in admin kubelet; do [ -e {DIRECTORY}/$f.conf ] && echo "conf $f"; done
[ -e {STARTED} ] && echo "mark started"
sed -n 's|.*image: .*/kube-apiserver:\\(v[0-9.]*\\).*|apiserver \\1|p' \\
    {DIRECTORY}/manifests/kube-apiserver.yaml 2>/dev/null
[ -d /var/lib/etcd/member ] && echo "etcd data"
[ -e {DONE} ] && echo "mark done" && sed -n 's/^cluster: /cluster /p' {DONE}
"""
_MEMBER = f"""{FILES}
command -v kubeadm >/dev/null 2>&1 && echo "kubeadm $(kubeadm version -o short 2>/dev/null)"
exit 0
"""

_KNOWN = "known"
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_TAINTS = f"""
{PATH}
[ -e {DIRECTORY}/admin.conf ] && command -v kubectl >/dev/null 2>&1 || exit 0
kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s get node "$(uname -n | tr A-Z a-z)" \\
    -o jsonpath='{{range .spec.taints[*]}}{{.key}}{{"\\n"}}{{end}}{_KNOWN}{{"\\n"}}' 2>/dev/null
exit 0
"""

_CLUSTER = f"""
{PATH}
[ -e {DIRECTORY}/admin.conf ] && command -v kubectl >/dev/null 2>&1 || exit 0
kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s -n kube-system get \
    nodes,deployments,pods --ignore-not-found -o json 2>/dev/null
exit 0
"""

_EVENTS = f"""
{PATH}
[ -e {DIRECTORY}/admin.conf ] && command -v kubectl >/dev/null 2>&1 || exit 0
kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s -n kube-system get events -o json 2>/dev/null
exit 0
"""


class MemberState(TypedDict):
    """What a node's files say of its part in a cluster."""

    hostname: str
    kubeadm: str | None
    admin_conf: bool
    kubelet_conf: bool
    mark: Literal["started", "done"] | None
    cluster: str | None
    apiserver: str | None
    etcd_data: bool


class NodeState(TypedDict):
    """A Kubernetes node: its address and pods' network, whether it is Ready (or why not), and takes any pod."""

    address: str | None
    pod_cidr: str | None
    ready: bool
    reason: str
    kubelet: str
    takes_pods: bool


class ClusterState(TypedDict):
    """The cluster's nodes by name, whether CoreDNS is available, and the nodes whose kube-proxy is ready."""

    nodes: dict[str, NodeState]
    coredns: bool
    kube_proxy: list[str]


class PodNetworkState(TypedDict):
    """Routes through other machines as `<network> via <address>`, masqueraded pods' networks, and the bridge's."""

    routes: list[str]
    masquerade: list[str]
    bridge: list[str]


class Member(AnswerFact[MemberState]):
    """Returns what the node's files say of its part in a cluster.

    .. code:: python

        {
            "hostname": "control-1",
            "kubeadm": "v1.34.10",
            "admin_conf": True,
            "kubelet_conf": True,
            "mark": "done",
            "cluster": "meshstrap",
            "apiserver": "v1.34.10",
            "etcd_data": True,
        }
    """

    @override
    def command(self) -> str:
        return _MEMBER

    @override
    def read(self, output: list[str]) -> MemberState:
        return parse_member(output)


class Cluster(AnswerFact[ClusterState | None]):
    """Returns the cluster's nodes, read with the admin's kubeconfig on a control plane node; None where no API answers.

    .. code:: python

        {
            "nodes": {
                "control-1": {
                    "address": "172.29.182.10",
                    "pod_cidr": "10.244.0.0/24",
                    "ready": True,
                    "reason": "kubelet is posting ready status",
                    "kubelet": "v1.34.10",
                    "takes_pods": False,
                },
            },
            "coredns": True,
            "kube_proxy": ["control-1"],
        }
    """

    @override
    def command(self) -> str:
        return _CLUSTER

    @override
    def read(self, output: list[str]) -> ClusterState | None:
        return parse_cluster("\n".join(output))


class NewestEvent(AnswerFact[str]):
    """Returns the newest event about the pods of kube-proxy and CoreDNS; empty where there is none.

    .. code:: python

        "Pod/coredns-66bc5c9577-hmnjx: FailedCreatePodSandBox: failed to find plugin in path [/opt/cni/bin]"
    """

    default = str

    @override
    def command(self) -> str:
        return _EVENTS

    @override
    def read(self, output: list[str]) -> str:
        text = "\n".join(output)
        items = json.loads(text).get("items", []) if text.strip() else []
        return newest(items, lambda name: name.startswith(("kube-proxy-", "coredns-")))


class TakesPods(AnswerFact[bool]):
    """Returns whether a control plane node takes any pod, as its cluster says; False where no API answers."""

    default = bool

    @override
    def command(self) -> str:
        return _TAINTS

    @override
    def read(self, output: list[str]) -> bool:
        return parse_takes_pods(output)


class RequiredImages(AnswerFact[list[str]]):
    """Returns the image references that kubeadm itself names for a version; empty where no kubeadm of it is there.

    .. code:: python

        ["registry.k8s.io/kube-apiserver:v1.34.10", ..., "registry.k8s.io/pause:3.10.1"]
    """

    default = list

    @override
    def command(self, version: str) -> str:
        wanted = shlex.quote(f"v{version.removeprefix('v')}")
        return f'{PATH}; [ "$(kubeadm version -o short 2>/dev/null)" = {wanted} ] || exit 0; {list_images(version)}'

    @override
    def read(self, output: list[str]) -> list[str]:
        return [line.strip() for line in output if line.strip()]


class PodNetwork(AnswerFact[PodNetworkState]):
    """Returns the node's routes through other machines, and the pods' networks that it masquerades.

    .. code:: python

        {"routes": ["10.244.1.0/24 via 172.29.182.11"], "masquerade": ["10.244.0.0/24"], "bridge": []}
    """

    @staticmethod
    @override
    def default() -> PodNetworkState:
        return {"routes": [], "masquerade": [], "bridge": []}

    @override
    def command(self) -> str:
        return f"{PATH}; ip -4 route show 2>/dev/null; iptables -w -t nat -S POSTROUTING 2>/dev/null; exit 0"

    @override
    def read(self, output: list[str]) -> PodNetworkState:
        return parse_pod_network(output)


class Leftovers(AnswerFact[list[str]]):
    """Returns which of the given paths exist, which of the given directories hold something, and pods' interfaces.

    .. code:: python

        ["/etc/kubernetes/admin.conf", "/var/lib/etcd", "interface cni0"]
    """

    default = list

    @override
    def command(self, paths: list[str], directories: list[str], interfaces: list[str]) -> str:
        return (
            f'for p in {shlex.join(paths)}; do [ -e "$p" ] && echo "$p"; done; '
            f'for d in {shlex.join(directories)}; do [ -n "$(ls -A "$d" 2>/dev/null)" ] && echo "$d"; done; '
            f'for i in {shlex.join(interfaces)}; do [ -e "/sys/class/net/$i" ] && echo "interface $i"; done; exit 0'
        )

    @override
    def read(self, output: list[str]) -> list[str]:
        return [line.strip() for line in output]


def list_images(version: str) -> str:
    """Write the command that prints the images which the node's kubeadm names for a version, one a line."""
    wanted = shlex.quote(f"v{version.removeprefix('v')}")
    return f"{PATH}; command -v kubeadm >/dev/null && kubeadm config images list --kubernetes-version {wanted}"


def phase(member: MemberState) -> Phase:
    """Say how far a node's part in a cluster is.

    Args:
        member: what the node's files say.

    Returns:
        `bare`: nothing there. `unfinished`: kubeadm of ours began and was not through. `ours`: made by us. `foreign`:
        made by others, to be left alone.

    """
    if member["mark"] == "started":
        return "unfinished"
    if not member["kubelet_conf"]:
        # A mark alone is what a `kubeadm reset` by hand leaves.
        return "foreign" if member["admin_conf"] and member["mark"] is None else "bare"
    return "ours" if member["mark"] == "done" else "foreign"


def parse_member(output: list[str]) -> MemberState:
    """Read what the Member fact's script printed."""
    state: MemberState = {
        "hostname": "",
        "kubeadm": None,
        "admin_conf": False,
        "kubelet_conf": False,
        "mark": None,
        "cluster": None,
        "apiserver": None,
        "etcd_data": False,
    }
    for line in output:
        key, _, value = line.strip().partition(" ")
        if key == "hostname":
            state["hostname"] = value.lower()
        elif key == "conf" and value == "admin":
            state["admin_conf"] = True
        elif key == "conf" and value == "kubelet":
            state["kubelet_conf"] = True
        elif key == "mark" and value == "started":
            state["mark"] = "started"
        elif key == "mark" and value == "done" and state["mark"] is None:
            state["mark"] = "done"
        elif key == "apiserver":
            state["apiserver"] = value
        elif key == "etcd":
            state["etcd_data"] = True
        elif key == "cluster":
            state["cluster"] = value
        elif key == "kubeadm":
            state["kubeadm"] = value or None
    return state


def parse_pod_network(output: list[str]) -> PodNetworkState:
    """Read `ip -4 route show` and `iptables -t nat -S POSTROUTING`, printed one after the other."""
    found: PodNetworkState = {"routes": [], "masquerade": [], "bridge": []}
    for line in output:
        words = line.split()
        if len(words) > 2 and words[1] == "via" and "/" in words[0]:
            found["routes"].append(" ".join(words[:3]))
        elif len(words) > 2 and words[1:3] == ["dev", "cni0"] and "/" in words[0]:
            found["bridge"].append(words[0])
        elif "meshstrap-pods" in words and "-s" in words:
            found["masquerade"].append(words[words.index("-s") + 1])
    return found


def parse_cluster(text: str) -> ClusterState | None:
    """Read `kubectl get nodes,deployments,pods -n kube-system -o json`; None where nothing was answered."""
    if not text.strip():
        return None
    items: list[dict[str, Any]] = json.loads(text).get("items", [])
    state: ClusterState = {"nodes": {}, "coredns": False, "kube_proxy": []}
    for item in items:
        status = item.get("status", {})
        if item["kind"] == "Node":
            state["nodes"][item["metadata"]["name"]] = _node(item)
        elif item["kind"] == "Deployment" and item["metadata"]["name"] == "coredns":
            # One is enough to answer: the other may have stood on a node that has lost its power.
            state["coredns"] = status.get("availableReplicas", 0) > 0
        elif item["kind"] == "Pod" and item["metadata"].get("labels", {}).get("k8s-app") == "kube-proxy":
            conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
            if conditions.get("Ready") == "True":
                state["kube_proxy"].append(item["spec"].get("nodeName", ""))
    return state


def parse_takes_pods(output: list[str]) -> bool:
    """Read the keys of a node's taints, one a line, which end with a word of ours where the API server answered."""
    said = [line.strip() for line in output]
    return _KNOWN in said and _CONTROL_PLANE not in said


def _node(item: dict[str, Any]) -> NodeState:
    status = item.get("status", {})
    ready = next((each for each in status.get("conditions", []) if each["type"] == "Ready"), None)
    addresses = [each["address"] for each in status.get("addresses", []) if each["type"] == "InternalIP"]
    return {
        "address": addresses[0] if addresses else None,
        "pod_cidr": item.get("spec", {}).get("podCIDR"),
        "ready": ready is not None and ready["status"] == "True",
        "reason": ready["message"] if ready else "the kubelet has not reported yet",
        "kubelet": status.get("nodeInfo", {}).get("kubeletVersion", ""),
        "takes_pods": not any(each["key"] == _CONTROL_PLANE for each in item.get("spec", {}).get("taints", [])),
    }
