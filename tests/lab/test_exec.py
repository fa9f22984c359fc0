"""We test running programs in containers of the live mesh, as a deploy does it: within pyinfra's gevent and through its
ssh connection. Exit code and both streams come back, of many at once each its own, and large output whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMESPACE = "exec-test"
POD = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{istio-injection: enabled}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: shell, namespace: {NAMESPACE}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {{name: shell, image: "docker.io/library/busybox:1.28", command: [sh, -c, "sleep 3600 & wait"]}}
"""

# The programs run all at once; what each did is written down for the test.
DEPLOY = """
import json, sys, time
from pathlib import Path

from gevent import monkey
from gevent.pool import Pool
from pyinfra import host
from pyinfra.operations import python

from meshstrap.kube import exec
from meshstrap.kube.errors import KubeError
from meshstrap.operations import api_server

asked = json.loads({asked!r})


def one(client, each):
    argv, stdin = each
    began = time.monotonic()
    try:
        done = exec.execute(
            client, {namespace!r}, "shell", "shell", argv, stdin=None if stdin is None else stdin.encode()
        )
        seen = done._asdict()
    except KubeError as error:
        seen = {{"error": str(error)}}
    return seen | {{"began": began, "ended": time.monotonic()}}


def run():
    assert monkey.is_module_patched("socket"), "not under gevent"
    client = api_server.client(host)
    Path({result!r}).write_text(json.dumps(Pool(len(asked)).map(lambda each: one(client, each), asked)))


if "leader" in host.groups:
    python.call(name="Run programs in a container", function=run)
"""

Execute = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def meshed_pod(kubectl: Callable[..., str]) -> Iterator[None]:
    """A pod with a shell and a sidecar."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    kubectl("apply", "-f", "-", stdin=POD)
    try:
        kubectl("wait", "pod/shell", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s")
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE)


@pytest.fixture
def execute(run_pyinfra: Callable[..., Any], meshed_pod: None, checkout: Path, tmp_path: Path) -> Execute:
    """Run programs in the pod, all at once: execute((argv, stdin or None), ...) -> what came of each."""

    def run(*asked: tuple[list[str], str | None]) -> list[dict[str, Any]]:
        deploy, result = tmp_path / "execute.py", tmp_path / "result.json"
        deploy.write_text(DEPLOY.format(asked=json.dumps(asked), namespace=NAMESPACE, result=str(result)))
        finished = run_pyinfra("inventory.py", deploy, "-y")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        found: list[dict[str, Any]] = json.loads(result.read_text())
        return found

    return run


def test_an_exit_code_and_both_streams_come_back(execute: Execute, kubectl: Callable[..., str]) -> None:
    containers = kubectl("get", "pod", "shell", "-n", NAMESPACE, "-o", "jsonpath={.spec..name}")
    assert "istio-proxy" in containers
    (done,) = execute((["sh", "-c", "echo to the one; echo to the other >&2; exit 7"], None))
    assert (done["exit_code"], done["stdout"], done["stderr"]) == (7, "to the one\n", "to the other\n")


def test_eight_at_once_run_at_the_same_time_and_each_gets_its_own(execute: Execute) -> None:
    asked = [
        (["sh", "-c", f'sleep 2; read word; echo "out {n} $word"; echo "err {n}" >&2; exit {n}'], f"in-{n}\n")
        for n in range(8)
    ]
    found = execute(*asked)
    for n, done in enumerate(found):
        assert "error" not in done, done
        assert (done["exit_code"], done["stdout"], done["stderr"]) == (n, f"out {n} in-{n}\n", f"err {n}\n")
    # There was a moment at which all of them ran.
    assert max(done["began"] for done in found) < min(done["ended"] for done in found)
    took = max(done["ended"] for done in found) - min(done["began"] for done in found)
    assert took < 8 * 2, f"one after the other: {took:.1f} s"


def test_a_megabyte_comes_back_whole(execute: Execute) -> None:
    line = "0123456789abcdef" * 64
    script = f"i=0; while [ $i -lt 1024 ]; do echo {line[:-1]}; i=$((i+1)); done; echo all >&2"
    (done,) = execute((["sh", "-c", script], None))
    assert "error" not in done, done
    assert (done["exit_code"], done["stderr"]) == (0, "all\n")
    expected = (line[:-1] + "\n") * 1024
    assert len(done["stdout"]) == len(expected) == 1 << 20
    whole = done["stdout"] == expected
    assert whole  # without showing two megabytes


def test_a_program_that_is_not_there_is_told_by_pod_and_name(execute: Execute) -> None:
    (done,) = execute((["no-such-program"], None))
    assert f"exec in {NAMESPACE}/shell, container shell" in done["error"]
    assert "no-such-program" in done["error"]
