"""Others' objects beside a scenario: each kind is named with what it changes, and says whether it is felt today; our
own are none, and on a gateway only who takes requests of the same pods, port and host.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.kube.manifests import load
from meshstrap.mesh import gateway
from meshstrap.scenarios import find, names
from meshstrap.scenarios.rivals import KINDS, Rival, Standing, told
from meshstrap.scenarios.rivals import find as find_rivals

Object = dict[str, Any]

GATEWAY_POD = {"metadata": {"name": "gw-1", "namespace": "istio-system", "labels": {"istio": "ingressgateway"}}}
(SHARED,) = load(gateway.SHARED_GATEWAY)
OLD, OURS, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"
API = {kind: version for version, kind in KINDS}


def standing(name: str) -> Standing:
    """A scenario as it stands: a pod for each of its workloads, and the gateway's."""
    scenario = find(name)
    declared = scenario.objects(scenario.parameters({}))
    pods = tuple(
        {
            "metadata": {
                "name": f"{item['metadata']['name']}-x",
                "namespace": item["metadata"]["namespace"],
                "labels": item["spec"]["template"]["metadata"]["labels"],
            }
        }
        for item in declared
        if item["kind"] == "Deployment"
    )
    outside = any(item["kind"] == "VirtualService" and item["spec"].get("gateways") for item in declared)
    return Standing(
        scenario.namespace,
        tuple(declared),
        pods,
        (GATEWAY_POD,) if outside else (),
        {80: 8080, 443: 8443, 15021: 15021},
        frozenset({"192.0.2.10"}),
    )


def live(name: str) -> list[Object]:
    """The scenario's own objects as they live, and the shared Gateway."""
    found = copy.deepcopy([dict(item) for item in standing(name).declared if item["kind"] in API])
    found.append(copy.deepcopy(dict(SHARED)))
    for item in found:
        item["metadata"]["creationTimestamp"] = OURS
    return found


def other(kind: str, spec: Object, where: str = "shop/web", made: str = NEW, **metadata: Any) -> Object:
    namespace, _, name = where.partition("/")
    metadata |= {"namespace": namespace, "name": name, "creationTimestamp": made}
    return {"apiVersion": API[kind], "kind": kind, "metadata": metadata, "spec": spec}


def rivals(name: str, *others: Object) -> list[Rival]:
    return find_rivals(standing(name), [*live(name), *others])


def to(host: str) -> Object:
    return {"route": [{"destination": {"host": host}}]}


def at_the_gateway(
    made: str, *matches: Object, host: str = "*", gateway: str = "istio-system/meshstrap-gateway"
) -> Object:
    rule = to("web") | ({"match": list(matches)} if matches else {})
    return other("VirtualService", {"hosts": [host], "gateways": [gateway], "http": [rule]}, made=made)


def server(port: int, *hosts: str, protocol: str = "HTTP", **more: Any) -> Object:
    return {"port": {"number": port, "name": "p", "protocol": protocol}, "hosts": list(hosts), **more}


def gateway_of(*servers: Object, selector: Object | None = None) -> Object:
    wanted = {"istio": "ingressgateway"} if selector is None else selector
    return other("Gateway", {"selector": wanted, "servers": list(servers)}, "shop/theirs")


SNEAKY = {"fault": {"abort": {"httpStatus": 503, "percentage": {"value": 60}}}, **to("httpbin")}
HTTPBIN = "httpbin.circuit-breaker.svc.cluster.local"


@pytest.mark.parametrize(
    ("scenario", "item", "named"),
    [
        (
            "circuit_breaker",
            other("VirtualService", {"hosts": ["httpbin"], "http": [SNEAKY]}, "circuit-breaker/sneaky"),
            "VirtualService circuit-breaker/sneaky aborts 60 % with 503 and sends to httpbin, for host " + HTTPBIN,
        ),
        (
            "circuit_breaker",
            other("VirtualService", {"hosts": ["*.svc.cluster.local"], "http": [{"timeout": "1s", **to("web")}]}),
            "VirtualService shop/web sets timeout and sends to web, for host " + HTTPBIN,
        ),
        (
            "fault",
            other("VirtualService", {"hosts": ["tomcat-svc"], "http": [to("web")]}, "fault/mine", made=OLD),
            "VirtualService fault/mine sends to web, for host tomcat-svc.fault.svc.cluster.local",
        ),
        ("canary", at_the_gateway(NEW, {"uri": {"exact": "/"}}), "takes exact / of host * too (narrower than prefix /"),
        ("canary", at_the_gateway(NEW, {"uri": {"regex": "/.*"}}), "takes regex /.* of host * too"),
        ("canary", at_the_gateway(OLD), "takes prefix / of host * too (older than VirtualService canary/canary)"),
        ("canary", at_the_gateway(NEW, host="192.0.2.10"), "of host 192.0.2.10 too (its host is the narrower one)"),
        ("mirror", at_the_gateway(OLD, host="mirror.example"), "takes prefix / of host mirror.example too (older"),
        ("bookinfo", at_the_gateway(OLD, {"uri": {"prefix": "/p"}}), "takes prefix /p of host * too (older"),
        (
            "circuit_breaker",
            other("DestinationRule", {"host": HTTPBIN, "trafficPolicy": {"tls": {}}}, "circuit-breaker/a", OLD),
            "DestinationRule circuit-breaker/a sets tls, for host " + HTTPBIN,
        ),
        (
            "fault",
            other("DestinationRule", {"host": "*.local", "trafficPolicy": {"tls": {}}}, "istio-system/all"),
            "DestinationRule istio-system/all sets tls, for host tomcat-svc.fault",
        ),
        (
            "canary",
            other("DestinationRule", {"host": "*.local", "exportTo": ["."], "subsets": []}, "istio-system/all"),
            "DestinationRule istio-system/all sets nothing",
        ),
        (
            "mirror",
            other(
                "DestinationRule",
                {"host": "mirror.mirror.svc.cluster.local", "trafficPolicy": {"tls": {}}},
                "mirror/policy",
            ),
            "DestinationRule mirror/policy sets tls",
        ),
        ("canary", gateway_of(server(80, "*", protocol="HTTPS")), "Gateway shop/theirs opens port 80 (HTTPS) for *"),
        (
            "canary",
            gateway_of(server(8080, "*", tls={"httpsRedirect": True})),
            "Gateway shop/theirs opens port 8080 (HTTP) for * on the same pods",
        ),
        (
            "retry",
            other(
                "ServiceEntry",
                {"hosts": ["nginx-svc.retry.svc.cluster.local"], "endpoints": [{"address": "192.0.2.9"}]},
            ),
            "ServiceEntry shop/web declares host nginx-svc.retry.svc.cluster.local (NONE) with endpoints 192.0.2.9",
        ),
        (
            "retry",
            other("Sidecar", {"egress": [{"hosts": ["./nosuch"]}]}, "retry/default"),
            "Sidecar retry/default lets pods see ./nosuch only, for all pods here",
        ),
        (
            "canary",
            other("EnvoyFilter", {"configPatches": [{"applyTo": "HTTP_FILTER"}]}, "istio-system/all"),
            "EnvoyFilter istio-system/all patches the proxies' HTTP_FILTER, for all pods here and the ingress gateway",
        ),
        (
            "canary",
            other(
                "EnvoyFilter",
                {
                    "workloadSelector": {"labels": {"istio": "ingressgateway"}},
                    "configPatches": [{"applyTo": "VIRTUAL_HOST"}],
                },
                "istio-system/gw",
            ),
            "patches the proxies' VIRTUAL_HOST, for the ingress gateway",
        ),
        (
            "fault",
            other("AuthorizationPolicy", {"selector": {"matchLabels": {"server": "tomcat"}}}, "fault/nobody"),
            "AuthorizationPolicy fault/nobody refuses everything (ALLOW without a rule), for pods tomcat-x",
        ),
        (
            "fault",
            other("AuthorizationPolicy", {"action": "DENY", "rules": [{}]}, "istio-system/none"),
            "AuthorizationPolicy istio-system/none refuses what its rules name (DENY, 1 rule), for all pods here",
        ),
        (
            "injection",
            other("PeerAuthentication", {"mtls": {"mode": "STRICT"}}, "istio-system/default"),
            "PeerAuthentication istio-system/default has pods take mTLS STRICT, for all pods here",
        ),
        ("fault", other("WasmPlugin", {"url": "oci://x/y"}, "fault/w"), "WasmPlugin fault/w runs the plugin oci://x/y"),
    ],
)
def test_what_is_felt_is_named_with_what_it_changes(scenario: str, item: Object, named: str) -> None:
    (rival,) = rivals(scenario, item)
    assert named in rival.text
    assert not rival.inert
    assert rival.diverts is (item["kind"] not in ("AuthorizationPolicy", "PeerAuthentication", "WasmPlugin"))


@pytest.mark.parametrize(
    ("scenario", "item", "why"),
    [
        ("canary", at_the_gateway(NEW), "VirtualService canary/canary is older"),
        ("canary", at_the_gateway(OLD, {"uri": {"prefix": "/shop"}}), "the proof sends no such request"),
        ("canary", at_the_gateway(OLD, {"headers": {"user": {"exact": "jason"}}}), "the proof sends no such request"),
        ("bookinfo", at_the_gateway(OLD), "VirtualService bookinfo/bookinfo is narrower"),
        (
            "fault",
            other("VirtualService", {"hosts": ["tomcat-svc"], "http": [to("web")]}, "fault/mine"),
            "VirtualService fault/tomcat-vs is older",
        ),
        (
            "fault",
            other("VirtualService", {"hosts": ["*.fault.svc.cluster.local"], "http": [to("web")]}, made=OLD),
            "names the host itself",
        ),
        (
            "circuit_breaker",
            other("DestinationRule", {"host": "httpbin", "trafficPolicy": {"tls": {}}}, "circuit-breaker/a"),
            "DestinationRule circuit-breaker/httpbin is older",
        ),
        (
            "circuit_breaker",
            other("DestinationRule", {"host": HTTPBIN, "trafficPolicy": {}}, made=OLD),
            "it is for callers of namespace shop alone",
        ),
        (
            "circuit_breaker",
            other("DestinationRule", {"host": "*.local", "trafficPolicy": {}}, "istio-system/all", OLD),
            "DestinationRule circuit-breaker/httpbin is nearer",
        ),
        ("canary", gateway_of(server(80, "*")), "both are HTTP"),
        ("fault", other("AuthorizationPolicy", {"action": "AUDIT", "rules": [{}]}, "fault/a"), "it only audits"),
        ("fault", other("PeerAuthentication", {"mtls": {"mode": "PERMISSIVE"}}, "fault/a"), "Istio does by itself"),
        ("fault", other("Telemetry", {"tracing": [{}]}, "fault/a"), "no request is treated otherwise"),
    ],
)
def test_what_is_not_felt_today_is_named_with_the_reason(scenario: str, item: Object, why: str) -> None:
    (rival,) = rivals(scenario, item)
    assert why in rival.inert and not rival.diverts
    assert rival.text.endswith(f"; not felt today: {rival.inert}")


@pytest.mark.parametrize(
    ("scenario", "others"),
    [
        # The same host on another port, on other pods, or on a Gateway that is not there.
        ("canary", [gateway_of(server(9090, "*")), at_the_gateway(OLD, gateway="shop/theirs")]),
        (
            "canary",
            [gateway_of(server(80, "*"), selector={"app": "their-gw"}), at_the_gateway(OLD, gateway="shop/theirs")],
        ),
        ("canary", [at_the_gateway(OLD, gateway="shop/nosuch")]),
        # Another host of the same port.
        ("canary", [at_the_gateway(OLD, host="web.example")]),
        ("canary", [gateway_of(server(80, "web.example"))]),
        ("mirror", [at_the_gateway(OLD)]),
        ("bookinfo", [at_the_gateway(OLD, {"uri": {"prefix": "/shop"}})]),
        # Rules that callers of our namespace do not see, or that are for other hosts or pods.
        ("retry", [other("VirtualService", {"hosts": ["nginx-svc.retry.svc.cluster.local"], "exportTo": ["."]})]),
        ("retry", [other("VirtualService", {"hosts": ["nginx-svc"], "http": [to("web")]})]),
        ("retry", [other("DestinationRule", {"host": "nginx-svc"})]),
        ("retry", [other("ServiceEntry", {"hosts": ["example.org"]})]),
        ("retry", [other("Sidecar", {"egress": [{"hosts": ["./*"]}]})]),
        ("retry", [other("AuthorizationPolicy", {})]),
        ("retry", [other("EnvoyFilter", {"workloadSelector": {"labels": {"app": "no"}}}, "istio-system/x")]),
        ("retry", [other("PeerAuthentication", {"selector": {"matchLabels": {"app": "busybox"}}}, "istio-system/x")]),
        ("retry", [other("AuthorizationPolicy", {"targetRefs": [{"kind": "Gateway"}]}, "retry/x")]),
        ("retry", [other("Telemetry", {"accessLogging": [{"providers": [{"name": "envoy"}]}]}, "istio-system/x")]),
        # Istio's own, and this program's.
        (
            "canary",
            [other("EnvoyFilter", {}, "istio-system/s", labels={"install.operator.istio.io/owning-resource": "x"})],
        ),
        ("canary", [other("VirtualService", {"hosts": ["*"]}, labels={"meshstrap.dev/owner": "bookinfo"})]),
    ],
)
def test_neighbours_that_touch_nothing_of_ours_are_left_in_peace(scenario: str, others: list[Object]) -> None:
    found = [rival for rival in rivals(scenario, *others) if not rival.name.startswith("Gateway shop")]
    assert found == []


@pytest.mark.parametrize("name", names())
def test_scenarios_beside_each_other_are_no_rivals(name: str) -> None:
    beside = [
        item | {"metadata": item["metadata"] | {"labels": {"meshstrap.dev/owner": each}}}
        for each in names()
        for item in live(each)
    ]
    assert find_rivals(standing(name), beside) == []
    assert find_rivals(standing(name), live(name)) == []


@given(made=st.sampled_from([OLD, OURS, NEW]), name=st.text("abcxyz", min_size=1, max_size=3))
def test_of_two_with_the_same_match_one_is_felt_and_it_is_the_older(made: str, name: str) -> None:
    item = at_the_gateway(made)
    item["metadata"]["name"] = name
    (rival,) = rivals("canary", item)
    older = (made, f"{name}.shop") < (OURS, "canary.canary")
    assert (not rival.inert) is older


KEYS = [
    "hosts",
    "gateways",
    "http",
    "match",
    "uri",
    "exact",
    "prefix",
    "regex",
    "headers",
    "route",
    "destination",
    "host",
    "weight",
    "fault",
    "abort",
    "percentage",
    "value",
    "exportTo",
    "selector",
    "matchLabels",
    "workloadSelector",
    "labels",
    "servers",
    "port",
    "number",
    "trafficPolicy",
    "subsets",
    "egress",
    "rules",
    "mtls",
    "mode",
    "portLevelMtls",
    "accessLogging",
    "providers",
    "name",
    "tls",
    "endpoints",
    "address",
    "configPatches",
    "action",
    "targetRefs",
]
LEAVES = st.sampled_from([None, True, 0, 80, "*", "/", "httpbin", "canary.canary.svc.cluster.local", ".", "mesh"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=15,
)


@given(
    kind=st.sampled_from(sorted(API)),
    spec=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8) | JSON,
    scenario=st.sampled_from(["canary", "bookinfo", "circuit_breaker"]),
    where=st.sampled_from(["istio-system/x", "canary/x", "circuit-breaker/x", "shop/x"]),
)
@settings(max_examples=300)
def test_whatever_an_object_says_is_no_error(kind: str, spec: Any, scenario: str, where: str) -> None:
    for rival in rivals(scenario, other(kind, spec, where)):
        assert rival.name == f"{kind} {where}"


@given(order=st.permutations(range(4)))
def test_the_order_in_which_they_are_listed_is_nothing(order: list[int]) -> None:
    others = [
        at_the_gateway(OLD),
        other("AuthorizationPolicy", {}, "canary/a"),
        other("PeerAuthentication", {}, "canary/b"),
        other("DestinationRule", {"host": "canary"}, "canary/c"),
    ]
    found = rivals("canary", *(others[index] for index in order))
    assert found == rivals("canary", *others)
    assert [bool(rival.inert) for rival in found] == sorted(bool(rival.inert) for rival in found)
    assert len(found) == 4


FELT, UNFELT = Rival("VirtualService a/felt", "aborts 60 %"), Rival("DestinationRule b/unfelt", "sets tls", "younger")


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("known", [list(each) for n in range(3) for each in itertools.combinations((FELT, UNFELT), n)])
def test_rivals_are_named_and_change_no_outcome(outcome: Outcome, known: list[Rival]) -> None:
    verdict = told(Verdict(outcome, "seen", "rule", ("line",)), known)
    assert verdict.outcome is outcome
    assert all(any(rival.text in line for line in verdict.lines) for rival in known)
    assert ("VirtualService a/felt" in verdict.summary) is (FELT in known and outcome is not Outcome.PASS)
    if FELT in known and outcome is not Outcome.PASS:
        assert verdict.lines[0] == "may be the cause: VirtualService a/felt aborts 60 %"
    else:
        assert verdict.summary == "seen" and verdict.lines[0] == "line"
