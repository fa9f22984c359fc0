"""What a gateway holds against what is declared: equal, other weights, another's route first, other endpoints."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from meshstrap.mesh.proxy_config import (
    declared_routes,
    endpoint_differences,
    held_endpoints,
    held_routes,
    origins,
    refuse_incomparable,
    route_differences,
    sidecar_route_differences,
)

V1, V2 = (f"outbound|80|{subset}|canary.canary.svc.cluster.local" for subset in ("v1", "v2"))
SERVICE = {"metadata": {"name": "canary", "namespace": "canary"}, "spec": {"ports": [{"name": "http", "port": 80}]}}


def virtual_service(v1: int = 90, v2: int = 10) -> dict[str, Any]:
    host = "canary.canary.svc.cluster.local"
    return {
        "metadata": {"name": "canary", "namespace": "canary"},
        "spec": {
            "hosts": ["canary.example", "*"],
            "http": [
                {
                    "route": [
                        {"destination": {"host": host, "subset": "v1"}, "weight": v1},
                        {"destination": {"host": host, "subset": "v2"}, "weight": v2},
                    ]
                }
            ],
        },
    }


def route(weights: dict[str, int], origin: str = "canary/virtual-service/canary", **match: Any) -> dict[str, Any]:
    clusters = [{"name": name, "weight": weight} for name, weight in weights.items()]
    config = f"/apis/networking.istio.io/v1/namespaces/{origin}"
    return {
        "match": match or {"prefix": "/", "case_sensitive": True},
        "route": {"weighted_clusters": {"clusters": clusters, "total_weight": 100}, "timeout": "0s"},
        "metadata": {"filter_metadata": {"istio": {"config": config}}},
    }


def dump(routes: list[dict[str, Any]], domains: tuple[str, ...] = ("canary.example", "*")) -> dict[str, Any]:
    hosts = [{"name": f"{name}:80", "domains": [name], "routes": copy.deepcopy(routes)} for name in domains]
    return {
        "configs": [
            {"route_config": {"name": "https.443", "virtual_hosts": [{"domains": ["*"], "routes": [route({V1: 1})]}]}},
            {"route_config": {"name": "http.80", "virtual_hosts": hosts}},
        ]
    }


def test_equal_content_has_no_difference() -> None:
    assert route_differences(dump([route({V1: 90, V2: 10})]), virtual_service(), [SERVICE]) == []


def test_the_order_of_clusters_says_nothing() -> None:
    assert route_differences(dump([route({V2: 10, V1: 90})]), virtual_service(), [SERVICE]) == []


def recorded(name: str) -> dict[str, Any]:
    """What the lab's ingress gateway answered: Istio 1.31.0, Envoy 1.39.3; endpoints of others left out."""
    answer: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / f"{name}-1.31.json").read_text())
    return answer


def test_a_recorded_gateway_holds_the_declared_canary_and_no_other_weight() -> None:
    declared, other = virtual_service(), virtual_service(80, 20)
    for each in (declared, other):
        each["spec"]["hosts"] = ["*"]
    assert route_differences(recorded("routes"), declared, [SERVICE]) == []
    (difference,) = route_differences(recorded("routes"), other, [SERVICE])
    assert f"holds prefix / -> {V1} 90 %, {V2} 10 %, declared prefix / -> {V1} 80 %, {V2} 20 %" in difference
    assert origins(recorded("routes")) == {"canary/canary"}


def test_a_recorded_gateway_holds_the_pods_of_each_subset() -> None:
    held = recorded("endpoints")
    assert endpoint_differences(held, {V1: {"10.244.1.6:80"}, V2: {"10.244.1.5:80"}}) == []
    assert len(endpoint_differences(held, {V1: {"10.244.1.5:80"}, V2: {"10.244.1.6:80"}})) == 2
    assert held_endpoints(held)["BlackHoleCluster"] == set()


def test_other_weights_are_told_for_each_host_with_both_sides() -> None:
    found = route_differences(dump([route({V1: 50, V2: 50})]), virtual_service(), [SERVICE])
    assert [text.split(":")[0] for text in found] == ["host canary.example", "host *"]
    assert f"holds prefix / -> {V1} 50 %, {V2} 50 %, declared prefix / -> {V1} 90 %, {V2} 10 %" in found[0]


def test_an_arm_of_weight_zero_is_not_in_the_proxy() -> None:
    assert route_differences(dump([route({V1: 100})]), virtual_service(100, 0), [SERVICE]) == []
    assert route_differences(dump([route({V2: 100})]), virtual_service(100, 0), [SERVICE]) != []
    assert route_differences(dump([route({V1: 90, V2: 10})]), virtual_service(100, 0), [SERVICE]) != []


def test_a_single_cluster_is_all_of_it() -> None:
    single = route({})
    single["route"] = {"cluster": V1, "timeout": "0s"}
    assert route_differences(dump([single]), virtual_service(100, 0), [SERVICE]) == []


def test_a_host_that_the_gateway_does_not_know() -> None:
    held = dump([route({V1: 90, V2: 10})], domains=("*",))
    assert route_differences(held, virtual_service(), [SERVICE]) == ["host canary.example: holds no route"]
    assert len(route_differences({"configs": []}, virtual_service(), [SERVICE])) == 2
    assert len(route_differences({}, virtual_service(), [SERVICE])) == 2


def test_only_anothers_route() -> None:
    held = dump([route({V1: 90, V2: 10}, origin="other/virtual-service/canary")])
    assert (
        "holds no route of VirtualService canary/canary, only of other/canary"
        in route_differences(held, virtual_service(), [SERVICE])[0]
    )


def test_anothers_catch_all_before_ours_is_named_and_its_own_paths_are_not() -> None:
    other = "other/virtual-service/web"
    ours = route({V1: 90, V2: 10})
    beside = [route({V1: 100}, other, path="/productpage"), route({V1: 100}, other, prefix="/static"), ours]
    assert route_differences(dump(beside), virtual_service(), [SERVICE]) == []
    found = route_differences(dump([route({V1: 100}, other), ours]), virtual_service(), [SERVICE])
    assert found[0] == "host canary.example: VirtualService other/web is tried first with the same match, prefix /"
    assert route_differences(dump([ours, route({V1: 100}, other)]), virtual_service(), [SERVICE]) == []


def test_another_port_of_the_gateway_is_nothing_to_ours() -> None:
    theirs = dump([route({V2: 100}, "aaa/virtual-service/all")])["configs"][1]
    theirs["route_config"]["name"] = "http.9090"
    for configs in (
        [theirs, *dump([route({V1: 90, V2: 10})])["configs"]],
        [*dump([route({V1: 90, V2: 10})])["configs"], theirs],
    ):
        assert route_differences({"configs": configs}, virtual_service(), [SERVICE]) == []
    # Where ours are nowhere, whose are there is told all the same.
    assert "only of aaa/all" in route_differences({"configs": [theirs]}, virtual_service(), [SERVICE])[0]


def test_a_match_that_is_narrower_than_declared_is_a_difference() -> None:
    held = dump([route({V1: 90, V2: 10}, prefix="/", headers=[{"name": "end-user"}])])
    assert "prefix / with headers" in route_differences(held, virtual_service(), [SERVICE])[0]


def test_the_virtual_services_that_a_proxy_holds_routes_of() -> None:
    held = dump([route({V1: 1}, path="/x"), route({V1: 1}, "other/virtual-service/web"), {"match": {"prefix": "/"}}])
    assert origins(held) == {"canary/canary", "other/web"}
    assert origins({}) == set()


def test_matches_compile_one_by_one_in_order() -> None:
    declared = virtual_service()
    declared["spec"]["http"][0]["match"] = [{"uri": {"exact": "/productpage"}}, {"uri": {"prefix": "/static"}}]
    assert [each.match for each in declared_routes(declared, [SERVICE])] == ["exact /productpage", "prefix /static"]
    held = dump([route({V1: 90, V2: 10}, path="/productpage"), route({V1: 90, V2: 10}, prefix="/static")])
    assert route_differences(held, declared, [SERVICE]) == []


def test_a_short_host_and_a_named_port_compile_to_the_full_cluster() -> None:
    declared = virtual_service()
    declared["spec"]["http"] = [{"route": [{"destination": {"host": "canary", "port": {"number": 8080}}}]}]
    assert declared_routes(declared, [])[0].clusters == (("outbound|8080||canary.canary.svc.cluster.local", 100),)


@pytest.mark.parametrize(
    "rule",
    [
        {"timeout": "soon"},
        {"headers": {"request": {}}},
        {"fault": {"abort": {"httpStatus": 503}}},
        {"fault": {"throttle": {}}},
        {"retries": {"attempts": 3, "retryRemoteLocalities": True}},
        {"match": [{"headers": {"end-user": {"exact": "jason"}}}]},
        {"route": [{"destination": {"host": "canary"}, "headers": {}}]},
        {"route": [{"destination": {"host": "unknown"}}]},
    ],
)
def test_what_is_not_compared_is_refused_rather_than_passed_over(rule: dict[str, Any]) -> None:
    declared = virtual_service()
    declared["spec"]["http"][0].update(rule)
    with pytest.raises(ValueError):
        declared_routes(declared, [SERVICE])


RULE = {"destination": {"host": "canary"}}
FAULT = "envoy.filters.http.fault"
ALL = {"numerator": 1_000_000, "denominator": "MILLION"}
# Each rule as Istio has it, and what Envoy then holds beside the cluster.
POLICIES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"timeout": "2s"}, {"timeout": "2s"}, {}),
    ({"timeout": "0.5s"}, {"timeout": "0.500s"}, {}),
    (
        {"fault": {"abort": {"httpStatus": 503, "percentage": {"value": 100}}}},
        {},
        {FAULT: {"abort": {"http_status": 503, "percentage": ALL}}},
    ),
    (
        {"fault": {"delay": {"fixedDelay": "10s", "percentage": {"value": 50}}}},
        {},
        {FAULT: {"delay": {"fixed_delay": "10s", "percentage": {"numerator": 50}}}},
    ),
    (
        {"retries": {"attempts": 3, "retryOn": "503,gateway-error", "perTryTimeout": "1s"}},
        {
            "retry_policy": {
                "num_retries": 3,
                "per_try_timeout": "1s",
                "retry_on": "gateway-error,retriable-status-codes",
                "retriable_status_codes": [503],
            }
        },
        {},
    ),
    (
        {"mirror": {"host": "canary", "subset": "v2"}, "mirrorPercentage": {"value": 25}},
        {"request_mirror_policies": [{"cluster": V2, "runtime_fraction": {"default_value": {"numerator": 25}}}]},
        {},
    ),
]


def sidecar(action: dict[str, Any], filters: dict[str, Any], port: int = 80) -> dict[str, Any]:
    host = "canary.canary.svc.cluster.local"
    held = route({})
    held["route"] = {"cluster": f"outbound|80||{host}", "timeout": "0s", **action}
    held["typed_per_filter_config"] = filters
    hosts = [{"name": f"{host}:80", "domains": [host, "canary.canary", "10.96.0.9"], "routes": [held]}]
    return {"configs": [{"route_config": {"name": str(port), "virtual_hosts": hosts}}]}


@pytest.mark.parametrize("share", [{"value": 0}, {}])
def test_a_mirror_of_nothing_is_no_policy(share: dict[str, int]) -> None:
    declared = virtual_service()
    mirror = {"mirror": {"host": "canary", "subset": "v2"}, "mirrorPercentage": share}
    declared["spec"] = {"hosts": ["canary"], "http": [{"route": [RULE], **mirror}]}
    assert sidecar_route_differences(sidecar({}, {}), declared, [SERVICE]) == []


@pytest.mark.parametrize(("rule", "action", "filters"), POLICIES)
def test_what_a_sidecar_does_besides_routing_is_compared(
    rule: dict[str, Any], action: dict[str, Any], filters: dict[str, Any]
) -> None:
    def differences(given: dict[str, Any], held: dict[str, Any]) -> list[str]:
        declared = virtual_service()
        declared["spec"] = {"hosts": ["canary"], "http": [{"route": [RULE], **given}]}
        return sidecar_route_differences(held, declared, [SERVICE])

    assert differences(rule, sidecar(action, filters)) == []
    (lacks,) = differences(rule, sidecar({}, {}))
    assert lacks.startswith("host canary.canary.svc.cluster.local:80: holds prefix / -> ")
    if "retries" not in rule:  # A mesh has retries of its own that nobody declared.
        assert len(differences({}, sidecar(action, filters))) == 1
    assert differences(rule, sidecar(action, filters, port=8080)) == [
        "host canary.canary.svc.cluster.local:80: holds no route"
    ]


def test_retries_without_cause_are_compared_by_their_number_alone() -> None:
    declared = virtual_service()
    declared["spec"] = {"hosts": ["canary"], "http": [{"route": [RULE], "retries": {"attempts": 3}}]}

    def held(number: int) -> dict[str, Any]:
        return sidecar({"retry_policy": {"num_retries": number, "retry_on": "connect-failure,unavailable"}}, {})

    assert sidecar_route_differences(held(3), declared, [SERVICE]) == []
    assert len(sidecar_route_differences(held(2), declared, [SERVICE])) == 1
    declared["spec"]["http"][0]["retries"] = {"attempts": 0}
    assert sidecar_route_differences(sidecar({}, {}), declared, [SERVICE]) == []
    assert len(sidecar_route_differences(held(2), declared, [SERVICE])) == 1


def test_what_cannot_be_compared_is_refused_among_all_objects() -> None:
    declared = {"kind": "VirtualService", **virtual_service()}
    service = {"kind": "Service", **SERVICE}
    refuse_incomparable([{"kind": "Namespace"}, service, declared])
    declared["spec"]["tcp"] = []
    with pytest.raises(ValueError, match="VirtualService canary/canary: cannot compare tcp"):
        refuse_incomparable([service, declared])


def test_a_virtual_service_for_no_declared_service_is_refused() -> None:
    declared = virtual_service()
    declared["spec"] = {"hosts": ["other"], "http": [{"route": [RULE]}]}
    with pytest.raises(ValueError, match="host other is no declared Service"):
        sidecar_route_differences(sidecar({}, {}), declared, [SERVICE])


def endpoints(*addresses: str, cluster: str = V1, health: str | None = "HEALTHY") -> dict[str, Any]:
    entries: list[dict[str, Any]] = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": 80}}}} for address in addresses
    ]
    for entry in entries:
        if health:
            entry["health_status"] = health
    return {
        "configs": [
            {"endpoint_config": {"cluster_name": cluster, "endpoints": [{"lb_endpoints": entries}]}},
            {"static_endpoint_config": {"cluster_name": "agent"}},
        ]
    }


@pytest.mark.parametrize("health", ["HEALTHY", None])
def test_equal_endpoints_have_no_difference(health: str | None) -> None:
    held = endpoints("10.244.1.5", "10.244.1.6", health=health)
    assert endpoint_differences(held, {V1: {"10.244.1.6:80", "10.244.1.5:80"}}) == []


def test_endpoints_that_differ_are_told_with_both_sides() -> None:
    held = endpoints("10.244.1.5")
    assert endpoint_differences(held, {V1: {"10.244.1.6:80"}}) == [
        f"cluster {V1}: holds 10.244.1.5:80, the ready pods are 10.244.1.6:80"
    ]
    assert endpoint_differences(held, {V2: {"10.244.1.6:80"}}) == [
        f"cluster {V2}: holds none, the ready pods are 10.244.1.6:80"
    ]
    assert endpoint_differences(held, {V1: set()}) == [f"cluster {V1}: no ready pod is behind it"]


def test_unhealthy_endpoints_do_not_count() -> None:
    assert held_endpoints(endpoints("10.244.1.5", health="UNHEALTHY")) == {V1: set()}


def test_routes_are_read_in_envoys_order_with_their_origin() -> None:
    held = held_routes(dump([route({V1: 100}, path="/x"), route({V2: 100})]), "*")
    assert [(each.match, each.origin) for each in held] == [
        ("exact /x", "canary/canary"),
        ("prefix /", "canary/canary"),
    ]
