"""We test that a proof waits for pods that start, for no others and not for ever, and says which those are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.scenarios import ingress, restarts
from meshstrap.scenarios.site import Site

from .test_engine import Leap

Pod = dict[str, Any]


def pod(*, ready: str = "False", **status: Any) -> Pod:
    condition = {"type": "Ready", "status": ready, "message": "containers with unready status: [istio-proxy]"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "istio-system", "name": "gateway-1"},
        "spec": {},
        "status": {"phase": "Running", "conditions": [condition], **status},
    }


def waiting(reason: str) -> list[Pod]:
    return [{"name": "istio-proxy", "image": "x", "state": {"waiting": {"reason": reason}}}]


@pytest.fixture
def site() -> Site:
    return Site(cast(Client, None), (), Path("nowhere"), clock=Leap())


def test_only_a_pod_that_may_become_ready_is_starting() -> None:
    leaving = pod()
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    homeless = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}
    for other in (
        pod(ready="True"),
        leaving,
        pod(phase="Succeeded"),
        pod(phase="Failed"),
        pod(conditions=[homeless]),
        pod(containerStatuses=waiting("CrashLoopBackOff")),
        pod(containerStatuses=waiting("ErrImageNeverPull")),
    ):
        assert restarts.starting([other]) == []
    assert restarts.starting([pod(containerStatuses=waiting("ContainerCreating"))]) == [
        "Pod istio-system/gateway-1 is starting (Running: containers with unready status: [istio-proxy])"
    ]


def test_what_starts_is_waited_for_and_nothing_is_missing_then(site: Site) -> None:
    answers = [["no gateway"], ["no gateway"], []]
    assert restarts.awaited(lambda: answers.pop(0), lambda: [pod()], site) == []
    assert site.clock.seconds() == 2 * restarts.PAUSE


def test_what_does_not_start_is_told_at_once(site: Site) -> None:
    assert restarts.awaited(lambda: ["no gateway"], lambda: [pod(ready="True")], site) == ["no gateway"]
    assert site.clock.seconds() == 0


def test_what_never_becomes_ready_is_told_before_what_is_missing_for_it(site: Site) -> None:
    first, second = restarts.awaited(lambda: ["no gateway"], lambda: [pod()], site)
    assert first.startswith("Pod istio-system/gateway-1 is starting (") and "60 s" in first
    assert second == "no gateway"
    assert site.clock.seconds() == pytest.approx(restarts.RESTART_SECONDS, abs=1)


@pytest.mark.parametrize(
    ("pods", "workload", "said"),
    [
        ([pod()], {"spec": {}}, "it is starting, or restarting (Pod gateway-1: Running: containers with unready"),
        ([], {"spec": {"replicas": 0}}, "is scaled to 0; scale it up: kubectl scale deployment/istio-ingressgateway"),
        ([], {"spec": {"replicas": 1}}, "Deployment istio-system/istio-ingressgateway has none yet"),
        ([], None, "; run deploys/istio.py with a profile that has one"),
    ],
)
def test_each_reason_why_no_gateway_is_ready_has_its_own_next_step(
    monkeypatch: pytest.MonkeyPatch, site: Site, pods: list[Pod], workload: dict[str, Any] | None, said: str
) -> None:
    kind = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "istio-system", "name": "x"}}
    monkeypatch.setattr(query, "list", lambda *_, **__: pods)
    monkeypatch.setattr(query, "get", lambda *_: workload and {**kind, **workload})
    monkeypatch.setattr(restarts, "RESTART_SECONDS", 0.0)
    assert said in ingress.until_ready(site)[-1]
    assert ("istio.py" in ingress.until_ready(site)[-1]) == (workload is None)
