"""We test how a node's part in a cluster is told from its files, and what the cluster says of its nodes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshstrap.facts.kubeadm import (
    RequiredImages,
    TakesPods,
    parse_cluster,
    parse_member,
    parse_pod_network,
    phase,
)

BOTH = ["conf admin", "conf kubelet"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], "bare"),
        (["mark started"], "unfinished"),
        (["mark started", *BOTH], "unfinished"),
        (["mark started", "mark done", *BOTH], "unfinished"),
        (["mark done", *BOTH], "ours"),
        (["mark done", "conf kubelet"], "ours"),
        (["mark done"], "bare"),  # somebody ran `kubeadm reset` by hand
        (BOTH, "foreign"),
        (["conf kubelet"], "foreign"),
        (["conf admin"], "foreign"),
    ],
)
def test_how_far_a_node_is(said: list[str], expected: str) -> None:
    assert phase(parse_member(["hostname node-1", *said])) == expected


def test_a_member_names_itself_its_cluster_and_its_kubeadm() -> None:
    member = parse_member(["hostname Node-1", "mark done", "cluster my-site", "kubeadm v1.34.10"])
    assert (member["hostname"], member["cluster"], member["kubeadm"]) == ("node-1", "my-site", "v1.34.10")


def test_a_kubeadm_that_does_not_run_is_none() -> None:
    assert parse_member(["hostname a", "kubeadm "])["kubeadm"] is None


def node(name: str, ready: str | None, cidr: str | None) -> dict[str, Any]:
    conditions = [] if ready is None else [{"type": "Ready", "status": ready, "message": f"{name} says {ready}"}]
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {} if cidr is None else {"podCIDR": cidr},
        "status": {
            "conditions": conditions,
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {"kubeletVersion": "v1.34.10"},
        },
    }


def workload(kind: str, name: str, **status: int) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": {"replicas": 2}, "status": status}


def proxy(on: str, ready: str) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": f"kube-proxy-{on}", "labels": {"k8s-app": "kube-proxy"}},
        "spec": {"nodeName": on},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def test_the_cluster_is_read() -> None:
    items = [
        node("a", "True", "10.244.0.0/24"),
        node("b", "False", None),
        node("c", None, None),
        workload("Deployment", "coredns", availableReplicas=2),
        workload("Deployment", "another", availableReplicas=0),
        proxy("a", "True"),
        proxy("b", "False"),
    ]
    cluster = parse_cluster(json.dumps({"items": items}))
    assert cluster is not None
    assert cluster["nodes"]["a"] == {
        "address": "192.0.2.1",
        "pod_cidr": "10.244.0.0/24",
        "ready": True,
        "reason": "a says True",
        "kubelet": "v1.34.10",
        "takes_pods": True,
    }
    assert (cluster["nodes"]["b"]["ready"], cluster["nodes"]["b"]["reason"]) == (False, "b says False")
    assert "not reported" in cluster["nodes"]["c"]["reason"]
    assert (cluster["coredns"], cluster["kube_proxy"]) == (True, ["a"])


def test_system_pods_that_are_not_there_are_not_available() -> None:
    cluster = parse_cluster(json.dumps({"items": []}))
    assert cluster == {"nodes": {}, "coredns": False, "kube_proxy": []}


def test_a_tainted_control_plane_takes_no_pods() -> None:
    item = node("a", "True", None)
    item["spec"]["taints"] = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    cluster = parse_cluster(json.dumps({"items": [item]}))
    assert cluster is not None
    assert cluster["nodes"]["a"]["takes_pods"] is False


def test_kubeadms_list_is_asked_for_one_version_and_nothing_else() -> None:
    command = RequiredImages().command("1.34.10; reboot")
    assert "--kubernetes-version 'v1.34.10; reboot'" in command


def test_where_no_api_server_answers_there_is_no_cluster() -> None:
    assert parse_cluster("\n") is None


def test_the_pods_network_is_read_from_routes_and_rules() -> None:
    said = [
        "default via 172.29.182.254 dev eth0 ",
        "10.244.0.0/24 dev cni0 proto kernel scope link src 10.244.0.1 ",
        "10.244.1.0/24 via 172.29.182.11 dev eth0 ",
        "-P POSTROUTING ACCEPT",
        "-A POSTROUTING -s 10.244.0.0/24 ! -d 10.244.0.0/16 -m comment --comment meshstrap-pods -j MASQUERADE",
        "-A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE",
    ]
    assert parse_pod_network(said) == {
        "routes": ["10.244.1.0/24 via 172.29.182.11"],
        "masquerade": ["10.244.0.0/24"],
        "bridge": ["10.244.0.0/24"],
    }


@pytest.mark.parametrize(
    ("said", "takes"),
    [
        ([], False),
        (["known"], True),
        (["dedicated", "known"], True),
        (["node-role.kubernetes.io/control-plane", "known"], False),
        (["node-role.kubernetes.io/control-plane"], False),
    ],
)
def test_a_node_takes_pods_where_its_cluster_says_so(said: list[str], takes: bool) -> None:
    assert TakesPods().process(said) is takes
