"""Judge mirroring: observation to verdict, without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.scenarios.canary.judge import marker
from meshstrap.scenarios.witnesses import replaced, risen, sentences, subset_arms, weighed

PORT = 80
COPIES = f"inbound|{PORT}|| upstream_rq_total"
VERSIONS = ("v1", "v2")
ARMS = subset_arms("mirror.mirror.svc.cluster.local", PORT, VERSIONS)
MIRRORED, PLAIN = "mirror.example", "mirror-off.example"
# Which versions a request to each host must reach.
REACHED = {MIRRORED: ("v1", "v2"), PLAIN: ("v1",)}

RULE = (
    "every reply 200 and of v1, every mark on exactly one line of the gateway's access log, to v1's subset, and on"
    f" exactly one line of v1's proxy; on exactly one of v2's where {MIRRORED} was asked for, on none where {PLAIN}"
    " was; and v2's proxy counted as many requests at least as were copied"
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
    sound: Counter[str] = Counter()
    for request in series["requests"]:
        wrong, lacks = _look(request, series)
        if wrong:
            failures.setdefault(f"to {request['host']} {wrong}", []).append(request["mark"])
        elif lacks:
            gaps.setdefault(f"to {request['host']} {lacks}", []).append(request["mark"])
        else:
            sound[request["host"]] += 1
    against, missing = list(sentences(failures)), list(sentences(gaps))
    copied = sum(request["host"] == MIRRORED and request["status"] == 200 for request in series["requests"])
    counted = risen(series)["copies"]
    if counted is None:
        missing.append("v2's proxy shows no counter of the requests that it took in")
    elif counted < copied and series["pods"] == series["pods_after"]:
        # Nobody sees a copy but v2's proxy. That a line is missing is no evidence; that its counter stood still is.
        against.append(f"v2's proxy took in {counted} requests, and {copied} were to be copied to it")
    if missing:
        before, after = ({**series[f"pods{when}"], "the gateway": series[f"gateways{when}"]} for when in ("", "_after"))
        missing = replaced(before, after) + missing
    proved = not against and not missing
    summary = f"v1 answered all {sound[MIRRORED]} requests to {MIRRORED}, and v2 got a copy of each"
    return weighed(
        against,
        missing,
        summary=summary if proved else "",
        rule=RULE,
        lines=(
            f"the access logs of gateway, v1 and v2 agree on every mark ({', '.join(series['pods']['v2'])} has the"
            f" copies; its proxy counted {counted} requests)",
            f"control: of {sound[PLAIN]} requests to {PLAIN}, which has no mirror, none reached v2",
        )
        if proved
        else (),
        numbers={"mirrored": sound[MIRRORED], "plain": sound[PLAIN], "copies_counted": counted},
    )


def _look(request: Mapping[str, Any], series: Mapping[str, Any]) -> tuple[str, str]:
    """Give what is wrong with a request and what is missing to judge it; both empty if nothing."""
    if not request["sent"]:
        return "", request["error"]
    if request["status"] is None:
        return f"got no answer from {request['url']}: {request['error']}", ""
    if request["status"] != 200:
        return f"got {request['status']}", ""
    version = marker(request["body"])
    if version != "v1":
        return f"was answered by {version or 'nobody known'}", ""
    lines = series["log"].get(request["mark"], [])
    if len(lines) > 1:
        return f"left {len(lines)} lines in the gateway's access log", ""
    if not lines:
        return "", "left no line in the gateway's access log"
    if ARMS.get(lines[0]["cluster"]) != "v1":
        return f"went to {lines[0]['cluster'] or 'no cluster'} by the gateway's log, and came back as v1", ""
    for each in VERSIONS:
        wanted, found = each in REACHED[request["host"]], len(series["behind"][each].get(request["mark"], []))
        if found > wanted:
            return f"left {found} lines in {each}'s access log, not {int(wanted)}", ""
        if wanted and not found:
            return "", f"left no line in {each}'s access log"
    return "", ""
