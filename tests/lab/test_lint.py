"""We test that what the linter says is what the real mesh does: for each rule of destinations, reach, revisions and
encrypted ports, the linter's finding on a manifest, and the mesh's own behaviour under it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from meshstrap.kube import manifests
from meshstrap.lab.directory import Lab
from meshstrap.mesh.lint import lint

NAMESPACE = "lint-test"
IN = ("-n", NAMESPACE)
Kubectl = Callable[..., str]


def workload(name: str, image: str, labels: str) -> str:
    return f"""
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{run: {name}}}}}
  template:
    metadata: {{labels: {{run: {name}, {labels}}}}}
    spec: {{containers: [{{name: app, image: "{image}", imagePullPolicy: IfNotPresent}}]}}
"""


SITE = (
    f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{istio-injection: enabled}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {NAMESPACE}}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80}}, {{name: http-other, port: 8080, targetPort: 80}}]}}
"""
    + workload("web-v1", "docker.io/xianchao/canary:v1", "app: web, version: v1, istio.io/rev: nosuch")
    + workload("web-v2", "docker.io/xianchao/canary:v2", "app: web, version: v2")
)
SUBSETS = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"
SPLIT = (
    "{route: [{destination: {host: web, subset: v1}, weight: 50}, {destination: {host: web, subset: v2}, weight: 50}]}"
)


def rule(kind: str, name: str, spec: str) -> str:
    return f"""
---
apiVersion: networking.istio.io/v1beta1
kind: {kind}
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec: {{{spec}}}
"""


def findings(text: str) -> list[str]:
    """The rules that the site with a text beside it breaks."""
    return [each.rule for each in lint(manifests.load(SITE + text), "1.31.0")]


@pytest.fixture(scope="module")
def site(standing: Lab, kubectl: Kubectl) -> Iterator[str]:
    """Two versions behind a Service with sidecars; the URL of the lab's gateway."""
    kubectl("apply", "-f", "-", stdin=SITE)
    for name in ("web-v1", "web-v2"):
        kubectl("rollout", "status", f"deployment/{name}", *IN, "--timeout=120s")
    try:
        yield next(node["node_port_url"] for node in yaml.safe_load(standing.nodes_file.read_text())["nodes"])
    finally:
        kubectl("delete", "namespace", NAMESPACE)


@pytest.fixture
def applied(site: str, kubectl: Kubectl) -> Iterator[Callable[[str], None]]:
    """Apply a text, and take it away afterwards."""
    texts: list[str] = []

    def apply(text: str) -> None:
        kubectl("apply", "-f", "-", stdin=text)
        texts.append(text)

    yield apply
    for text in texts:
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=text)


def ask(url: str, host: str, user: str = "") -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=5)
    connection.request("GET", "/", headers={"Host": host, "x-user": user})
    reply = connection.getresponse()
    return reply.status, reply.read().decode(errors="replace")


def dump(kubectl: Kubectl, resource: str, workload: str = "web-v1") -> list[dict[str, Any]]:
    """What a sidecar holds, asked of its own Envoy."""
    command = ("exec", *IN, f"deployment/{workload}", "-c", "istio-proxy", "--", "pilot-agent", "request", "GET")
    said = json.loads(kubectl(*command, f"config_dump?resource={resource}"))
    found: list[dict[str, Any]] = said.get("configs", [])
    return found


def aborts(kubectl: Kubectl, port: int = 80) -> bool:
    """Whether the sidecar holds a route that aborts by 418 requests to a port."""
    routes = [each["route_config"] for each in dump(kubectl, "dynamic_route_configs")]
    return any(each["name"] == str(port) and '"http_status": 418' in json.dumps(each) for each in routes)


def until(look: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return seen


def timeouts(kubectl: Kubectl) -> dict[str, str]:
    clusters = [each["cluster"] for each in dump(kubectl, "dynamic_active_clusters")]
    ours = {each["name"]: each["connect_timeout"] for each in clusters if f"web.{NAMESPACE}" in each["name"]}
    return {name.split("|")[1]: timeout for name, timeout in ours.items() if name.startswith("outbound|")}


def test_of_two_policies_of_one_host_the_older_one_is_kept(applied: Callable[[str], None], kubectl: Kubectl) -> None:
    def policy(name: str, port: int, seconds: int) -> str:
        level = f"{{port: {{number: {port}}}, connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}"
        return rule("DestinationRule", name, f"host: web, trafficPolicy: {{portLevelSettings: [{level}]}}")

    older, younger = policy("older", 80, 7), policy("younger", 8080, 8)
    assert findings(older + younger) == ["overruled-revision", "shared-destination"]
    applied(older)
    assert until(lambda: timeouts(kubectl).get("80") == "7s")
    time.sleep(1.1)  # ages are told in seconds
    applied(younger)
    time.sleep(3)
    assert timeouts(kubectl) == {"80": "7s", "8080": "10s"}
    # Alone it is what it says.
    kubectl("delete", "destinationrule", "older", *IN)
    assert until(lambda: timeouts(kubectl) == {"80": "10s", "8080": "8s"})


def test_weights_over_a_hash_are_not_sticky(applied: Callable[[str], None], site: str) -> None:
    hashed = "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}"
    gateway = "gateways: [istio-system/meshstrap-gateway], hosts: [lint.example]"
    text = rule("DestinationRule", "web", f"host: web, {hashed}, {SUBSETS}")
    text += rule("VirtualService", "web", f"{gateway}, http: [{SPLIT}]")
    assert findings(text) == ["overruled-revision", "sticky-weights"]
    applied(text)
    assert until(lambda: ask(site, "lint.example", "a")[0] == 200)
    bodies = [ask(site, "lint.example", "one user")[1] for _ in range(40)]
    assert {version for version in ("v1", "v2") if any(version in body for body in bodies)} == {"v1", "v2"}


def test_a_split_for_gateways_alone_is_not_the_pods(applied: Callable[[str], None], kubectl: Kubectl) -> None:
    def split(gateways: str) -> str:
        abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}"
        routed = f"{{{abort}, route: [{{destination: {{host: web, subset: v1}}}}]}}"
        text = rule("DestinationRule", "web", f"host: web, {SUBSETS}")
        return text + rule("VirtualService", "web", f"gateways: {gateways}, hosts: [web], http: [{routed}]")

    alone, both = split("[istio-system/meshstrap-gateway]"), split("[istio-system/meshstrap-gateway, mesh]")
    assert findings(alone) == ["overruled-revision", "gateway-only"]
    assert findings(both) == ["overruled-revision"]
    applied(both)
    assert until(lambda: aborts(kubectl))
    applied(alone)
    assert until(lambda: not aborts(kubectl))


def test_a_sidecar_hides_what_is_routed(applied: Callable[[str], None], kubectl: Kubectl) -> None:
    routed = "{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: web}}]}"
    virtual_service = rule("VirtualService", "web", f"hosts: [web], http: [{routed}]")
    sidecar = rule("Sidecar", "default", "egress: [{hosts: ['istio-system/*']}]")
    assert findings(virtual_service + sidecar) == ["overruled-revision", "hidden-host"]
    applied(virtual_service)
    assert until(lambda: aborts(kubectl))
    applied(sidecar)
    assert until(lambda: not aborts(kubectl))


def test_the_namespaces_revision_decides(site: str, kubectl: Kubectl) -> None:
    assert findings("") == ["overruled-revision"]
    (pod,) = json.loads(kubectl("get", "pods", *IN, "-l", "run=web-v1", "-o", "json"))["items"]
    assert json.loads(pod["metadata"]["annotations"]["sidecar.istio.io/status"])["revision"] == "default"
    assert pod["metadata"]["labels"]["istio.io/rev"] == "nosuch"


def test_http_rules_for_an_encrypted_port_are_never_looked_at(applied: Callable[[str], None], kubectl: Kubectl) -> None:
    def outside(protocol: str, number: int) -> str:
        port = f"{{number: {number}, name: outside, protocol: {protocol}}}"
        entry = f"hosts: [api.example], ports: [{port}], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]"
        abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}"
        routed = f"hosts: [api.example], http: [{{{abort}, route: [{{destination: {{host: api.example}}}}]}}]"
        return rule("ServiceEntry", "outside", entry) + rule("VirtualService", "outside", routed)

    encrypted, plain = outside("HTTPS", 8443), outside("HTTP", 8444)
    assert findings(plain) == ["overruled-revision"]
    assert findings(encrypted) == ["overruled-revision", "port-protocol"]
    # On ports of their own: a listener that goes keeps its routes while it drains.
    applied(encrypted)
    assert until(lambda: "api.example" in json.dumps(dump(kubectl, "dynamic_active_clusters")))
    # A request by plain HTTP to port 80 of that name would go by the rule; one to the entry's own port never does.
    assert until(lambda: aborts(kubectl, 80))
    assert not aborts(kubectl, 8443)
    applied(plain)
    assert until(lambda: aborts(kubectl, 8444))
