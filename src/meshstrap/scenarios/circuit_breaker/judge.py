"""Judge the overflow: observation to verdict, without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh.proxy_config import cluster_name
from meshstrap.scenarios.witnesses import replaced, risen, sentences, weighed

HOST = "httpbin.circuit-breaker.svc.cluster.local"
CLUSTER = cluster_name(HOST, "", 8000)
INBOUND = "inbound|80||"
COUNTER = "upstream_rq_pending_overflow"
OVERFLOW = "UO"

RULE = (
    "every 503 carries UO in the log of the client's sidecar, or in the server's for the same mark; at the client as"
    f" many UO lines as {COUNTER} rose, and more than none; fortio's counts are those of its sidecar's log; each 200 on"
    " exactly one line of the server's log, and what overflowed at the client on none; with one connection at a time no"
    " 503, and the counter still"
)


@dataclass
class _Series:
    """One run of fortio, as its witnesses saw it."""

    answered: int = 0
    at_client: int = 0
    at_server: int = 0
    reached: int = 0
    risen: int | None = None
    failures: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)


def accounted(observed: Mapping[str, Any]) -> bool:
    """Tell whether the logs read so far hold a line for each request, and the server's for each that it got."""
    if observed["error"]:
        return True
    client, server = observed["log"]["client"], observed["log"]["server"]
    arrived = {mark for mark, lines in client.items() if any(OVERFLOW not in line["flags"] for line in lines)}
    return len(client) >= observed["n"] and arrived <= set(server)


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: control and rounds as the scenario noted them.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS.
    """
    quiet, (series,) = observation["control"], observation["rounds"]
    control, probe = _read(quiet), _read(series)
    failures = [f"control: {failure}" for failure in control.failures]
    gaps = [f"control: {gap}" for gap in control.gaps]
    # More than our own lines say is somebody else's, and may have taken the connection from ours.
    if control.risen == control.at_client and control.at_client + control.at_server:
        failures.append(
            f"control: {control.at_client + control.at_server} of {quiet['n']} requests overflowed although they came"
            " one at a time"
        )
    failures += probe.failures
    gaps += probe.gaps
    if not probe.gaps and not probe.at_client:
        failures.append(f"none of {series['n']} requests over {series['connections']} connections overflowed")
    if not probe.gaps and not probe.answered:
        failures.append(f"none of {series['n']} requests was answered: that is no limit, but an outage")
    changed = [
        f"{name}{change}"
        for name, each in (("control: ", quiet), ("", series))
        if not each["error"]
        for change in replaced(each["pods"], each["pods_after"])
    ]
    return weighed(
        failures,
        changed + gaps if gaps else [],
        summary=(
            f"{probe.at_client + probe.at_server} of {series['n']} requests over {series['connections']} connections"
            f" overflowed (503 UO), {probe.answered} were answered; over one connection {control.answered} of"
            f" {quiet['n']} were answered"
        ),
        rule=RULE,
        lines=[
            f"client's sidecar: {probe.at_client} lines with UO, {COUNTER} rose by {_shown(probe.risen)}",
            f"server's sidecar: {probe.reached} requests reached the application, {probe.at_server} overflowed there",
            f"control: over one connection no overflow, {COUNTER} rose by {_shown(control.risen)},"
            f" {control.reached} requests reached the application",
        ]
        if not failures and not gaps
        else [],
        numbers={
            "requests": series["n"],
            "connections": series["connections"],
            "answered": probe.answered,
            "overflowed_at_client": probe.at_client,
            "overflowed_at_server": probe.at_server,
            "counter_risen": probe.risen,
            "reached_application": probe.reached,
            "control_requests": quiet["n"],
            "control_answered": control.answered,
            "control_counter_risen": control.risen,
        },
    )


def _read(observed: Mapping[str, Any]) -> _Series:
    """Hold fortio's counts, both sidecars' logs and the client's counter against one another."""
    seen = _Series()
    if observed["error"]:
        seen.gaps.append(f"nothing was sent: {observed['error']}")
        return seen
    codes = {int(code): count for code, count in observed["codes"].items()}
    client, server = observed["log"]["client"], observed["log"]["server"]
    notes: dict[str, dict[str, list[str]]] = {"failures": {}, "gaps": {}}
    for mark, lines in client.items():
        for kind, what in _weigh(lines, server.get(mark, []), seen):
            notes[kind].setdefault(what, []).append(mark)
    for mark in server:
        if mark not in client:
            notes["gaps"].setdefault("left a line at the server and none at the client", []).append(mark)
    seen.failures += [
        f"fortio got {'no answer' if code < 0 else code} {count} times, neither 200 nor 503"
        for code, count in codes.items()
        if code not in (200, 503)
    ]
    if sum(codes.values()) != observed["n"]:
        seen.gaps.append(f"fortio counts {sum(codes.values())} answers, {observed['n']} were to be sent")
    if len(client) < observed["n"]:
        seen.gaps.append(f"{observed['n'] - len(client)} requests left no line in the log of the client's sidecar")
    elif (logged := Counter(lines[0]["code"] for lines in client.values())) != Counter(codes):
        seen.failures.append(f"fortio counts {_counts(codes)}, its sidecar's log {_counts(logged)}")
    seen.failures += sentences(notes["failures"])
    seen.gaps += sentences(notes["gaps"])
    _count_risen(observed, seen)
    return seen


def _weigh(lines: list[Mapping[str, Any]], arrived: list[Mapping[str, Any]], seen: _Series) -> list[tuple[str, str]]:
    """Count a request by its lines at the client and at the server, and say what is wrong with them."""
    if len(lines) > 1:
        return [("failures", f"left {len(lines)} lines in the log of the client's sidecar")]
    line, reached = lines[0], [entry for entry in arrived if entry["code"] == 200]
    seen.reached += len(reached)
    if line["code"] == 200:
        seen.answered += 1
        if not arrived:
            return [("gaps", "got 200 and left no line in the log of the server's sidecar")]
        if len(arrived) != 1 or not reached:
            return [("failures", f"got 200, and the server's log says {_said(arrived)}")]
        return []
    if line["code"] != 503:
        return [("failures", f"got {line['code']} ({_said(lines)})")]
    if OVERFLOW in line["flags"]:
        seen.at_client += 1
        return [("failures", "overflowed at the client and yet reached the server")] if arrived else []
    if any(entry["code"] == 503 and OVERFLOW in entry["flags"] for entry in arrived):
        seen.at_server += 1
        return []
    if not arrived and line["details"] == "via_upstream":
        return [("gaps", "got 503 from the server and left no line in the log of its sidecar")]
    return [("failures", f"got 503 from another cause than overflow ({_said(lines)}; at the server {_said(arrived)})")]


def _count_risen(observed: Mapping[str, Any], seen: _Series) -> None:
    seen.risen = risen(observed)["overflow"]
    if seen.risen is None:
        seen.gaps.append(f"the client's sidecar does not show {COUNTER} of {CLUSTER}")
    elif seen.risen < seen.at_client:
        seen.failures.append(f"{seen.at_client} lines with UO at the client, but {COUNTER} rose by {seen.risen} only")
    elif seen.risen > seen.at_client and len(observed["log"]["client"]) >= observed["n"]:
        seen.gaps.append(
            f"{COUNTER} rose by {seen.risen}, more than the {seen.at_client} lines with UO: somebody else was sending"
        )


def _said(lines: list[Mapping[str, Any]]) -> str:
    return (
        ", ".join(f"{line['code']} {','.join(line['flags']) or '-'} {line['details']}" for line in lines) or "nothing"
    )


def _counts(codes: Mapping[int, int]) -> str:
    return ", ".join(f"{count} x {code}" for code, count in sorted(codes.items())) or "nothing"


def _shown(risen: int | None) -> str:
    return "nobody knows how much" if risen is None else str(risen)
