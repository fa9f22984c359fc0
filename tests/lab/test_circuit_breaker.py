"""We test these aspects of the circuit breaker on the lab: overflow proved by flags, counter and both logs; the second
run changes nothing; limits raised by hand, a deleted rule, 503s from another source and a client without sidecar are
each told, and put back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

APPLY = "Circuit breaker: one connection to httpbin"
TABLE = "Verdicts"
VERIFY = ("verify", "--data", "scenario=circuit_breaker")
NAMESPACE = "circuit-breaker"

Deploy = Callable[..., Any]
Kubectl = Callable[..., str]

SNEAKY = """
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: sneaky, namespace: circuit-breaker}
spec:
  hosts: [httpbin]
  http:
    - fault: {abort: {httpStatus: 503, percentage: {value: 60}}}
      route: [{destination: {host: httpbin}}]
"""

RULE = """
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: theirs, namespace: circuit-breaker}
spec: {host: httpbin, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
"""


@pytest.fixture(scope="module", autouse=True)
def applied(deploy: Deploy, standing: Any) -> Any:
    """The scenario as declared, whatever an earlier run of these tests left."""
    made = deploy("circuit_breaker")
    assert made.code == 0, made.said
    return made


@pytest.fixture
def put_back(kubectl: Kubectl) -> Iterator[None]:
    """What a test broke beside the declared objects is mended."""
    yield
    kubectl("delete", "virtualservice", "sneaky", "-n", NAMESPACE, "--ignore-not-found")
    kubectl("delete", "destinationrule", "theirs", "-n", NAMESPACE, "--ignore-not-found")
    kubectl("label", "namespace", NAMESPACE, "istio-injection=enabled", "--overwrite")


def restart(kubectl: Kubectl, name: str) -> None:
    kubectl("rollout", "restart", f"deployment/{name}", "-n", NAMESPACE)
    kubectl("rollout", "status", f"deployment/{name}", "-n", NAMESPACE, "--timeout=90s")


def test_the_overflow_is_proved_and_told_with_its_numbers(applied: Any) -> None:
    said = applied.said
    found = re.search(
        r"circuit_breaker: PASS: (\d+) of 40 requests .* overflowed \(503 UO\), (\d+) were answered", said
    )
    assert found and int(found[1]) + int(found[2]) == 40, said
    assert "over one connection 8 of 8 were answered" in said
    assert re.search(r"client's sidecar: (\d+) lines with UO, upstream_rq_pending_overflow rose by \1\n", said), said
    assert (
        "control: over one connection no overflow, upstream_rq_pending_overflow rose by 0, 8 requests reached" in said
    )


def test_the_second_run_changes_nothing(deploy: Deploy) -> None:
    again = deploy("circuit_breaker")
    assert (again.code, again.changed) == (0, []), again.said


def test_limits_raised_by_hand_or_deleted_are_told_and_put_back(deploy: Deploy, kubectl: Kubectl) -> None:
    patch = {"spec": {"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 100}}}}}
    kubectl("patch", "destinationrule", "httpbin", "-n", NAMESPACE, "--type=merge", "-p", json.dumps(patch))
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "circuit_breaker: FAIL" in verified.said and "maxConnections: 100 -> 1" in verified.said

    kubectl("delete", "destinationrule", "httpbin", "-n", NAMESPACE)
    verified = deploy(*VERIFY)
    assert verified.failed == [TABLE]
    assert "circuit_breaker: FAIL" in verified.said and "DestinationRule/circuit-breaker/httpbin" in verified.said

    made = deploy("circuit_breaker")
    assert (made.code, made.changed) == (0, [APPLY]), made.said
    assert "circuit_breaker: PASS" in made.said


@pytest.mark.broken
def test_refusals_from_another_source_are_no_overflow(deploy: Deploy, kubectl: Kubectl, put_back: None) -> None:
    kubectl("apply", "-f", "-", stdin=SNEAKY)
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "circuit_breaker: FAIL: control: " in verified.said
    assert re.search(r"requests got 503 from another cause than overflow \(503 FI fault_filter_abort", verified.said)
    assert "may be the cause: VirtualService circuit-breaker/sneaky aborts 60 % with 503" in verified.said, (
        verified.said
    )


@pytest.mark.broken
def test_anothers_rule_is_a_warning_while_it_is_the_younger_and_named_once_it_is_the_older(
    deploy: Deploy, kubectl: Kubectl, put_back: None
) -> None:
    kubectl("apply", "-f", "-", stdin=RULE)
    verified = deploy(*VERIFY)
    assert verified.code == 0, verified.said
    warned = "warning: DestinationRule circuit-breaker/theirs sets loadBalancer, for host httpbin.circuit-breaker"
    assert warned in verified.said and "circuit-breaker/httpbin is older" in verified.said, verified.said

    kubectl("delete", "destinationrule", "httpbin", "-n", NAMESPACE)
    made = deploy("circuit_breaker")
    assert made.code == 1, made.said
    assert "circuit_breaker: FAIL: the proxies do not hold the declared configuration" in made.said, made.said
    assert "may be the cause: DestinationRule circuit-breaker/theirs sets loadBalancer" in made.said, made.said


def test_a_client_without_sidecar_proves_nothing(deploy: Deploy, kubectl: Kubectl, put_back: None) -> None:
    kubectl("label", "namespace", NAMESPACE, "istio-injection-")
    restart(kubectl, "fortio-deploy")
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "circuit_breaker: INCONCLUSIVE" in verified.said and "has no sidecar" in verified.said
    kubectl("label", "namespace", NAMESPACE, "istio-injection=enabled", "--overwrite")
    restart(kubectl, "fortio-deploy")
    made = deploy("circuit_breaker")
    assert made.code == 0, made.said
