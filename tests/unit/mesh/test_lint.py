"""We test that the linter finds the tutorial's own mistakes and nothing in what is shipped, tells each form that is a
mistake from its neighbour that is none, goes by the site's version of Istio, names the place, and never breaks.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshstrap.kube import manifests
from meshstrap.mesh import gateway, versions
from meshstrap.mesh.lint import ACCEPT, RULES, lint, lint_files
from meshstrap.scenarios import find, names

TUTORIAL = Path(__file__).parent / "tutorial"
NOW = "1.31.0"


def found(text: str, istio: str = NOW) -> list[tuple[str, str]]:
    """The rules that a manifest breaks, each with its field."""
    return [(finding.rule, finding.field) for finding in lint(manifests.load(text), istio)]


def said(text: str, istio: str = NOW) -> str:
    """What the one finding of a manifest says."""
    (finding,) = lint(manifests.load(text), istio)
    return finding.what


def virtual_service(rule: str, *, name: str = "vs", hosts: str = "[web]", gateways: str = "[mesh]") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: {hosts}
  gateways: {gateways}
  http:
  - {rule}
"""


def workload(replicas: str = "replicas: 1", *, name: str = "web", labels: str = "{app: web}") -> str:
    return f"""
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  {replicas}
  selector: {{matchLabels: {labels}}}
  template:
    metadata: {{labels: {labels}}}
"""


def service(port: str = "{name: http, port: 80}", *, extra: str = "") -> str:
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{port}]{extra}}}
"""


def destination_rule(policy: str, *, host: str = "web", subsets: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {{name: web, namespace: shop}}
spec:
  host: {host}
  trafficPolicy: {policy}
  {subsets}
"""


# --- what people really write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "mistakes"),
    [
        (["bookinfo", "bookinfo-gateway"], []),
        (["canary-v1", "canary-v2"], [("declared-twice", "Deployment/appv1", ".metadata.name")]),
        (
            ["canary-service", "canary-gateway", "canary-virtualservice"],
            [("port-name", "Service/canary", ".spec.ports[0]")],
        ),
        (
            ["httpbin", "httpbin-destinationrule", "fortio"],
            [("self-ejection", "DestinationRule/httpbin", ".spec.trafficPolicy")],
        ),
        (["nginx", "tomcat"], []),
        (["timeout"], [("manifest", "", "")]),
        (
            ["nginx", "tomcat", "retry"],
            [
                ("retry-on", "VirtualService/nginx-vs", ".spec.http[0].retries"),
                ("per-try-timeout", "VirtualService/nginx-vs", ".spec.http[0].retries.perTryTimeout"),
            ],
        ),
    ],
    ids=lambda value: "+".join(value) if value and isinstance(value[0], str) else "",
)
def test_the_tutorials_own_mistakes_are_found_and_no_others(files: list[str], mistakes: list[object]) -> None:
    linted = lint_files([TUTORIAL / f"{name}.yaml" for name in files], NOW)
    assert [(each.rule, each.object, each.field) for each in linted.findings] == mistakes


def test_the_tutorials_retries_did_retry_before_istio_1_24() -> None:
    rules = [each.rule for each in lint_files([TUTORIAL / "retry.yaml"], "1.23.4").findings]
    assert rules == ["per-try-timeout"]


def test_the_tutorials_timeout_in_its_right_place_is_no_mistake(tmp_path: Path) -> None:
    text = (TUTORIAL / "timeout.yaml").read_text()
    mended = re.sub(r"  - route:\n    timeout: 2s.*\n", "  - timeout: 2s\n    route:\n", text)
    assert mended != text
    right = tmp_path / "timeout.yaml"
    right.write_text(mended)
    assert lint_files([right], NOW).findings == ()


@pytest.mark.parametrize("istio", [f"{major}.{minor}" for major, minor in versions.TABLE])
def test_what_is_shipped_is_clean_alone_and_side_by_side(istio: str) -> None:
    together = manifests.load(gateway.SHARED_GATEWAY)
    for name in names():
        scenario = find(name)
        objects = scenario.objects(scenario.parameters({}))
        assert lint(objects, istio) == [], name
        together += objects
    assert lint(together, istio) == []


def test_every_rule_has_a_name_of_its_own_and_says_what_to_do() -> None:
    both = virtual_service("{fault: {abort: {httpStatus: 503}}, timeout: 1s, retries: {attempts: 1}}")
    findings = lint(manifests.load(both), NOW)
    assert [finding.rule for finding in findings] == [
        "fault-beside-timeout",
        "fault-beside-retries",
        "fault-percentage",
        "retry-on",
    ]
    assert all(finding.what and finding.instead and finding.source for finding in findings)
    assert len(set(RULES)) == len(RULES)


# --- weights ---------------------------------------------------------------------------------------------------------


def split(*weights: object) -> str:
    route = ", ".join(
        f"{{destination: {{host: web, subset: v{number}}}{'' if weight is None else f', weight: {weight}'}}}"
        for number, weight in enumerate(weights)
    )
    return virtual_service(f"{{route: [{route}]}}")


@pytest.mark.parametrize(
    "weights", [(90, 10), (100, 0), (0, 100), (100, None), (33, 33, 34), (None,), (100,), (0,), (0, 0), (None, None)]
)
def test_weights_that_sum_to_100_or_are_refused_are_no_finding(weights: tuple[object, ...]) -> None:
    assert found(split(*weights)) == []


def test_weights_that_do_not_sum_to_100_are_told_as_the_shares_that_they_really_are() -> None:
    assert found(split(50, 30)) == [("weights", ".spec.http[0].route")]
    assert said(split(50, 30)).endswith("taken as ratios: the destinations get 62.5 % and 37.5 %")
    assert said(split(90, 20)).endswith("81.8 % and 18.2 %")
    assert said(split(50, None)).endswith("100.0 % and 0.0 %")


def test_before_istio_1_15_the_webhook_refuses_such_weights() -> None:
    assert said(split(50, 30), "1.14.6").endswith("sum to 80: Istio's webhook refuses the object")


def test_a_single_destination_gets_everything_whatever_its_weight() -> None:
    assert said(split(50)) == "the only destination gets everything, whatever its weight of 50 says"


@pytest.mark.parametrize("weight", ["'50'", -10, 1.5, True, "[1]"])
def test_weights_that_the_schema_refuses_are_left_to_it(weight: object) -> None:
    assert found(split(weight, 30)) == []


# --- faults, timeouts, retries ---------------------------------------------------------------------------------------

DELAY = "fault: {delay: {fixedDelay: 7s, percentage: {value: 100}}}"
ABORT = "fault: {abort: {httpStatus: 503, percentage: {value: 100}}}"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (f"{{{DELAY}, timeout: 2s}}", [("fault-beside-timeout", ".spec.http[0].timeout")]),
        (f"{{{ABORT}, retries: {{attempts: 3, retryOn: '503'}}}}", [("fault-beside-retries", ".spec.http[0].retries")]),
        (f"{{{DELAY}}}", []),
        (f"{{{ABORT}}}", []),
        # Off is what the fault makes of them anyway.
        (f"{{{DELAY}, timeout: 0s}}", []),
        (f"{{{ABORT}, retries: {{attempts: 0}}}}", []),
        ("{timeout: 2s, retries: {attempts: 3, retryOn: gateway-error, perTryTimeout: 500ms}}", []),
        ("{fault: {}, timeout: 2s}", []),
        ("{fault: {delay: {fixedDelay: 7s}}}", [("fault-percentage", ".spec.http[0].fault.delay")]),
        ("{fault: {delay: {fixedDelay: 7s, percentage: {}}}}", [("fault-percentage", ".spec.http[0].fault.delay")]),
        ("{fault: {delay: {fixedDelay: 7s, percent: 50}}}", []),
        ("{fault: {delay: {fixedDelay: 7s, percentage: {value: 0}}}}", []),
        ("{fault: {abort: {httpStatus: 503}}}", [("fault-percentage", ".spec.http[0].fault.abort")]),
        ("{fault: {abort: {httpStatus: 503, percent: 50}}}", [("fault-percentage", ".spec.http[0].fault.abort")]),
    ],
)
def test_a_fault_is_told_from_what_it_makes_inert(rule: str, expected: list[tuple[str, str]]) -> None:
    assert found(virtual_service(rule)) == expected


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        ("{attempts: 3}", ["retry-on"]),
        ("{attempts: 3, retryOn: ''}", ["retry-on"]),
        ("{attempts: 3, retryOn: '503'}", []),
        ("{attempts: 0}", []),
        ("{attempts: 3, retryOn: '503', perTryTimeout: 2s}", ["per-try-timeout"]),
        ("{attempts: 3, retryOn: 'connect-failure, retriable-4xx', perTryTimeout: 2s}", ["per-try-timeout"]),
        ("{attempts: 3, retryOn: '503,gateway-error', perTryTimeout: 2s}", []),
        ("{attempts: 3, retryOn: '503, 5xx', perTryTimeout: 2s}", []),
        ("{attempts: 3, retryOn: reset, perTryTimeout: 2s}", []),
        ("{attempts: 3, retryOn: reset-before-request, perTryTimeout: 2s}", ["per-try-timeout"]),
        ("{attempts: 0, perTryTimeout: 2s}", []),
    ],
)
def test_retries_say_on_what_and_after_a_per_try_timeout_too(retries: str, expected: list[str]) -> None:
    assert [rule for rule, _ in found(virtual_service(f"{{retries: {retries}}}"))] == expected


@pytest.mark.parametrize(
    ("timeout", "inert"), [("2s", True), ("1.5s", True), ("1999ms", True), ("2001ms", False), ("1m", False)]
)
def test_a_per_try_timeout_that_the_timeout_overtakes_is_found(timeout: str, inert: bool) -> None:
    rule = f"{{timeout: {timeout}, retries: {{attempts: 3, retryOn: gateway-error, perTryTimeout: 2s}}}}"
    assert bool(found(virtual_service(rule))) == inert
    if inert:
        assert f"not shorter than the timeout ({timeout})" in said(virtual_service(rule))


# --- two VirtualServices for one host ---------------------------------------------------------------------------------

TO_WEB = "route: [{destination: {host: web}}]"


def on(match: str) -> str:
    return f"{{{TO_WEB}}}" if not match else f"{{match: [{match}], {TO_WEB}}}"


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("", "", True),
        ("", "{uri: {prefix: /}}", True),
        ("{uri: {exact: /productpage}}", "", False),
        ("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}", True),
        ("{uri: {prefix: /a/b}}", "{uri: {prefix: /a}}", True),
        ("{uri: {exact: /a/b}}", "{uri: {prefix: /a}}", True),
        ("{uri: {prefix: /a}}", "{uri: {prefix: /b}}", False),
        ("{uri: {exact: /a}}", "{uri: {exact: /a}}", True),
        ("{uri: {exact: /a}}", "{uri: {exact: /ab}}", False),
        ("{name: x, uri: {exact: /a}}", "{name: y, uri: {exact: /a}}", True),
        ("{uri: {prefix: /a}, method: {exact: GET}}", "{uri: {prefix: /a}, method: {exact: POST}}", False),
        ("{uri: {prefix: /a}, method: {exact: GET}}", "{uri: {prefix: /a}}", True),
        ("{uri: {prefix: /a}, method: {exact: GET}}", "", False),
        ("{headers: {x: {exact: y}}}", "{headers: {x: {exact: z}}}", False),
        ("{uri: {regex: /a.*}}", "{uri: {prefix: /a}}", False),
    ],
)
def test_two_virtual_services_on_one_gateway_meet_or_do_not(one: str, other: str, meet: bool) -> None:
    def both(hosts: str = "['*']", gateways: str = "[istio-system/shared]") -> list[tuple[str, str]]:
        return found(
            virtual_service(on(one), name="one", hosts=hosts, gateways=gateways)
            + virtual_service(on(other), name="other", hosts="['*']", gateways="[mesh, istio-system/shared]")
        )

    assert [rule for rule, _ in both()] == (["shared-host"] if meet else [])
    assert both(hosts="[shop.example]") == []
    assert both(gateways="[istio-system/another]") == []
    # Two on sidecars are IST0109, which analyze says.
    assert both(gateways="[mesh]") == []


def test_a_gateway_without_a_namespace_is_that_of_the_virtual_services_own() -> None:
    first = virtual_service(on(""), name="one", hosts="['*']", gateways="[shop/door]")
    second = virtual_service(on(""), name="other", hosts="['*']", gateways="[door]")
    (finding,) = lint(manifests.load(first + second), NOW)
    assert finding.ref.name == "other"
    assert finding.what.startswith("VirtualService/shop/one takes the same requests of host * on Gateway shop/door")


# --- outlier detection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "percent", "ejects"),
    [
        (3, 10, False),
        (3, 33, False),
        (3, 34, True),
        (10, 10, True),
        (9, 10, False),
        (2, 50, True),
        (2, 49, False),
        (1, 100, True),
        (1, 99, False),
        (3, None, False),
        (10, None, True),
        (3, 0, False),  # Istio cannot tell 0 from absent
    ],
)
def test_a_share_that_can_eject_no_host_is_found(replicas: int, percent: int | None, ejects: bool) -> None:
    setting = "{}" if percent is None else f"{{maxEjectionPercent: {percent}}}"
    text = workload(f"replicas: {replicas}") + service() + destination_rule(f"{{outlierDetection: {setting}}}")
    rules = [rule for rule, _ in found(text)]
    assert rules == ([] if ejects else ["max-ejection"])
    # Envoy before 1.28 always ejects the first one.
    assert found(text, "1.19.10") == []


def test_what_would_do_is_said() -> None:
    text = workload("replicas: 3") + service() + destination_rule("{outlierDetection: {maxEjectionPercent: 10}}")
    (finding,) = lint(manifests.load(text), NOW)
    assert finding.what.startswith("one of 3 hosts is 33.3 %, more than maxEjectionPercent 10 allows")
    assert finding.instead.startswith("maxEjectionPercent: 34 or more")


@pytest.mark.parametrize(
    "text",
    [
        # Another file may have the workload, or scale it; then nothing is said.
        service() + destination_rule("{outlierDetection: {}}"),
        workload() + destination_rule("{outlierDetection: {}}"),
        workload("") + service() + destination_rule("{outlierDetection: {}}"),
        workload(labels="{app: other}") + service() + destination_rule("{outlierDetection: {}}"),
        workload() + service() + destination_rule("{outlierDetection: {}}", host="web.other"),
        workload() + service() + destination_rule("{outlierDetection: {}}", host="web.example.com"),
        workload()
        + service()
        + destination_rule("{outlierDetection: {}}")
        + """
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop}
spec: {maxReplicas: 20, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
""",
    ],
)
def test_where_the_number_of_hosts_is_not_declared_nothing_is_said(text: str) -> None:
    assert found(text) == []


def test_hosts_are_counted_over_workloads_and_by_subset() -> None:
    pods = workload("replicas: 6", name="one", labels="{app: web, version: v1}")
    pods += workload("replicas: 4", name="two", labels="{app: web, version: v2}")
    subsets = "subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {outlierDetection: {}}}]"
    text = pods + service() + destination_rule("{outlierDetection: {}}", host="web.shop.svc.cluster.local")
    assert found(text) == []
    text = pods + service() + destination_rule("{outlierDetection: {}}", subsets=subsets)
    assert found(text) == [("max-ejection", ".spec.subsets[0].trafficPolicy.outlierDetection")]
    port = "{portLevelSettings: [{port: {number: 80}, outlierDetection: {maxEjectionPercent: 5}}]}"
    assert found(pods + service() + destination_rule(port)) == [
        ("max-ejection", ".spec.trafficPolicy.portLevelSettings[0].outlierDetection.maxEjectionPercent")
    ]


POOL = "connectionPool: {http: {http1MaxPendingRequests: 1}}"
EJECT = "outlierDetection: {consecutiveGatewayErrors: 1, maxEjectionPercent: 100}"


@pytest.mark.parametrize(
    ("replicas", "policy", "poisons"),
    [
        (1, f"{{{POOL}, {EJECT}}}", True),
        (2, f"{{{POOL}, {EJECT}}}", False),
        (1, f"{{{POOL}}}", False),
        (1, f"{{{EJECT}}}", False),
        (1, f"{{connectionPool: {{tcp: {{maxConnections: 1}}}}, {EJECT}}}", True),
        (1, f"{{connectionPool: {{tcp: {{connectTimeout: 1s}}}}, {EJECT}}}", False),
        (1, f"{{connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}, {EJECT}}}", False),
        (1, f"{{{POOL}, outlierDetection: {{consecutive5xxErrors: 0, maxEjectionPercent: 100}}}}", False),
    ],
)
def test_limits_and_ejection_on_the_only_replica_are_found(replicas: int, policy: str, poisons: bool) -> None:
    text = workload(f"replicas: {replicas}") + service() + destination_rule(policy)
    assert [rule for rule, _ in found(text)] == (["self-ejection"] if poisons else [])


@pytest.mark.parametrize(
    ("outlier", "never"),
    [
        ("{consecutiveGatewayErrors: 7}", True),
        ("{consecutiveGatewayErrors: 5}", False),
        ("{consecutiveGatewayErrors: 7, consecutive5xxErrors: 10}", False),
        ("{consecutiveGatewayErrors: 7, consecutive5xxErrors: 3}", True),
        ("{consecutiveGatewayErrors: 7, consecutive5xxErrors: 0}", False),
        ("{consecutiveGatewayErrors: 0}", False),
        ("{consecutive5xxErrors: 3}", False),
    ],
)
def test_gateway_errors_that_are_never_reached_are_found(outlier: str, never: bool) -> None:
    text = destination_rule(f"{{outlierDetection: {outlier}}}")
    assert [rule for rule, _ in found(text)] == (["gateway-errors"] if never else [])


# --- ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "guessed"),
    [
        ("{port: 80}", True),
        ("{port: 80, protocol: TCP, targetPort: 8080}", True),
        ("{port: 80, name: http}", False),
        ("{port: 80, name: web}", False),
        ("{port: 80, appProtocol: http}", False),
        ("{port: 53, protocol: UDP}", False),
        ("{port: 3306}", False),
    ],
)
def test_a_port_without_a_name_is_found(port: str, guessed: bool) -> None:
    assert found(service(port)) == ([("port-name", ".spec.ports[0]")] if guessed else [])


def test_a_name_for_something_outside_has_no_port_to_guess() -> None:
    assert found(service("{port: 80}", extra=", type: ExternalName, externalName: example.com")) == []


@pytest.mark.parametrize(
    ("port", "unseen"),
    [
        ("{port: 80, name: tcp-web}", True),
        ("{port: 80, name: https}", True),
        ("{port: 80, name: http, appProtocol: tcp}", True),
        ("{port: 80, name: http}", False),
        ("{port: 80, name: grpc-api}", False),
        ("{port: 80, name: GRPC-Web-api}", False),
        ("{port: 80, name: web}", False),
        ("{port: 80, name: tcp, appProtocol: kubernetes.io/h2c}", False),
        ("{port: 80, name: tcp}, {port: 81, name: http}", False),
    ],
)
def test_http_rules_for_ports_that_are_not_http_are_found(port: str, unseen: bool) -> None:
    text = service(port) + virtual_service("{timeout: 2s}", hosts="[web.shop.svc.cluster.local]")
    assert found(text) == ([("port-protocol", ".spec.hosts[0]")] if unseen else [])
    # A gateway reads HTTP on its own listener, whatever the Service says.
    assert found(service(port) + virtual_service("{timeout: 2s}", gateways="[shop/door]")) == []


# --- places, acceptance, robustness -----------------------------------------------------------------------------------


def test_a_finding_names_file_document_line_and_the_other_object(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(virtual_service(on(""), name="one", hosts="['*']", gateways="[door]"))
    (tmp_path / "b.yaml").write_text(
        service() + virtual_service(on("{uri: {prefix: /}}"), name="other", hosts="['*']", gateways="[door]")
    )
    (located,) = lint_files([tmp_path], NOW).findings
    b = tmp_path / "b.yaml"
    # Each text begins with an empty line; the first `---` opens document 1.
    line = next(number for number, text in enumerate(b.read_text().splitlines(), 1) if "match:" in text)
    assert (located.file, located.document, located.line) == (str(b), 2, line)
    assert located.also == f"{tmp_path / 'a.yaml'}:3: VirtualService/shop/one"
    assert located.lines[0] == f"{b}:{line}: document 2, VirtualService/shop/other .spec.http[0].match[0] [shared-host]"


def test_a_field_that_is_merged_in_is_placed_at_what_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "vs.yaml"
    path.write_text("""apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: vs}
spec:
  http:
    - &base
      retries: {attempts: 2}
    - <<: *base
""")
    assert [each.line for each in lint_files([path], NOW).findings] == [7, 8]


def test_a_file_that_is_no_manifest_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(split(50, 30) + "---\nkind: [\n")
    (tmp_path / "b.yaml").write_text(service("{port: 80}"))
    linted = lint_files([tmp_path, tmp_path / "b.yaml", tmp_path / "gone.yaml"], NOW)
    assert [each.rule for each in linted.findings] == ["manifest", "manifest", "weights", "port-name"]
    assert (linted.files, linted.objects) == (4, 2)


def test_one_object_in_two_files_is_found_where_it_stands_again(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(service())
    (located,) = lint_files([tmp_path], NOW).findings
    assert (located.rule, located.file) == ("declared-twice", str(tmp_path / "b.yaml"))
    assert "replaces the first" in located.what


def test_what_an_object_accepts_by_name_is_not_said() -> None:
    def retries(accepted: str) -> list[tuple[str, str]]:
        annotated = f"{{name: vs, namespace: shop, annotations: {{{ACCEPT}: '{accepted}'}}}}"
        text = virtual_service("{retries: {attempts: 3, perTryTimeout: 2s}}")
        return found(text.replace("{name: vs, namespace: shop}", annotated))

    assert [rule for rule, _ in retries("weights")] == ["retry-on", "per-try-timeout"]
    assert [rule for rule, _ in retries("retry-on")] == ["per-try-timeout"]
    assert retries("retry-on, per-try-timeout") == []


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'latest' is no version"):
        lint([], "latest")


_SCALARS = st.none() | st.booleans() | st.integers(-5, 200) | st.floats(allow_nan=False, allow_infinity=False)
_JSON = st.recursive(
    _SCALARS | st.sampled_from(["", "web", "2s", "*", "mesh", "100", "é"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "uri", "port"]), inner, max_size=2)
    ),
    max_leaves=6,
)


def everything() -> list[dict[str, Any]]:
    """A declaration that comes to every line of every rule."""
    text = (
        workload()
        + service("{port: 80}")
        + destination_rule(
            f"{{{POOL}, {EJECT}, portLevelSettings: [{{port: {{number: 80}}, {EJECT}}}]}}",
            subsets="subsets: [{name: v1, labels: {app: web}, trafficPolicy: {outlierDetection: {}}}]",
        )
        + virtual_service(
            f"{{{DELAY}, timeout: 2s, retries: {{attempts: 3, perTryTimeout: 2s}}}}", gateways="[a, mesh]"
        )
        + virtual_service(on("{uri: {prefix: /a}}, {uri: {exact: /b}}"), name="two", gateways="[a]")
    )
    return manifests.load(text)


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [deeper for key, part in below for deeper in paths(part, (*path, key))]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_can_be_loaded_can_be_linted(data: st.DataObject) -> None:
    objects = everything()
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.sampled_from(paths(objects)))
        holder: Any = objects
        for step in where[:-1]:
            holder = holder[step]
        holder[where[-1]] = copy.deepcopy(data.draw(_JSON))
    try:
        loaded = manifests.load(yaml.safe_dump_all(objects, allow_unicode=True))
    except manifests.ManifestError:
        return
    for istio in ("1.13", NOW):
        for finding in lint(loaded, istio):
            assert finding.field.startswith(".") and finding.what


def test_of_a_secret_that_is_no_base64_the_key_is_named_and_never_the_value(tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    file.write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: one}\ndata: {token: hunter2}\n")
    (finding,) = lint_files([file], NOW).findings
    assert finding.rule == "manifest" and 'data["token"] is no base64' in finding.what
    assert "hunter2" not in "".join(finding.lines)


def test_a_job_that_is_deleted_when_it_has_finished_runs_with_every_deploy() -> None:
    job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec: {%s}\n"
    assert found(job % "ttlSecondsAfterFinished: 0") == [("job-ttl", ".spec.ttlSecondsAfterFinished")]
    assert found(job % "backoffLimit: 0") == [] and found(job % "ttlSecondsAfterFinished: x") == []


HASH = "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}"
SUBSETS = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"
SPLIT = (
    "{route: [{destination: {host: web, subset: v1}, weight: 50}, {destination: {host: web, subset: v2}, weight: 50}]}"
)


def rule(name: str, spec: str, kind: str = "DestinationRule") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1beta1
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {{{spec}}}
"""


@pytest.mark.parametrize(
    ("one", "other", "lost"),
    [
        ("host: web, " + HASH, "host: web, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}", True),
        ("host: web, " + HASH, "host: web.shop.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}", True),
        ("host: web, " + HASH, "host: web, " + SUBSETS, False),
        ("host: web, " + HASH, "host: web, " + HASH, False),
        ("host: web, " + HASH, "host: other, trafficPolicy: {tls: {mode: DISABLE}}", False),
        ("host: web, " + HASH, "host: web, exportTo: [x], trafficPolicy: {tls: {mode: DISABLE}}", False),
        ("host: web, workloadSelector: {}, " + HASH, "host: web, trafficPolicy: {tls: {mode: DISABLE}}", True),
        ("host: web, workloadSelector: {matchLabels: {a: b}}, " + HASH, "host: web, trafficPolicy: {tls: {}}", False),
    ],
)
def test_of_two_policies_of_one_host_one_is_lost(one: str, other: str, lost: bool) -> None:
    expected = [("shared-destination", ".spec.trafficPolicy")] if lost else []
    assert found(rule("one", one) + rule("two", other)) == expected


@pytest.mark.parametrize(
    ("policy", "split", "hashed"),
    [
        (f"host: web, {HASH}, {SUBSETS}", SPLIT, True),
        (f"host: web, {SUBSETS}", SPLIT, False),
        (f"host: web, {HASH}, {SUBSETS}", "{route: [{destination: {host: web, subset: v1}}]}", False),
        (f"host: web, {HASH}, {SUBSETS}", SPLIT.replace("50", "0", 1).replace("50", "100"), False),
        (f"host: other, {HASH}", SPLIT, False),
        (f"host: web, subsets: [{{name: v1, {HASH}}}, {{name: v2}}]", SPLIT, True),
        (
            f"host: web, {HASH}, subsets: [{{name: v1, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}},"
            " {name: v2, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]",
            SPLIT,
            False,
        ),
    ],
)
def test_weights_over_hashed_destinations_are_told_to_be_not_sticky(policy: str, split: str, hashed: bool) -> None:
    expected = [("sticky-weights", ".spec.http[0].route")] if hashed else []
    assert found(rule("web", policy) + virtual_service(split)) == expected


@pytest.mark.parametrize(
    ("gateways", "hosts", "http", "surprising"),
    [
        ("[site/gw]", "[web]", SPLIT, True),
        ("[site/gw]", "[web.shop.svc.cluster.local]", "{route: [{destination: {host: web, subset: v1}}]}", True),
        ("[site/gw, mesh]", "[web]", SPLIT, False),
        ("[site/gw]", "[shop.example]", SPLIT, False),
        ("[site/gw]", "['*']", SPLIT, False),
        ("[site/gw]", "[web]", "{route: [{destination: {host: web}}]}", False),
    ],
)
def test_a_split_of_a_service_for_gateways_alone_is_told(
    gateways: str, hosts: str, http: str, surprising: bool
) -> None:
    text = service() + virtual_service(http, hosts=hosts, gateways=gateways)
    assert found(text) == ([("gateway-only", ".spec.hosts[0]")] if surprising else [])


@pytest.mark.parametrize(
    ("egress", "hidden"),
    [
        ("['istio-system/*']", True),
        ("['istio-system/*', 'other/*']", True),
        ("['~/*']", True),
        ("['./*']", False),
        ("['*/*']", False),
        ("['shop/web.shop.svc.cluster.local']", False),
        ("['shop/*.svc.cluster.local']", False),
        ("['shop/other.shop.svc.cluster.local']", True),
    ],
)
def test_a_sidecar_that_hides_what_is_routed_is_told(egress: str, hidden: bool) -> None:
    sidecar = rule("default", f"egress: [{{hosts: {egress}}}]", "Sidecar")
    routed = "{timeout: 1s, route: [{destination: {host: web}}]}"
    expected = [("hidden-host", ".spec.egress")] if hidden else []
    assert found(service() + virtual_service(routed) + sidecar) == expected
    of_some = sidecar.replace("spec: {", "spec: {workloadSelector: {labels: {app: web}}, ")
    assert found(service() + virtual_service(routed) + of_some) == []
    assert found(service() + virtual_service(routed, gateways="[site/gw]") + sidecar) == []


@pytest.mark.parametrize(
    ("labels", "own", "overruled"),
    [
        ("istio.io/rev: '1-30'", "1-31", True),
        ("istio-injection: enabled", "1-31", True),
        ("istio.io/rev: '1-31'", "1-31", False),
        ("istio-injection: enabled", "default", False),
        ("istio-injection: disabled", "1-31", False),
        ("team: a", "1-31", False),
    ],
)
def test_a_pods_revision_that_its_namespace_overrules_is_told(labels: str, own: str, overruled: bool) -> None:
    text = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n" + workload(
        labels=f"{{app: web, istio.io/rev: '{own}'}}"
    )
    expected = [("overruled-revision", ".spec.template.metadata.labels.istio.io/rev")] if overruled else []
    assert found(text) == expected


@pytest.mark.parametrize(
    ("ports", "unseen"),
    [
        ("[{number: 443, name: https, protocol: HTTPS}]", True),
        ("[{number: 443, name: tls, protocol: TLS}, {number: 9000, name: tcp, protocol: TCP}]", True),
        ("[{number: 443, name: https, protocol: HTTPS}, {number: 80, name: http, protocol: HTTP}]", False),
        ("[]", False),
    ],
)
def test_http_rules_for_an_encrypted_port_outside_are_told(ports: str, unseen: bool) -> None:
    entry = rule("out", f"hosts: [api.example], ports: {ports}, resolution: DNS", "ServiceEntry")
    routed = virtual_service("{timeout: 1s, route: [{destination: {host: api.example}}]}", hosts="[api.example]")
    assert found(entry + routed) == ([("port-protocol", ".spec.hosts[0]")] if unseen else [])
