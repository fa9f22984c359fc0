"""We test that bad luck is told in words and mended by running again: istiod or the gateway away, the gateway killed
under requests, no node left for a pod, a firewall before a node, two people who prove at once. By the canary, whose
proof is quickest.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from meshstrap.lab.directory import Lab

APPLY = "Canary: two versions, split by weight"
TABLE = "Verdicts"
VERIFY = ("verify", "--data", "scenario=canary")
ISTIO = ("istiod", "istio-ingressgateway")

Deploy = Callable[..., Any]
Kubectl = Callable[..., str]
Objects = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def applied(deploy: Deploy, standing: Any) -> None:
    """Mesh and canary as declared, whatever an earlier run of these tests left."""
    for name in ("istio", "canary"):
        made = deploy(name)
        assert made.code == 0, made.said


@pytest.fixture
def mended(kubectl: Kubectl, deploy: Deploy) -> Iterator[None]:
    """What a test took away comes back, and one run of the deploy sets all right."""
    yield
    kubectl("scale", "deployment/istiod", "-n", "istio-system", "--replicas=1")
    for name in ISTIO:
        kubectl("rollout", "status", f"deployment/{name}", "-n", "istio-system", "--timeout=110s")
    made = deploy("canary")
    assert made.code == 0, made.said
    assert "canary: PASS" in made.said


@pytest.mark.broken
def test_without_istiod_every_deploy_names_the_next_step_at_once(
    deploy: Deploy, kubectl: Kubectl, objects: Objects, mended: None
) -> None:
    kubectl("scale", "deployment/istiod", "-n", "istio-system", "--replicas=0")
    deadline = time.monotonic() + 60
    while objects("pods", "-n", "istio-system", "-l", "app=istiod"):
        assert time.monotonic() < deadline
        time.sleep(1)
    step = "Deployment/istio-system/istiod is scaled to 0; run deploys/istio.py, which brings it back"
    began = time.monotonic()
    made = deploy("canary")
    assert (made.code, made.failed[0]) == (1, APPLY), made.said
    assert step in made.said
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(rf"canary: INCONCLUSIVE: the webhook of Service istio-system/istiod .*{step}", verified.said)
    assert time.monotonic() - began < 60
    assert "Traceback" not in made.said + verified.said
    brought = deploy("istio")
    assert brought.code == 0, brought.said
    assert "configured  Deployment/istio-system/istiod" in brought.said


@pytest.mark.broken
def test_a_gateway_that_is_away_is_waited_for_only_where_it_starts(
    deploy: Deploy, kubectl: Kubectl, mended: None
) -> None:
    kubectl("scale", "deployment/istio-ingressgateway", "-n", "istio-system", "--replicas=0")
    kubectl("wait", "pod", "-l", "app=istio-ingressgateway", "-n", "istio-system", "--for=delete", "--timeout=60s")
    try:
        began = time.monotonic()
        verified = deploy(*VERIFY)
        assert time.monotonic() - began < 60
    finally:
        kubectl("scale", "deployment/istio-ingressgateway", "-n", "istio-system", "--replicas=1")
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"canary: INCONCLUSIVE: .*Deployment istio-system/\S+ is scaled to 0; scale it up", verified.said)
    # It starts now; nobody is told to install a profile that has one.
    verified = deploy(*VERIFY)
    assert verified.code == 0 and "canary: PASS" in verified.said, verified.said


def test_a_gateway_that_dies_under_the_requests_fails_the_proof_and_the_next_run_passes(
    deploy: Deploy, kubectl: Kubectl, mended: None
) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(1):
            kubectl(
                "delete", "pods", "-l", "app=istio-ingressgateway", "-n", "istio-system", "--force", "--grace-period=0"
            )  # fmt: skip

    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill)
        try:
            verified = deploy(*VERIFY)
        finally:
            stop.set()
        killed.result()
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"canary: (FAIL|INCONCLUSIVE): ", verified.said), verified.said
    assert "Traceback" not in verified.said


@pytest.fixture
def drained(kubectl: Kubectl) -> Iterator[None]:
    """The only node that takes pods takes none, and one pod of the canary has gone from it."""
    kubectl("cordon", "worker-1")
    kubectl("delete", "pod", "-l", "app=canary,version=v1", "-n", "canary")
    yield
    kubectl("uncordon", "worker-1")


def test_without_a_node_for_a_pod_the_reason_is_told_at_once(deploy: Deploy, mended: None, drained: None) -> None:
    began = time.monotonic()
    made = deploy("canary")
    assert (made.code, made.failed[0]) == (1, APPLY), made.said
    assert re.search(r"Deployment/canary/appv1: Pod appv1-\S+: no node takes it: .*unschedulable", made.said), made.said
    assert time.monotonic() - began < 60
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"canary: (FAIL|INCONCLUSIVE): .*v1", verified.said), verified.said


@pytest.fixture
def walled_off(standing: Lab, on_node: Callable[..., Any]) -> Iterator[None]:
    """A firewall between the operator and worker-1's NodePort; the nodes reach each other."""
    rule = "PREROUTING -s ${SSH_CONNECTION%% *} -p tcp --dport 30191 -j DROP"
    built = on_node(standing, "worker-1", f"iptables -t raw -I {rule}")
    assert built.returncode == 0, built.stderr
    yield
    assert on_node(standing, "worker-1", f"iptables -t raw -D {rule}").returncode == 0


def test_a_node_port_behind_a_firewall_is_asked_from_the_nodes(deploy: Deploy, walled_off: None) -> None:
    verified = deploy(*VERIFY)
    assert verified.code == 0, verified.said
    assert re.search(
        r"canary: PASS: .*; worker-1 only by way of control-1, since it cannot be reached from here\n", verified.said
    ), verified.said
    assert re.search(
        r"worker-1: http://\S+:30191 cannot be reached from here \(.*\); asked from control-1 instead", verified.said
    ), verified.said


@pytest.fixture
def gateway_service(kubectl: Kubectl, deploy: Deploy) -> Iterator[Callable[[str], str]]:
    """Patch the gateway's Service by hand; afterwards one run of istio.py has put back what is declared."""
    yield lambda patch: kubectl("patch", "service", "istio-ingressgateway", "-n", "istio-system", "-p", patch)
    dry, made = deploy("istio", "--dry"), deploy("istio")
    assert (made.code, made.changed) == (0, dry.planned), made.said
    assert "changed by hand (kubectl-patch)" in made.said
    assert deploy("istio").changed == []
    passed = deploy(*VERIFY)
    assert passed.code == 0 and "canary: PASS" in passed.said, passed.said


@pytest.mark.broken
def test_a_dead_url_is_no_pass_though_another_port_answers(
    deploy: Deploy, gateway_service: Callable[[str], str]
) -> None:
    gateway_service('{"spec": {"ports": [{"port": 80, "nodePort": 30555}]}}')
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "the node port of http2 is 30555, and 30191 is declared (ingress_node_port)" in verified.said
    assert "canary: FAIL: " in verified.said and "deploys/istio.py puts it back" in verified.said


@pytest.mark.broken
def test_a_node_that_answers_itself_alone_is_no_pass(deploy: Deploy, gateway_service: Callable[[str], str]) -> None:
    gateway_service('{"spec": {"externalTrafficPolicy": "Local"}}')
    began = time.monotonic()
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "canary: FAIL: " in verified.said
    assert "nodes without a gateway pod do not answer: control-1" in verified.said
    assert time.monotonic() - began < 30
    # Where the site declares it, that node is not asked, which is said with the verdict.
    local = '{"gateways": {"istio-ingressgateway": {"externalTrafficPolicy": "Local"}}}'
    declared = deploy(*VERIFY, "--data", f"istio_values={local}")
    assert declared.code == 0, declared.said
    assert "canary: PASS: " in declared.said
    assert "not asked, since externalTrafficPolicy Local is declared: control-1" in declared.said


@pytest.mark.broken
def test_a_node_port_that_is_dropped_for_everybody_fails_soon(
    deploy: Deploy, standing: Lab, on_node: Callable[..., Any]
) -> None:
    rule = "PREROUTING -p tcp --dport 30191 -j DROP"
    assert on_node(standing, "worker-1", f"iptables -t raw -I {rule}").returncode == 0
    try:
        began = time.monotonic()
        verified = deploy(*VERIFY)
        assert time.monotonic() - began < 60
    finally:
        assert on_node(standing, "worker-1", f"iptables -t raw -D {rule}").returncode == 0
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"worker-1: \S+ is reached neither from here \(.*\) nor from another node", verified.said)
    assert re.search(r"canary: FAIL: 1 request got no answer from http://\S+:30191", verified.said), verified.said


def test_two_people_prove_at_once(deploy: Deploy) -> None:
    with ThreadPoolExecutor(2) as people:
        runs = list(people.map(lambda _: deploy(*VERIFY), range(2)))
    for run in runs:
        assert run.code == 0, run.said
        assert "canary: PASS" in run.said
