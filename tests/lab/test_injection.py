"""We test these aspects of injection on the lab: a label alone changes no running pod, so what it concerns is
restarted; the pods prove it; a second run changes nothing; what cannot be proved fails by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMESPACE = "injection-test"
IN = ("-n", NAMESPACE)
OPERATION = "Sidecars by namespace"
IMAGE = "docker.io/fortio/fortio:1.66.5"

# Made before any label: two kinds of workload, and a pod that says no for itself.
WORKLOADS = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: fortio, image: "{IMAGE}", args: [server]}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: data}}
spec:
  serviceName: data
  selector: {{matchLabels: {{app: data}}}}
  template:
    metadata: {{labels: {{app: data}}}}
    spec: {{containers: [{{name: fortio, image: "{IMAGE}", args: [server]}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: exempt}}
spec:
  selector: {{matchLabels: {{app: exempt}}}}
  template:
    metadata: {{labels: {{app: exempt, sidecar.istio.io/inject: "False"}}}}
    spec: {{containers: [{{name: fortio, image: "{IMAGE}", args: [server]}}]}}
"""

Objects = Callable[..., dict[str, dict[str, Any]]]


def data(wanted: bool | str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    return "--data", f"injection={json.dumps({namespace: wanted})}", "--data", "prove=false"


@pytest.fixture(scope="module")
def workloads(deploy: Callable[..., Any], standing: Any, kubectl: Callable[..., str]) -> Iterator[None]:
    """A namespace whose workloads run since before any label."""
    for name in ("istio", "injection"):
        made = deploy(name)
        assert made.code == 0, made.said
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    kubectl("create", "namespace", NAMESPACE)
    kubectl("apply", *IN, "-f", "-", stdin=WORKLOADS)
    for workload in ("deployment/web", "statefulset/data", "deployment/exempt"):
        kubectl("rollout", "status", workload, *IN, "--timeout=120s")
    yield
    kubectl("delete", "namespace", NAMESPACE)


def sidecars(objects: Objects) -> dict[str, bool]:
    """Tell for each app whether its pods have a proxy; read by the test itself, not by the code under test."""
    found: dict[str, bool] = {}
    for pod in objects("pods", *IN).values():
        if "deletionTimestamp" in pod["metadata"]:
            continue
        names = [each["name"] for each in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])]
        app = pod["metadata"]["labels"].get("app", pod["metadata"]["name"])
        found[app] = found.get(app, True) and "istio-proxy" in names
    return found


def labels(objects: Objects) -> dict[str, str]:
    found = objects("namespaces")[NAMESPACE]["metadata"]["labels"]
    return {key: value for key, value in found.items() if key.startswith("istio")}


def test_injection_is_switched_on_and_off_by_label_and_proved_by_the_pods(
    workloads: None, deploy: Callable[..., Any], objects: Objects
) -> None:
    assert sidecars(objects) == {"web": False, "data": False, "exempt": False}

    dry = deploy("injection", "--dry", *data(True))
    assert dry.planned == [OPERATION]
    assert f"restarted   Deployment/{NAMESPACE}/web" in dry.said
    assert "exempt" not in dry.said
    assert labels(objects) == {}, "--dry wrote"

    on = deploy("injection", *data(True))
    assert (on.code, on.changed) == (0, [OPERATION]), on.said
    assert labels(objects) == {"istio-injection": "enabled"}
    assert sidecars(objects) == {"web": True, "data": True, "exempt": False}

    pods = set(objects("pods", *IN))
    again = deploy("injection", *data(True))
    assert (again.code, again.changed) == (0, []), again.said
    assert set(objects("pods", *IN)) == pods, "a second run restarted something"

    off = deploy("injection", *data(False))
    assert (off.code, off.changed) == (0, [OPERATION]), off.said
    assert labels(objects) == {}
    assert sidecars(objects) == {"web": False, "data": False, "exempt": False}
    assert deploy("injection", *data(False)).changed == []


def test_of_two_labels_one_is_left(
    workloads: None, deploy: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    kubectl("label", "namespace", NAMESPACE, "istio-injection=enabled", "istio.io/rev=default", "--overwrite")
    by_revision = deploy("injection", *data("default"))
    assert by_revision.code == 0, by_revision.said
    assert labels(objects) == {"istio-injection": "enabled"}
    assert deploy("injection", *data(False)).code == 0
    assert labels(objects) == {}


def test_a_revision_tag_is_followed_to_its_revision(
    workloads: None, deploy: Callable[..., Any], standing: Any, on_node: Callable[..., Any], objects: Objects
) -> None:
    istioctl = "/usr/local/bin/istioctl --kubeconfig /etc/kubernetes/admin.conf"
    made = on_node(standing, "control-1", f"{istioctl} tag set prod --revision default --overwrite")
    assert made.returncode == 0, made.stderr
    try:
        on = deploy("injection", *data("prod"))
        assert (on.code, on.changed) == (0, [OPERATION]), on.said
        assert labels(objects) == {"istio.io/rev": "prod"}
        assert sidecars(objects) == {"web": True, "data": True, "exempt": False}
        pods = set(objects("pods", *IN))
        again = deploy("injection", *data("prod"))
        assert (again.code, again.changed) == (0, []), again.said
        assert set(objects("pods", *IN)) == pods, "a second run restarted something"
    finally:
        assert deploy("injection", *data(False)).code == 0
        gone = on_node(standing, "control-1", f"{istioctl} tag remove prod --skip-confirmation")
        assert gone.returncode == 0, gone.stderr


def test_a_revision_that_nobody_serves_is_refused_and_labels_nothing(
    workloads: None, deploy: Callable[..., Any], objects: Objects
) -> None:
    refused = deploy("injection", *data("nosuch"))
    assert (refused.code, refused.failed) == (1, [OPERATION])
    assert "no injector of Istio revision nosuch" in refused.said
    assert labels(objects) == {}


def test_a_pod_that_no_workload_makes_anew_is_named(
    workloads: None, deploy: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    kubectl("run", "lonely", *IN, f"--image={IMAGE}", "--", "server")
    kubectl("wait", "pod/lonely", *IN, "--for=condition=Ready", "--timeout=60s")
    try:
        failed = deploy("injection", *data(True))
        assert (failed.code, failed.failed) == (1, [OPERATION])
        assert f"Pod {NAMESPACE}/lonely lacks its sidecar" in failed.said
        # All the same everything that could be restarted was.
        assert sidecars(objects) == {"web": True, "data": True, "exempt": False, "lonely": False}
    finally:
        kubectl("delete", "pod", "lonely", *IN, "--grace-period=1")
    healed = deploy("injection", *data(True))
    assert (healed.code, healed.changed) == (0, []), healed.said


@pytest.mark.parametrize("given", ['{"kube-system": true}', '{"default": 1}', "default"])
def test_bad_data_is_refused_before_anything_runs(deploy: Callable[..., Any], standing: Any, given: str) -> None:
    refused = deploy("injection", "--data", f"injection={given}")
    assert refused.code == 1
    assert "injection" in refused.said
    assert "Starting operation" not in refused.said


PROOF = "Injection: proof by pods and requests"
TABLE = "Verdicts"
VERIFY = ("verify", "--data", "scenario=injection")
SCENARIO = ("-n", "injection")


def test_who_has_a_sidecar_is_proved_by_pods_and_requests(deploy: Callable[..., Any], standing: Any) -> None:
    made = deploy("injection")
    assert made.code == 0, made.said
    assert (
        "injection: PASS: client-in and server-in have a sidecar (native), client-out and server-out none; 12 of 12"
        " requests were answered" in made.said
    )
    again = deploy("injection")
    assert (again.code, again.changed) == (0, []), again.said


@pytest.mark.broken
def test_a_pod_that_lost_its_sidecar_is_told(deploy: Callable[..., Any], kubectl: Callable[..., str]) -> None:
    rollout = ("rollout", "status", "deployment/server-in", *SCENARIO, "--timeout=110s")
    kubectl("label", "namespace", "injection", "istio-injection-")
    kubectl("rollout", "restart", "deployment/server-in", *SCENARIO)
    kubectl(*rollout)
    kubectl("label", "namespace", "injection", "istio-injection=enabled")
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "has no sidecar, though its namespace asks for one" in verified.said
    kubectl("rollout", "restart", "deployment/server-in", *SCENARIO)
    kubectl(*rollout)
    assert deploy(*VERIFY).code == 0


def test_a_sidecar_put_in_by_hand_is_one(
    standing: Any, on_node: Callable[..., Any], kubectl: Callable[..., str], objects: Objects
) -> None:
    """`istioctl kube-inject`, in a namespace that asks for nothing."""
    kubectl("delete", "namespace", "by-hand", "--ignore-not-found", "--timeout=100s")
    kubectl("create", "namespace", "by-hand")
    try:
        manifest = WORKLOADS.split("---")[0]
        script = f"KUBECONFIG=/etc/kubernetes/admin.conf istioctl kube-inject -n by-hand -f - <<'EOF'\n{manifest}\nEOF"
        injected = on_node(standing, "control-1", script, timeout=60)
        assert injected.returncode == 0, injected.stderr
        kubectl("apply", "-n", "by-hand", "-f", "-", stdin=injected.stdout)
        kubectl("rollout", "status", "deployment/web", "-n", "by-hand", "--timeout=110s")
        (pod,) = objects("pods", "-n", "by-hand").values()
        spec = pod["spec"]
        assert "istio-proxy" in [each["name"] for each in [*spec["containers"], *spec.get("initContainers", [])]]
    finally:
        kubectl("delete", "namespace", "by-hand", "--wait=false")
