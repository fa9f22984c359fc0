"""We test the configuration that kubeadm gets, the pods' network, and when a cluster is ready."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshstrap.facts.kubeadm import ClusterState, parse_member
from meshstrap.facts.system import Service
from meshstrap.operations import kubeadm

# Made by kubeadm; `openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | sha256sum` gives the hash below.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIDjzCCAnegAwIBAgIIAIhJdAQbtN8wDQYJKoZIhvcNAQELBQAwFTETMBEGA1UE
AxMKa3ViZXJuZXRlczAeFw0yNjExMjMxNzUxMjdaFw0yNzExMjMxNzU2MjdaMBkx
FzAVBgNVBAMTDmt1YmUtYXBpc2VydmVyMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A
MIIBCgKCAQEAv+9qArFXQ6uvaN56TSsEApiWQNXyO9bUWRd/3WC+0KydKQfNTsL3
XBw/Upa6n5z0N2AgTCMZU5zwm0tm/bnjUC04CAFt5CTsi7mJQ1iCbmySk7bSO+0D
g7UP6qEOkzS4wt3JjcAb7rmFmm04IVFjLk4JpRISqJa7htqB9usZp6NFyaRKNOtP
NoQPwvqYHgJAIak2LjBX877SVJd2NCFtmnnaHhsbnMv4LqUHC5LKxZ0SC/tAUv6g
71S6J4bPdYMbtJ3U8zCQXOZ9/2d5mb5Q91tkL2+vf0x1DloVztL42GOL8kjG3Wf4
qw7P+iIz9/OpctyjKeFJiQVlQhI8O8JaiwIDAQABo4HeMIHbMA4GA1UdDwEB/wQE
AwIFoDATBgNVHSUEDDAKBggrBgEFBQcDATAMBgNVHRMBAf8EAjAAMB8GA1UdIwQY
MBaAFJxAvsjyzwvedFSXFmbOBiY+zc/tMIGEBgNVHREEfTB7ggljb250cm9sLTGC
Cmt1YmVybmV0ZXOCEmt1YmVybmV0ZXMuZGVmYXVsdIIWa3ViZXJuZXRlcy5kZWZh
dWx0LnN2Y4Ika3ViZXJuZXRlcy5kZWZhdWx0LnN2Yy5jbHVzdGVyLmxvY2FshwQK
YAABhwSsHbYKhwR/AAABMA0GCSqGSIb3DQEBCwUAA4IBAQCMSPoRHXJVNSzPMZLZ
53sn+Yf/h7ibI1TxfJFLA3tpNBEsA17bvUS3UCmaoK3JXkfZJB4+qkImCMtA/l7o
tQJnME/BQNDPfeu501hf1TdeAu4B4NsCT4FTC9AyouHJ+32aDg5gft8gwF2kNtBK
I2s6VI3QMtZ5nagZEq1vkCCWLBjGTmL6S+rJ4QPg/kWpnL8NnziZssBWJPgrdO46
oghwYVsZT1F4K1tInrIElnkr3OzacHqPMSuxicfCHbZGVh3v4Vdlh2c6Q1b0WmnY
/3K/K8rT2Bm+dD6LN1Wn3MlO5os6J4VdWVjy6XBN4l5cICzVDTJVCb5IT85CnM4U
fXnM
-----END CERTIFICATE-----
"""
HASH = "8817f2e2c4a0e15d7d9e44dda9744222cd8e57194295b4d55e47889c3f436697"


def documents(**changes: Any) -> dict[str, dict[str, Any]]:
    settings: dict[str, Any] = {
        "name": "control-1",
        "address": "192.0.2.10",
        "cluster_name": "site",
        "kubernetes_version": "1.34.10",
        "pod_cidr": "10.244.0.0/16",
        "service_cidr": "10.96.0.0/16",
        "kubelet_config": {},
        "kube_proxy_config": {},
        "etcd_extra_args": {},
        "api_server_cert_sans": [],
        "takes_pods": False,
        **changes,
    }
    return {each["kind"]: each for each in kubeadm.init_configuration(**settings)}


def test_the_control_plane_is_described_to_kubeadm() -> None:
    made = documents(api_server_cert_sans=["127.0.0.1"], etcd_extra_args={"unsafe-no-fsync": "true"})
    assert made["InitConfiguration"]["localAPIEndpoint"]["advertiseAddress"] == "192.0.2.10"
    cluster = made["ClusterConfiguration"]
    assert (cluster["clusterName"], cluster["kubernetesVersion"]) == ("site", "v1.34.10")
    assert cluster["networking"] == {"podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/16"}
    assert cluster["apiServer"]["certSANs"] == ["127.0.0.1"]
    assert cluster["etcd"]["local"]["extraArgs"] == [{"name": "unsafe-no-fsync", "value": "true"}]
    assert made["KubeletConfiguration"]["cgroupDriver"] == "systemd"
    assert made["KubeProxyConfiguration"]["mode"] == "iptables"


def test_the_sites_own_settings_count() -> None:
    made = documents(kubelet_config={"cgroupDriver": "cgroupfs"}, kube_proxy_config={"conntrack": {"maxPerCore": 0}})
    assert made["KubeletConfiguration"]["cgroupDriver"] == "cgroupfs"
    assert made["KubeProxyConfiguration"]["conntrack"] == {"maxPerCore": 0}


def test_a_control_plane_without_workers_takes_pods() -> None:
    assert documents(takes_pods=True)["InitConfiguration"]["nodeRegistration"]["taints"] == []
    assert "taints" not in documents()["InitConfiguration"]["nodeRegistration"]


def test_a_worker_is_described_with_token_and_ca() -> None:
    (made,) = kubeadm.join_configuration(
        name="worker-1",
        address="192.0.2.11",
        leader_address="192.0.2.10",
        token="abcdef.0123456789abcdef",
        ca_hash="sha256:00",
    )
    assert made["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "192.0.2.10:6443",
        "token": "abcdef.0123456789abcdef",
        "caCertHashes": ["sha256:00"],
    }
    assert made["nodeRegistration"]["name"] == "worker-1"


def test_the_ca_is_known_by_its_public_key() -> None:
    assert kubeadm.ca_hash(CERTIFICATE) == f"sha256:{HASH}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("join --token abcdef.0123456789abcdef --x", "join --token ******.**************** --x"),
        ("sha256:0123456789abcdef.yaml", "sha256:0123456789abcdef.yaml"),
    ],
)
def test_tokens_are_masked(text: str, masked: str) -> None:
    assert kubeadm.without_tokens(text) == masked


def cluster(**nodes: tuple[str | None, str | None, bool]) -> ClusterState:
    return {
        "nodes": {
            name: {
                "address": address,
                "pod_cidr": cidr,
                "ready": ready,
                "reason": "not yet",
                "kubelet": "v1.34.10",
                "takes_pods": True,
            }
            for name, (address, cidr, ready) in nodes.items()
        },
        "coredns": True,
        "kube_proxy": [*nodes],
    }


THREE = cluster(
    a=("192.0.2.1", "10.244.0.0/24", True),
    b=("192.0.2.2", "10.244.1.0/24", True),
    c=("192.0.2.3", None, False),
)


def test_pods_of_other_nodes_are_reached_by_their_nodes() -> None:
    assert kubeadm.pod_routes(THREE, "a") == ("10.244.0.0/24", {"10.244.1.0/24": "192.0.2.2"})
    assert kubeadm.pod_routes(THREE, "b") == ("10.244.1.0/24", {"10.244.0.0/24": "192.0.2.1"})


def test_nodes_that_no_route_can_lead_to_are_named() -> None:
    assert kubeadm.unassigned(THREE) == ["c"]
    assert kubeadm.unassigned(cluster(a=("192.0.2.1", "10.244.0.0/24", False), d=(None, "10.244.3.0/24", True))) == [
        "d"
    ]


def test_a_route_to_a_node_that_is_no_more_is_stale_and_others_are_not_ours() -> None:
    now = ["10.244.1.0/24 via 192.0.2.2", "10.244.9.0/24 via 192.0.2.9", "198.51.100.0/24 via 192.0.2.254"]
    assert kubeadm.stale_routes(now, {"10.244.1.0/24": "192.0.2.2"}, "10.244.0.0/16") == ["10.244.9.0/24"]


def test_the_cni_gives_pods_addresses_of_their_node() -> None:
    bridge, portmap = json.loads(kubeadm.cni_configuration("10.244.1.0/24"))["plugins"]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
    assert portmap["capabilities"] == {"portMappings": True}


def test_routes_are_set_at_each_boot() -> None:
    unit = kubeadm.routes_unit("10.244.0.0/24", {"10.244.1.0/24": "192.0.2.2"}, "10.244.0.0/16")
    assert "ExecStart=/bin/sh -c 'ip route replace 10.244.1.0/24 via 192.0.2.2'" in unit
    assert "-s 10.244.0.0/24 ! -d 10.244.0.0/16" in unit
    assert "WantedBy=multi-user.target" in unit


def test_a_cluster_is_ready_when_every_node_of_the_run_is() -> None:
    assert kubeadm.not_ready(THREE, {"one": "192.0.2.1", "two": "192.0.2.2"}) == []


def test_a_node_that_is_switched_off_holds_nobody_up() -> None:
    assert kubeadm.not_ready({**THREE, "kube_proxy": ["a"]}, {"one": "192.0.2.1"}) == []


def test_what_others_run_in_place_of_kube_proxy_and_coredns_is_theirs() -> None:
    theirs: ClusterState = {**THREE, "kube_proxy": [], "coredns": False}
    assert kubeadm.not_ready(theirs, {"one": "192.0.2.1"}, ours=False) == []


def unit(path: str | None, *, ours: bool = False) -> Service:
    return {"unit": path, "ours": ours, "enabled": True, "active": True, "reload": False, "started_with": None}


def test_a_reset_of_a_machine_that_we_never_touched_removes_nothing_of_it() -> None:
    services = {"kubelet": unit(None), "containerd": unit(None)}
    paths, directories = kubeadm.ours(services, marked=False, prepared=False)
    assert directories == []
    assert [path for path in paths if "meshstrap" not in path] == []


def test_a_reset_leaves_a_containerd_of_others() -> None:
    services = {"kubelet": unit("/etc/systemd/system/kubelet.service", ours=True), "containerd": unit("/lib/c.service")}
    paths, directories = kubeadm.ours(services, marked=True, prepared=True)
    assert "/var/lib/etcd" in directories
    assert "/var/lib/containerd" not in directories
    assert "/usr/local/bin/kubeadm" in paths
    assert "/usr/local/bin/containerd" not in paths


def test_a_reset_takes_what_a_stopped_runtime_left() -> None:
    services = {"kubelet": unit(None), "containerd": unit(None)}
    paths, directories = kubeadm.ours(services, marked=False, prepared=True)
    assert {"/usr/local/bin/containerd", "/usr/local/bin/kubeadm", "/usr/local/bin/istioctl"} <= {*paths}
    assert directories == []


def test_another_version_than_the_standing_clusters_is_refused_by_both_names() -> None:
    member = parse_member(["mark done", "conf kubelet", "apiserver v1.34.10"])
    problem = kubeadm.upgrade_problem("control-1", member, "1.35.1")
    assert problem is not None
    assert "the cluster is Kubernetes v1.34.10, and kubernetes_version says v1.35.1" in problem
    assert kubeadm.upgrade_problem("control-1", member, "1.34.10") is None
    assert kubeadm.upgrade_problem("control-1", parse_member(["conf kubelet", "apiserver v1.3.1"]), "1.34.10") is None


@pytest.mark.parametrize(
    ("state", "wanted", "problem"),
    [
        (None, {}, "API server does not answer"),
        (THREE, {"three": "192.0.2.3"}, "node c is not Ready: not yet"),
        (THREE, {"four": "192.0.2.4"}, r"four (192.0.2.4) is no node"),
        ({**THREE, "coredns": False}, {}, "CoreDNS"),
        ({**THREE, "kube_proxy": ["b"]}, {"one": "192.0.2.1"}, "kube-proxy does not run on node a"),
    ],
)
def test_what_lacks_is_named(state: ClusterState | None, wanted: dict[str, str | None], problem: str) -> None:
    (found,) = kubeadm.not_ready(state, wanted)
    assert problem in found
