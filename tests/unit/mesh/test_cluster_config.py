"""What proxies hold of clusters against DestinationRules: equal, other, absent, or held though nobody declared it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from meshstrap.mesh.cluster_config import (
    at_the_server,
    cluster_differences,
    declared_policy,
    ejected,
    refuse_incomparable,
)
from meshstrap.scenarios import find

HTTPBIN = "outbound|8000||httpbin.circuit-breaker.svc.cluster.local"
WEB, UNGUARDED = (f"outbound|80||{name}.outlier-ejection.svc.cluster.local" for name in ("web", "web-unguarded"))
INBOUND = "inbound|80||"


def recorded(name: str) -> dict[str, Any]:
    """What the lab's sidecars answered: Istio 1.31.0, Envoy 1.39.3; other clusters, TLS and filters left out."""
    answer: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / f"{name}-1.31.json").read_text())
    return answer


def shipped(scenario: str) -> dict[str, Any]:
    found = find(scenario)
    (rule,) = (item for item in found.objects(found.parameters({})) if item["kind"] == "DestinationRule")
    return rule


def rule(policy: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "kind": "DestinationRule",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"host": "web", "trafficPolicy": policy} | spec,
    }


POOL = {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1, "maxRequestsPerConnection": 1}}
OUTLIER = {"consecutiveGatewayErrors": 3, "interval": "1s", "baseEjectionTime": "15s", "maxEjectionPercent": 50}


def test_recorded_sidecars_hold_what_is_shipped() -> None:
    dump = recorded("clusters")
    overflow, ejection = declared_policy(shipped("circuit_breaker")), declared_policy(shipped("outlier_ejection"))
    declared = {HTTPBIN: overflow, INBOUND: at_the_server(overflow), WEB: ejection, UNGUARDED: {}}
    assert cluster_differences(dump, declared) == []


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            {"connectionPool": POOL | {"tcp": {"maxConnections": 2}}},
            ["connectionPool.tcp.maxConnections is 1, declared 2"],
        ),
        (
            {"connectionPool": {"http": POOL["http"] | {"maxRetries": 7, "http2MaxRequests": 9}}},
            [
                "connectionPool.http.http2MaxRequests is not set, declared 9",
                "connectionPool.http.maxRetries is not set, declared 7",
                "connectionPool.tcp.maxConnections is 1, declared nothing",
            ],
        ),
        (
            {"connectionPool": {"http": POOL["http"] | {"idleTimeout": "90s"}}},
            [
                "connectionPool.http.idleTimeout is not set, declared 90 s",
                "connectionPool.tcp.maxConnections is 1, declared nothing",
            ],
        ),
        (
            {"connectionPool": POOL, "outlierDetection": {"interval": "1s"}},
            ["outlierDetection is not set, declared on", "outlierDetection.interval is not set, declared 1 s"],
        ),
    ],
)
def test_another_limit_is_told_with_both_values(policy: dict[str, Any], said: list[str]) -> None:
    found = cluster_differences(recorded("clusters"), {HTTPBIN: declared_policy(rule(policy))})
    assert found == [f"cluster {HTTPBIN}: {each}" for each in said]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"maxEjectionPercent": 10}, "outlierDetection.maxEjectionPercent is 50, declared 10"),
        ({"baseEjectionTime": "3m"}, "outlierDetection.baseEjectionTime is 15 s, declared 180 s"),
        ({"consecutive5xxErrors": 1}, "outlierDetection.consecutive5xxErrors is not set, declared 1"),
        ({"consecutiveGatewayErrors": 0}, "outlierDetection.consecutiveGatewayErrors is 3, declared 0"),
    ],
)
def test_another_ejection_is_told(changes: dict[str, Any], said: str) -> None:
    declared = declared_policy(rule({"outlierDetection": OUTLIER | changes}))
    assert cluster_differences(recorded("clusters"), {WEB: declared}) == [f"cluster {WEB}: {said}"]


def test_what_is_held_though_nobody_declared_it_is_a_difference() -> None:
    found = cluster_differences(recorded("clusters"), {WEB: {}, INBOUND: {}})
    assert f"cluster {WEB}: outlierDetection is on, declared nothing" in found
    assert f"cluster {INBOUND}: connectionPool.http.http1MaxPendingRequests is 1, declared nothing" in found


def test_an_ejection_that_somebody_enforces_by_half_is_another_one() -> None:
    dump = recorded("clusters")
    (web,) = (entry["cluster"] for entry in dump["configs"] if entry["cluster"]["name"] == WEB)
    web["outlier_detection"]["enforcing_consecutive_gateway_failure"] = 50
    (said,) = cluster_differences(dump, {WEB: declared_policy(rule({"outlierDetection": OUTLIER}))})
    assert said.endswith("consecutiveGatewayErrors is 3, enforced for 50 %, declared 3")


def test_a_cluster_that_is_not_there_is_told() -> None:
    assert cluster_differences({"configs": []}, {WEB: {}}) == [f"cluster {WEB}: is not there"]


def test_a_zero_is_as_good_as_nothing_where_istio_takes_it_so() -> None:
    policy = {
        "connectionPool": {"tcp": {"maxConnections": 0}},
        "outlierDetection": {"consecutive5xxErrors": 0, "maxEjectionPercent": 0},
    }
    assert declared_policy(rule(policy)) == {"outlierDetection": "on", "outlierDetection.consecutive5xxErrors": "0"}


def test_subsets_without_a_policy_of_their_own_change_nothing() -> None:
    subsets = [{"name": "v1", "labels": {"version": "v1"}}]
    assert declared_policy(rule({"connectionPool": POOL}, subsets=subsets)) == declared_policy(
        rule({"connectionPool": POOL})
    )


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        (rule({"loadBalancer": {"simple": "RANDOM"}}), "trafficPolicy.loadBalancer"),
        (rule({"portLevelSettings": []}), "trafficPolicy.portLevelSettings"),
        (rule({"connectionPool": {"tcp": {"connectTimeout": "1s"}}}), "connectionPool.tcp.connectTimeout"),
        (rule({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}), "connectionPool.http.h2UpgradePolicy"),
        (rule({"outlierDetection": {"minHealthPercent": 50}}), "outlierDetection.minHealthPercent"),
        (rule({}, exportTo=["*"]), "exportTo"),
        (rule({}, subsets=[{"name": "v1", "trafficPolicy": {}}]), "subsets.trafficPolicy"),
    ],
)
def test_what_is_not_compared_is_refused_by_name(declared: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"DestinationRule shop/web: cannot compare {named}"):
        refuse_incomparable([{"kind": "Service"}, declared])


@pytest.mark.parametrize("interval", ["1", "soon", ""])
def test_a_duration_that_is_none_is_refused(interval: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        refuse_incomparable([rule({"outlierDetection": {"interval": interval}})])


def test_a_recorded_ejection_is_read_by_its_flag_though_eds_says_healthy() -> None:
    statuses = recorded("statuses")
    assert ejected(statuses, WEB) == {"10.244.1.11:80"}
    assert ejected(statuses, UNGUARDED) == set()
    assert ejected(statuses, HTTPBIN) is None
    (web,) = (status for status in statuses["cluster_statuses"] if status["name"] == WEB)
    assert {host["health_status"]["eds_health_status"] for host in web["host_statuses"]} == {"HEALTHY"}


def test_the_delimiter_at_the_end_of_a_name_is_none_of_it() -> None:
    dump = copy.deepcopy(recorded("clusters"))
    for entry in dump["configs"]:
        entry["cluster"]["name"] += ";"
    assert cluster_differences(dump, {UNGUARDED: {}}) == []
