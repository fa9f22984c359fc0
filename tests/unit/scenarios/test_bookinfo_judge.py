"""The judge of Bookinfo's pages on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios.bookinfo.judge import judge, marker


@pytest.fixture
def honest(recorded: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return recorded("bookinfo")


def of(series: dict[str, Any], version: str) -> list[dict[str, Any]]:
    return [each for each in series["requests"] if marker(each["body"]) == version]


def test_an_honest_mesh_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary == (
        "62 pages through control-1, worker-1: 23 with no stars (v1), 19 with black stars (v2), 20 with red stars (v3)"
    )


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ('{"reviewer": "Reviewer1", "rating": {"stars": 5, "color": "black"}}', "v2"),
        ('{"reviewer": "Reviewer1", "rating": {"stars": 5, "color":"red"}}', "v3"),
        ('{"reviewer": "Reviewer1"}', "v1"),
        ('<small>Reviewer1</small><font color="blue">', None),
        ('<small>Reviewer1</small><font color="black"><font color="red">', None),
        ("<small>Reviewer1</small><i>Ratings service is currently unavailable</i>", None),
        ("<h1>Welcome to nginx!</h1>", None),
        ("", None),
    ],
)
def test_stars_tell_the_version_and_anything_else_tells_none(body: str, version: str | None) -> None:
    assert marker(body) == version


Forgery = Callable[[dict[str, Any]], None]


def another_page(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][5]["body"] = "<h1>Welcome to nginx!</h1>"


def reviews_away(observation: dict[str, Any]) -> None:
    page = observation["rounds"][0]["requests"][5]
    page["body"] = page["body"].replace("Book Reviews", "Error fetching product reviews!")


def blue_stars(observation: dict[str, Any]) -> None:
    page = of(observation["rounds"][0], "v3")[0]
    page["body"] = page["body"].replace('"red"', '"blue"')


def refused(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][0]["status"] = 503


def no_answer(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][1] |= {"status": None, "error": "ConnectionRefusedError"}


def one_version_missing(observation: dict[str, Any]) -> None:
    series = observation["rounds"][0]
    gone = {each["mark"] for each in of(series, "v3")}
    series["requests"] = [each for each in series["requests"] if each["mark"] not in gone]


def another_version_served(observation: dict[str, Any]) -> None:
    series = observation["rounds"][0]
    black, red = of(series, "v2")[0]["mark"], of(series, "v3")[0]["mark"]
    series["reviews_log"][black] = series["reviews_log"][red]


def two_lines(observation: dict[str, Any]) -> None:
    series = observation["rounds"][0]
    series["log"][series["requests"][0]["mark"]] *= 2


def wrong_image(observation: dict[str, Any]) -> None:
    v1 = next(each for each in observation["control"]["replies"] if each["version"] == "v1")
    for reply in observation["control"]["replies"]:
        reply["body"] = v1["body"]


@pytest.mark.parametrize(
    "forge",
    [
        another_page,
        reviews_away,
        blue_stars,
        refused,
        no_answer,
        one_version_missing,
        another_version_served,
        two_lines,
        wrong_image,
    ],
)
def test_what_contradicts_the_claim_fails(
    honest: dict[str, Any], forge: Forgery, never_passes: Callable[..., None]
) -> None:
    forge(honest)
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert "62 pages" not in verdict.summary
    never_passes("bookinfo", judge, honest)


def no_line_at_the_gateway(observation: dict[str, Any]) -> None:
    series = observation["rounds"][0]
    del series["log"][series["requests"][0]["mark"]]


def no_line_at_reviews(observation: dict[str, Any]) -> None:
    series = observation["rounds"][0]
    del series["reviews_log"][series["requests"][0]["mark"]]


def not_asked_directly(observation: dict[str, Any]) -> None:
    observation["control"]["replies"][0] |= {"body": "", "error": "connection reset"}


def no_turn(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][3] |= {"status": None, "sent": False, "error": "had no turn within 60 s"}


@pytest.mark.parametrize("forge", [no_line_at_the_gateway, no_line_at_reviews, not_asked_directly, no_turn])
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest)
    assert judge(honest).outcome is Outcome.INCONCLUSIVE
