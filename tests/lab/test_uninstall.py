"""We test these aspects of taking Istio off the lab: it refuses by name what it would harm; nothing of it is left, the
workloads answer and others' objects stand; a second run changes nothing; afterwards Istio and the canary come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Deploy = Callable[..., Any]
Objects = Callable[..., dict[str, dict[str, Any]]]

OPERATION = "Istio off the cluster"
CONFIRM = ("--data", "confirm=meshstrap")
NAMESPACE = "of-others"

OTHERS = f"""
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: theirs, namespace: {NAMESPACE}}}
spec:
  hosts: [theirs.example]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: NONE
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: at-work, namespace: canary}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: busybox, image: "docker.io/library/busybox:1.28", command: [sleep, "600"]}]
"""


@pytest.fixture(scope="module", autouse=True)
def others(standing: Any, deploy: Deploy, kubectl: Callable[..., str]) -> Iterator[None]:
    """The canary alone of all scenarios, and others' object of an Istio kind; afterwards Istio as site.py makes it."""
    try:
        assert deploy("clean").code == 0
        made = deploy("canary")
        assert made.code == 0, made.said
        kubectl("create", "namespace", NAMESPACE)
        kubectl("apply", "-f", "-", stdin=OTHERS)
        yield
    finally:
        made = deploy("istio")
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
        assert made.code == 0, made.said


def of_istio(objects: Objects) -> list[str]:
    """Name what is left of Istio's installation; read by the test itself, not by the code under test."""
    kinds = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "clusterroles", "clusterrolebindings")
    left = [f"{kind}/{name}" for kind in kinds for name in objects(kind) if "istio" in name]
    left += [name for name in objects("namespaces") if "istio" in name]
    for name, item in objects("namespaces").items():
        left += [f"{name}: {key}" for key in item["metadata"].get("labels", {}) if "istio" in key]
    left += [name for name in objects("configmaps", "--all-namespaces") if "istio" in name]
    for name, pod in objects("pods", "--all-namespaces").items():
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        left += [f"sidecar of {name}" for each in containers if each["name"] == "istio-proxy"]
    return left


def definitions(objects: Objects) -> list[str]:
    return [name for name in objects("customresourcedefinitions") if name.endswith(".istio.io")]


def test_without_the_clusters_name_it_touches_nothing(deploy: Deploy) -> None:
    refused = deploy("uninstall")
    assert refused.code == 1
    assert "takes Istio off cluster meshstrap" in refused.said
    assert "--data confirm=meshstrap" in refused.said
    assert "Starting operation" not in refused.said


@pytest.mark.parametrize(
    ("data", "said"),
    [("istio_crds=all", "istio_crds must be keep or remove"), ("istio_discard=shop", "must be a list of namespaces")],
)
def test_bad_data_is_refused_before_anything_runs(deploy: Deploy, data: str, said: str) -> None:
    refused = deploy("uninstall", *CONFIRM, "--data", data)
    assert refused.code == 1
    assert said in refused.said
    assert "Starting operation" not in refused.said


def test_a_job_at_work_and_others_objects_are_named_and_nothing_is_touched(
    deploy: Deploy, kubectl: Callable[..., str], objects: Objects
) -> None:
    kubectl("apply", "-f", "-", stdin=JOB)
    try:
        kubectl("wait", "pod", "-n", "canary", "-l", "job-name=at-work", "--for=condition=Ready", "--timeout=60s")
        before = len(of_istio(objects))
        refused = deploy("uninstall", *CONFIRM, "--data", "istio_crds=remove")
        assert (refused.code, refused.failed) == (1, [OPERATION])
        assert "of Job at-work is at work" in refused.said
        assert f"ServiceEntry/{NAMESPACE}/theirs is not ours, and would go" in refused.said
        assert f'istio_discard=["{NAMESPACE}"]' in refused.said
        assert "Nothing was touched" in refused.said
        assert len(of_istio(objects)) == before
    finally:
        kubectl("delete", "job", "at-work", "-n", "canary")


def test_istio_goes_and_what_is_others_stays(deploy: Deploy, kubectl: Callable[..., str], objects: Objects) -> None:
    dry = deploy("uninstall", "--dry", *CONFIRM)
    assert dry.planned == [OPERATION]
    for line in (
        "restarted   Deployment/canary/appv1",
        "deleted     control plane of revision default",
        "deleted     Namespace/istio-system",
        "stands      VirtualService/canary/canary",
    ):
        assert line in dry.said
    assert "istio-system" in objects("namespaces"), "--dry wrote"

    off = deploy("uninstall", *CONFIRM)
    assert (off.code, off.changed) == (0, [OPERATION]), off.said
    assert "istioctl uninstall --revision default" in off.said
    assert "uninstall: PASS" in off.said
    assert "1 of 1 Services that answered before answer without a sidecar" in off.said
    assert of_istio(objects) == []
    assert len(definitions(objects)) > 10
    assert "theirs" in objects("serviceentries", "-n", NAMESPACE)
    body = kubectl("get", "--raw", "/api/v1/namespaces/canary/services/canary:80/proxy/")
    assert "v1" in body or "v2" in body

    again = deploy("uninstall", *CONFIRM)
    assert (again.code, again.changed) == (0, []), again.said


def test_its_kinds_go_when_told_with_the_objects_that_are_given_up_by_name(deploy: Deploy, objects: Objects) -> None:
    told = (*CONFIRM, "--data", "istio_crds=remove")
    refused = deploy("uninstall", *told)
    assert refused.code == 1
    assert f"ServiceEntry/{NAMESPACE}/theirs is not ours" in refused.said
    removed = deploy("uninstall", *told, "--data", f"istio_discard={json.dumps([NAMESPACE])}")
    assert (removed.code, removed.changed) == (0, [OPERATION]), removed.said
    assert definitions(objects) == []
    assert deploy("uninstall", *told).changed == []


def test_istio_comes_back_and_the_canary_is_proved_again(deploy: Deploy) -> None:
    back = deploy("istio")
    assert back.code == 0, back.said
    proved = deploy("canary")
    assert proved.code == 0, proved.said
    assert "restarted   Deployment/canary/appv1" in proved.said
    assert "canary: PASS" in proved.said
    assert deploy("istio").changed == []
