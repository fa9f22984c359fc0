"""Judge injected faults: observation to verdict, without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Any

from meshstrap.evidence import plots
from meshstrap.evidence.binomial import Region, acceptance_region
from meshstrap.evidence.verdict import Verdict
from meshstrap.scenarios.witnesses import replaced, risen, sentences, weighed

DELAY_MILLISECONDS = 500
# Envoy's timers read a clock that stands still while it works on other things. Of 100 delays the median was 501 to 502
# ms whatever the load; the shortest 497, and 431, 454 and 469 on a machine with ten times more to do than it could.
TYPICAL = 0.95 * DELAY_MILLISECONDS
AT_LEAST = 0.5 * DELAY_MILLISECONDS
STATUS = 503


@dataclass(frozen=True)
class Expected:
    """What happens to how many of a Service's requests: `abort`, `delay` or nothing."""

    fault: str
    percent: int


EXPECTED = {
    "tomcat-svc": Expected("abort", 100),
    "tomcat-half": Expected("abort", 50),
    "tomcat-slow": Expected("delay", 100),
    "tomcat-slow-half": Expected("delay", 50),
    "tomcat-sound": Expected("", 0),
}

RULE = (
    "aborted: 503 for the client, one line with FI and no upstream in its proxy's log, none in the server's; delayed:"
    f" 200, one line with DI that took {AT_LEAST:g} ms and more, {TYPICAL:g} and more in the median, not counting what"
    " the server took, one line at the server; spared: 200 without flag or delay, one line in each log; at 100 % every"
    " request has its fault, in the control none; the proxy's counters rose by as many at least"
)


@dataclass(frozen=True)
class Seen:
    """A series as the witnesses saw it: for each Service how many requests met which fate, failures and gaps."""

    fates: dict[str, Counter[str]]
    failures: list[str]
    gaps: list[str]


def undecided(observation: Mapping[str, Any]) -> bool:
    """Tell whether a series is sound in all but a count, so that the declared confirmation is to decide."""
    series = observation["rounds"][-1]
    seen = _look(series)
    return not seen.failures and not seen.gaps and bool(_outside(series, seen))


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: the rounds as the scenario noted them.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS. The last round
        decides the percentages; failures and gaps count in every round.
    """
    rounds = observation["rounds"]
    looked = [_look(series) for series in rounds]
    last, seen = rounds[-1], looked[-1]
    failures = [line for each in looked for line in each.failures]
    gaps = [line for each in looked for line in each.gaps]
    if not seen.gaps:
        # What happened to requests without a line nobody knows: of some of them there is no share.
        failures += _outside(last, seen)
    if gaps:
        gaps = [line for each in rounds for line in replaced(each["pods"], each["pods_after"])] + gaps
    region = _region(last)
    halves = {name: seen.fates[name][expected.fault] for name, expected in EXPECTED.items() if expected.percent == 50}
    summary = (
        f"{seen.fates['tomcat-svc']['abort']} of {seen.fates['tomcat-svc'].total()} aborted and"
        f" {seen.fates['tomcat-slow']['delay']} of {seen.fates['tomcat-slow'].total()} delayed at 100 %;"
        f" {halves['tomcat-half']} of {last['n']} aborted and {halves['tomcat-slow-half']} of {last['n']} delayed at"
        f" 50 % (accepted {region.text}, alpha {float(Fraction(last['alpha'])):g}); control: none of"
        f" {seen.fates['tomcat-sound'].total()}"
    )
    counted = risen(last)
    lines = [
        f"busybox's proxy counted {_said(counted['aborts'])} aborts and {_said(counted['delays'])} delays more; by its"
        f" log {_sum(seen, 'abort')} and {_sum(seen, 'delay')}",
        f"tomcat's proxy logged each request that was not aborted once, and none of the {_sum(seen, 'abort')} aborted",
    ]
    numbers = {"n": last["n"], "region": [region.low, region.high], **halves, "counters": counted}
    # What the witnesses agree on is said only where they do.
    return weighed(
        failures,
        gaps,
        summary="" if failures or gaps else summary,
        plots=[
            plots.region(f"{name}: requests with the fault", count=count, n=last["n"], low=region.low, high=region.high)
            for name, count in halves.items()
        ],
        rule=f"{RULE}; at 50 % the count is in the exact two-sided binomial region {region.text} of {last['n']}",
        lines=() if failures or gaps else lines,
        numbers=numbers,
    )


def _look(series: Mapping[str, Any]) -> Seen:
    """Say of each request what became of it, by all witnesses together."""
    fates = {name: Counter[str]() for name in EXPECTED}
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    waits: dict[str, list[int]] = {name: [] for name in EXPECTED}
    lost: set[str] = set()
    for request in series["requests"]:
        name, mark = request["service"], request["mark"]
        if not request["sent"]:
            gaps.setdefault(f"to {name} not sent: {request['error']}", []).append(mark)
            continue
        here, there = (series["log"][role].get(mark, []) for role in ("busybox", "tomcat"))
        if request["status"] is None:
            failures.setdefault(f"to {name} got no answer: {request['error']}", []).append(mark)
        elif not here:
            lost.add(name)
            gaps.setdefault(f"to {name} left no line in the client's log", []).append(mark)
        elif len(here) > 1:
            failures.setdefault(f"to {name} left {len(here)} lines in the client's log", []).append(mark)
        else:
            fate, wrong, lacks = _fate(request["status"], here[0], there)
            fates[name][fate] += 1
            if wrong:
                failures.setdefault(f"to {name} {wrong}", []).append(mark)
            elif lacks:
                lost.add(name)
                gaps.setdefault(f"to {name} {lacks}", []).append(mark)
            elif fate not in _allowed(EXPECTED[name]):
                failures.setdefault(f"to {name} {_WORDS[fate]}", []).append(mark)
            elif fate == "delay":
                waits[name].append(here[0]["milliseconds"] - here[0]["upstream_milliseconds"])
    found = Seen(fates, list(sentences(failures)), list(sentences(gaps)))
    found.failures.extend(
        f"the delays of {name} were {median(each):g} ms in the median, declared {DELAY_MILLISECONDS}"
        for name, each in waits.items()
        if each and name not in lost and median(each) < TYPICAL
    )
    for fault, value in risen(series).items():
        logged = _sum(found, fault.removesuffix("s"))
        if value is None:
            found.gaps.append(f"the client's proxy shows no counter {fault}_injected")
        elif value < logged:
            found.failures.append(f"the client's proxy counted {value} {fault}, and logged {logged}")
    return found


_WORDS = {
    "abort": "was aborted, which it should not be",
    "delay": "was delayed, which it should not be",
    "": "met no fault, which it should",
}


def _allowed(expected: Expected) -> set[str]:
    return {100: {expected.fault}, 50: {expected.fault, ""}, 0: {""}}[expected.percent]


def _fate(status: int, line: Mapping[str, Any], there: list[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Give what became of a request, what is wrong with it and what is missing, the last two empty if nothing."""
    flags, took = set(line["flags"]), line["milliseconds"]
    told = f"{','.join(line['flags']) or '-'} {line['details']}"
    if line["code"] != status:
        return "", f"got {status}, and {line['code']} by its proxy's log", ""
    if status == STATUS and "FI" in flags:
        if there or line["upstream"]:
            return "abort", "was aborted and yet reached the server", ""
        return "abort", "", ""
    if status != 200:
        return "", f"got {status} from another cause than the fault ({told})", ""
    if len(there) > 1:
        return "", f"left {len(there)} lines in the server's log", ""
    fate = "delay" if "DI" in flags else ""
    if not there:
        return fate, "", "left no line in the server's log"
    if took is None:
        return fate, "", "has no duration in its line"
    if not fate:
        return "", "", ""
    if took < AT_LEAST:
        return fate, f"has the flag DI and took only {took} ms", ""
    server = line["upstream_milliseconds"]
    # A busy server may take long too: what is left of the time is the delay.
    if server is None or took - server < AT_LEAST:
        return fate, f"took {took} ms, of which the server took {server}: not the fault's delay", ""
    return fate, "", ""


def _outside(series: Mapping[str, Any], seen: Seen) -> list[str]:
    region = _region(series)
    return [
        f"{count} of {series['n']} requests to {name} had the fault, declared 50 %: OUTSIDE the accepted {region.text}"
        for name, expected in EXPECTED.items()
        if expected.percent == 50 and (count := seen.fates[name][expected.fault]) not in region
    ]


def _region(series: Mapping[str, Any]) -> Region:
    return acceptance_region(series["n"], Fraction(1, 2), Fraction(series["alpha"]))


def _sum(seen: Seen, fate: str) -> int:
    return sum(counter[fate] for counter in seen.fates.values())


def _said(value: int | None) -> str:
    return "no" if value is None else str(value)
