"""The judge of who has a sidecar on what the lab's mesh showed (Istio 1.31.0), and on forgeries of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios.injection.judge import judge, place_of_proxy


@pytest.fixture
def honest(recorded: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return recorded("injection")


def mark(observation: dict[str, Any], client: str, server: str) -> str:
    requests = observation["rounds"][0]["requests"]
    return str(next(each["mark"] for each in requests if (each["client"], each["server"]) == (client, server)))


def log(observation: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = observation["rounds"][0]["log"]
    return found


def test_an_honest_mesh_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary == (
        "client-in and server-in have a sidecar (native), client-out and server-out none; 12 of 12 requests were"
        " answered"
    )


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"containers": [{"name": "web"}, {"name": "istio-proxy"}]}, "container"),
        (
            {"containers": [{"name": "web"}], "initContainers": [{"name": "istio-proxy", "restartPolicy": "Always"}]},
            "native",
        ),
        ({"containers": [{"name": "web"}], "initContainers": [{"name": "istio-proxy"}]}, "init"),
        ({"containers": [{"name": "web"}], "initContainers": [{"name": "istio-init"}]}, ""),
        ({"containers": [{"name": "web"}], "initContainers": None}, ""),
    ],
)
def test_a_proxy_is_found_in_either_list(spec: dict[str, Any], place: str) -> None:
    assert place_of_proxy({"spec": spec}) == place


Forgery = Callable[[dict[str, Any]], None]


def one_too_few(observation: dict[str, Any]) -> None:
    next(pod for pod in observation["control"]["pods"] if pod["workload"] == "server-in")["proxy"] = ""


def one_too_many(observation: dict[str, Any]) -> None:
    next(pod for pod in observation["control"]["pods"] if pod["workload"] == "client-out")["proxy"] = "native"


def an_init_container_that_ended(observation: dict[str, Any]) -> None:
    next(pod for pod in observation["control"]["pods"] if pod["workload"] == "client-in")["proxy"] = "init"


def a_line_too_many(observation: dict[str, Any]) -> None:
    log(observation)["client-in"][mark(observation, "client-in", "server-in")] *= 2


def a_line_of_the_control(observation: dict[str, Any]) -> None:
    line = log(observation)["server-in"][mark(observation, "client-in", "server-in")]
    log(observation)["server-in"][mark(observation, "client-out", "server-out")] = line


def refused(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][0].update(status=503, body="")


def another_page(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][0]["body"] = "<h1>Welcome to nginx!</h1>"


@pytest.mark.parametrize(
    "forge",
    [
        one_too_few,
        one_too_many,
        an_init_container_that_ended,
        a_line_too_many,
        a_line_of_the_control,
        refused,
        another_page,
    ],
)
def test_what_contradicts_the_claim_fails(
    honest: dict[str, Any], forge: Forgery, never_passes: Callable[..., None]
) -> None:
    forge(honest)
    verdict = judge(honest)
    assert verdict.outcome is Outcome.FAIL
    assert "12 of 12" not in verdict.summary
    never_passes("injection", judge, honest)


def no_line_out(observation: dict[str, Any]) -> None:
    del log(observation)["client-in"][mark(observation, "client-in", "server-out")]


def no_line_in(observation: dict[str, Any]) -> None:
    del log(observation)["server-in"][mark(observation, "client-out", "server-in")]


def not_sent(observation: dict[str, Any]) -> None:
    observation["rounds"][0]["requests"][0].update(status=None, sent=False, error="wget: bad address")


@pytest.mark.parametrize("forge", [no_line_out, no_line_in, not_sent])
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest)
    assert judge(honest).outcome is Outcome.INCONCLUSIVE
