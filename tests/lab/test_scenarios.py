"""We test that all scenarios live side by side on one cluster: each is proved, the table tells it, a second run changes
nothing, and istioctl has nothing to say against them; that none is judged without its logs; that all go again, and
that then nothing passes for proved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshstrap import scenarios

Deploy = Callable[..., Any]


@pytest.fixture(scope="module")
def all_of_them(deploy: Deploy, standing: Any) -> Any:
    """Every scenario applied and proved by the one deploy."""
    return deploy("scenarios")


def test_each_is_proved_and_the_table_tells_it(all_of_them: Any) -> None:
    assert all_of_them.code == 0, all_of_them.said
    number = len(scenarios.names())
    assert f"{number} scenarios: {number} PASS" in all_of_them.said
    for name in scenarios.names():
        assert re.search(rf"^ *\[control-1\] {name} +PASS +\d+\.\d s  \S", all_of_them.said, re.MULTILINE), name


def test_the_second_run_changes_nothing(all_of_them: Any, deploy: Deploy) -> None:
    again = deploy("scenarios", "--data", "prove=false")
    assert (again.code, again.changed) == (0, []), again.said


def test_the_way_of_a_request_is_shown(all_of_them: Any) -> None:
    assert re.search(
        r"way: http://\S+ \(control-1\) -> istio-ingressgateway-\S+ -> Service canary:80 subset v1 \(90 %\) ->"
        r" appv1-\S+ 10\.244\.\d+\.\d+:80; Service canary:80 subset v2 \(10 %\) -> appv2-",
        all_of_them.said,
    ), all_of_them.said
    assert re.search(
        r"way: busybox-\S+ -> Service nginx-svc:80 -> nginx-\S+ -> Service tomcat-svc:8080 -> tomcat-", all_of_them.said
    )


def test_istioctl_finds_nothing_wrong(all_of_them: Any, on_node: Callable[..., Any], standing: Any) -> None:
    # A namespace is ours when it has a scenario of ours; what others keep on the lab is not judged here.
    script = "KUBECONFIG=/etc/kubernetes/admin.conf istioctl analyze --all-namespaces --output json"
    found = json.loads(on_node(standing, "control-1", script, timeout=110).stdout) or []
    ours = {scenarios.find(name).namespace for name in scenarios.names()}
    wrong = [
        f"{each['code']} {each['level']} {each.get('origin')}: {each['message']}"
        for each in found
        if each["level"] in ("Warning", "Error") and set(re.findall(r"[\w-]+", each.get("origin", ""))) & ours
    ]
    assert wrong == []


SILENT = """
apiVersion: telemetry.istio.io/v1alpha1
kind: Telemetry
metadata: {name: silent, namespace: istio-system}
spec: {accessLogging: [{providers: [{name: envoy}], disabled: true}]}
"""


@pytest.fixture
def unlogged(kubectl: Callable[..., str]) -> Iterator[None]:
    """Somebody switches the access log of the whole mesh off."""
    kubectl("apply", "-f", "-", stdin=SILENT)
    yield
    kubectl("delete", "telemetry", "silent", "-n", "istio-system")


@pytest.mark.broken
def test_who_takes_the_logs_away_is_named_by_each(all_of_them: Any, deploy: Deploy, unlogged: None) -> None:
    verified = deploy("verify")
    assert (verified.code, verified.failed) == (1, ["Verdicts"]), verified.said
    number = len(scenarios.names())
    assert f"{number} scenarios: {number} INCONCLUSIVE" in verified.said, verified.said
    for name in scenarios.names():
        assert (
            f"{name}: INCONCLUSIVE: not proved: Telemetry istio-system/silent disables the access log" in verified.said
        )


def test_where_none_stands_nothing_passes_for_proved(all_of_them: Any, deploy: Deploy) -> None:
    clean = deploy("clean")
    assert (clean.code, len(clean.changed)) == (0, len(scenarios.names())), clean.said
    verified = deploy("verify")
    assert (verified.code, verified.failed) == (1, ["Verdicts"]), verified.said
    assert "no scenario stands on this cluster, so nothing was proved" in verified.said
    assert deploy("canary", "--data", "prove=false").code == 0
    verified = deploy("verify")
    assert verified.code == 0, verified.said
    assert re.search(r"not on the cluster, so not proved: bookinfo, circuit_breaker, .*timeout", verified.said)
