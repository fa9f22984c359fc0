"""We test these aspects of outlier ejection on the lab: proved by replies, log and counters, with the samples that a
plot needs; the second run changes nothing, and waits for the first one's ejection to be over; a percentage by hand that
can eject no pod, and errors from another source, are told, and put back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

APPLY = "Outlier ejection: one bad pod of three"
TABLE = "Verdicts"
VERIFY = ("verify", "--data", "scenario=outlier_ejection")
NAMESPACE = "outlier-ejection"

Deploy = Callable[..., Any]
Kubectl = Callable[..., str]

DENY = """
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: outlier-ejection}
spec: {selector: {matchLabels: {arm: good}}}
"""


@pytest.fixture(scope="module", autouse=True)
def applied(deploy: Deploy, standing: Any) -> Any:
    """The scenario as declared, whatever an earlier run of these tests left."""
    made = deploy("outlier_ejection")
    assert made.code == 0, made.said
    return made


@pytest.fixture
def put_back(kubectl: Kubectl) -> Iterator[None]:
    """What a test broke beside the declared objects is mended."""
    yield
    kubectl("delete", "authorizationpolicy", "nobody", "-n", NAMESPACE, "--ignore-not-found")


def test_the_bad_pod_is_ejected_and_comes_back(applied: Any, checkout: Path) -> None:
    said = applied.said
    assert re.search(r"outlier_ejection: PASS: .* of 60 requests without the rule; with it [123] until it was", said), (
        said
    )
    assert re.search(r"then 0 of \d\d, back after (1[4-9]|2[0-5])\.\d s, then 3 of 3 until it was ejected again", said)
    assert "membership_healthy 3, 2, 3, 2" in said
    report = json.loads(max((checkout / "reports").glob("*-outlier_ejection.json")).read_text())
    samples = report["observation"]["rounds"][0]["samples"]
    assert [each["active"] for each in samples if each["phase"] == "during"][-1] == 0
    assert sum(each["errors"] for each in samples) in (4, 5, 6)


def test_the_second_run_changes_nothing_and_waits_for_the_first_ones_ejection(deploy: Deploy) -> None:
    again = deploy("outlier_ejection")
    assert (again.code, again.changed) == (0, []), again.said
    assert "with it 3 until it was ejected" in again.said


@pytest.mark.broken
def test_a_share_that_can_eject_no_pod_is_told_and_put_back(deploy: Deploy, kubectl: Kubectl) -> None:
    patch = {"spec": {"trafficPolicy": {"outlierDetection": {"maxEjectionPercent": 10}}}}
    kubectl("patch", "destinationrule", "web", "-n", NAMESPACE, "--type=merge", "-p", json.dumps(patch))
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert "outlier_ejection: FAIL" in verified.said and "maxEjectionPercent: 10 -> 50" in verified.said
    made = deploy("outlier_ejection", "--data", "prove=false")
    assert (made.code, made.changed) == (0, [APPLY]), made.said


@pytest.mark.broken
def test_errors_of_the_good_pods_are_no_ejection(deploy: Deploy, kubectl: Kubectl, put_back: None) -> None:
    kubectl("apply", "-f", "-", stdin=DENY)
    verified = deploy(*VERIFY)
    assert (verified.code, verified.failed) == (1, [TABLE]), verified.said
    assert re.search(r"outlier_ejection: FAIL: control: .* which is a good pod: another cause", verified.said)
