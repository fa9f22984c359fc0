"""The judge of retries on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios.retry.judge import ONCE, RETRIED, TUTORIAL, judge, tutorial_attempts


@pytest.fixture
def honest(recorded: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return recorded("retry")


def mark(series: dict[str, Any], service: str) -> str:
    return str(next(each["mark"] for each in series["requests"] if each["service"] == service))


def attempts(series: dict[str, Any], service: str) -> list[dict[str, Any]]:
    """The lines of a request at nginx, those of what nginx asks for among them."""
    found: list[dict[str, Any]] = series["log"]["nginx"][mark(series, service)]
    return found


def test_an_honest_mesh_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary == "each of 5 requests to nginx-svc was tried 4 times, 1 and 3 retries"
    assert "15 more in upstream_rq_retry and 5 in upstream_rq_retry_limit_exceeded" in verdict.lines[0]
    assert "tried 1 time on Istio 1.31.0 (5 of 5)" in verdict.lines[2]


@pytest.mark.parametrize(("istio", "number"), [("1.13.1", 4), ("1.23.6", 4), ("1.24.0", 1), ("1.31.0-again", 1)])
def test_the_tutorials_rule_is_judged_by_the_version(istio: str, number: int) -> None:
    assert tutorial_attempts(istio) == number


def test_an_older_istio_must_try_the_tutorials_rule_again(honest: dict[str, Any]) -> None:
    honest["control"]["istio"] = "1.23.0"
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert f"to {TUTORIAL} was tried 1 times, not 4" in verdict.summary


Forgery = Callable[[dict[str, Any]], None]


def one_attempt(series: dict[str, Any]) -> None:
    inbound = [each for each in attempts(series, RETRIED) if each["cluster"].startswith("inbound|")]
    series["log"]["nginx"][mark(series, RETRIED)] = inbound[:1]
    series["log"]["busybox"][mark(series, RETRIED)][0]["flags"] = []


def an_attempt_too_many(series: dict[str, Any]) -> None:
    attempts(series, ONCE).extend(attempts(series, RETRIED)[:2])


def five_attempts(series: dict[str, Any]) -> None:
    attempts(series, RETRIED).extend(attempts(series, ONCE))


def no_urx(series: dict[str, Any]) -> None:
    series["log"]["busybox"][mark(series, RETRIED)][0]["flags"] = []


def another_cause(series: dict[str, Any]) -> None:
    series["log"]["busybox"][mark(series, ONCE)][0].update(flags=["UH"], upstream="", details="no_healthy_upstream")
    series["log"]["nginx"][mark(series, ONCE)] = []


def not_aborted(series: dict[str, Any]) -> None:
    next(each for each in series["requests"] if each["service"] == ONCE).update(status=200)
    series["log"]["busybox"][mark(series, ONCE)][0]["code"] = 200


def reached_tomcat(series: dict[str, Any]) -> None:
    series["log"]["tomcat"][mark(series, ONCE)] = attempts(series, ONCE)


def fewer_counted(series: dict[str, Any]) -> None:
    series["counters"]["after"]["retries"] -= 1


def two_lines(series: dict[str, Any]) -> None:
    series["log"]["busybox"][mark(series, RETRIED)] *= 2


@pytest.mark.parametrize(
    "forge",
    [
        one_attempt,
        an_attempt_too_many,
        five_attempts,
        no_urx,
        another_cause,
        not_aborted,
        reached_tomcat,
        fewer_counted,
        two_lines,
    ],
)
def test_what_contradicts_the_claim_fails(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest["rounds"][0])
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert "each of" not in verdict.summary


def no_counter(series: dict[str, Any]) -> None:
    series["counters"]["after"]["retries"] = None


def a_late_line(series: dict[str, Any]) -> None:
    lines = attempts(series, RETRIED)
    lines.remove(next(each for each in lines if each["cluster"].startswith("inbound|")))


def no_line(series: dict[str, Any]) -> None:
    del series["log"]["busybox"][mark(series, ONCE)]


def not_sent(series: dict[str, Any]) -> None:
    series["requests"][0].update(status=None, sent=False, error="wget: bad address")


@pytest.mark.parametrize("forge", [no_counter, a_late_line, no_line, not_sent])
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest["rounds"][0])
    assert judge(honest).outcome is Outcome.INCONCLUSIVE
