"""What stands in the way of a proof through the gateway, found in the objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.mesh import proxy
from meshstrap.mesh.proxy_config import ENDPOINTS, ROUTES
from meshstrap.scenarios import engine, find, http, ingress
from meshstrap.scenarios.engine import declared
from meshstrap.scenarios.ingress import needs_gateway
from meshstrap.scenarios.site import Node, Site

OURS = declared(find("canary").objects({"weight": 10}), "VirtualService")


def test_what_is_bound_to_a_gateway_needs_one() -> None:
    def service(*gateways: str) -> dict[str, Any]:
        return {"kind": "VirtualService", "spec": {"gateways": list(gateways)}}

    assert needs_gateway([{"kind": "Service"}, service("mesh", "istio-system/meshstrap-gateway")])
    assert needs_gateway([{"kind": "Gateway"}])
    assert not needs_gateway([{"kind": "Service"}, service("mesh"), {"kind": "VirtualService", "spec": {}}])


def recorded(name: str) -> dict[str, Any]:
    path = Path(__file__).parents[1] / "mesh" / "recorded" / f"{name}-1.31.json"
    answer: dict[str, Any] = json.loads(path.read_text())
    return answer


def test_the_way_of_a_request_is_read_from_what_the_gateway_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = [
        {"metadata": {"name": "appv1-x"}, "status": {"podIP": "10.244.1.6"}},
        {"metadata": {"name": "appv2-y"}, "status": {"podIP": "10.244.1.5"}},
    ]
    monkeypatch.setattr(ingress, "gateway_pods", lambda _: [{"metadata": {"name": "gw-1"}}])
    monkeypatch.setattr(query, "list", lambda *_, **__: pods)
    dumps = {ROUTES: recorded("routes"), ENDPOINTS: recorded("endpoints")}
    monkeypatch.setattr(proxy, "dump", lambda _client, _namespace, _pod, path: dumps[path])
    site = Site(cast(Client, None), (Node("control-1", "192.0.2.10", "http://192.0.2.10:30191"),), Path("nowhere"))
    assert ingress.way(site, OURS) == (
        "http://192.0.2.10:30191 (control-1) -> gw-1 -> Service canary:80 subset v1 (90 %) -> appv1-x 10.244.1.6:80;"
        " Service canary:80 subset v2 (10 %) -> appv2-y 10.244.1.5:80"
    )


def test_a_port_that_nobody_answers_on_is_out_of_reach_and_a_refusal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    site, node = Site(cast(Client, None), (), Path("nowhere")), Node("control-1", "192.0.2.10", "http://192.0.2.10")
    for reply, said in ((http.Reply(None, "", "timed out", 3000), "timed out"), (http.Reply(503, "", "", 1), "")):
        monkeypatch.setattr(http, "get", lambda *_, reply=reply, **__: reply)
        assert ingress.out_of_reach(site, node) == said


def gateway_service(port: int = 30191, policy: str | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"type": "NodePort", "ports": [{"name": "http2", "port": 80, "nodePort": port}]}
    if policy:
        spec["externalTrafficPolicy"] = policy
    return {"metadata": {"namespace": "istio-system", "name": "istio-ingressgateway"}, "spec": spec}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site of two nodes, the gateway's only pod on worker-1."""
    pods = [{"metadata": {"name": "gw-1"}, "spec": {"nodeName": "worker-1"}}]
    monkeypatch.setattr(ingress, "gateway_pods", lambda _: pods)
    nodes = (Node("control-1", "192.0.2.10"), Node("worker-1", "192.0.2.11"))
    return Site(cast(Client, None), nodes, Path("nowhere"))


@pytest.mark.parametrize("service", [gateway_service(), gateway_service(policy="Cluster"), None])
def test_a_service_as_declared_has_no_difference(
    monkeypatch: pytest.MonkeyPatch, two_nodes: Site, service: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(query, "get", lambda *_: service)
    assert ingress.service_differences(two_nodes) == []


def test_a_node_port_and_a_policy_that_are_not_the_declared_ones_are_told(
    monkeypatch: pytest.MonkeyPatch, two_nodes: Site
) -> None:
    monkeypatch.setattr(query, "get", lambda *_: gateway_service(30555, "Local"))
    port, policy = ingress.service_differences(two_nodes)
    assert "is 30555, and 30191 is declared (ingress_node_port), so http://<node>:30191 is dead" in port
    assert "externalTrafficPolicy is Local, and Cluster is declared" in policy
    assert "nodes without a gateway pod do not answer: control-1;" in policy


def test_with_the_policy_local_only_nodes_with_a_gateway_are_asked(two_nodes: Site) -> None:
    assert ingress.answering(two_nodes) == (two_nodes, [])
    local, silent = ingress.answering(replace(two_nodes, external_traffic_policy="Local"))
    assert ([node.name for node in local.nodes], silent) == (["worker-1"], ["control-1"])


def test_requests_go_by_the_way_around_and_are_noted_by_the_url_that_people_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def get(url: str, **_: Any) -> http.Reply:
        asked.append(url)
        return http.Reply(200, "v1", "", 1)

    monkeypatch.setattr(http, "get", get)
    node = Node("worker-1", "192.0.2.11", "http://192.0.2.11:30191", by="control-1", via="http://127.0.0.1:40123")
    site = Site(cast(Client, None), (node,), Path("nowhere"))
    (seen,) = ingress.send(site, ingress.targets(site, path="/page"))
    assert asked[0].startswith("http://127.0.0.1:40123/page?mark=")
    assert seen["url"] == "http://192.0.2.11:30191"


def test_a_pass_that_went_round_is_no_bare_pass() -> None:
    passed = Verdict(Outcome.PASS, "all well", "rule", ("line",))
    nodes = [Node("control-1", "192.0.2.10"), Node("worker-1", "192.0.2.11", by="control-1", via="http://127.0.0.1:1")]
    said = engine.reached(passed, nodes, ["worker-2"])
    assert said.outcome is Outcome.PASS
    assert said.summary == "all well; worker-1 only by way of control-1, since it cannot be reached from here"
    assert said.lines == ("line", "not asked, since externalTrafficPolicy Local is declared: worker-2")
    assert engine.reached(passed, nodes[:1], []) == passed
    failed = Verdict(Outcome.FAIL, "no", "rule")
    assert engine.reached(failed, nodes, []) == failed
