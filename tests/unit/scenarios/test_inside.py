"""Asking from inside: what busybox's answers say, what is sent once and what again, which lines complete it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.kube import exec as execution
from meshstrap.kube import logs
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import ApiUnreachable
from meshstrap.mesh import proxy
from meshstrap.mesh.errors import ProxyError
from meshstrap.scenarios import access_lines, inside
from meshstrap.scenarios.site import Clock, Site

CLIENT = inside.Client("fault", "app=busybox", "busybox")
REFUSED = "wget: server returned error: HTTP/1.1 503 Service Unavailable"
UNKNOWN = "wget: bad address 'tomcat-svc:8080'"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Site:
    pod = {"metadata": {"name": "busybox-1"}, "status": {"podIP": "10.0.0.1"}}
    monkeypatch.setattr(inside, "pods", lambda *_: [pod])
    return Site(cast(Client, None), (), Path("nowhere"), clock=clock)


class Pod:
    """A client pod that gives prepared answers, and notes what it was asked for."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def execute(self, *arguments: Any, timeout: float) -> execution.Result:
        argv: Sequence[str] = arguments[-1]
        urls = argv[argv.index("ask") + 1 :]
        self.asked += urls
        given = [self.answers.pop(0) for _ in urls]
        return execution.Result(0, "".join(f"{code}\037{said}\036" for code, said in given), "")


def ask(pod: Pod, site: Site, monkeypatch: pytest.MonkeyPatch, number: int = 1, **more: Any) -> list[dict[str, Any]]:
    monkeypatch.setattr(execution, "execute", pod.execute)
    return inside.send(site, CLIENT, ["http://tomcat-svc:8080/"] * number, **more)


def test_each_request_is_sent_once_with_a_mark_of_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod(*[(0, "page")] * 9)
    seen = ask(pod, site, monkeypatch, 9, at_once=4)
    assert sorted(pod.asked) == [each["path"] for each in seen]
    assert len({each["mark"] for each in seen}) == 9
    assert {(each["status"], each["body"], each["sent"]) for each in seen} == {(200, "page", True)}


def test_a_refusal_is_a_status_and_a_cut_line_is_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, cut = ask(Pod((1, REFUSED), (1, "wget: error getting response")), site, monkeypatch, 2)
    assert (refused["status"], refused["sent"], refused["error"]) == (503, True, "")
    assert (cut["status"], cut["sent"], cut["error"]) == (None, True, "wget: error getting response")


def test_a_name_that_dns_does_not_know_yet_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod((1, UNKNOWN), (1, UNKNOWN), (0, "page"), (0, "page"))
    seen = ask(pod, site, monkeypatch, 2)
    assert [each["status"] for each in seen] == [200, 200]
    assert site.clock.seconds() == pytest.approx(2.0)


def test_a_name_that_dns_never_knows_is_not_sent_and_nothing_after_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod(*[(1, UNKNOWN)] * 40)
    seen = ask(pod, site, monkeypatch, 3)
    assert [(each["status"], each["sent"]) for each in seen] == [(None, False)] * 3
    assert UNKNOWN in seen[2]["error"]
    assert site.clock.seconds() == pytest.approx(inside.DNS_SECONDS, abs=1)
    assert {url.rpartition("-")[2] for url in pod.asked} == {"0000"}


def test_a_client_that_cannot_be_asked_is_told_and_not_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> execution.Result:
        raise ApiUnreachable("the connection broke")

    monkeypatch.setattr(execution, "execute", broken)
    (seen,) = inside.send(site, CLIENT, ["http://tomcat-svc:8080/"])
    assert (seen["status"], seen["sent"]) == (None, False)
    assert "the connection broke" in seen["error"]
    assert site.clock.seconds() == 0


def test_a_program_that_ends_early_leaves_the_rest_unsent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["0\037page\036", "0\037page\036"])  # Of the three that are asked for together, one.
    monkeypatch.setattr(execution, "execute", lambda *_, **__: execution.Result(137, next(answers), "Killed"))
    seen = inside.send(site, CLIENT, ["http://tomcat-svc:8080/"] * 4)
    assert [each["sent"] for each in seen] == [True, True, False, False]
    assert "Killed" in seen[-1]["error"]


@pytest.mark.parametrize(
    ("client", "server", "complete"),
    [
        ({"m": [{"upstream": ""}]}, {}, True),
        ({"m": [{"upstream": "10.0.0.2:8080"}]}, {"m": [{}]}, True),
        ({"m": [{"upstream": "10.0.0.2:8080"}]}, {}, False),
        ({}, {"m": [{}]}, False),
    ],
)
def test_a_series_is_complete_when_every_answer_and_every_upstream_has_its_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, client: dict[str, Any], server: dict[str, Any], complete: bool
) -> None:
    logs = iter([client, server])
    monkeypatch.setattr(access_lines, "read", lambda *_: next(logs))
    observed: dict[str, Any] = {"began": "2026-01-01T00:00:00+00:00", "requests": [{"mark": "m", "status": 200}]}
    watched = {"busybox": ("fault", "app=busybox"), "tomcat": ("fault", "server=tomcat")}
    assert inside.collect(site, observed, watched) is complete
    assert observed["pods_after"] == {"busybox": ["busybox-1"], "tomcat": ["busybox-1"]}


def test_a_counter_is_the_sum_of_all_proxies_and_none_where_one_does_not_show_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = "outbound|80||x.y.svc.cluster.local"
    shown = f"cluster.{cluster};.upstream_rq_retry: 3\nhttp.a.fault.aborts_injected: 1\nhttp.b.fault.aborts_injected: 2"
    monkeypatch.setattr(proxy, "ask", lambda *_: shown)
    wanted = {"retries": f"{cluster} upstream_rq_retry", "aborts": ".fault.aborts_injected", "none": f"{cluster} other"}
    assert inside.counters(site, "y", "app=x", wanted) == {"retries": 3, "aborts": 3, "none": None}
    monkeypatch.setattr(inside, "pods", lambda *_: [])
    assert inside.counters(site, "y", "app=x", wanted) == dict.fromkeys(wanted)


def test_a_pause_between_requests_is_the_clients_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def execute(*arguments: Any, **_: Any) -> execution.Result:
        asked.append(arguments[-1])
        return execution.Result(0, "0\037page\036", "")

    monkeypatch.setattr(execution, "execute", execute)
    inside.send(site, CLIENT, ["http://web/"], pause=0.1)
    assert "PAUSE=0.1" in asked[0] and 'sleep "$PAUSE"' in " ".join(asked[0])


def test_how_proxies_treat_clusters_is_told_pod_by_pod(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"configs": [{"cluster": {"name": "inbound|80||", "outlier_detection": {}}}]}
    monkeypatch.setattr(proxy, "dump", lambda *_: shown)
    declared: dict[str, dict[str, str]] = {"inbound|80||": {}}
    said = "busybox-1: cluster inbound|80||: outlierDetection is on, declared nothing"
    assert inside.cluster_differences(site, "shop", "app=web", declared) == [said]

    def broken(*_: Any) -> Any:
        raise ProxyError("shop/busybox-1: no JSON")

    monkeypatch.setattr(proxy, "dump", broken)
    assert inside.cluster_differences(site, "shop", "app=web", declared) == ["shop/busybox-1: no JSON"]
    monkeypatch.setattr(inside, "pods", lambda *_: [])
    assert inside.cluster_differences(site, "shop", "app=web", declared) == ["no ready pod shop/app=web"]


def test_lines_of_a_program_that_makes_its_own_marks_are_found_by_its_run(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = (
        '[2026-11-27T19:46:55.889Z] "GET /get?mark={mark} HTTP/1.1" 503 UO x{{overflow}} - "-" 0 81 0 - "-" "fortio"'
        ' "id" "httpbin:8000" "-" inbound|80|| - 10.0.0.1:80 10.0.0.2:55466 - default'
    )
    text = "\n".join(line.format(mark=mark) for mark in ("run-1", "run-2", "runs-3", "other-4"))
    monkeypatch.setattr(logs, "read", lambda *_, **__: text)
    observed: dict[str, Any] = {"began": "2026-11-27T19:46:50+00:00", "run": "run"}
    inside.read_lines(site, observed, {"server": ("shop", "app=web")})
    assert sorted(observed["log"]["server"]) == ["run-1", "run-2"]
    (seen,) = observed["log"]["server"]["run-1"]
    assert (seen["code"], seen["flags"], seen["time"]) == (503, ["UO"], "2026-11-27T19:46:55.889Z")
