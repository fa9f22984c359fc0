"""We test these aspects of Istio on the lab: the second run changes nothing; what a person changed by hand is seen by
`--dry`, field by field, and put back; what cannot be is refused with words that help.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Objects = Callable[..., dict[str, dict[str, Any]]]

CONTROL_PLANE = "Istio's control plane and gateways"
GATEWAY = "istio-ingressgateway"
IN_ISTIO = ("-n", "istio-system")


@pytest.fixture(scope="module", autouse=True)
def installed(deploy: Callable[..., Any], standing: Any) -> None:
    """Istio as declared, whatever an earlier run of these tests left."""
    made = deploy("istio")
    assert made.code == 0, made.said


def versions(objects: Objects) -> dict[str, str]:
    """Give the resourceVersion of everything that only we and istiod write: any write at all would change one."""
    kinds = (
        "customresourcedefinitions,configmaps,services,serviceaccounts,roles,clusterroles,gateways.networking.istio.io"
    )
    return {
        f"{item['kind']}/{name}": item["metadata"]["resourceVersion"]
        for kind in kinds.split(",")
        for name, item in objects(kind, *IN_ISTIO).items()
        if "istio" in json.dumps(item["metadata"].get("labels", {}))
    }


def test_the_second_run_writes_nothing(deploy: Callable[..., Any], objects: Objects) -> None:
    before = versions(objects)
    assert len(before) > 20
    again = deploy("istio")
    assert (again.code, again.changed) == (0, []), again.said
    assert versions(objects) == before


def test_a_dry_run_of_what_stands_plans_nothing(deploy: Callable[..., Any]) -> None:
    assert deploy("istio", "--dry").planned == []


def test_a_node_port_changed_by_hand_is_seen_and_put_back(
    deploy: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    def node_port() -> int:
        ports = objects("services", *IN_ISTIO)[GATEWAY]["spec"]["ports"]
        return next(int(port["nodePort"]) for port in ports if port["name"] == "http2")

    patch = '[{"op": "replace", "path": "/spec/ports/1/nodePort", "value": 30777}]'
    kubectl("patch", "service", GATEWAY, *IN_ISTIO, "--type=json", "-p", patch)
    assert node_port() == 30777
    dry = deploy("istio", "--dry")
    assert dry.planned == [CONTROL_PLANE]
    assert f"configured  Service/istio-system/{GATEWAY}" in dry.said
    assert "nodePort: 30777 -> 30191" in dry.said
    assert node_port() == 30777, "--dry wrote"
    made = deploy("istio")
    assert (made.code, made.changed) == (0, [CONTROL_PLANE]), made.said
    assert node_port() == 30191
    assert deploy("istio").changed == []


def test_a_deleted_gateway_is_seen_and_made_again(
    deploy: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    kubectl("delete", "deployment", GATEWAY, *IN_ISTIO)
    dry = deploy("istio", "--dry")
    assert dry.planned == [CONTROL_PLANE]
    assert f"created     Deployment/istio-system/{GATEWAY}" in dry.said
    made = deploy("istio")
    assert (made.code, made.changed) == (0, [CONTROL_PLANE]), made.said
    assert objects("deployments", *IN_ISTIO)[GATEWAY]["status"]["readyReplicas"] == 1
    assert deploy("istio").changed == []


def test_a_deleted_istiod_is_made_again_though_its_webhook_stands_in_the_way(
    deploy: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    kubectl("delete", "deployment", "istiod", *IN_ISTIO)
    made = deploy("istio")
    assert (made.code, made.changed) == (0, [CONTROL_PLANE]), made.said
    assert "created     Deployment/istio-system/istiod" in made.said
    assert objects("deployments", *IN_ISTIO)["istiod"]["status"]["readyReplicas"] == 1
    assert deploy("istio").changed == []


def test_an_edited_mesh_config_is_seen_line_by_line_and_put_back(
    deploy: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    def mesh() -> str:
        return str(objects("configmaps", *IN_ISTIO)["istio"]["data"]["mesh"])

    before = mesh()
    edited = before.replace("accessLogFile: /dev/stdout", 'accessLogFile: ""')
    assert edited != before
    kubectl("patch", "configmap", "istio", *IN_ISTIO, "--type=merge", "-p", json.dumps({"data": {"mesh": edited}}))
    dry = deploy("istio", "--dry")
    assert dry.planned == [CONTROL_PLANE]
    assert '-accessLogFile: ""' in dry.said
    assert "+accessLogFile: /dev/stdout" in dry.said
    made = deploy("istio")
    assert (made.code, made.changed) == (0, [CONTROL_PLANE]), made.said
    assert mesh() == before
    assert deploy("istio").changed == []


def test_what_istiod_writes_into_its_webhooks_is_no_drift(deploy: Callable[..., Any], objects: Objects) -> None:
    webhooks = objects("validatingwebhookconfigurations")["istiod-default-validator"]["webhooks"]
    # istiod has opened its webhook by now: what it wrote differs from what was applied.
    assert webhooks[0]["failurePolicy"] == "Fail"
    assert webhooks[0]["clientConfig"]["caBundle"]
    assert deploy("istio", "--dry").planned == []


def test_a_profile_without_gateway_takes_it_away_and_the_canary_refuses_by_name(
    deploy: Callable[..., Any], objects: Objects
) -> None:
    minimal = ("--data", "istio_profile=minimal")
    made = deploy("istio", *minimal)
    assert (made.code, made.changed) == (0, [CONTROL_PLANE]), made.said
    assert set(objects("deployments", *IN_ISTIO)) == {"istiod"}
    assert set(objects("services", *IN_ISTIO)) == {"istiod"}
    assert deploy("istio", *minimal).changed == []
    refused = deploy("verify", "--data", "scenario=canary", *minimal)
    assert refused.code == 1
    assert "INCONCLUSIVE" in refused.said
    assert (
        "no ready ingress gateway pod in istio-system; run deploys/istio.py with a profile that has one" in refused.said
    )
    refused = deploy("canary", *minimal)
    assert refused.code == 1
    assert "canary needs the ingress gateway; istio_profile is minimal" in refused.said
    assert "Starting operation" not in refused.said
    back = deploy("istio")
    assert (back.code, back.changed) == (0, [CONTROL_PLANE]), back.said
    assert GATEWAY in objects("deployments", *IN_ISTIO)


@pytest.fixture
def taken(kubectl: Callable[..., str]) -> Iterator[int]:
    """A node port that a Service of others holds."""
    name = "holds-a-node-port"
    kubectl("create", "service", "nodeport", name, "--tcp=80", "--node-port=30555")
    yield 30555
    kubectl("delete", "service", name)


def test_a_node_port_that_another_service_holds_is_refused_by_name(
    deploy: Callable[..., Any], taken: int, objects: Objects
) -> None:
    refused = deploy("istio", "--data", f"ingress_node_port={taken}")
    assert refused.code == 1
    assert f"node port {taken} is taken by Service default/holds-a-node-port" in refused.said
    assert "Traceback" not in refused.said
    ports = objects("services", *IN_ISTIO)[GATEWAY]["spec"]["ports"]
    assert taken not in [port["nodePort"] for port in ports]


@pytest.mark.parametrize("port", ["80", "32768", "abc", "30191.0", "true"])
def test_a_node_port_out_of_range_is_refused_before_anything_runs(deploy: Callable[..., Any], port: str) -> None:
    refused = deploy("istio", "--data", f"ingress_node_port={port}")
    assert refused.code == 1
    assert "ingress_node_port must be a whole number from 30000 to 32767" in refused.said
    assert "Starting operation" not in refused.said


def test_a_version_that_arrives_as_a_number_is_refused_with_what_to_write(
    deploy: Callable[..., Any],
) -> None:
    refused = deploy("istio", "--data", "istio_version=1.31")
    assert refused.code == 1
    assert "istio_version: 1.31 is no version" in refused.said
    assert "1.31.0" in refused.said
    assert "Traceback" not in refused.said


def test_an_unsupported_pair_is_refused_with_what_would_do(deploy: Callable[..., Any]) -> None:
    refused = deploy("istio", "--data", "istio_version=1.20.0")
    assert refused.code == 1
    assert "Istio 1.20 supports Kubernetes 1.25 to 1.29" in refused.said
    assert "allow_unsupported_versions=true" in refused.said
    allowed = deploy("istio", "--data", "istio_version=1.20.0", "--data", "allow_unsupported_versions=true")
    # The next thing that stands in the way is that the bundle has another istioctl.
    assert allowed.code == 1
    assert "istioctl is 1.31.0, and istio_version says 1.20.0" in allowed.said


def fact(run_pyinfra: Callable[..., Any], name: str) -> Any:
    finished = run_pyinfra("inventory.py", "fact", f"meshstrap.facts.{name}", "--json")
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def by_host(document: Any) -> dict[str, Any]:
    """Take the hosts' values out of what `pyinfra fact --json` prints: one fact, its hosts below it."""
    (hosts,) = document.values() if isinstance(document, dict) and "control-1" not in document else (document,)
    return dict(hosts)


def test_the_node_ports_are_a_fact_with_a_url_that_answers(run_pyinfra: Callable[..., Any]) -> None:
    import urllib.error
    import urllib.request

    seen = by_host(fact(run_pyinfra, "k8s.NodePorts"))
    http = seen["control-1"][f"istio-system/{GATEWAY}"]["http2"]
    assert (http["port"], http["node_port"]) == (80, 30191)
    assert seen["worker-1"] == {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        server = opener.open(http["url"], timeout=5).headers["server"]
    except urllib.error.HTTPError as error:
        server = error.headers["server"]
    assert server == "istio-envoy"


def test_versions_nodes_images_and_namespaces_are_facts(run_pyinfra: Callable[..., Any]) -> None:
    version = by_host(fact(run_pyinfra, "istio.Version"))["control-1"]
    assert version["control_planes"]["default"] == {"version": "1.31.0", "namespace": "istio-system", "ready": True}
    assert version["proxies"]["1.31.0"] >= 1
    assert by_host(fact(run_pyinfra, "istio.IstioctlVersion"))["control-1"] == "1.31.0"
    nodes = by_host(fact(run_pyinfra, "k8s.Nodes"))["control-1"]
    assert nodes["control-1"]["roles"] == ["control-plane"]
    assert all(node["ready"] for node in nodes.values())
    images = by_host(fact(run_pyinfra, "k8s.Images"))["control-1"]
    assert "docker.io/istio/pilot:1.31.0" in images
    namespaces = by_host(fact(run_pyinfra, "k8s.Namespaces"))["control-1"]
    assert namespaces["kube-system"]["injection"] is False
