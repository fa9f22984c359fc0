"""Judge the ejection: observation to verdict, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from meshstrap.evidence import plots
from meshstrap.evidence.binomial import Region, acceptance_region
from meshstrap.evidence.verdict import Verdict
from meshstrap.mesh.proxy_config import cluster_name
from meshstrap.scenarios.witnesses import replaced, sentences, weighed

_DOMAIN = "outlier-ejection.svc.cluster.local"
GUARDED, UNGUARDED = "http://web/", "http://web-unguarded/"
CLUSTER, CONTROL_CLUSTER = cluster_name(f"web.{_DOMAIN}", "", 80), cluster_name(f"web-unguarded.{_DOMAIN}", "", 80)
CLUSTERS = {GUARDED: CLUSTER, UNGUARDED: CONTROL_CLUSTER}
# What each kind of pod answers with.
ARMS = {"good": 200, "bad": 503}
PODS = 3
COUNTERS = ("active", "enforced", "healthy", "requests")

# The control: so many requests; the bad pod's share of them leaves its region once in 10 000 honest runs.
SHARE_OF = 60
ALPHA = Fraction(1, 10_000)
# The recovery is seen within so many seconds of baseEjectionTime: Envoy looks once each interval, and we each second.
SLACK_SECONDS = 10
# Envoy's timers read a clock that stands still while it works on other things, and so may be a little early.
AT_LEAST = 0.95
# Fewer requests than these say little of a pod that gets none: one of three pods misses 15 in 1 of 400 cases.
DURING = 15


@dataclass
class _Series:
    """Requests that both witnesses agree on: when, through which Service, and which kind of pod answered."""

    answered: list[tuple[datetime, str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def of(self, url: str, first: datetime | None = None, last: datetime | None = None) -> list[tuple[datetime, str]]:
        """Give when requests to a Service began, and who answered, in order; those between two moments alone."""
        return sorted(
            (time, arm)
            for time, asked, arm in self.answered
            if asked == url and (first is None or time > first) and (last is None or time < last)
        )


def shares(requests: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count, for a plot, how many of some requests went to each Service, and how many of these the bad pod got."""
    counted = {"asked": 0, "errors": 0, "asked_unguarded": 0, "errors_unguarded": 0}
    for request in requests:
        suffix = "" if request["url"] == GUARDED else "_unguarded"
        counted[f"asked{suffix}"] += 1
        counted[f"errors{suffix}"] += request["status"] == ARMS["bad"]
    return counted


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: parameters, control and rounds as the scenario noted them.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS.
    """
    errors, seconds = observation["parameters"]["errors"], observation["parameters"]["seconds"]
    quiet, (series,) = observation["control"], observation["rounds"]
    rule = _rule(errors, seconds)
    # Without these nothing of what follows means anything.
    if missing := _missing(quiet, series):
        return weighed([], missing, summary="", rule=rule)
    control, probe = _read(quiet), _read(series)
    failures = [f"control: {failure}" for failure in control.failures] + probe.failures
    gaps = [f"control: {gap}" for gap in control.gaps] + probe.gaps + _foreign(series["samples"])
    if failures or gaps:
        changed = [
            f"{name}{change}"
            for name, each in (("control: ", quiet), ("", series))
            for change in replaced(each["pods"], each["pods_after"])
        ]
        return weighed(failures, changed + gaps, summary="", rule=rule)
    before = [arm for _, arm in control.of(UNGUARDED)].count("bad")
    numbers: dict[str, Any] = {"share_before": [before, SHARE_OF], "ejection_seconds": seconds}
    drawn = _drawn(before, series["samples"])
    if before not in _region():
        failures.append(
            f"control: without the rule the bad pod answered {before} of {SHARE_OF}, outside {_region().text}: that is"
            " no even share"
        )
    groups = _groups([time for time, arm in probe.of(GUARDED) if arm == "bad"], seconds)
    numbers["errors"] = [len(group) for group in groups]
    failures += _wrong_errors(groups, errors, series["samples"])
    wrong, counted = _counters(quiet["counters"], series)
    failures += wrong
    if failures:
        return weighed(failures, [], summary="", rule=rule, lines=counted, numbers=numbers, plots=drawn)

    last, first = groups[0][-1], groups[1][0]
    spared, recovery = (first - last).total_seconds(), _recovery(series["samples"])
    during = len(probe.of(GUARDED, last, first))
    unguarded = [arm for _, arm in probe.of(UNGUARDED, last, first)]
    numbers |= {
        "recovery_seconds": recovery,
        "spared_seconds": spared,
        "during": during,
        "unguarded_during": [unguarded.count("bad"), len(unguarded)],
    }
    if recovery > seconds + SLACK_SECONDS:
        failures.append(f"the bad pod was back only after {recovery:.1f} s, more than {seconds} + {SLACK_SECONDS} s")
    if "bad" not in unguarded:
        failures.append(
            f"control: meanwhile the bad pod got none of {len(unguarded)} requests through the Service without the rule"
        )
    if during < DURING:
        gaps.append(f"only {during} requests were sent while the bad pod was ejected, {DURING} are needed")
    if len(groups[1]) < errors:
        gaps.append(f"after its return the bad pod got {len(groups[1])} requests only, too few to be ejected again")
    return weighed(
        failures,
        gaps,
        summary=(
            f"the bad one of {PODS} pods got {before} of {SHARE_OF} requests without the rule; with it {len(groups[0])}"
            f" until it was ejected, then 0 of {during}, back after {recovery:.1f} s, then {len(groups[1])} of {errors}"
            " until it was ejected again"
        ),
        rule=rule,
        lines=[
            f"replies and the log of the client's sidecar agree on every mark: between the bad pod's errors"
            f" {spared:.1f} s with {during} answers of the good ones",
            f"control: without the rule the bad pod got {before} of {SHARE_OF} (accepted {_region().text}), and"
            f" {unguarded.count('bad')} of {len(unguarded)} while it was ejected from the other",
            *counted,
        ],
        numbers=numbers,
        plots=drawn,
    )


def _rule(errors: int, seconds: int) -> str:
    return (
        f"through the Service without the rule the bad pod's share of {SHARE_OF} in the exact two-sided binomial region"
        f" {_region().text} at alpha {float(ALPHA):g}, and some while it is ejected from the other; there at most"
        f" {errors} errors until it is ejected, then none of at least {DURING} requests, its return not before"
        f" {AT_LEAST * seconds:g} s and within {seconds + SLACK_SECONDS} s, and then exactly {errors} errors"
        " until the next; each by the client's reply and by its sidecar's log; ejections_active,"
        " ejections_enforced_consecutive_gateway_failure, membership_healthy and failed_outlier_check say the same"
    )


def _missing(quiet: Mapping[str, Any], series: Mapping[str, Any]) -> list[str]:
    """Say what leaves nothing to judge: a pod that is still ejected by what went before, or counters not shown."""
    if not quiet["calm"]:
        return ["a pod is still ejected by what went before, and so was for the time that this waited; run again later"]
    # Envoy makes the counter of requests with the first one, which is our own.
    shown = [quiet["counters"] | {"requests": 0}, *series["samples"]]
    lacking = sorted({name for counters in shown for name in COUNTERS if counters[name] is None})
    return [f"the client's sidecar does not show the counters of {CLUSTER} ({', '.join(lacking)})"] if lacking else []


def _foreign(samples: list[Mapping[str, Any]]) -> list[str]:
    """Say whether others asked through the same sidecar between our first look and the last: their errors count too."""
    ours = sum(sample["asked"] for sample in samples[1:])
    others = samples[-1]["requests"] - samples[0]["requests"] - ours
    return (
        [f"{others} requests of somebody else came through the client's sidecar meanwhile; run again"] if others else []
    )


def _read(observed: Mapping[str, Any]) -> _Series:
    """Hold each reply against the client's log line for the same mark."""
    seen = _Series()
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    for request in observed["requests"]:
        lines = observed["log"]["client"].get(request["mark"], [])
        kind, what = _weigh(request, lines, observed["arms"])
        if kind:
            (failures if kind == "failure" else gaps).setdefault(what, []).append(request["mark"])
        else:
            seen.answered.append((datetime.fromisoformat(lines[0]["time"]), request["url"], what))
    seen.failures += sentences(failures)
    seen.gaps += sentences(gaps)
    return seen


def _weigh(request: Mapping[str, Any], lines: list[Mapping[str, Any]], arms: Mapping[str, str]) -> tuple[str, str]:
    """Say what is wrong with a request, as (`failure` or `gap`, what); or an empty kind and the kind of pod."""
    if not request["sent"]:
        return "gap", request["error"]
    if request["status"] is None:
        return "failure", f"got no answer from {request['url']}: {request['error']}"
    if not lines:
        return "gap", "left no line in the log of the client's sidecar"
    line = lines[0]
    if len(lines) > 1:
        return "failure", f"left {len(lines)} lines in the log of the client's sidecar"
    said = f"{line['code']} {','.join(line['flags']) or '-'} {line['details']} from {line['upstream'] or 'nobody'}"
    arm = arms.get(line["upstream"])
    if line["cluster"] != CLUSTERS[request["url"]]:
        return "failure", f"to {request['url']} went to {line['cluster'] or 'no cluster'}"
    if line["code"] != request["status"]:
        return "failure", f"got {request['status']}, and by the log {said}"
    if arm is None or line["code"] != ARMS[arm]:
        return "failure", f"got {said}, which is {'none of the pods' if arm is None else f'a {arm} pod'}: another cause"
    return "", arm


def _groups(errors: list[datetime], seconds: float) -> list[list[datetime]]:
    """Part the bad pod's errors where it got nothing for baseEjectionTime."""
    groups: list[list[datetime]] = []
    for time in errors:
        if groups and (time - groups[-1][-1]).total_seconds() < AT_LEAST * seconds:
            groups[-1].append(time)
        else:
            groups.append([time])
    return groups


def _wrong_errors(groups: list[list[datetime]], errors: int, samples: list[Mapping[str, Any]]) -> list[str]:
    """Say where the errors are not those of a pod that is ejected after so many in a row and comes back."""
    if not groups:
        return ["the bad pod answered none of the requests, although it was not ejected when they began"]
    wrong = [
        f"the bad pod answered {len(group)} requests in a row with errors{when}, declared are {errors}"
        for group, when in zip(groups, ("", " after its return"), strict=False)
        if len(group) > errors
    ]
    if len(groups) > 2:
        wrong.append(f"the bad pod came back {len(groups) - 1} times, and was to be ejected for good the second time")
    if len(groups) == 1 and not wrong:
        ejected = any(sample["active"] for sample in samples)
        wrong.append("the bad pod did not come back" if ejected else "the bad pod was never ejected")
    if len(groups) > 1 and len(groups[1]) < errors and samples[-1]["active"]:
        wrong.append(f"after its return the bad pod was ejected after {len(groups[1])} errors, declared are {errors}")
    return wrong


def _counters(before: Mapping[str, int], series: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Say where the sidecar's own counters and flags contradict the ejection; and what they say."""
    samples = series["samples"]
    during = next((sample for sample in samples if sample["active"]), None)
    after = next((sample for sample in reversed(samples) if sample["phase"] == "during"), None)
    if during is None or after is None:
        return ["ejections_active was never above 0"], []
    last = samples[-1]
    expected = {
        "while it was ejected": (during, (1, 1, -1)),
        "when it was back": (after, (0, 1, 0)),
        "at the end": (last, (1, 2, -1)),
    }
    wrong = []
    for when, (sample, wanted) in expected.items():
        seen = (sample["active"], sample["enforced"] - before["enforced"], sample["healthy"] - before["healthy"])
        if seen != wanted:
            wrong.append(
                f"{when} ejections_active was {seen[0]}, ejections_enforced_consecutive_gateway_failure had risen by"
                f" {seen[1]} and membership_healthy by {seen[2]}; expected are {wanted[0]}, {wanted[1]} and {wanted[2]}"
            )
    bad = sorted(address for address, arm in series["arms"].items() if arm == "bad")
    for phase, wanted_flags in (("during", bad), ("after", [])):
        flagged = series["ejected"].get(phase)
        if flagged != wanted_flags:
            wrong.append(f"failed_outlier_check {phase} the ejection is set for {flagged}, expected is {wanted_flags}")
    return wrong, [
        f"client's sidecar: ejections_active {during['active']}, {after['active']}, {last['active']};"
        f" ejections_enforced_consecutive_gateway_failure +{last['enforced'] - before['enforced']}; membership_healthy"
        f" {before['healthy']}, {during['healthy']}, {after['healthy']}, {last['healthy']}; failed_outlier_check for"
        f" {', '.join(series['ejected'].get('during') or []) or 'none'}"
    ]


def _drawn(before: int, samples: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Draw the control's share in its region, and ejection and errors over time."""
    shown = {"ejections_active": "active", "errors with the rule": "errors", "errors without": "errors_unguarded"}
    values = {name: [(sample["seconds"], sample[key]) for sample in samples] for name, key in shown.items()}
    region = _region()
    return [
        plots.region(
            "control: requests that the bad pod got without the rule",
            count=before,
            n=SHARE_OF,
            low=region.low,
            high=region.high,
        ),
        plots.timeline("ejected pods, and errors at each look", values, unit="s"),
    ]


def _recovery(samples: list[Mapping[str, Any]]) -> float:
    """Tell how long the pod was ejected at most: from the last look before it was to the first one after."""
    index = next(index for index, sample in enumerate(samples) if sample["active"])
    ended = next(sample["seconds"] for sample in samples[index:] if not sample["active"])
    return float(ended - (samples[index - 1]["seconds"] if index else 0.0))


def _region() -> Region:
    return acceptance_region(SHARE_OF, Fraction(1, PODS), ALPHA)
