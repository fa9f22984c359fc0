"""The judge of retries on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios import find
from meshstrap.scenarios.retry.judge import ATTEMPTS, ONCE, RETRIED, SOUND, TUTORIAL, judge, tutorial_attempts


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
    assert "each of 5 requests to nginx-once (attempts 0) was tried once" in verdict.lines[1]
    assert (
        "each of 5 requests to nginx-svc/sound (the same rule, no abort) got 200 at the first try" in verdict.lines[2]
    )
    assert "tried 1 time on Istio 1.31.0 (5 of 5)" in verdict.lines[3]


@pytest.mark.parametrize(("istio", "number"), [("1.13.1", 4), ("1.23.6", 4), ("1.24.0", 1), ("1.31.0-again", 1)])
def test_the_tutorials_rule_is_judged_by_the_version(istio: str, number: int) -> None:
    assert tutorial_attempts(istio) == number


def test_an_older_istio_must_try_the_tutorials_rule_again(honest: dict[str, Any]) -> None:
    honest["control"]["istio"] = "1.23.0"
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert f"to {TUTORIAL} was tried 1 time, not 4" in verdict.summary


Forgery = Callable[[dict[str, Any]], None]


def one_attempt(series: dict[str, Any]) -> None:
    inbound = [each for each in attempts(series, RETRIED) if each["cluster"].startswith("inbound|")]
    asked = [each for each in attempts(series, RETRIED) if each["cluster"].startswith("outbound|")]
    series["log"]["nginx"][mark(series, RETRIED)] = inbound[:1] + asked[:1]
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


def another_503_behind(series: dict[str, Any]) -> None:
    """tomcat's pods are gone, and no fault is injected: 503 just as well."""
    for each in attempts(series, RETRIED):
        if each["cluster"].startswith("outbound|"):
            each.update(flags=["UH"], details="no_healthy_upstream")


def the_sound_way_fails(series: dict[str, Any]) -> None:
    next(each for each in series["requests"] if each["service"] == SOUND).update(status=503)
    series["log"]["busybox"][mark(series, SOUND)][0]["code"] = 503


def the_sound_way_is_tried_again(series: dict[str, Any]) -> None:
    series["log"]["nginx"][mark(series, SOUND)] *= 2


def not_tomcats_page(series: dict[str, Any]) -> None:
    next(each for each in series["requests"] if each["service"] == SOUND)["body"] = "<h1>Welcome to nginx!</h1>"


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
        another_503_behind,
        the_sound_way_fails,
        the_sound_way_is_tried_again,
        not_tomcats_page,
        not_aborted,
        reached_tomcat,
        fewer_counted,
        two_lines,
    ],
)
def test_what_contradicts_the_claim_fails(
    honest: dict[str, Any], forge: Forgery, never_passes: Callable[..., None]
) -> None:
    forge(honest["rounds"][0])
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert "each of" not in verdict.summary
    never_passes("retry", judge, honest)


def no_counter(series: dict[str, Any]) -> None:
    series["counters"]["after"]["retries"] = None


def a_late_line(series: dict[str, Any]) -> None:
    lines = attempts(series, RETRIED)
    lines.remove(next(each for each in lines if each["cluster"].startswith("inbound|")))


def nothing_asked_by_nginx(series: dict[str, Any]) -> None:
    lines = attempts(series, ONCE)
    lines.remove(next(each for each in lines if each["cluster"].startswith("outbound|")))


def no_line(series: dict[str, Any]) -> None:
    del series["log"]["busybox"][mark(series, ONCE)]


def no_control(series: dict[str, Any]) -> None:
    series["requests"] = [each for each in series["requests"] if each["service"] != SOUND]


def no_line_at_tomcat(series: dict[str, Any]) -> None:
    """Without a line where there must be one, that there is none elsewhere says nothing."""
    del series["log"]["tomcat"][mark(series, SOUND)]


def not_sent(series: dict[str, Any]) -> None:
    series["requests"][0].update(status=None, sent=False, error="wget: bad address")


@pytest.mark.parametrize(
    "forge", [no_counter, no_control, not_sent, a_late_line, nothing_asked_by_nginx, no_line, no_line_at_tomcat]
)
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest["rounds"][0])
    assert judge(honest).outcome is Outcome.INCONCLUSIVE


def test_the_manifests_declare_what_the_judge_expects() -> None:
    rules = {
        item["spec"]["hosts"][0]: item["spec"]["http"][0]
        for item in yaml.safe_load_all(find("retry").manifests.read_text())
        if item["kind"] == "VirtualService"
    }
    retried = rules[RETRIED]["retries"]
    assert retried["attempts"] == ATTEMPTS - 1
    assert set(retried["retryOn"].split(",")) == {"503", "gateway-error"}
    # A timeout of the whole would end the retries early (R2).
    assert "timeout" not in rules[RETRIED]
    assert rules[ONCE]["retries"] == {"attempts": 0}
    assert rules[TUTORIAL]["retries"] == {"attempts": 3, "perTryTimeout": "2s"}
    assert rules["tomcat-svc"]["fault"]["abort"] == {"httpStatus": 503, "percentage": {"value": 100}}
    assert "tomcat-sound" not in rules
