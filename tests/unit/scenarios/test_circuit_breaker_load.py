"""Running fortio in its pod: once, with marks of its own; again only while DNS does not know the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.kube import exec as execution
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import ApiUnreachable
from meshstrap.scenarios import inside
from meshstrap.scenarios.circuit_breaker import load
from meshstrap.scenarios.site import Clock, Site

CLIENT = inside.Client("circuit-breaker", "app=fortio", "fortio")
ANSWER = execution.Result(0, '{"RetCodes": {"200": 7, "503": 33}}', "")
UNKNOWN = execution.Result(1, "", '{"msg":"lookup httpbin on 10.96.0.10:53: no such host"}')


Run = Callable[..., tuple[dict[str, Any], list[Sequence[str]], Site]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Run:
    """Run it against prepared results, or errors: run(result, ...) -> observation, the calls, the site."""

    def go(*results: execution.Result | Exception, pods: int = 1) -> tuple[dict[str, Any], list[Sequence[str]], Site]:
        left, calls = list(results), list[Sequence[str]]()
        site = Site(cast(Client, None), (), Path("nowhere"), clock=clock)
        monkeypatch.setattr(inside, "pods", lambda *_: [{"metadata": {"name": f"fortio-{i}"}} for i in range(pods)])

        def execute(*arguments: Any, **_: Any) -> execution.Result:
            calls.append(arguments[-1])
            result = left.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(execution, "execute", execute)
        return load.run(site, CLIENT, "http://httpbin:8000/delay/1", connections=10, requests=40), calls, site

    return go


def test_fortio_is_run_once_and_marks_each_request_itself(run: Run) -> None:
    seen, (argv,), _ = run(ANSWER)
    assert (seen["codes"], seen["error"], seen["pod"]) == ({"200": 7, "503": 33}, "", "fortio-0")
    assert argv[-1] == f"http://httpbin:8000/delay/1?mark={seen['run']}-{{uuid}}"
    assert " ".join(argv).startswith("/usr/bin/fortio load -c 10 -n 40 -qps 0 ")


def test_it_is_run_again_only_while_dns_does_not_know_the_name(run: Run) -> None:
    seen, calls, site = run(UNKNOWN, UNKNOWN, ANSWER)
    assert (len(calls), seen["error"]) == (3, "")
    assert site.clock.seconds() == pytest.approx(2.0)


def test_a_name_that_dns_never_knows_is_told(run: Run) -> None:
    seen, _, site = run(*[UNKNOWN] * 40)
    assert "no such host" in seen["error"] and seen["codes"] == {}
    assert site.clock.seconds() == pytest.approx(inside.DNS_SECONDS, abs=1)


def test_a_pod_that_cannot_be_asked_is_told_and_not_asked_again(run: Run) -> None:
    seen, calls, _ = run(ApiUnreachable("the connection broke"))
    assert "the connection broke" in seen["error"] and len(calls) == 1


def test_without_a_pod_nothing_is_run(run: Run) -> None:
    seen, calls, _ = run(pods=0)
    assert seen["error"] == "no ready pod circuit-breaker/app=fortio" and calls == []
