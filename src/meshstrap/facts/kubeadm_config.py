"""How a cluster made by kubeadm is configured: what it keeps of it, and what a node's kubelet reads."""

from __future__ import annotations

import ipaddress
import json
from typing import Any, TypedDict

import yaml
from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName, load_pem_x509_certificate
from typing_extensions import override

from meshstrap.facts import system
from meshstrap.facts.answer import AnswerFact
from meshstrap.facts.kubeadm import DIRECTORY

# What the site's data said when they were applied last: what they no longer say is taken out again.
DECLARED = f"{DIRECTORY}/meshstrap.declared"
KUBELET_FILE = "/var/lib/kubelet/config.yaml"
# The file as it was; it is there until the kubelet runs with the new one.
KUBELET_BEFORE = f"{KUBELET_FILE}.meshstrap"
# kubeadm sets these for each node.
_OF_THE_NODE = ("containerRuntimeEndpoint", "resolvConf")

_STANDING = f"""
{system.PATH}
[ -e {DIRECTORY}/admin.conf ] && command -v kubectl >/dev/null 2>&1 || exit 0
echo '#maps'
kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s -n kube-system get \\
    configmaps/kubeadm-config configmaps/kubelet-config configmaps/kube-proxy -o json 2>/dev/null
echo '#declared'; cat {DECLARED} 2>/dev/null
echo '#etcd'; sed -n 's/^ *- --/--/p' {DIRECTORY}/manifests/etcd.yaml 2>/dev/null
echo '#certificate'; cat {DIRECTORY}/pki/apiserver.crt 2>/dev/null
exit 0
"""
_KUBELET = f"""
[ -e {KUBELET_BEFORE} ] && echo '#unfinished yes'
# The mark keeps the indentation.
echo '#config'; sed 's/^/|/' {KUBELET_FILE} 2>/dev/null
exit 0
"""


class DeclaredState(TypedDict):
    """What the data said of the kubelets and kube-proxy when they were applied last."""

    kubelet: dict[str, Any]
    kube_proxy: dict[str, Any]


class StandingState(TypedDict):
    """kubeadm's three documents as the cluster keeps them, etcd's arguments, and the API server certificate's names."""

    cluster: dict[str, Any]
    kubelet: dict[str, Any]
    kube_proxy: dict[str, Any]
    declared: DeclaredState | None
    etcd_arguments: list[str]
    certificate_names: list[str]


class KubeletState(TypedDict):
    """A kubelet's configuration file, and whether a run was stopped before the kubelet ran with it."""

    config: dict[str, Any]
    unfinished: bool


class Standing(AnswerFact[StandingState | None]):
    """Returns how the cluster is configured, as a control plane node tells it; None where no API server answers.

    .. code:: python

        {
            "cluster": {"kind": "ClusterConfiguration", ...},
            "kubelet": {"kind": "KubeletConfiguration", ...},
            "kube_proxy": {"kind": "KubeProxyConfiguration", ...},
            "declared": {"kubelet": {"maxPods": 50}, "kube_proxy": {}},
            "etcd_arguments": ["--quota-backend-bytes=4294967296", ...],
            "certificate_names": ["kubernetes", "10.96.0.1", ...],
        }
    """

    @override
    def command(self) -> str:
        return _STANDING

    @override
    def read(self, output: list[str]) -> StandingState | None:
        return parse_standing(output)


class Kubelet(AnswerFact[KubeletState]):
    """Returns the kubelet's configuration file without what kubeadm sets for each node.

    .. code:: python

        {"config": {"kind": "KubeletConfiguration", ...}, "unfinished": False}
    """

    @override
    def command(self) -> str:
        return _KUBELET

    @override
    def read(self, output: list[str]) -> KubeletState:
        said, values = system.parts(output)
        lines = [line.removeprefix("|") for line in said.get("config", [])]
        return {"config": kubelet_settings("\n".join(lines)), "unfinished": "unfinished" in values}


def kubelet_settings(text: str) -> dict[str, Any]:
    """Read a KubeletConfiguration, without what kubeadm sets for each node."""
    return {key: value for key, value in _document(text).items() if key not in _OF_THE_NODE}


def parse_standing(output: list[str]) -> StandingState | None:
    """Read what the Standing fact's script printed."""
    said, _ = system.parts(output)
    text = "\n".join(said.get("maps", []))
    if not text.strip():
        return None
    maps = {item["metadata"]["name"]: item["data"] for item in json.loads(text)["items"]}
    if len(maps) < 3:
        return None
    declared = "\n".join(said.get("declared", []))
    return {
        "cluster": _document(maps["kubeadm-config"]["ClusterConfiguration"]),
        "kubelet": kubelet_settings(maps["kubelet-config"]["kubelet"]),
        "kube_proxy": _document(maps["kube-proxy"]["config.conf"]),
        "declared": json.loads(declared) if declared.strip() else None,
        "etcd_arguments": said.get("etcd", []),
        "certificate_names": certificate_names("\n".join(said.get("certificate", []))),
    }


def certificate_names(text: str) -> list[str]:
    """Name the names and addresses that a certificate (PEM) is for; none where there is no certificate."""
    if not text.strip():
        return []
    try:
        names = load_pem_x509_certificate(text.encode()).extensions.get_extension_for_class(SubjectAlternativeName)
    except ExtensionNotFound:
        return []
    return [
        *names.value.get_values_for_type(DNSName),
        *(str(ipaddress.ip_address(str(each))) for each in names.value.get_values_for_type(IPAddress)),
    ]


def _document(text: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"this is no YAML: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("this is no table of settings")
    return document
