"""We test which nodes may be taken out as dead ones."""

from __future__ import annotations

import pytest

from meshstrap.facts.kubeadm import ClusterState, NodeState
from meshstrap.operations import kubeadm
from meshstrap.operations.kubeadm_node import gone_problem


def node(number: int, *, ready: bool = True) -> NodeState:
    return {
        "address": f"192.0.2.{number}",
        "pod_cidr": f"10.244.{number}.0/24",
        "ready": ready,
        "reason": "Kubelet stopped posting node status.",
        "kubelet": "v1.34.10",
        "takes_pods": True,
    }


CLUSTER: ClusterState = {
    "nodes": {"control-1": node(1, ready=False), "worker-1": node(2), "worker-2": node(3, ready=False)},
    "coredns": True,
    "kube_proxy": [],
}


@pytest.mark.parametrize(
    ("name", "is_dead", "said"),
    [
        ("control-1", True, "is the only node of the control plane"),
        ("worker-1", True, "is Ready"),
        ("worker-2", False, "--data node_is_dead=true"),
    ],
)
def test_only_a_dead_worker_is_taken_out(name: str, is_dead: bool, said: str) -> None:
    assert said in (gone_problem(CLUSTER, name, control_plane="control-1", is_dead=is_dead) or "")


def test_a_worker_that_is_not_ready_and_called_dead_is_taken_out() -> None:
    assert gone_problem(CLUSTER, "worker-2", control_plane="control-1", is_dead=True) is None


def test_no_route_leads_to_the_node_that_leaves() -> None:
    _, routes = kubeadm.pod_routes(CLUSTER, "control-1", without="worker-2")
    assert routes == {"10.244.2.0/24": "192.0.2.2"}
