"""The canary's judge on honest and forged observations."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.scenarios.canary.judge import judge, marker, undecided

BODY = {"v1": "<h1>canary v1</h1>\n", "v2": "<h1>canary v2</h1>\n"}
CLUSTER = {arm: f"outbound|80|{arm}|canary.canary.svc.cluster.local" for arm in BODY}


def entry(arm: str, code: int = 200, **changes: Any) -> dict[str, Any]:
    return {
        "pod": "gw-1",
        "code": code,
        "flags": [],
        "details": "via_upstream",
        "cluster": CLUSTER[arm],
        "line": "...",
    } | changes


def series(v2: int, n: int = 400, alpha: str = "1/1000", prefix: str = "run", asked: str = "v1") -> dict[str, Any]:
    """A series as it is seen when everything is right and v2 answers `v2` of its n requests."""
    requests: list[dict[str, Any]] = []
    log: dict[str, list[dict[str, Any]]] = {}
    arms = ["v2"] * v2 + ["v1"] * (n - v2)
    random.Random(n + v2).shuffle(arms)
    for index, arm in enumerate([asked, asked, *arms]):
        mark = f"{prefix}-{index:04d}"
        requests.append(
            {
                "mark": mark,
                "node": "control-1",
                "url": "http://192.0.2.10:30191",
                "host": "canary.example" if index == 1 else None,
                "status": 200,
                "body": BODY[arm],
                "error": "",
                "sent": True,
                "counted": index > 1,
            }
        )
        log[mark] = [entry(arm)]
    return {"n": n, "alpha": alpha, "gateways": ["gw-1"], "gateways_after": ["gw-1"], "requests": requests, "log": log}


def observation(*rounds: dict[str, Any], weight: int = 10) -> dict[str, Any]:
    replies = [{"pod": f"app{arm}-0", "subset": arm, "body": BODY[arm], "error": ""} for arm in BODY for _ in range(3)]
    return {"parameters": {"weight": weight}, "control": {"replies": replies}, "rounds": list(rounds)}


def recorded() -> dict[str, Any]:
    """What the lab's real mesh showed: Istio 1.31.0, two nodes, 27 of 400."""
    path = Path(__file__).parent / "recorded" / "canary-1.31.json.gz"
    seen: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return seen


def test_a_recorded_run_passes() -> None:
    verdict = judge(recorded())
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary.startswith("v2 answered 27 of 400 (6.8 %), declared 10 %: inside the accepted 22..61")
    assert any("agrees on every mark: 373 to v1, 27 to v2" in line for line in verdict.lines)


def test_a_recorded_run_with_another_declaration_fails() -> None:
    seen = recorded() | {"parameters": {"weight": 20}}
    assert undecided(seen)
    assert judge(seen).outcome is Outcome.FAIL


def test_a_recorded_run_whose_log_lost_its_last_lines_is_inconclusive() -> None:
    seen = recorded()
    log = seen["rounds"][0]["log"]
    for mark in sorted(log)[-20:]:
        del log[mark]
    assert judge(seen).outcome is Outcome.INCONCLUSIVE


def confirmation(v2: int) -> dict[str, Any]:
    return series(v2, n=1000, alpha="1/10000", prefix="again")


@pytest.mark.parametrize("v2", [22, 37, 40, 61])
def test_an_honest_split_passes_with_its_numbers(v2: int) -> None:
    seen = observation(series(v2))
    assert not undecided(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary.startswith(
        f"v2 answered {v2} of 400 ({v2 / 4:.1f} %), declared 10 %: inside the accepted 22..61"
    )
    assert "99.9 % interval" in verdict.summary
    assert any(f"agrees on every mark: {400 - v2} to v1, {v2} to v2" in line for line in verdict.lines)
    assert any(line.startswith("control: asked directly, each version names itself") for line in verdict.lines)
    assert verdict.numbers["rounds"][0]["region"] == [22, 61]


@pytest.mark.parametrize("v2", [0, 21, 62, 200, 400])
def test_a_count_outside_asks_for_the_declared_confirmation(v2: int) -> None:
    seen = observation(series(v2))
    assert undecided(seen)
    assert judge(seen).outcome is Outcome.FAIL


def test_a_split_of_80_to_20_declared_as_90_to_10_fails() -> None:
    seen = observation(series(80), confirmation(203))
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL
    assert "v2 answered 203 of 1000 (20.3 %), declared 10 %: OUTSIDE the accepted 65..139" in verdict.summary
    assert any("v2 answered 80 of 400" in line for line in verdict.lines), "both series are kept"


def test_the_confirmation_alone_decides_and_both_are_kept() -> None:
    verdict = judge(observation(series(19), confirmation(98)))
    assert verdict.outcome is Outcome.PASS
    assert [each["inside"] for each in verdict.numbers["rounds"]] == [False, True]
    assert any("v2 answered 19 of 400 (4.8 %), declared 10 %: OUTSIDE" in line for line in verdict.lines)
    assert "declared beforehand" in verdict.rule


def test_a_confirmation_does_not_wash_away_a_failure_in_the_first_series() -> None:
    first = series(19)
    first["requests"][7]["status"] = 503
    assert not undecided(observation(first))
    assert judge(observation(first, confirmation(98))).outcome is Outcome.FAIL


def test_missing_log_lines_are_inconclusive() -> None:
    seen = observation(series(37))
    gone = [request["mark"] for request in seen["rounds"][0]["requests"][5:8]]
    for mark in gone:
        del seen["rounds"][0]["log"][mark]
    verdict = judge(seen)
    assert not undecided(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.summary == f"3 requests left no line in the gateway's access log (first mark {gone[0]})"


def test_lines_that_went_with_a_gateway_pod_say_so() -> None:
    seen = observation(series(37))
    seen["rounds"][0].update(log={}, gateways_after=["gw-2"])
    verdict = judge(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.summary == "the gateway's pods changed meanwhile: gw-1 before, gw-2 after"


def change_request(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda seen: seen["rounds"][0]["requests"][9].update(changes)


def change_log(lines: Callable[[str], list[dict[str, Any]]]) -> Callable[[dict[str, Any]], None]:
    def change(seen: dict[str, Any]) -> None:
        request = seen["rounds"][0]["requests"][9]
        arm = "v1" if request["body"] == BODY["v1"] else "v2"
        seen["rounds"][0]["log"][request["mark"]] = lines(arm)

    return change


OTHER = {"v1": "v2", "v2": "v1"}


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (
            change_request(body="<h1>Welcome to nginx!</h1>"),
            "got an unknown body '<h1>Welcome to nginx!</h1>'",
        ),
        (change_request(body=""), "got an unknown body ''"),
        (change_request(body="v1 and v2"), "unknown body"),
        (change_request(body="canary v3"), "unknown body"),
        (change_request(status=503, body="no healthy upstream"), "got 503 (- via_upstream to outbound|80|"),
        (change_request(status=404, body=""), "got 404"),
        (change_request(status=301), "got 301"),
        (
            change_request(status=None, error="TimeoutError: timed out"),
            "got no answer from http://192.0.2.10:30191: TimeoutError",
        ),
        (change_log(lambda arm: [entry(OTHER[arm])]), "by the gateway's log, and came back as"),
        (change_log(lambda arm: [entry(arm), entry(arm)]), "left 2 lines in the gateway's access log"),
        (change_log(lambda arm: [entry(arm, code=500)]), "got 200, and 500 by the gateway's log"),
        (
            change_log(lambda arm: [entry(arm, cluster="outbound|80||web.other.svc.cluster.local")]),
            "went to outbound|80||web.other.svc.cluster.local, which is not part of this",
        ),
        (change_log(lambda arm: [entry(arm, cluster="")]), "went to no cluster"),
    ],
)
def test_a_single_forged_request_among_four_hundred_fails(forge: Callable[[dict[str, Any]], None], said: str) -> None:
    seen = observation(series(37))
    forge(seen)
    verdict = judge(seen)
    assert not undecided(seen)
    assert verdict.outcome is Outcome.FAIL
    assert said in verdict.summary
    assert seen["rounds"][0]["requests"][9]["mark"] in verdict.summary


def test_a_node_that_does_not_answer_fails_although_the_split_is_right() -> None:
    seen = observation(series(37))
    seen["rounds"][0]["requests"][1].update(
        status=None, error="ConnectionRefusedError: [Errno 111]", url="http://192.0.2.11:30191"
    )
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL
    assert "got no answer from http://192.0.2.11:30191: ConnectionRefusedError" in verdict.summary
    assert any("access log agrees on every mark" in line for line in verdict.lines), "of those that were answered"


def test_two_swapped_lines_leave_the_counts_alike_and_are_seen() -> None:
    seen = observation(series(37))
    requests, log = seen["rounds"][0]["requests"], seen["rounds"][0]["log"]
    one = next(request["mark"] for request in requests if request["counted"] and request["body"] == BODY["v1"])
    two = next(request["mark"] for request in requests if request["counted"] and request["body"] == BODY["v2"])
    log[one], log[two] = log[two], log[one]
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL
    assert any("does not confirm 2 replies: 363 to v1, 37 to v2" in line for line in verdict.lines)


def test_a_series_that_was_cut_short_is_inconclusive() -> None:
    seen = observation(series(37))
    for request in seen["rounds"][0]["requests"][-50:]:
        request.update(status=None, body="", error="had no turn within 60 s", sent=False)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.summary.startswith("50 requests had no turn within 60 s")


def test_the_markers_of_both_witnesses_swapped_alike_fail_by_the_split() -> None:
    assert judge(observation(series(363))).outcome is Outcome.FAIL


def test_a_control_that_shows_the_marker_to_be_no_proof_fails() -> None:
    seen = observation(series(37))
    seen["control"]["replies"][4]["body"] = BODY["v1"]
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.summary == "control: pod appv2-0 of subset v2, asked directly, answers '<h1>canary v1</h1>'"


@pytest.mark.parametrize("case", ["error", "absent"])
def test_a_control_that_could_not_be_observed_is_inconclusive(case: str) -> None:
    seen = observation(series(37))
    if case == "error":
        seen["control"]["replies"][4].update(body="", error="HTTP 503")
    else:
        seen["control"]["replies"] = seen["control"]["replies"][:3]
    verdict = judge(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.summary.startswith("control: ")
    assert not undecided(seen)


@pytest.mark.parametrize(("weight", "right", "wrong"), [(0, 0, 1), (100, 400, 399)])
def test_nothing_and_all_are_exact_and_need_no_confirmation(weight: int, right: int, wrong: int) -> None:
    arm, other = ("v2", "v1") if weight else ("v1", "v2")
    assert judge(observation(series(right, asked=arm), weight=weight)).outcome is Outcome.PASS
    for refuted in (series(wrong, asked=arm), series(right, asked=other)):
        seen = observation(refuted, weight=weight)
        verdict = judge(seen)
        assert verdict.outcome is Outcome.FAIL
        assert f"answered by {other}, whose weight is 0" in verdict.summary
        assert not undecided(seen)


def test_an_honest_mesh_is_refused_less_often_than_declared() -> None:
    draw = random.Random(20261123)
    refused = sum(undecided(observation(series(sum(draw.random() < 0.1 for _ in range(400))))) for _ in range(100))
    assert refused <= 1


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ("canary-v1", "v1"),
        ("<title>V2</title><h1>v2</h1>", "v2"),
        ("v12", None),
        ("rev1", None),
        ("v3", None),
        ("v1 v2", None),
        ("v1 v3", None),
        ("", None),
    ],
)
def test_the_marker_is_the_one_version_that_a_body_names(body: str, version: str | None) -> None:
    assert marker(body) == version


def test_a_verdict_is_a_verdict() -> None:
    verdict = judge(observation(series(37)))
    assert isinstance(verdict, Verdict) and verdict.passed and verdict.line.startswith("PASS: v2 answered 37")
