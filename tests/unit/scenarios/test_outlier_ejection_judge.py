"""The ejection's judge: the recorded run passes, and each forgery of it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from meshstrap.evidence import plots
from meshstrap.evidence.verdict import Outcome
from meshstrap.mesh.cluster_config import declared_policy
from meshstrap.scenarios import find
from meshstrap.scenarios.outlier_ejection.judge import GUARDED, UNGUARDED, judge, shares

Seen = dict[str, Any]


@pytest.fixture
def seen(recorded: Callable[[str], Seen]) -> Seen:
    return recorded("outlier_ejection")


def series(seen: Seen) -> Seen:
    found: Seen = seen["rounds"][0]
    return found


def asked(observed: Seen, url: str, status: int) -> list[str]:
    """Give the marks of a Service's requests with a status, in the order in which they were sent."""
    return [each["mark"] for each in observed["requests"] if each["url"] == url and each["status"] == status]


def line(observed: Seen, mark: str) -> Seen:
    (found,) = observed["log"]["client"][mark]
    return dict[str, Any](found)


def turn(observed: Seen, mark: str, arm: str) -> None:
    """Let a request have been answered by another kind of pod."""
    address = next(address for address, kind in observed["arms"].items() if kind == arm)
    status = {"good": 200, "bad": 503}[arm]
    observed["log"]["client"][mark] = [line(observed, mark) | {"code": status, "upstream": address}]
    for request in observed["requests"]:
        if request["mark"] == mark:
            request["status"] = status


def test_a_recorded_run_passes_with_its_numbers(seen: Seen) -> None:
    verdict = judge(seen)
    assert verdict.outcome is Outcome.PASS, verdict.lines
    assert verdict.summary == (
        "the bad one of 3 pods got 20 of 60 requests without the rule; with it 3 until it was ejected, then 0 of 40,"
        " back after 16.6 s, then 3 of 3 until it was ejected again"
    )
    assert verdict.numbers["errors"] == [3, 3]
    assert 15 < verdict.numbers["recovery_seconds"] < verdict.numbers["spared_seconds"] < 25
    assert any("ejections_active 1, 0, 1;" in each for each in verdict.lines)


def test_the_samples_are_a_plot_of_it(seen: Seen) -> None:
    samples = series(seen)["samples"]
    assert [each["seconds"] for each in samples] == sorted(each["seconds"] for each in samples)
    assert sum(each["errors"] for each in samples) == 6
    during = [each for each in samples if each["active"] and each["phase"] == "during"]
    assert len(during) > 5
    assert sum(each["errors"] for each in during) == 0 < sum(each["errors_unguarded"] for each in during)


def test_share_and_ejection_are_drawn(seen: Seen) -> None:
    region, timeline = judge(seen).plots
    assert (region["count"], region["low"], region["high"]) == (20, 7, 35)
    ejected = timeline["series"]["ejections_active"]
    assert [after for (_, before), (_, after) in pairwise(ejected) if before != after] == [1, 0, 1]
    assert all(plots.svg(plot) for plot in (region, timeline))


def test_an_error_that_a_visitor_left_in_the_count_makes_the_first_ejection_early_and_no_fault(seen: Seen) -> None:
    turn(series(seen), asked(series(seen), GUARDED, 503)[0], "good")
    verdict = judge(seen)
    assert verdict.outcome is Outcome.PASS, verdict.lines
    assert verdict.numbers["errors"] == [2, 3]


def another(index: int, arm: str, status: int, url: str = GUARDED) -> Callable[[Seen], None]:
    """Let the index-th request with a status have been answered by another kind of pod."""
    return lambda seen: turn(series(seen), asked(series(seen), url, status)[index], arm)


def error_at(seconds: float) -> Callable[[Seen], None]:
    """Let a good answer, so long after the ejection, have been an error of the bad pod."""

    def forge(seen: Seen) -> None:
        observed = series(seen)
        ejected = datetime.fromisoformat(line(observed, asked(observed, GUARDED, 503)[2])["time"])
        mark = next(
            mark
            for mark in asked(observed, GUARDED, 200)
            if datetime.fromisoformat(line(observed, mark)["time"]) > ejected + timedelta(seconds=seconds)
        )
        turn(observed, mark, "bad")

    return forge


def change_line(**changes: Any) -> Callable[[Seen], None]:
    def forge(seen: Seen) -> None:
        observed = series(seen)
        mark = asked(observed, GUARDED, 503)[0]
        observed["log"]["client"][mark] = [line(observed, mark) | changes]

    return forge


def change_request(**changes: Any) -> Callable[[Seen], None]:
    return lambda seen: series(seen)["requests"][4].update(changes)


def change_samples(phases: tuple[str, ...], **changes: Any) -> Callable[[Seen], None]:
    def forge(seen: Seen) -> None:
        for sample in series(seen)["samples"]:
            if sample["phase"] in phases:
                sample.update(changes)

    return forge


def put(where: str, key: str, value: Any) -> Callable[[Seen], None]:
    return lambda seen: (series(seen) if where == "probe" else seen["control"]).update({key: value})


def flags(**found: Any) -> Callable[[Seen], None]:
    return lambda seen: series(seen)["ejected"].update(found)


def never_ejected(seen: Seen) -> None:
    """Without the rule, or with a maxEjectionPercent that ejects none: errors go on, the counters stand still."""
    observed = series(seen)
    for index, mark in enumerate(asked(observed, GUARDED, 200)):
        if index % 3 == 0:
            turn(observed, mark, "bad")
    change_samples(("before", "during", "back", "again"), active=0, enforced=0, healthy=3)(seen)
    observed["ejected"] = {}


def never_back(seen: Seen) -> None:
    observed = series(seen)
    observed["samples"] = [each for each in observed["samples"] if each["phase"] in ("before", "during")][:-1]
    for mark in asked(observed, GUARDED, 503)[3:]:
        turn(observed, mark, "good")


def late(seen: Seen) -> None:
    """Back, but twice as late as declared: an ejection before this one was not over."""
    for sample in series(seen)["samples"]:
        if sample["phase"] != "before" and not (sample["active"] and sample["phase"] == "during"):
            sample["seconds"] += 15


def no_share_in_the_control(seen: Seen) -> None:
    for mark in asked(seen["control"], UNGUARDED, 503)[:-2]:
        turn(seen["control"], mark, "good")


def ejected_for_all(seen: Seen) -> None:
    """The bad pod is simply gone while it should only be ejected: nobody gets it."""
    for mark in asked(series(seen), UNGUARDED, 503):
        turn(series(seen), mark, "good")


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (never_ejected, "requests in a row with errors, declared are 3"),
        (never_ejected, "ejections_active was never above 0"),
        (another(3, "bad", 200), "answered 4 requests in a row with errors, declared are 3"),
        (error_at(5), "requests in a row with errors, declared are 3"),
        (error_at(12), "requests in a row with errors, declared are 3"),
        (another(-1, "good", 503), "after its return the bad pod was ejected after 2 errors, declared are 3"),
        (another(-1, "bad", 200), "answered 4 requests in a row with errors after its return"),
        (never_back, "the bad pod did not come back"),
        (late, "the bad pod was back only after 31.6 s, more than 15 + 10 s"),
        (no_share_in_the_control, "control: without the rule the bad pod answered 2 of 60, outside 7..35"),
        (ejected_for_all, "control: meanwhile the bad pod got none of"),
        (
            change_line(flags=["FI"], details="fault_filter_abort", upstream=""),
            "got 503 FI fault_filter_abort from nobody",
        ),
        (change_line(flags=["UH"], details="no_healthy_upstream", upstream=""), "none of the pods: another cause"),
        (change_line(upstream="10.9.9.9:80"), "from 10.9.9.9:80, which is none of the pods"),
        (
            change_line(cluster="outbound|80||web-unguarded.outlier-ejection.svc.cluster.local"),
            "went to outbound|80||web-un",
        ),
        (change_line(code=200), "got 503, and by the log 200"),
        (
            change_request(status=None, error="wget: error getting response"),
            "got no answer from http://web/: wget: error",
        ),
        (change_samples(("before", "during", "again"), active=2), "ejections_active was 2"),
        (change_samples(("again",), enforced=1), "at the end ejections_active was 1"),
        (change_samples(("before", "during"), healthy=3), "while it was ejected"),
        (flags(during=[]), "failed_outlier_check during the ejection is set for []"),
        (flags(after=["10.244.1.11:80"]), "failed_outlier_check after the ejection is set for ['10.244.1.11:80']"),
    ],
)
def test_what_contradicts_the_claim_fails(
    seen: Seen, forge: Callable[[Seen], None], said: str, never_passes: Callable[..., None]
) -> None:
    forge(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL, verdict
    assert any(said in each for each in (verdict.summary, *verdict.lines)), verdict
    never_passes("outlier_ejection", judge, seen)


def lost_lines(seen: Seen) -> None:
    observed = series(seen)
    del observed["log"]["client"][asked(observed, GUARDED, 503)[-1]]


def another_client(seen: Seen) -> None:
    observed = series(seen)
    observed["log"]["client"], observed["pods_after"] = {}, {"client": ["busybox-2"]}


def somebody_else(seen: Seen) -> None:
    """Another asks through the same sidecar: the bad pod is ejected after less of our own errors."""
    turn(series(seen), asked(series(seen), GUARDED, 503)[-1], "good")
    series(seen)["samples"][-1]["requests"] += 9


def few(seen: Seen) -> None:
    observed = series(seen)
    times = [line(observed, mark)["time"] for mark in asked(observed, GUARDED, 503)]
    between = [mark for mark in asked(observed, GUARDED, 200) if times[2] < line(observed, mark)["time"] < times[3]]
    observed["requests"] = [each for each in observed["requests"] if each["mark"] not in between[10:]]


def too_few_afterwards(seen: Seen) -> None:
    observed = series(seen)
    turn(observed, asked(observed, GUARDED, 503)[-1], "good")
    observed["samples"][-1].update(active=0, enforced=1, healthy=3)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (put("control", "calm", False), "a pod is still ejected by what went before"),
        (change_samples(("again",), active=None), "does not show the counters"),
        (put("control", "counters", dict.fromkeys(("active", "enforced", "healthy"))), "(active, enforced, healthy)"),
        (change_request(status=None, sent=False, error="the client could not be asked"), "could not be asked"),
        (somebody_else, "9 requests of somebody else came through the client's sidecar meanwhile"),
        (lost_lines, "1 request left no line in the log of the client's sidecar"),
        (another_client, "the pods of client changed meanwhile"),
        (few, "only 10 requests were sent while the bad pod was ejected"),
    ],
)
def test_what_is_missing_is_inconclusive(seen: Seen, forge: Callable[[Seen], None], said: str) -> None:
    forge(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE, verdict
    assert any(said in each for each in (verdict.summary, *verdict.lines)), verdict


def test_shares_are_counted_by_service() -> None:
    requests: list[Seen] = [
        {"url": GUARDED, "status": 503},
        {"url": UNGUARDED, "status": 503},
        {"url": GUARDED, "status": None},
    ]
    assert shares(requests) == {"asked": 2, "errors": 1, "asked_unguarded": 1, "errors_unguarded": 1}


def test_what_is_judged_is_what_is_declared() -> None:
    scenario = find("outlier_ejection")
    objects = scenario.objects({"errors": 4, "seconds": 20})
    (rule,) = (item for item in objects if item["kind"] == "DestinationRule")
    policy = declared_policy(rule)
    assert policy["outlierDetection.consecutiveGatewayErrors"] == "4"
    assert policy["outlierDetection.baseEjectionTime"] == "20 s"
