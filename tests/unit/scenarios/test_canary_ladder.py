"""The judge of the canary's ladder, on an honest walk and on forgeries of it; and that the way back is always taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import ApiUnreachable
from meshstrap.mesh.errors import GatewayError
from meshstrap.scenarios import engine, ingress
from meshstrap.scenarios.canary import ladder
from meshstrap.scenarios.canary.judge import ARMS
from meshstrap.scenarios.canary.scenario import Canary
from meshstrap.scenarios.engine import Proof
from meshstrap.scenarios.site import Node, Site

CLUSTER = {arm: cluster for cluster, arm in ARMS.items()}


def asked(arms: list[str], prefix: str) -> dict[str, Any]:
    requests = [
        {"mark": f"{prefix}-{index}", "url": "http://192.0.2.10", "status": 200, "body": f"canary {arm}", "error": ""}
        for index, arm in enumerate(arms)
    ]
    log = {
        f"{prefix}-{index}": [{"code": 200, "flags": [], "details": "via_upstream", "cluster": CLUSTER[arm]}]
        for index, arm in enumerate(arms)
    }
    return {"requests": requests, "log": log}


@pytest.fixture
def honest() -> dict[str, Any]:
    steps = [{"weight": weight, "outcome": "PASS", "summary": f"{weight} %"} for weight in ladder.WEIGHTS]
    away = asked(["v2"] * 100, "away")
    return {
        "steps": steps,
        "away": away,
        "gateways": ["gw-1"],
        "gateways_after": ["gw-1"],
        **asked(["v1", "v2"] * 60, "t"),
    }


def test_an_honest_walk_passes_with_its_numbers(honest: dict[str, Any]) -> None:
    verdict = ladder.judge(honest)
    assert verdict.outcome is Outcome.PASS
    assert verdict.summary == (
        "80/20, 60/40, 40/60, 20/80, 0/100 proved, v1 away and back; 120 requests across the switches, none failed"
    )


Forgery = Callable[[dict[str, Any]], None]


def one_failed(walk: dict[str, Any]) -> None:
    walk["requests"][3]["status"] = 503


def one_without_answer(walk: dict[str, Any]) -> None:
    walk["requests"][3].update(status=None, error="ConnectionRefusedError")


def a_step_that_failed(walk: dict[str, Any]) -> None:
    walk["steps"][-1].update(outcome="FAIL", summary="v2 answered 300 of 400")
    del walk["away"]


def v1_answered_though_away(walk: dict[str, Any]) -> None:
    walk["away"] = asked(["v2"] * 99 + ["v1"], "away")


def failed_without_v1(walk: dict[str, Any]) -> None:
    walk["away"]["requests"][0]["status"] = 503


@pytest.mark.parametrize(
    "forge", [one_failed, one_without_answer, a_step_that_failed, v1_answered_though_away, failed_without_v1]
)
def test_what_contradicts_the_claim_fails(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest)
    assert ladder.judge(honest).outcome is Outcome.FAIL


def no_line(walk: dict[str, Any]) -> None:
    del walk["log"]["t-3"]


def an_open_step(walk: dict[str, Any]) -> None:
    walk["steps"][-1]["outcome"] = "INCONCLUSIVE"
    del walk["away"]


def no_traffic(walk: dict[str, Any]) -> None:
    walk["requests"] = []


def gateway_replaced(walk: dict[str, Any]) -> None:
    no_line(walk)
    walk["gateways_after"] = ["gw-2"]


@pytest.mark.parametrize("forge", [no_line, an_open_step, no_traffic, gateway_replaced])
def test_what_is_missing_is_inconclusive(honest: dict[str, Any], forge: Forgery) -> None:
    forge(honest)
    verdict = ladder.judge(honest)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert ("the gateway changed" in verdict.summary) is (forge is gateway_replaced)


def test_without_a_ready_node_nothing_is_touched(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="no node of the cluster is ready"):
        ladder.climb(
            Canary(), {"canary_weight": 10}, Site(cast(Client, None), (), tmp_path),
            apply=lambda _: pytest.fail("applied"), image=lambda name: name, say=lambda _: None,
        )  # fmt: skip


@pytest.mark.parametrize("bad", [None, 40, "apply"])
def test_what_is_declared_stands_again_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bad: int | str | None
) -> None:
    """A step that is not proved ends the walk, one that cannot be applied breaks it off: both come back."""
    applied: list[int] = []
    proved: list[int] = []

    def apply(objects: list[dict[str, Any]]) -> None:
        route = engine.declared(objects, "VirtualService")["spec"]["http"][0]["route"]
        applied.append(next(each["weight"] for each in route if each["destination"]["subset"] == "v2"))
        if bad == "apply" and applied[-1] == 60:
            raise ApiUnreachable("the API server is away")

    def prove(scenario: Canary, data: dict[str, Any], site: Site, **_: Any) -> Proof:
        proved.append(data["canary_weight"])
        outcome = Outcome.FAIL if proved[-1] == bad else Outcome.PASS
        return Proof("canary", Verdict(outcome, "seen", "rule"), tmp_path / "x.json", "")

    def answer(site: Site, targets: list[ingress.Target]) -> list[dict[str, Any]]:
        return [{**each, "sent": True} for each in asked(["v2"] * len(targets), "t")["requests"]]

    class Sender:
        requests = asked(["v2"], "t")["requests"]

        def __init__(self, url: str, run: str) -> None:
            assert url == "http://192.0.2.10" and run

        def __enter__(self) -> Sender:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def collect(site: Site, observed: dict[str, Any]) -> bool:
        observed.update(log=asked(["v2"] * 100, "t")["log"], gateways_after=["gw-1"])
        return True

    monkeypatch.setattr(engine, "prove", prove)
    monkeypatch.setattr(ladder, "Sender", Sender)
    monkeypatch.setattr(ingress, "gateway_names", lambda _: ["gw-1"])
    monkeypatch.setattr(ingress, "send", answer)
    monkeypatch.setattr(ingress, "collect", collect)
    site = Site(cast(Client, None), (Node("control-1", "192.0.2.10", "http://192.0.2.10"),), tmp_path)

    def climb() -> Proof:
        return ladder.climb(
            Canary(), {"canary_weight": 10}, site, apply=apply, image=lambda name: name, say=lambda _: None
        )

    if bad == "apply":
        with pytest.raises(ApiUnreachable):
            climb()
        assert applied == [20, 40, 60, 10]
    else:
        walked = climb()
        assert walked.verdict.outcome is (Outcome.FAIL if bad else Outcome.PASS)
        assert applied == ([20, 40, 10] if bad else [20, 40, 60, 80, 100, 100, 100, 10])
        assert walked.report.name.endswith("-canary_ladder.json")
