"""The overflow's judge: the recorded run passes, and each forgery of it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshstrap.evidence.verdict import Outcome
from meshstrap.scenarios.circuit_breaker.judge import accounted, judge
from meshstrap.scenarios.circuit_breaker.load import read

Seen = dict[str, Any]


@pytest.fixture
def seen(recorded: Callable[[str], Seen]) -> Seen:
    return recorded("circuit_breaker")


def series(seen: Seen) -> Seen:
    found: Seen = seen["rounds"][0]
    return found


def marks(observed: Seen, code: int) -> list[str]:
    return [mark for mark, lines in observed["log"]["client"].items() if lines[0]["code"] == code]


def test_a_recorded_run_passes_with_its_numbers(seen: Seen) -> None:
    assert accounted(series(seen)) and accounted(seen["control"])
    verdict = judge(seen)
    assert verdict.outcome is Outcome.PASS, verdict.lines
    assert verdict.summary == (
        "33 of 40 requests over 10 connections overflowed (503 UO), 7 were answered; over one connection 8 of 8 were"
        " answered"
    )
    assert verdict.numbers["counter_risen"] == verdict.numbers["overflowed_at_client"] == 33
    assert any(line.startswith("server's sidecar: 7 requests reached the application") for line in verdict.lines)


def at_the_server(seen: Seen) -> None:
    """Turn one of the overflows into one of the server's own, as several clients at once make them."""
    observed = series(seen)
    mark = marks(observed, 503)[0]
    inbound = observed["log"]["client"][mark][0]
    observed["log"]["client"][mark] = [inbound | {"flags": [], "details": "via_upstream"}]
    observed["log"]["server"][mark] = [inbound | {"cluster": "inbound|80||"}]
    observed["counters"]["after"]["overflow"] -= 1


def test_an_overflow_in_the_servers_own_sidecar_is_one_too(seen: Seen) -> None:
    at_the_server(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.PASS, verdict.lines
    assert verdict.numbers["overflowed_at_server"] == 1


def change(mark: str, role: str = "client", **changes: Any) -> Callable[[Seen], None]:
    """Change the line of the first request with a status; `mark` is that status, as text."""

    def forge(seen: Seen) -> None:
        observed = series(seen)
        (line,) = observed["log"][role][marks(observed, int(mark))[0]]
        line.update(changes)

    return forge


def drop(mark: str, role: str) -> Callable[[Seen], None]:
    def forge(seen: Seen) -> None:
        observed = series(seen)
        del observed["log"][role][marks(observed, int(mark))[0]]

    return forge


def put(path: str, value: Any) -> Callable[[Seen], None]:
    def forge(seen: Seen) -> None:
        part, _, key = path.rpartition(".")
        where: Any = seen if path.startswith("control") else series(seen)
        for name in part.split("."):
            where = where[name] if name else where
        where[key] = value

    return forge


def other_cause(details: str, flags: list[str]) -> Callable[[Seen], None]:
    return change("503", details=details, flags=flags)


def a_server_line_for_an_overflow(seen: Seen) -> None:
    observed = series(seen)
    served = observed["log"]["server"][marks(observed, 200)[0]]
    observed["log"]["server"][marks(observed, 503)[0]] = served


def twice(seen: Seen) -> None:
    series(seen)["log"]["client"][marks(series(seen), 503)[0]] *= 2


def twice_at_the_server(seen: Seen) -> None:
    series(seen)["log"]["server"][marks(series(seen), 200)[0]] *= 2


def fault_for_all(seen: Seen) -> None:
    """An abort fault instead of the limit: as many 503s, another cause."""
    for lines in series(seen)["log"]["client"].values():
        if lines[0]["code"] == 503:
            lines[0].update(flags=["FI"], details="fault_filter_abort")
    series(seen)["counters"]["after"] = series(seen)["counters"]["before"]


def no_limit(seen: Seen) -> None:
    """Limits raised: everything is answered."""
    observed = series(seen)
    served = observed["log"]["server"][marks(observed, 200)[0]]
    for mark in marks(observed, 503):
        observed["log"]["client"][mark][0].update(code=200, flags=[], details="via_upstream")
        observed["log"]["server"][mark] = served
    observed["codes"] = {"200": 40}
    observed["counters"]["after"] = observed["counters"]["before"]


def outage(seen: Seen) -> None:
    """Nothing is answered at all, and every 503 is an overflow."""
    observed = series(seen)
    for mark in marks(observed, 200):
        observed["log"]["client"][mark][0].update(code=503, flags=["UO"], details="x{overflow}")
        del observed["log"]["server"][mark]
    observed["codes"] = {"503": 40}
    observed["counters"]["after"] = {"overflow": observed["counters"]["before"]["overflow"] + 40}


def overflow_of_one(seen: Seen) -> None:
    """The control overflows: then ten at once prove nothing."""
    control = seen["control"]
    mark = next(iter(control["log"]["client"]))
    control["log"]["client"][mark][0].update(code=503, flags=["UO"])
    del control["log"]["server"][mark]
    control["codes"] = {"200": 7, "503": 1}
    control["counters"]["after"] = {"overflow": 1}  # It was made with the first request, so there was none before.


def poisoned(seen: Seen) -> None:
    """The tutorial's combined rule after its own poisoning: the only replica is ejected."""
    observed = series(seen)
    for lines in observed["log"]["client"].values():
        lines[0].update(code=503, flags=["UH"], details="no_healthy_upstream")
    observed["log"]["server"], observed["codes"] = {}, {"503": 40}
    observed["counters"]["after"] = observed["counters"]["before"]


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (fault_for_all, "got 503 from another cause than overflow (503 FI fault_filter_abort"),
        (other_cause("no_healthy_upstream", ["UH"]), "got 503 from another cause than overflow (503 UH"),
        (poisoned, "got 503 from another cause than overflow (503 UH no_healthy_upstream"),
        (no_limit, "none of 40 requests over 10 connections overflowed"),
        (outage, "none of 40 requests was answered"),
        (overflow_of_one, "control: 1 of 8 requests overflowed although they came one at a time"),
        (put("codes", {"200": 8, "503": 32}), "fortio counts 8 x 200, 32 x 503, its sidecar's log 7 x 200, 33 x 503"),
        (put("codes", {"200": 7, "503": 32, "-1": 1}), "fortio got no answer 1 times"),
        (put("codes", {"200": 7, "503": 32, "404": 1}), "fortio got 404 1 times"),
        (put("counters.after", {"overflow": 0}), "rose by"),
        (a_server_line_for_an_overflow, "overflowed at the client and yet reached the server"),
        (twice, "left 2 lines in the log of the client's sidecar"),
        (twice_at_the_server, "got 200, and the server's log says 200 - via_upstream, 200 - via_upstream"),
        (change("200", "server", code=500), "got 200, and the server's log says 500"),
        (change("200", code=404), "got 404"),
    ],
)
def test_what_contradicts_the_claim_fails(
    seen: Seen, forge: Callable[[Seen], None], said: str, never_passes: Callable[..., None]
) -> None:
    forge(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.FAIL
    assert any(said in line for line in (verdict.summary, *verdict.lines)), verdict
    never_passes("circuit_breaker", judge, seen)


def gone_pod(seen: Seen) -> None:
    observed = series(seen)
    observed["log"], observed["pods_after"]["client"] = {"client": {}, "server": {}}, ["fortio-2"]


def unseen_by_the_server(seen: Seen) -> None:
    at_the_server(seen)
    observed = series(seen)
    del observed["log"]["server"][marks(observed, 503)[0]]


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (put("counters.after", {"overflow": None}), "does not show upstream_rq_pending_overflow"),
        (put("control.counters.after", {"overflow": None}), "control: the client's sidecar does not show"),
        (put("counters.after", {"overflow": 10**6}), "somebody else was sending"),
        (put("control.counters.after", {"overflow": 10**6}), "somebody else was sending"),
        (put("error", "fortio ended with 1: lookup httpbin: no such host"), "nothing was sent: fortio ended with 1"),
        (drop("503", "client"), "1 requests left no line in the log of the client's sidecar"),
        (drop("200", "server"), "got 200 and left no line in the log of the server's sidecar"),
        (gone_pod, "the pods of client changed meanwhile"),
        (unseen_by_the_server, "got 503 from the server and left no line in the log of its sidecar"),
    ],
)
def test_what_is_missing_is_inconclusive(seen: Seen, forge: Callable[[Seen], None], said: str) -> None:
    forge(seen)
    verdict = judge(seen)
    assert verdict.outcome is Outcome.INCONCLUSIVE, verdict
    assert any(said in line for line in (verdict.summary, *verdict.lines)), verdict


def test_a_series_is_complete_when_both_logs_are(seen: Seen) -> None:
    assert not accounted(series(seen) | {"log": {"client": {}, "server": {}}})
    observed = series(seen)
    del observed["log"]["server"][marks(observed, 200)[0]]
    assert not accounted(observed)
    assert accounted({"error": "no ready pod"})


def test_fortios_answer_is_read_behind_whatever_it_says_before() -> None:
    assert read(0, 'Fortio running\n{"RetCodes": {"200": 7, "503": 33}}\n', "") == {
        "codes": {"200": 7, "503": 33},
        "error": "",
    }


@pytest.mark.parametrize("stdout", ["", "{", '{"RetCodes": null}', '{"other": 1}', "[]"])
def test_an_answer_that_cannot_be_read_is_an_error(stdout: str) -> None:
    assert read(0, stdout, "warned")["error"].startswith("fortio's answer cannot be read")


def test_a_fortio_that_ends_badly_says_why() -> None:
    assert read(1, "", "lookup httpbin: no such host") == {"error": "fortio ended with 1: lookup httpbin: no such host"}
