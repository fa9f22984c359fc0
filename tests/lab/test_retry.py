"""We test these aspects of retries on the lab: each attempt is counted; the second run changes nothing; a rule without
`retryOn`, a refusal from another cause and a 503 without nginx are told, and put back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

APPLY = "Retry: three times more for a 503"
TABLE = "Verdicts"
VERIFY = ("verify", "--data", "scenario=retry")

DENY = """
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: retry}
spec: {selector: {matchLabels: {server: nginx}}}
"""

Deploy = Callable[..., Any]
Kubectl = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def applied(deploy: Deploy, standing: Any) -> Any:
    """The scenario as declared, whatever an earlier run of these tests left."""
    made = deploy("retry")
    assert made.code == 0, made.said
    return made


def test_each_attempt_is_counted(applied: Any) -> None:
    said = applied.said
    assert "retry: PASS: each of 5 requests to nginx-svc was tried 4 times, 1 and 3 retries" in said
    assert "control: each of 5 requests to nginx-once (attempts 0) was tried once" in said
    assert "control: each of 5 requests to nginx-svc/sound (the same rule, no abort) got 200 at the first try" in said
    assert re.search(r"attempts 3 without retryOn: tried 1 time on Istio 1\.31\.0 \(5 of 5\)", said), said


def test_the_second_run_changes_nothing(deploy: Deploy) -> None:
    again = deploy("retry")
    assert (again.code, again.changed) == (0, []), again.said


@pytest.mark.broken
def test_the_tutorials_rule_by_hand_is_told_and_put_back(deploy: Deploy, kubectl: Kubectl) -> None:
    patch = [{"op": "remove", "path": "/spec/http/0/retries/retryOn"}]
    kubectl("patch", "virtualservice", "nginx-vs", "-n", "retry", "--type=json", "-p", json.dumps(patch))
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "retry: FAIL" in verified.said and "retryOn" in verified.said
    made = deploy("retry")
    assert (made.code, made.changed) == (0, [APPLY]), made.said


@pytest.fixture
def denied(kubectl: Kubectl) -> Iterator[None]:
    """nginx's proxy refuses everybody."""
    kubectl("apply", "-f", "-", stdin=DENY)
    yield
    kubectl("delete", "authorizationpolicy", "nobody", "-n", "retry")
    # Whoever asks next is not to meet what the proxy held a moment ago.
    answered = "until wget -q -O /dev/null http://nginx-svc/sound; do sleep 0.2; done"
    kubectl("exec", "-n", "retry", "deploy/busybox", "-c", "busybox", "--", "sh", "-c", answered)


@pytest.mark.broken
def test_a_refusal_from_another_cause_is_no_retry(deploy: Deploy, denied: None) -> None:
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"retry: FAIL: 5 requests to nginx-svc got 403", verified.said), verified.said
    assert "may be the cause: AuthorizationPolicy retry/nobody refuses everything" in verified.said, verified.said


@pytest.fixture
def no_nginx(kubectl: Kubectl) -> Iterator[None]:
    """Nobody is behind nginx-svc: 503 as well, of the client's own proxy."""
    kubectl("scale", "deployment/nginx", "-n", "retry", "--replicas=0")
    kubectl("wait", "--for=delete", "pod", "-l", "server=nginx", "-n", "retry", "--timeout=110s")
    yield
    kubectl("scale", "deployment/nginx", "-n", "retry", "--replicas=1")
    kubectl("rollout", "status", "deployment/nginx", "-n", "retry", "--timeout=110s")


def test_a_503_without_nginx_proves_nothing(deploy: Deploy, no_nginx: None) -> None:
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"retry: INCONCLUSIVE: .*has no ready pod of nginx", verified.said), verified.said
