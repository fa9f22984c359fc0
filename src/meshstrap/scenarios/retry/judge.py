"""Judge retries: observation to verdict, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh import versions
from meshstrap.scenarios.two_hops import flagged, inbound, onward
from meshstrap.scenarios.witnesses import replaced, risen, sentences, weighed

RETRIED, ONCE, TUTORIAL = "nginx-svc", "nginx-once", "nginx-tutorial"
# The same rule and the same nginx, which asks tomcat by a Service without the abort: nothing to be tried again.
# Asked last: its line at tomcat shows that the log of tomcat's proxy is up to date where the others have none.
SOUND = f"{RETRIED}/sound"
SERVICES = (RETRIED, ONCE, TUTORIAL, SOUND)
# The first try and three more.
ATTEMPTS = 4
# The lines that a request leaves at least behind the client when all is as declared.
LINES = {RETRIED: {"nginx": ATTEMPTS}, ONCE: {"nginx": 1}, TUTORIAL: {"nginx": 1}, SOUND: {"nginx": 1, "tomcat": 1}}
COUNTERS = {
    "retries": (RETRIED, "upstream_rq_retry"),
    "exceeded": (RETRIED, "upstream_rq_retry_limit_exceeded"),
}

RULE = (
    "every request 503 for the client and on one line of its proxy's log, never at tomcat, and aborted (FI) each time"
    f" that nginx asked on; by the same mark {ATTEMPTS} lines at nginx, URX on the client's line, and upstream_rq_retry"
    f" risen by three a request at least for {RETRIED}; one line at nginx and no URX for {ONCE}; for {TUTORIAL} as many"
    f" as its Istio's default conditions make; and for {SOUND}, without the abort, 200 and one line in each log"
)


def tutorial_attempts(istio: str) -> int:
    """Say how often `attempts: 3` without `retryOn` tries a 503.

    Source: Istio 1.24 release note 50506 (EXCLUDE_UNSAFE_503_FROM_DEFAULT_RETRY): the default conditions held 503 up
    to 1.23.

    Args:
        istio: the version of the caller's proxy.

    Raises:
        ValueError: it is no version.
    """
    return ATTEMPTS if versions.parse(istio) < (1, 24) else 1


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: the control, which has the version, and the one round as the scenario noted it.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS.
    """
    (series,) = observation["rounds"]
    istio = observation["control"]["istio"]
    expected = {RETRIED: ATTEMPTS, ONCE: 1, TUTORIAL: tutorial_attempts(istio), SOUND: 1}
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    sound: dict[str, int] = dict.fromkeys(SERVICES, 0)
    for request in series["requests"]:
        service = request["service"]
        wrong, lacks = _look(request, series, expected[service])
        if wrong:
            failures.setdefault(f"to {service} {wrong}", []).append(request["mark"])
        elif lacks:
            gaps.setdefault(f"to {service} {lacks}", []).append(request["mark"])
        else:
            sound[service] += 1
    against, missing = list(sentences(failures)), list(sentences(gaps))
    asked = {request["service"] for request in series["requests"]}
    missing += [f"nothing was asked of {service}" for service in SERVICES if service not in asked]
    counted = risen(series)
    wanted = {"retries": sound[RETRIED] * (ATTEMPTS - 1), "exceeded": sound[RETRIED]}
    for key, (_, counter) in COUNTERS.items():
        value = counted[key]
        if value is None:
            missing.append(f"busybox's proxy shows no counter {counter} of {RETRIED}")
        elif value < wanted[key]:
            against.append(f"busybox's proxy counted {value} in {counter}, and by the logs it is {wanted[key]}")
    if missing:
        missing = replaced(series["pods"], series["pods_after"]) + missing
    proved = not against and not missing
    return weighed(
        against,
        missing,
        summary=f"each of {sound[RETRIED]} requests to {RETRIED} was tried {ATTEMPTS} times, 1 and 3 retries" * proved,
        rule=RULE,
        lines=(
            f"busybox's proxy: URX on the one line of each, {counted['retries']} more in upstream_rq_retry and"
            f" {counted['exceeded']} in upstream_rq_retry_limit_exceeded",
            f"control: each of {sound[ONCE]} requests to {ONCE} (attempts 0) was tried once",
            f"control: each of {sound[SOUND]} requests to {SOUND} (the same rule, no abort) got 200 at the first try",
            f"the tutorial's rule, attempts 3 without retryOn: tried {expected[TUTORIAL]} time"
            f"{'s' * (expected[TUTORIAL] > 1)} on Istio {istio} ({sound[TUTORIAL]} of {sound[TUTORIAL]})",
        )
        if proved
        else (),
        numbers={"attempts": expected, "counters": counted},
    )


def _look(request: Mapping[str, Any], series: Mapping[str, Any], expected: int) -> tuple[str, str]:
    """Give what is wrong with a request and what is missing to judge it; both empty if nothing."""
    mark = request["mark"]
    if not request["sent"]:
        return "", f"not sent: {request['error']}"
    if request["status"] is None:
        return f"got no answer: {request['error']}", ""
    lines = series["log"]["busybox"].get(mark, [])
    if len(lines) > 1:
        return f"left {len(lines)} lines in the client's log", ""
    if not lines:
        return "", "left no line in the client's log"
    line, attempts = lines[0], inbound(series, "nginx", mark)
    told = flagged(line)
    if line["code"] != request["status"]:
        return f"got {request['status']}, and {line['code']} by its proxy's log", ""
    if request["service"] == SOUND:
        if request["status"] != 200 or "Tomcat" not in request["body"]:
            return f"got {request['status']} ({told}), not tomcat's page, though nothing of it is to be aborted", ""
    elif request["status"] != 503:
        return f"got {request['status']} ({told}), though every answer of tomcat is to be aborted", ""
    elif inbound(series, "tomcat", mark):
        return "reached tomcat, so that the abort is not what it got", ""
    if not attempts and not line["upstream"]:
        return f"never reached nginx ({told}): its 503 is from another cause", ""
    if any(each["code"] != request["status"] for each in attempts):
        codes = ", ".join(str(each["code"]) for each in attempts)
        return f"got {codes} at nginx, not {request['status']} each time", ""
    asked = onward(series, "nginx", mark)
    if others := [each for each in asked if ("FI" in each["flags"]) != (request["status"] == 503)]:
        return f"got {request['status']}, and nginx asked on with {flagged(others[0])}: from another cause", ""
    if len(attempts) > expected or (len(attempts) == 1 and "URX" not in line["flags"] and expected > 1):
        # Too few lines may be late ones; but a request that was tried again until the limit says so on its own line.
        return f"was tried {len(attempts)} time{'s' * (len(attempts) > 1)}, not {expected}", ""
    if min(len(attempts), len(asked)) < expected:
        return "", f"left {len(attempts)} lines in nginx's log and {len(asked)} of what it asked for, not {expected}"
    if request["status"] == 200 and not inbound(series, "tomcat", mark):
        return "", "left no line in tomcat's log"
    if ("URX" in line["flags"]) != (expected > 1):
        return f"has {'no ' * (expected > 1)}URX on its line ({told})", ""
    return "", ""
