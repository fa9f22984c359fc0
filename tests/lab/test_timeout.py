"""We test these aspects of the timeout on the lab: proved by the proxy's own clock; the second run changes nothing; a
rule that is gone, one on the wrong hop and a client without sidecar are told, and put back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

APPLY = "Timeout: 2 s for what takes 10 s"
TABLE = "Verdicts"
VERIFY = ("verify", "--data", "scenario=timeout")

Deploy = Callable[..., Any]
Kubectl = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def applied(deploy: Deploy, standing: Any) -> Any:
    """The scenario as declared, whatever an earlier run of these tests left."""
    made = deploy("timeout")
    assert made.code == 0, made.said
    return made


def test_the_timeout_is_proved_with_its_numbers(applied: Any) -> None:
    assert re.search(
        r"timeout: PASS: 3 of 3 requests to nginx-svc ended with 504 after [12]\d{3}( to 2\d{3})? ms; without the"
        r" timeout 200 after 1\d{4} ms",
        applied.said,
    ), applied.said


def test_the_second_run_changes_nothing(deploy: Deploy) -> None:
    again = deploy("timeout")
    assert (again.code, again.changed) == (0, []), again.said


@pytest.mark.broken
def test_a_rule_that_is_gone_is_told_and_put_back(deploy: Deploy, kubectl: Kubectl) -> None:
    kubectl("delete", "virtualservice", "nginx-vs", "-n", "timeout")
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "timeout: FAIL: the cluster does not hold what is declared: VirtualService/timeout/nginx-vs" in verified.said
    made = deploy("timeout", "--data", "prove=false")
    assert (made.code, made.changed) == (0, [APPLY]), made.said


@pytest.mark.broken
def test_a_timeout_on_the_wrong_hop_is_told_and_put_back(deploy: Deploy, kubectl: Kubectl) -> None:
    """In one rule with the delay it is inert, and istioctl analyze says nothing."""
    here = [{"op": "remove", "path": "/spec/http/0/timeout"}]
    there = [{"op": "add", "path": "/spec/http/0/timeout", "value": "2s"}]
    kubectl("patch", "virtualservice", "nginx-vs", "-n", "timeout", "--type=json", "-p", json.dumps(here))
    kubectl("patch", "virtualservice", "tomcat-vs", "-n", "timeout", "--type=json", "-p", json.dumps(there))
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "timeout: FAIL: the cluster does not hold what is declared: VirtualService/timeout/" in verified.said
    made = deploy("timeout", "--data", "prove=false")
    assert (made.code, made.changed) == (0, [APPLY]), made.said


def test_a_client_without_sidecar_proves_nothing(deploy: Deploy, kubectl: Kubectl) -> None:
    kubectl("label", "namespace", "timeout", "istio-injection-")
    kubectl("rollout", "restart", "deployment/busybox", "-n", "timeout")
    kubectl("rollout", "status", "deployment/busybox", "-n", "timeout", "--timeout=110s")
    try:
        verified = deploy(*VERIFY)
        assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
        assert re.search(r"timeout: INCONCLUSIVE: .*busybox\S* has no sidecar", verified.said), verified.said
    finally:
        kubectl("label", "namespace", "timeout", "istio-injection=enabled", "--overwrite")
        kubectl("rollout", "restart", "deployment/busybox", "-n", "timeout")
        kubectl("rollout", "status", "deployment/busybox", "-n", "timeout", "--timeout=110s")
    made = deploy("timeout")
    assert made.code == 0, made.said


@pytest.mark.broken
@pytest.mark.parametrize("kind", ["annotations", "labels"])
def test_a_sidecar_switched_off_in_the_pod_template_is_told_and_put_back(
    deploy: Deploy, kubectl: Kubectl, kind: str
) -> None:
    patch = {"spec": {"template": {"metadata": {kind: {"sidecar.istio.io/inject": "false"}}}}}
    kubectl("patch", "deployment", "busybox", "-n", "timeout", "-p", json.dumps(patch))
    kubectl("rollout", "status", "deployment/busybox", "-n", "timeout", "--timeout=110s")
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    named = f'{kind[:-1]} sidecar.istio.io/inject: "false" of the pod template of Deployment busybox'
    assert "timeout: INCONCLUSIVE" in verified.said and named in verified.said, verified.said
    dry = deploy("timeout", "--dry")
    assert dry.planned == [APPLY], dry.said
    assert f'.spec.template.metadata.{kind}["sidecar.istio.io/inject"]: "false" -> absent' in dry.said, dry.said
    made = deploy("timeout", "--data", "prove=false")
    assert (made.code, made.changed) == (0, [APPLY]), made.said
    assert deploy(*VERIFY).code == 0
