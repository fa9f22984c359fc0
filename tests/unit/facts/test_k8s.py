"""We test that what kubectl prints becomes the facts that people read, without a cluster."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pyinfra.api.exceptions import FactProcessError

from meshstrap.facts import k8s


def printed(kind: str, items: list[dict[str, Any]]) -> list[str]:
    """Give what `kubectl get -o json` prints."""
    return json.dumps({"apiVersion": "v1", "kind": kind, "items": items}, indent=4).splitlines()


def node(name: str, address: str, *, ready: bool = True, role: str = "") -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/os": "linux", **({f"node-role.kubernetes.io/{role}": ""} if role else {})},
        },
        "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": "fd00::2"},
                {"type": "InternalIP", "address": address},
            ],
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            "nodeInfo": {"kubeletVersion": "v1.34.10", "containerRuntimeVersion": "containerd://2.4.2"},
        },
    }


def service(name: str, *ports: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "istio-system"},
        "spec": {"type": "NodePort", "ports": list(ports)},
    }


def test_nodes_are_summed_up() -> None:
    seen = k8s.Nodes().process(printed("List", [node("control-1", "172.30.0.2", role="control-plane")]))
    assert seen == {
        "control-1": {
            "ready": True,
            "roles": ["control-plane"],
            "version": "v1.34.10",
            "address": "172.30.0.2",
            "pod_cidr": "10.244.0.0/24",
            "runtime": "containerd://2.4.2",
            "unschedulable": False,
        }
    }


def test_node_ports_come_by_name_with_a_url_to_paste() -> None:
    gateway = service(
        "istio-ingressgateway",
        {"name": "http2", "port": 80, "nodePort": 30191},
        {"name": "https", "port": 443, "nodePort": 31443},
        {"name": "tcp", "port": 31400, "nodePort": 31999},
        {"name": "inside", "port": 1},
    )
    nodes = [node("a-dead-node", "172.30.0.9", ready=False), node("control-1", "172.30.0.2")]
    seen = k8s.NodePorts().process(printed("List", [*nodes, gateway]))
    ports = seen["istio-system/istio-ingressgateway"]
    assert ports["http2"] == {"port": 80, "node_port": 30191, "url": "http://172.30.0.2:30191"}
    assert ports["https"]["url"] == "https://172.30.0.2:31443"
    assert ports["tcp"]["url"] == "172.30.0.2:31999"
    assert "inside" not in ports


def test_a_service_without_node_ports_is_left_out() -> None:
    assert k8s.NodePorts().process(printed("List", [service("kubernetes", {"port": 443})])) == {}


@pytest.mark.parametrize(
    ("labels", "injection", "label"),
    [
        ({}, False, ""),
        ({"istio-injection": "enabled"}, True, "istio-injection=enabled"),
        ({"istio-injection": "disabled"}, False, "istio-injection=disabled"),
        ({"istio.io/rev": "1-31"}, True, "istio.io/rev=1-31"),
        ({"istio-injection": "enabled", "istio.io/rev": "1-31"}, True, "istio-injection=enabled"),
        ({"istio-injection": "disabled", "istio.io/rev": "1-31"}, False, "istio-injection=disabled"),
    ],
)
def test_a_namespace_says_whether_pods_get_a_sidecar(labels: dict[str, str], injection: bool, label: str) -> None:
    namespace = {"metadata": {"name": "web", "labels": labels}, "status": {"phase": "Active"}}
    seen = k8s.Namespaces().process(printed("NamespaceList", [namespace]))
    assert seen == {"web": {"injection": injection, "label": label, "phase": "Active"}}


def test_images_in_use_name_nodes_pods_and_identities() -> None:
    def pod(name: str, node_name: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "namespace": "canary"},
            "spec": {
                "nodeName": node_name,
                "containers": [{"name": "app", "image": "docker.io/xianchao/canary:v1"}],
                "initContainers": [{"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.31.0"}],
            },
            "status": {
                "containerStatuses": [{"name": "app", "imageID": "docker.io/xianchao/canary@sha256:aa"}],
                "initContainerStatuses": [{"name": "istio-proxy", "imageID": "sha256:bb"}],
            },
        }

    waiting = {
        "metadata": {"name": "appv1-3", "namespace": "canary"},
        "spec": {"containers": [{"name": "app", "image": "docker.io/xianchao/canary:v1"}]},
        "status": {"phase": "Pending"},
    }
    seen = k8s.Images().process(printed("PodList", [pod("appv1-1", "worker-1"), pod("appv1-2", "control-1"), waiting]))
    assert seen == {
        "docker.io/istio/proxyv2:1.31.0": {
            "ids": ["sha256:bb"],
            "nodes": ["control-1", "worker-1"],
            "pods": ["canary/appv1-1", "canary/appv1-2"],
        },
        "docker.io/xianchao/canary:v1": {
            "ids": ["sha256:aa"],
            "nodes": ["control-1", "worker-1"],
            "pods": ["canary/appv1-1", "canary/appv1-2", "canary/appv1-3"],
        },
    }


@pytest.mark.parametrize("kind", ["secret", "secrets", "Secrets", "pods,secrets", "secrets.v1", "secrets/sh"])
def test_no_fact_reads_secrets(kind: str) -> None:
    with pytest.raises(ValueError, match="no Secrets"):
        k8s.Objects().command(kind)


@pytest.mark.parametrize("kind", ["--raw=/api/v1/secrets", "-f=/tmp/x", "", "pods secrets", " secrets"])
def test_a_kind_is_no_option_and_no_second_word(kind: str) -> None:
    with pytest.raises(ValueError, match=f"reads no {kind!r}"):
        k8s.Objects().command(kind)


def test_objects_are_asked_for_by_kind_namespace_and_label() -> None:
    command = k8s.Objects().command("deployments", namespace="canary", labels="app=canary; reboot")
    assert "; if test -e /etc/kubernetes/admin.conf; then kubectl " in command
    assert "--namespace canary --selector 'app=canary; reboot' -o json" in command


def test_objects_are_a_list_also_when_kubectl_prints_one() -> None:
    one = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "canary"}}
    assert k8s.Objects().process([json.dumps(one)]) == [one]


@pytest.mark.parametrize(
    ("select", "picked"),
    [
        ("[].metadata.name", ["a", "b"]),
        ("[?status.phase=='Active'].metadata.name | [0]", "a"),
        ("length(@)", 2),
        ("[?metadata.name=='nobody']", []),
        (
            "[].{name: metadata.name, phase: status.phase}",
            [{"name": "a", "phase": "Active"}, {"name": "b", "phase": None}],
        ),
        # As pyinfra's command line gives `select='[1].metadata'` and `select='[1]'`.
        ("[1].metadata", {"name": "b"}),
        ([1], {"metadata": {"name": "b"}}),
    ],
)
def test_select_gives_what_the_expression_picks(select: str, picked: Any) -> None:
    fact = k8s.Objects()
    command = fact.command("namespaces", select=select)
    assert "metadata" not in command and "selector" not in command
    found = [{"metadata": {"name": "a"}, "status": {"phase": "Active"}}, {"metadata": {"name": "b"}}]
    assert fact.process(printed("List", found)) == picked


@pytest.mark.parametrize("select", ["[?", "", "[].nobody(@)", "a b", "sort_by(@, &nobody(x))[0:1]"])
def test_a_malformed_expression_is_refused_before_anything_is_run(select: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"select: jmespath expression {select!r}: ")):
        k8s.Objects().command("pods", select=select)


def test_an_expression_that_does_not_fit_the_objects_fails_the_host_and_not_the_run() -> None:
    fact = k8s.Objects()
    fact.command("pods", select="[].abs(kind)")
    # pyinfra ends the whole run for any other error in here.
    with pytest.raises(FactProcessError, match=re.escape("'[].abs(kind)'")):
        fact.process(printed("List", [{"kind": "Pod"}]))
