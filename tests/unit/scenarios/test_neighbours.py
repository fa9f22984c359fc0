"""What the engine reads from a cluster for every scenario: whether logs can be read, and who stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.scenarios import find, neighbours
from meshstrap.scenarios.neighbours import Neighbours
from meshstrap.scenarios.site import Node, Site

Object = dict[str, Any]

MESH = {"data": {"mesh": "accessLogFile: /dev/stdout\nrootNamespace: istio-system\n"}}
OFF = {"providers": [{"name": "envoy"}], "disabled": True}


def item(kind: str, where: str, spec: Object, **metadata: Any) -> Object:
    namespace, _, name = where.partition("/")
    return {"kind": kind, "metadata": {"namespace": namespace, "name": name, **metadata}, "spec": spec}


def pod(where: str, proxy: str = "istio-proxy", **labels: str) -> Object:
    return item("Pod", where, {"containers": [{"name": proxy}]}, labels=labels)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Neighbours]:
    """Look from a scenario at a cluster that has some objects: look("canary", *objects, config=...)."""

    def at(name: str, *objects: Object, config: Object | None = MESH) -> Neighbours:
        def listed(_: Client, version: str, kind: str, namespace: str | None = None, **__: str) -> list[Object]:
            return [
                each for each in objects if each["kind"] == kind and namespace in (None, each["metadata"]["namespace"])
            ]

        def got(_: Client, version: str, kind: str, *__: str) -> Object | None:
            ports = [{"port": 80, "targetPort": 8080}, {"port": 443, "targetPort": "https"}]
            return config if kind == "ConfigMap" else {"spec": {"ports": ports}}

        monkeypatch.setattr(query, "list", listed)
        monkeypatch.setattr(query, "get", got)
        scenario = find(name)
        here = Node("control-1", "192.0.2.10", "http://127.0.0.1:30191")
        site = Site(cast(Client, None), (here,), Path("nowhere"))
        return neighbours.look(site, scenario.namespace, scenario.objects(scenario.parameters({})))

    return at


GATEWAY_POD = pod("istio-system/gw-1", istio="ingressgateway")
SHARED = item(
    "Gateway",
    "istio-system/meshstrap-gateway",
    {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 80}, "hosts": ["*"]}]},
)


def test_a_cluster_where_nobody_else_is_lacks_nothing(look: Callable[..., Neighbours]) -> None:
    assert look("canary", pod("canary/appv1", apply="canary"), GATEWAY_POD, SHARED) == Neighbours((), ())


def test_logs_that_are_taken_away_are_a_lack_and_some_lines_of_them_a_rival(look: Callable[..., Neighbours]) -> None:
    silent = item("Telemetry", "istio-system/silent", {"accessLogging": [OFF]})
    seen = look("fault", pod("fault/busybox", app="busybox"), silent)
    assert seen.lacks == ("Telemetry istio-system/silent disables the access log (envoy); take that out or delete it",)
    dim = item("Telemetry", "fault/dim", {"accessLogging": [OFF | {"match": {"mode": "SERVER"}}]})
    seen = look("fault", pod("fault/busybox", app="busybox"), dim)
    assert seen.lacks == () and [rival.name for rival in seen.rivals] == ["Telemetry fault/dim"]
    # Who has no proxy has no log to lose; and a scenario inside does without the gateway's.
    assert look("fault", pod("fault/busybox", "busybox"), silent).lacks == ()
    gateways = item(
        "Telemetry",
        "istio-system/gw",
        {"accessLogging": [OFF], "selector": {"matchLabels": {"istio": "ingressgateway"}}},
    )
    assert look("fault", pod("fault/busybox"), GATEWAY_POD, gateways).lacks == ()
    assert look("mirror", pod("mirror/appv1"), GATEWAY_POD, gateways).lacks != ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "is not there"),
        ({"data": {"mesh": "a: [b"}}, "is no YAML"),
        ({"data": {"mesh": ""}}, "lacks accessLogFile"),
    ],
)
def test_a_mesh_config_that_gives_no_logs_is_a_lack(
    look: Callable[..., Neighbours], config: Object | None, said: str
) -> None:
    (lack,) = look("fault", pod("fault/busybox"), config=config).lacks
    assert said in lack and "ConfigMap istio-system/istio" in lack


@pytest.mark.parametrize("host", ["*", "192.0.2.10", "127.0.0.1"])
def test_who_takes_requests_for_the_bare_url_is_named(look: Callable[..., Neighbours], host: str) -> None:
    spec = {
        "hosts": [host],
        "gateways": ["istio-system/meshstrap-gateway"],
        "http": [{"match": [{"uri": {"exact": "/"}}]}],
    }
    ours = item("VirtualService", "canary/canary", {"hosts": ["*"], "gateways": spec["gateways"], "http": [{}]})
    (rival,) = look(
        "canary", pod("canary/appv1"), GATEWAY_POD, SHARED, ours, item("VirtualService", "shop/web", spec)
    ).rivals
    assert f"VirtualService shop/web takes exact / of host {host} too" in rival.text and not rival.inert


def test_another_root_namespace_is_read_from_the_mesh_config(look: Callable[..., Neighbours]) -> None:
    config = {"data": {"mesh": "accessLogFile: /dev/stdout\nrootNamespace: mesh-root\n"}}
    strict = item("PeerAuthentication", "mesh-root/default", {"mtls": {"mode": "STRICT"}})
    assert [rival.name for rival in look("fault", pod("fault/a"), strict, config=config).rivals] == [
        "PeerAuthentication mesh-root/default"
    ]
    assert look("fault", pod("fault/a"), strict).rivals == ()
