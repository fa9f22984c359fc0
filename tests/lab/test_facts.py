"""We test the facts about the cluster as a person asks for them: on pyinfra's command line, of a standing site."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.lab.directory import Lab

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def ask(standing: Lab, run_pyinfra: Callable[..., Finished]) -> Callable[..., dict[str, Any]]:
    """Ask for a fact: ask("Objects", "kind=pods") -> what it gives, by host."""

    def run(fact: str, *arguments: str) -> dict[str, Any]:
        done = run_pyinfra("inventory.py", "fact", f"meshstrap.facts.k8s.{fact}", *arguments, "--json", lab=standing)
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout).values()
        return dict(found)

    return run


def test_select_picks_from_objects(ask: Callable[..., dict[str, Any]]) -> None:
    istiod = "[?metadata.name=='istiod' && metadata.namespace=='istio-system'].[kind, spec.replicas, metadata.name]"
    assert ask("Objects", "kind=deployments", f"select={istiod}") == {
        "control-1": [["Deployment", 1, "istiod"]],
        "worker-1": [],
    }
    # What pyinfra's command line takes for JSON is an expression too.
    assert ask("Objects", "kind=nodes", "select=[0]")["control-1"]["kind"] == "Node"
    picked = ask("Objects", "kind=services", "namespace=istio-system", "select=length(@)", "labels=app=istiod")
    assert picked["control-1"] == 1


def test_node_ports_are_those_that_an_expression_finds(ask: Callable[..., dict[str, Any]]) -> None:
    gateway = ask("NodePorts")["control-1"]["istio-system/istio-ingressgateway"]
    select = "[?metadata.name=='istio-ingressgateway'].spec.ports[] | [].[name, nodePort]"
    found = ask("Objects", "kind=services", f"select={select}")["control-1"]
    assert [[name, port["node_port"]] for name, port in gateway.items()] == found


def test_a_malformed_expression_is_named_and_nothing_is_run(
    standing: Lab, run_pyinfra: Callable[..., Finished]
) -> None:
    fact = ["fact", "meshstrap.facts.k8s.Objects", "kind=pods", "select=[?metadata.name=='a'"]
    refused = run_pyinfra("inventory.py", *fact, "--json", "-vvv", lab=standing)
    assert refused.returncode == 1
    assert "select: jmespath expression \"[?metadata.name=='a'\": " in refused.stderr
    assert "kubectl" not in refused.stdout + refused.stderr
