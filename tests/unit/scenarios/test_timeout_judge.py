"""The judge of the timeout on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios import find
from meshstrap.scenarios.timeout.judge import DELAY_MILLISECONDS, HASTY, PATIENT, TIMEOUT_MILLISECONDS, judge


@pytest.fixture
def honest(recorded: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return recorded("timeout")


def first(series: dict[str, Any], service: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in series["requests"] if each["service"] == service)
    return found


def line(series: dict[str, Any], service: str) -> dict[str, Any]:
    found: dict[str, Any] = series["log"]["busybox"][first(series, service)["mark"]][0]
    return found


def test_an_honest_mesh_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary == (
        "3 of 3 requests to nginx-svc ended with 504 after 1998 to 2002 ms; without the timeout 200 after 10004 ms"
    )
    assert verdict.numbers["timeouts_counted"] == 3


Forgery = Callable[[dict[str, Any]], None]


def inert(series: dict[str, Any]) -> None:
    """Timeout and delay in one rule: 200 after the whole delay."""
    first(series, HASTY).update(status=200, body="Apache Tomcat")
    line(series, HASTY).update(code=200, flags=["DI"], details="via_upstream", milliseconds=10_003)


def another_504(series: dict[str, Any]) -> None:
    line(series, HASTY).update(flags=[], details="via_upstream")


def too_quick(series: dict[str, Any]) -> None:
    line(series, HASTY)["milliseconds"] = 1000


def too_slow(series: dict[str, Any]) -> None:
    line(series, HASTY)["milliseconds"] = 4000


def no_delay(series: dict[str, Any]) -> None:
    """tomcat answers at once, so that the timeout was never tried."""
    line(series, PATIENT)["milliseconds"] = 12


def reached_tomcat(series: dict[str, Any]) -> None:
    series["log"]["tomcat"][first(series, HASTY)["mark"]] = series["log"]["tomcat"][first(series, PATIENT)["mark"]]


def tried_again(series: dict[str, Any]) -> None:
    series["log"]["nginx"][first(series, HASTY)["mark"]] *= 2


def not_delayed(series: dict[str, Any]) -> None:
    """nginx is slow by itself, and its own request to tomcat is not what it waits for."""
    for each in series["log"]["nginx"][first(series, HASTY)["mark"]]:
        each["flags"] = ["DC"]


def no_page(series: dict[str, Any]) -> None:
    first(series, PATIENT)["body"] = "<h1>Welcome to nginx!</h1>"


def unavailable(series: dict[str, Any]) -> None:
    first(series, HASTY)["status"] = 503
    line(series, HASTY).update(code=503, flags=["UH"], details="no_healthy_upstream")


def fewer_counted(series: dict[str, Any]) -> None:
    series["counters"]["after"]["timeouts"] -= 1


def no_answer(series: dict[str, Any]) -> None:
    first(series, HASTY).update(status=None, error="wget: can't connect to remote host")


@pytest.mark.parametrize(
    "forge",
    [
        inert,
        another_504,
        too_quick,
        too_slow,
        no_delay,
        reached_tomcat,
        tried_again,
        not_delayed,
        no_page,
        unavailable,
        fewer_counted,
        no_answer,
    ],
)
def test_what_contradicts_the_claim_fails(
    honest: dict[str, Any], forge: Forgery, never_passes: Callable[..., None]
) -> None:
    forge(honest["rounds"][0])
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert "3 of 3" not in verdict.summary
    never_passes("timeout", judge, honest)


def no_counter(series: dict[str, Any]) -> None:
    series["counters"]["after"]["timeouts"] = None


def no_line(series: dict[str, Any]) -> None:
    del series["log"]["busybox"][first(series, HASTY)["mark"]]


def no_line_at_nginx(series: dict[str, Any]) -> None:
    del series["log"]["nginx"][first(series, HASTY)["mark"]]


def no_line_of_the_control_at_nginx(series: dict[str, Any]) -> None:
    """As the lab showed twice: tomcat's proxy had written its line, and nginx's not yet."""
    del series["log"]["nginx"][first(series, PATIENT)["mark"]]


def nothing_asked_by_nginx(series: dict[str, Any]) -> None:
    lines = series["log"]["nginx"][first(series, HASTY)["mark"]]
    lines.remove(next(each for each in lines if each["cluster"].startswith("outbound|")))


def no_control(series: dict[str, Any]) -> None:
    series["requests"].remove(first(series, PATIENT))


def no_line_at_tomcat(series: dict[str, Any]) -> None:
    del series["log"]["tomcat"][first(series, PATIENT)["mark"]]


def not_sent(series: dict[str, Any]) -> None:
    first(series, HASTY).update(status=None, sent=False, error="wget: bad address")


@pytest.mark.parametrize(
    "forge",
    [
        no_counter,
        no_control,
        not_sent,
        no_line,
        no_line_at_nginx,
        no_line_of_the_control_at_nginx,
        nothing_asked_by_nginx,
        no_line_at_tomcat,
    ],
)
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest["rounds"][0])
    assert judge(honest).outcome is Outcome.INCONCLUSIVE


def test_the_manifests_declare_what_the_judge_expects() -> None:
    rules = {
        item["spec"]["hosts"][0]: item["spec"]["http"][0]
        for item in yaml.safe_load_all(find("timeout").manifests.read_text())
        if item["kind"] == "VirtualService"
    }
    assert rules[HASTY]["timeout"] == f"{TIMEOUT_MILLISECONDS // 1000}s"
    assert "timeout" not in rules[PATIENT]
    assert rules["tomcat-svc"]["fault"]["delay"]["fixedDelay"] == f"{DELAY_MILLISECONDS // 1000}s"
