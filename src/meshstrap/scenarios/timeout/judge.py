"""Judge the timeout: observation to verdict, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshstrap.evidence import plots
from meshstrap.evidence.verdict import Verdict
from meshstrap.scenarios.two_hops import flagged, inbound, onward
from meshstrap.scenarios.witnesses import replaced, risen, sentences, weighed

HASTY, PATIENT = "nginx-svc", "nginx-patient"
TIMEOUT_MILLISECONDS = 2000
DELAY_MILLISECONDS = 10_000
# What a timeout of 2 s may take by the proxy's log: its timers are a little early at times, and a busy machine is late.
LEAST, MOST = 1800, 3000
# The lines that a request leaves behind the client when all is as declared.
LINES = {HASTY: {"nginx": 1}, PATIENT: {"nginx": 1, "tomcat": 1}}
COUNTERS = {"timeouts": (HASTY, "upstream_rq_timeout")}

RULE = (
    f"with the timeout: 504 for the client, one line with UT that took {LEAST} to {MOST} ms in its proxy's log, one at"
    " nginx's that asks on and is delayed (DI), none at tomcat's, and the proxy's upstream_rq_timeout risen by as many"
    f" at least; without it: 200 with tomcat's page after {0.95 * DELAY_MILLISECONDS:g} ms or more, a line in each log"
)


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: the one round as the scenario noted it.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS.
    """
    (series,) = observation["rounds"]
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    took: dict[str, list[int]] = {HASTY: [], PATIENT: []}
    for request in series["requests"]:
        service = request["service"]
        wrong, lacks, milliseconds = _look(request, series)
        if milliseconds is not None:
            took[service].append(milliseconds)
        if wrong:
            failures.setdefault(f"to {service} {wrong}", []).append(request["mark"])
        elif lacks:
            gaps.setdefault(f"to {service} {lacks}", []).append(request["mark"])
    against, missing = list(sentences(failures)), list(sentences(gaps))
    asked = {request["service"] for request in series["requests"]}
    missing += [f"nothing was asked of {service}" for service in took if service not in asked]
    counted = risen(series)["timeouts"]
    if counted is None:
        missing.append("busybox's proxy shows no counter upstream_rq_timeout of nginx-svc")
    elif not failures and not gaps and counted < len(took[HASTY]):
        against.append(f"busybox's proxy counted {counted} timeouts, and logged {len(took[HASTY])}")
    if missing:
        missing = replaced(series["pods"], series["pods_after"]) + missing
    sound = not against and not missing
    return weighed(
        against,
        missing,
        summary=f"{len(took[HASTY])} of {len(took[HASTY])} requests to {HASTY} ended with 504 after"
        f" {_text(took[HASTY])} ms; without the timeout 200 after {_text(took[PATIENT])} ms"
        if sound
        else "",
        rule=RULE,
        lines=(
            f"busybox's proxy: UT on each of their lines, and {counted} more in upstream_rq_timeout",
            f"nginx had each and asked on (DI), tomcat had none: the delay of {DELAY_MILLISECONDS} ms outlived them",
            f"control: {PATIENT}, the same pods without the timeout: 200, and one line at tomcat",
        )
        if sound
        else (),
        numbers={"milliseconds": took, "timeouts_counted": counted},
        plots=[
            plots.durations("what requests took, by the client's proxy", took, limit=TIMEOUT_MILLISECONDS, unit="ms")
        ],
    )


def _look(request: Mapping[str, Any], series: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """Give what is wrong with a request, what is missing to judge it, and what it took by the client's proxy."""
    mark = request["mark"]
    if not request["sent"]:
        return "", f"not sent: {request['error']}", None
    if request["status"] is None:
        return f"got no answer: {request['error']}", "", None
    lines = series["log"]["busybox"].get(mark, [])
    if len(lines) > 1:
        return f"left {len(lines)} lines in the client's log", "", None
    if not lines:
        return "", "left no line in the client's log", None
    line, milliseconds = lines[0], lines[0]["milliseconds"]
    told = flagged(line)
    middle, end = len(inbound(series, "nginx", mark)), len(inbound(series, "tomcat", mark))
    asked = onward(series, "nginx", mark)
    if line["code"] != request["status"]:
        return f"got {request['status']}, and {line['code']} by its proxy's log", "", milliseconds
    if milliseconds is None:
        return "", "has no duration in its line", None
    if middle > 1 or end > 1:
        return f"left {middle} lines at nginx and {end} at tomcat: it was tried again", "", milliseconds
    if request["service"] == HASTY:
        wrong, lacks = _hasty(request, line, told, end)
    else:
        wrong, lacks = _patient(request, told, end, milliseconds)
    if not wrong and not (middle and asked):
        return "", "left no line in nginx's log, of what it took in and what it asked for", milliseconds
    if not wrong and not all("DI" in each["flags"] for each in asked):
        return f"waited for nginx, whose own request was not delayed ({flagged(asked[0])})", "", milliseconds
    return wrong, lacks, milliseconds


def _hasty(request: Mapping[str, Any], line: Mapping[str, Any], told: str, end: int) -> tuple[str, str]:
    if request["status"] != 504:
        return f"got {request['status']} after {line['milliseconds']} ms ({told}), not 504", ""
    if "UT" not in line["flags"]:
        return f"got 504 from another cause than the timeout ({told})", ""
    if not LEAST <= line["milliseconds"] <= MOST:
        return f"ended after {line['milliseconds']} ms, not {LEAST} to {MOST}", ""
    if end:
        return "reached tomcat, so that the delay is not what it waited for", ""
    return "", ""


def _patient(request: Mapping[str, Any], told: str, end: int, milliseconds: int) -> tuple[str, str]:
    if request["status"] != 200 or "Tomcat" not in request["body"]:
        return f"got {request['status']} after {milliseconds} ms ({told}), not tomcat's page", ""
    if milliseconds < 0.95 * DELAY_MILLISECONDS:
        return f"was answered after {milliseconds} ms: tomcat is not delayed by {DELAY_MILLISECONDS}", ""
    return "", "" if end else "left no line in tomcat's log"


def _text(milliseconds: list[int]) -> str:
    if not milliseconds:
        return "-"
    low, high = min(milliseconds), max(milliseconds)
    return str(low) if low == high else f"{low} to {high}"
