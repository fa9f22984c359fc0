"""The judge of injected faults on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios import find
from meshstrap.scenarios.fault.judge import DELAY_MILLISECONDS, EXPECTED, judge, undecided


@pytest.fixture
def honest(recorded: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return recorded("fault")


def marks(series: dict[str, Any], service: str, fate: str | None = None) -> list[str]:
    """The marks of a Service's requests; of those alone whose line in the client's log has a flag."""
    found = [each["mark"] for each in series["requests"] if each["service"] == service]
    return [mark for mark in found if fate is None or fate in series["log"]["busybox"][mark][0]["flags"]]


def test_an_honest_mesh_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert "109 of 200 aborted and 90 of 200 delayed at 50 % (accepted 77..123" in verdict.summary
    assert "119 aborts and 100 delays" in verdict.lines[0]
    assert not undecided(honest)


Forgery = Callable[[dict[str, Any]], None]


def reached_the_server(series: dict[str, Any]) -> None:
    mark = marks(series, "tomcat-svc")[0]
    series["log"]["tomcat"][mark] = [series["log"]["busybox"][mark][0]]


def another_cause(series: dict[str, Any]) -> None:
    line = series["log"]["busybox"][marks(series, "tomcat-svc")[0]][0]
    line["flags"], line["details"] = ["UH"], "no_healthy_upstream"


def not_aborted(series: dict[str, Any]) -> None:
    """An answer of the server where every request was to be aborted, as of an old route."""
    sound, mark = marks(series, "tomcat-sound")[0], marks(series, "tomcat-svc")[0]
    for role in ("busybox", "tomcat"):
        series["log"][role][mark] = series["log"][role][sound]
    next(each for each in series["requests"] if each["mark"] == mark)["status"] = 200


def a_fault_in_the_control(series: dict[str, Any]) -> None:
    series["log"]["busybox"][marks(series, "tomcat-sound")[0]][0]["flags"] = ["DI"]
    series["log"]["busybox"][marks(series, "tomcat-sound")[0]][0]["milliseconds"] = 600


def a_slow_server(series: dict[str, Any]) -> None:
    series["log"]["busybox"][marks(series, "tomcat-slow")[0]][0]["upstream_milliseconds"] = 480


def too_quick(series: dict[str, Any]) -> None:
    series["log"]["busybox"][marks(series, "tomcat-slow")[0]][0]["milliseconds"] = 100


def all_quicker(series: dict[str, Any]) -> None:
    """As if 300 ms were declared: no request alone is too quick for a busy machine."""
    for mark in marks(series, "tomcat-slow"):
        line = series["log"]["busybox"][mark][0]
        line["milliseconds"] = line["upstream_milliseconds"] + 300


def one_quicker(series: dict[str, Any]) -> None:
    """Seen at load 36 on two cores."""
    series["log"]["busybox"][marks(series, "tomcat-slow")[0]][0] |= {"milliseconds": 520, "upstream_milliseconds": 89}


def too_often(series: dict[str, Any]) -> None:
    """As if 80 % were aborted."""
    aborted = marks(series, "tomcat-half", "FI")[0]
    spared = [mark for mark in marks(series, "tomcat-half") if mark not in marks(series, "tomcat-half", "FI")]
    for mark in spared[:51]:
        series["log"]["busybox"][mark] = series["log"]["busybox"][aborted]
        series["log"]["tomcat"].pop(mark)
        next(each for each in series["requests"] if each["mark"] == mark)["status"] = 503
    series["counters"]["after"]["aborts"] += 51


def fewer_counted(series: dict[str, Any]) -> None:
    series["counters"]["after"]["aborts"] -= 1


def twice_in_a_log(series: dict[str, Any]) -> None:
    series["log"]["busybox"][marks(series, "tomcat-sound")[0]] *= 2


def retried(series: dict[str, Any]) -> None:
    series["log"]["tomcat"][marks(series, "tomcat-sound")[0]] *= 2


def another_status(series: dict[str, Any]) -> None:
    series["requests"][0]["status"] = 504


def no_answer(series: dict[str, Any]) -> None:
    series["requests"][0] |= {"status": None, "error": "wget: can't connect: Connection refused"}


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (reached_the_server, "was aborted and yet reached the server"),
        (another_cause, r"another cause than the fault \(UH no_healthy_upstream\)"),
        (not_aborted, "met no fault, which it should"),
        (a_fault_in_the_control, "tomcat-sound was delayed, which it should not be"),
        (a_slow_server, "not the fault's delay"),
        (too_quick, "has the flag DI and took only 100 ms"),
        (all_quicker, "the delays of tomcat-slow were 300 ms in the median, declared 500"),
        (too_often, r"160 of 200 requests to tomcat-half .* OUTSIDE"),
        (fewer_counted, "counted 118 aborts, and logged 119"),
        (twice_in_a_log, "left 2 lines in the client's log"),
        (retried, "left 2 lines in the server's log"),
        (another_status, "got 504, and 503 by its proxy's log"),
        (no_answer, "got no answer: wget: can't connect"),
    ],
)
def test_what_contradicts_the_claim_fails(
    honest: dict[str, Any], forge: Forgery, words: str, never_passes: Callable[..., None]
) -> None:
    forge(honest["rounds"][0])
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(verdict.summary)
    assert "109 of 200" not in verdict.summary
    never_passes("fault", judge, honest)


def test_a_delay_that_a_busy_machine_cut_short_is_still_one(honest: dict[str, Any]) -> None:
    one_quicker(honest["rounds"][0])
    assert judge(honest).outcome is Outcome.PASS


def no_counter(series: dict[str, Any]) -> None:
    series["counters"]["after"]["aborts"] = None


def no_line(series: dict[str, Any]) -> None:
    del series["log"]["busybox"][series["requests"][0]["mark"]]


def no_line_at_the_server(series: dict[str, Any]) -> None:
    del series["log"]["tomcat"][marks(series, "tomcat-sound")[0]]


def not_sent(series: dict[str, Any]) -> None:
    series["requests"][0] |= {"status": None, "sent": False, "error": "wget: bad address"}


@pytest.mark.parametrize("forge", [no_counter, no_line, no_line_at_the_server, not_sent])
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest["rounds"][0])
    assert judge(honest).outcome is Outcome.INCONCLUSIVE


def test_a_pod_that_was_replaced_is_named_as_the_likely_cause(honest: dict[str, Any]) -> None:
    no_line_at_the_server(honest["rounds"][0])
    honest["rounds"][0]["pods_after"]["tomcat"] = ["tomcat-other"]
    assert judge(honest).summary.startswith("the pods of tomcat changed meanwhile")


def test_a_count_outside_alone_asks_for_the_confirmation(honest: dict[str, Any]) -> None:
    too_often(honest["rounds"][0])
    assert undecided(honest)
    another_cause(honest["rounds"][0])
    assert not undecided(honest)


def test_the_manifests_declare_what_the_judge_expects() -> None:
    declared = {}
    for item in yaml.safe_load_all(find("fault").manifests.read_text()):
        if item["kind"] == "VirtualService":
            fault = item["spec"]["http"][0].get("fault", {})
            ((kind, what),) = fault.items() or [("", {"percentage": {"value": 0}})]
            declared[item["spec"]["hosts"][0]] = (kind, what["percentage"]["value"])
            if kind == "delay":
                assert what["fixedDelay"] == f"{DELAY_MILLISECONDS}ms"
    assert declared == {name: (each.fault, each.percent) for name, each in EXPECTED.items()}
