"""The judge of mirroring on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios.mirror.judge import MIRRORED, PLAIN, judge


@pytest.fixture
def honest(recorded: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return recorded("mirror")


def first(series: dict[str, Any], host: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in series["requests"] if each["host"] == host)
    return found


def test_an_honest_mesh_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary == "v1 answered all 30 requests to mirror.example, and v2 got a copy of each"
    assert "of 30 requests to mirror-off.example, which has no mirror, none reached v2" in verdict.lines[1]


Forgery = Callable[[dict[str, Any]], None]


def no_copy(series: dict[str, Any]) -> None:
    del series["behind"]["v2"][first(series, MIRRORED)["mark"]]
    series["counters"]["after"]["copies"] = series["counters"]["before"]["copies"] + 29


def two_copies(series: dict[str, Any]) -> None:
    series["behind"]["v2"][first(series, MIRRORED)["mark"]] *= 2


def a_copy_of_the_control(series: dict[str, Any]) -> None:
    copied, plain = first(series, MIRRORED)["mark"], first(series, PLAIN)["mark"]
    series["behind"]["v2"][plain] = series["behind"]["v2"][copied]


def answered_by_v2(series: dict[str, Any]) -> None:
    request = first(series, MIRRORED)
    request["body"] = request["body"].replace("v1", "v2")


def answered_by_another(series: dict[str, Any]) -> None:
    first(series, PLAIN)["body"] = "<h1>Welcome to nginx!</h1>"


def refused(series: dict[str, Any]) -> None:
    first(series, MIRRORED)["status"] = 503


def no_answer(series: dict[str, Any]) -> None:
    first(series, MIRRORED).update(status=None, error="ConnectionRefusedError")


def to_the_wrong_subset(series: dict[str, Any]) -> None:
    series["log"][first(series, MIRRORED)["mark"]][0]["cluster"] = "outbound|80|v2|mirror.mirror.svc.cluster.local"


@pytest.mark.parametrize(
    "forge",
    [
        no_copy,
        two_copies,
        a_copy_of_the_control,
        answered_by_v2,
        answered_by_another,
        refused,
        no_answer,
        to_the_wrong_subset,
    ],
)
def test_what_contradicts_the_claim_fails(
    honest: dict[str, Any], forge: Forgery, never_passes: Callable[..., None]
) -> None:
    forge(honest["rounds"][0])
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert "all 30" not in verdict.summary
    never_passes("mirror", judge, honest)


def no_line_at_the_gateway(series: dict[str, Any]) -> None:
    del series["log"][first(series, MIRRORED)["mark"]]


def no_line_at_v1(series: dict[str, Any]) -> None:
    del series["behind"]["v1"][first(series, PLAIN)["mark"]]


def no_line_of_a_copy(series: dict[str, Any]) -> None:
    """v2's proxy counted it all the same: its log is what is incomplete."""
    del series["behind"]["v2"][first(series, MIRRORED)["mark"]]


def no_counter(series: dict[str, Any]) -> None:
    series["counters"]["after"]["copies"] = None


def restarted(series: dict[str, Any]) -> None:
    series["counters"]["after"]["copies"] = 3


def v2_replaced(series: dict[str, Any]) -> None:
    no_copy(series)
    series["pods_after"]["v2"] = ["appv2-other"]


def no_turn(series: dict[str, Any]) -> None:
    first(series, PLAIN).update(status=None, sent=False, error="had no turn within 60 s")


@pytest.mark.parametrize(
    "forge",
    [no_line_at_the_gateway, no_line_at_v1, no_line_of_a_copy, no_counter, restarted, v2_replaced, no_turn],
)
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest["rounds"][0])
    verdict = judge(honest)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert ("v2 changed meanwhile" in verdict.summary) is (forge is v2_replaced)
