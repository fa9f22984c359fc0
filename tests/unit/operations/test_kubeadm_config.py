"""We test what of a standing cluster's configuration is changed, and to what."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshstrap.facts.kubeadm_config import DeclaredState, StandingState
from meshstrap.operations import kubeadm_config
from meshstrap.operations.kubeadm_config import (
    changed_component,
    changed_parts,
    edited,
    fixed_problem,
    holds,
    wanted_documents,
)

settings = st.recursive(
    st.integers(1, 9) | st.text("ab", min_size=1, max_size=2),
    lambda inner: st.dictionaries(st.text("xyz", min_size=1, max_size=1), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


def standing(**changes: Any) -> StandingState:
    state: StandingState = {
        "cluster": {
            "networking": {"podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/16"},
            "apiServer": {"certSANs": ["a"]},
            "controllerManager": {"extraArgs": [{"name": "theirs", "value": "1"}]},
            "etcd": {"local": {"dataDir": "/var/lib/etcd", "extraArgs": [{"name": "x", "value": "1"}]}},
        },
        "kubelet": {"cgroupDriver": "systemd", "maxPods": 50, "clusterDomain": "cluster.local"},
        "kube_proxy": {"mode": "iptables"},
        "declared": {"kubelet": {"maxPods": 50}, "kube_proxy": {}},
        "etcd_arguments": ["--data-dir=/var/lib/etcd", "--x=1"],
        "certificate_names": ["kubernetes", "a"],
    }
    return {**state, **changes}  # type: ignore[typeddict-item]


DECLARED: DeclaredState = {"kubelet": {"maxPods": 50}, "kube_proxy": {}}


def test_what_is_as_declared_is_not_changed() -> None:
    assert changed_parts(standing(), DECLARED, {"x": "1"}, ["a"]) == []


@pytest.mark.parametrize(
    ("declared", "arguments", "names", "parts"),
    [
        (DECLARED, {"x": "2"}, ["a"], ["etcd", "cluster"]),
        (DECLARED, {}, ["a"], ["etcd", "cluster"]),
        (DECLARED, {"x": "1"}, ["a", "b"], ["certificate", "cluster"]),
        (DECLARED, {"x": "1"}, [], ["certificate", "cluster"]),
        ({"kubelet": {}, "kube_proxy": {}}, {"x": "1"}, ["a"], ["kubelet"]),
        ({"kubelet": {"maxPods": 50}, "kube_proxy": {"mode": "ipvs"}}, {"x": "1"}, ["a"], ["kube-proxy"]),
    ],
)
def test_each_part_of_edited_data_is_found(
    declared: DeclaredState, arguments: dict[str, str], names: list[str], parts: list[str]
) -> None:
    assert changed_parts(standing(), declared, arguments, names) == parts


def test_what_a_killed_run_left_half_done_is_done_again() -> None:
    half = standing(etcd_arguments=["--data-dir=/var/lib/etcd"], certificate_names=["kubernetes"])
    assert changed_parts(half, DECLARED, {"x": "1"}, ["a"]) == ["etcd", "certificate"]


def test_what_others_set_stays_and_what_is_no_longer_declared_goes() -> None:
    cluster, kubelet, _ = wanted_documents(standing(), {"kubelet": {}, "kube_proxy": {}}, {"y": "2"}, ["b"])
    assert cluster["controllerManager"] == {"extraArgs": [{"name": "theirs", "value": "1"}]}
    assert cluster["etcd"]["local"] == {"dataDir": "/var/lib/etcd", "extraArgs": [{"name": "y", "value": "2"}]}
    assert cluster["apiServer"] == {"certSANs": ["b"]}
    assert kubelet == {"cgroupDriver": "systemd", "clusterDomain": "cluster.local"}


def test_what_a_cluster_cannot_be_changed_to_is_said() -> None:
    assert fixed_problem(standing(), "10.244.0.0/16", "10.96.0.0/16", {}) is None
    said = fixed_problem(standing(), "10.245.0.0/16", "10.97.0.0/16", {"cgroupDriver": "cgroupfs"}) or ""
    assert "pod_cidr is 10.244.0.0/16 there, and the data say 10.245.0.0/16" in said
    assert "service_cidr is 10.96.0.0/16 there" in said
    assert "cgroupDriver is systemd there, and the data say cgroupfs" in said


@pytest.mark.parametrize(
    ("stands", "wanted", "same"),
    [
        ({"a": "1m0s"}, {"a": "1m"}, True),
        ({"a": "1m0s"}, {"a": "61s"}, False),
        ({}, {"a": None, "b": {}, "c": False}, True),
        ({"a": True}, {"a": False}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
    ],
)
def test_values_are_compared_as_kubernetes_writes_them(stands: object, wanted: object, same: bool) -> None:
    assert holds(stands, wanted) is same


def test_a_cluster_without_a_record_is_judged_by_what_it_has() -> None:
    assert changed_component({"a": 1, "b": 2}, None, {"a": 1}) is False
    assert changed_component({"a": 1}, None, {"a": 2}) is True


@given(stands=settings, before=settings, wanted=settings)
def test_an_edited_configuration_holds_what_is_wanted(
    stands: dict[str, Any], before: dict[str, Any], wanted: dict[str, Any]
) -> None:
    made = edited(stands, before, wanted)
    assert holds(made, wanted)
    assert edited(made, wanted, wanted) == made


@given(stands=settings, wanted=settings)
def test_what_nobody_declared_stays(stands: dict[str, Any], wanted: dict[str, Any]) -> None:
    made = edited(stands, {}, wanted)
    assert all(made[key] == value for key, value in stands.items() if key not in wanted)


@pytest.mark.parametrize("script", [kubeadm_config._APPLY, kubeadm_config._KUBELET])
def test_the_nodes_scripts_are_sh(script: str) -> None:
    subprocess.run(["sh", "-n", "-c", script], check=True)
