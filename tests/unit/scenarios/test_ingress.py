"""What stands in the way of a proof through the gateway, found in the objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.mesh import proxy
from meshstrap.mesh.proxy_config import ENDPOINTS, ROUTES
from meshstrap.scenarios import find, http, ingress
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
