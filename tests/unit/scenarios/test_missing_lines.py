"""Lines that a log lost are gaps and never evidence, for every judge: whatever is lost of an honest mesh is no FAIL,
and whatever is lost of another mesh makes it no PASS.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.scenarios import find, names, traffic
from meshstrap.scenarios.canary import ladder

Seen = dict[str, Any]
Judge = Callable[[Seen], Verdict]

RECORDED = Path(__file__).parent / "recorded"
FEWER = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def text(name: str) -> bytes:
    return gzip.decompress((RECORDED / f"{name}-1.31.json.gz").read_bytes())


def recording(name: str) -> Seen:
    """A fresh copy each time."""
    seen: Seen = json.loads(text(name))
    return seen


def walk() -> Seen:
    """A ladder, its traffic that of a recorded canary."""
    (series,), (other,) = recording("canary")["rounds"], recording("canary")["rounds"]
    traffic = {key: series[key] for key in ("requests", "log", "gateways", "gateways_after")}
    v2 = {"requests": [each for each in other["requests"] if "v2" in each["body"]], "log": other["log"]}
    steps = [{"weight": weight, "outcome": "PASS", "summary": "as declared"} for weight in ladder.WEIGHTS]
    return {**traffic, "steps": steps, "away": v2}


def overflow_at_the_server() -> Seen:
    """One of the overflows is the server's own, as several clients at once make them."""
    seen = recording("circuit_breaker")
    (series,) = seen["rounds"]
    log = series["log"]
    mark = next(mark for mark, (line,) in log["client"].items() if line["code"] == 503)
    log["server"][mark] = [log["client"][mark][0] | {"cluster": "inbound|80||"}]
    log["client"][mark][0].update(flags=[], details="via_upstream")
    series["counters"]["after"]["overflow"] -= 1
    return seen


def one_short_delay() -> Seen:
    """One delay shorter than typical, as a busy machine makes them (seen: 454 ms of 500)."""
    seen = recording("fault")
    (series,) = seen["rounds"]
    slow = next(each["mark"] for each in series["requests"] if each["service"] == "tomcat-slow")
    series["log"]["busybox"][slow][0].update(milliseconds=455, upstream_milliseconds=1)
    return seen


HONEST: dict[str, tuple[Judge, Callable[[], Seen]]] = {
    **{name: (find(name).judge, lambda name=name: recording(name)) for name in names()},  # type: ignore[misc]
    "upgrade": (traffic.judge, lambda: recording("upgrade")),
    "ladder": (ladder.judge, walk),
    "circuit_breaker, the server's own": (find("circuit_breaker").judge, overflow_at_the_server),
    "fault, a short delay": (find("fault").judge, one_short_delay),
}


@pytest.mark.parametrize("name", HONEST)
@given(seed=st.integers(0), share=st.floats(0, 1))
@FEWER
def test_whatever_is_lost_of_an_honest_mesh_is_no_evidence_against_it(
    name: str, seed: int, share: float, lose: Callable[..., Seen]
) -> None:
    judge, honest = HONEST[name]
    verdict = judge(lose(honest(), Random(seed), share))
    assert verdict.outcome is not Outcome.FAIL, verdict


@pytest.mark.parametrize("name", HONEST)
def test_a_mesh_that_logs_all_passes_and_one_that_logs_nothing_is_inconclusive(
    name: str, lose: Callable[..., Seen]
) -> None:
    judge, honest = HONEST[name]
    assert judge(honest()).outcome is Outcome.PASS
    assert judge(lose(honest(), Random(0), 1)).outcome is Outcome.INCONCLUSIVE


def series_of(seen: Seen) -> Seen:
    found: Seen = seen["rounds"][-1] if "rounds" in seen else seen
    return found


def change(seen: Seen, which: int, codes: dict[str, int], **changes: Any) -> None:
    """Change one of the requests; where a program makes them itself, what it counted."""
    series = series_of(seen)
    if "codes" in series:
        series["codes"] = codes
    else:
        series["requests"][which % len(series["requests"])].update(changes)


def another_status(seen: Seen, which: int) -> None:
    change(seen, which, {"200": 7, "503": 32, "418": 1}, status=418)


def no_answer(seen: Seen, which: int) -> None:
    change(seen, which, {"200": 7, "503": 32, "-1": 1}, status=None, error="ConnectionRefusedError")


def another_body(seen: Seen, which: int) -> None:
    change(seen, which, {"200": 40}, body="<h1>Welcome to nginx!</h1>")


def lines_of(seen: Seen, which: int) -> tuple[Seen, str]:
    """A log by mark, of the proxy that the client meets first, and one of its marks."""
    log = series_of(seen)["log"]
    first = next(iter(log.values()))
    by_mark = first if isinstance(first, dict) and "code" not in first else log
    return by_mark, sorted(by_mark)[which % len(by_mark)]


def another_code(seen: Seen, which: int) -> None:
    log, mark = lines_of(seen, which)
    line = log[mark][0] if isinstance(log[mark], list) else log[mark]
    line["code"] = 418


def twice(seen: Seen, which: int) -> None:
    log, mark = lines_of(seen, which)
    if isinstance(log[mark], list):
        log[mark] *= 2


@pytest.mark.parametrize("forge", [another_status, no_answer, another_body, another_code, twice])
@pytest.mark.parametrize("name", HONEST)
@given(seed=st.integers(0), share=st.floats(0, 1), which=st.integers(0, 400))
@FEWER
def test_whatever_is_lost_of_another_mesh_does_not_make_it_pass(
    name: str, forge: Callable[[Seen, int], None], seed: int, share: float, which: int, lose: Callable[..., Seen]
) -> None:
    judge, honest = HONEST[name]
    forged = honest()
    forge(forged, which)
    if judge(forged).outcome is Outcome.PASS:
        return  # What this changes is not part of that claim.
    verdict = judge(lose(forged, Random(seed), share, unless=honest()))
    assert verdict.outcome is not Outcome.PASS, verdict
