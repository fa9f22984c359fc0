"""Judge the canary's split: observation to verdict, without a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from meshstrap.evidence import plots
from meshstrap.evidence.binomial import Region, acceptance_region, confidence_interval
from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.scenarios.witnesses import Tally, subset_arms, tally

HOST = "canary.canary.svc.cluster.local"
PORT = 80
SUBSETS = ("v1", "v2")
ARMS = subset_arms(HOST, PORT, SUBSETS)

_VERSION = re.compile(r"(?<![a-z0-9])v[0-9]+(?![a-z0-9])", re.IGNORECASE)


def marker(body: str) -> str | None:
    """Read which version answered from a reply's body.

    Returns:
        `v1` or `v2` when the body names exactly that one version; None for any other body.
    """
    named = {found.lower() for found in _VERSION.findall(body)}
    return named.pop() if len(named) == 1 and named <= set(SUBSETS) else None


def undecided(observation: Mapping[str, Any]) -> bool:
    """Tell whether a series is sound in all but its counts, so that the declared confirmation is to decide.

    A weight of 0 or 100 needs none: there a single request on the wrong side refutes it.
    """
    weight = observation["parameters"]["weight"]
    series = observation["rounds"][-1]
    seen = _tally(series, weight)
    if seen.failures or seen.gaps or _control(observation["control"])[0] is not Outcome.PASS:
        return False
    return 0 < weight < 100 and seen.replies.get("v2", 0) not in _region(weight, series)


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: parameters, control and rounds as the scenario noted them.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS. The last round
        decides the split; failures and gaps count in every round.
    """
    weight = observation["parameters"]["weight"]
    rounds = observation["rounds"]
    tallies = [_tally(series, weight) for series in rounds]
    control, control_lines = _control(observation["control"])
    failures = [line for seen in tallies for line in seen.failures]
    gaps = [line for seen in tallies for line in seen.gaps]
    if gaps:
        gaps = [
            f"the gateway's pods changed meanwhile: {', '.join(series['gateways'])} before,"
            f" {', '.join(series['gateways_after']) or 'none'} after"
            for series in rounds
            if series["gateways"] != series["gateways_after"]
        ] + gaps
    splits = [_split(weight, series, seen) for series, seen in zip(rounds, tallies, strict=True)]
    if control is Outcome.FAIL:
        failures = [*control_lines, *failures]
    if control is Outcome.INCONCLUSIVE:
        gaps = [*control_lines, *gaps]

    decisive = splits[-1]
    outcome, summary = Outcome.PASS, decisive["text"]
    if failures:
        outcome, summary = Outcome.FAIL, failures[0]
    elif gaps:
        outcome, summary = Outcome.INCONCLUSIVE, gaps[0]
    elif not decisive["inside"]:
        outcome = Outcome.FAIL
    lines = [
        *(failures if outcome is Outcome.FAIL else gaps)[1:],
        *(split["text"] for split in splits if split["text"] != summary and split["v1"] + split["v2"]),
        *(_witnesses(series, seen) for series, seen in zip(rounds, tallies, strict=True)),
        *(control_lines if control is Outcome.PASS else []),
    ]
    numbers = {
        "weight": weight,
        "rounds": [{key: value for key, value in split.items() if key != "text"} for split in splits],
        "failures": len(failures),
        "gaps": len(gaps),
    }
    drawn = tuple(
        plots.region("requests that v2 answered", count=each["v2"], n=each["n"], low=low, high=high)
        for each in splits
        for low, high in [each["region"]]
    )
    return Verdict(outcome, summary, _rule(weight, rounds), tuple(lines), numbers, drawn)


def _split(weight: int, series: Mapping[str, Any], seen: Tally) -> dict[str, Any]:
    """Put a series' counts beside its acceptance region and confidence interval."""
    n, alpha = series["n"], Fraction(series["alpha"])
    count, answered = seen.replies.get("v2", 0), sum(seen.replies.values())
    region = _region(weight, series)
    low, high = confidence_interval(count, answered, float(alpha)) if answered else (0.0, 1.0)
    share = f"{100 * count / answered:.1f} %" if answered else "nothing"
    inside = answered == n and count in region
    if weight in (0, 100):
        held = ""
    else:
        held = (
            f": {'inside' if inside else 'OUTSIDE'} the accepted {region.text} of {n} (alpha {float(alpha):g});"
            f" {100 * (1 - float(alpha)):g} % interval {100 * low:.1f} to {100 * high:.1f} %"
        )
    return {
        "n": n,
        "alpha": float(alpha),
        "v1": seen.replies.get("v1", 0),
        "v2": count,
        "region": [region.low, region.high],
        "interval": [low, high],
        # A series with fewer known answers than requests is judged by its failures and gaps, never by its counts.
        "inside": inside,
        "text": f"v2 answered {count} of {answered} ({share}), declared {weight} %{held}",
    }


def _region(weight: int, series: Mapping[str, Any]) -> Region:
    return acceptance_region(series["n"], Fraction(weight, 100), Fraction(series["alpha"]))


def _tally(series: Mapping[str, Any], weight: int) -> Tally:
    """Count the series, with what went wrong in it or in the requests that only ask whether each node answers."""
    log = series["log"]
    counted = tally((r for r in series["requests"] if r["counted"]), log, arms=ARMS, marker=marker)
    reach = tally((r for r in series["requests"] if not r["counted"]), log, arms=ARMS, marker=marker)
    strays = [
        f"{stray} of {len(series['requests'])} requests answered by {arm}, whose weight is 0"
        for arm, share in (("v1", 100 - weight), ("v2", weight))
        if share == 0 and (stray := counted.replies.get(arm, 0) + reach.replies.get(arm, 0))
    ]
    return replace(
        counted,
        failures=(*strays, *reach.failures, *counted.failures),
        gaps=reach.gaps + counted.gaps,
        unconfirmed=reach.unconfirmed + counted.unconfirmed,
    )


def _witnesses(series: Mapping[str, Any], seen: Tally) -> str:
    agree = f"does not confirm {seen.unconfirmed} replies" if seen.unconfirmed else "agrees on every mark"
    return (
        f"gateway's access log {agree}: {seen.lines.get('v1', 0)} to v1, {seen.lines.get('v2', 0)} to v2"
        f" ({len(series['requests'])} requests, by {', '.join(series['gateways_after'])})"
    )


def _control(control: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    """Judge the negative control: asked directly, without the split, each version names only itself."""
    wrong, unasked, asked = [], [], 0
    for reply in control["replies"]:
        where = f"pod {reply['pod']} of subset {reply['subset']}"
        if reply["error"]:
            unasked.append(f"control: {where} could not be asked directly: {reply['error']}")
        elif marker(reply["body"]) != reply["subset"]:
            wrong.append(f"control: {where}, asked directly, answers {reply['body'].strip()[:60]!r}")
        else:
            asked += 1
    absent = set(SUBSETS) - {reply["subset"] for reply in control["replies"]}
    unasked += [f"control: no pod of subset {subset} could be asked directly" for subset in sorted(absent)]
    # Each pod is asked several times; what it does wrong is said once.
    if wrong:
        return Outcome.FAIL, list(dict.fromkeys(wrong))
    if unasked:
        return Outcome.INCONCLUSIVE, list(dict.fromkeys(unasked))
    return Outcome.PASS, [f"control: asked directly, each version names itself and only itself ({asked} of {asked})"]


def _rule(weight: int, rounds: list[Mapping[str, Any]]) -> str:
    each = (
        "every reply 2xx and of a known version, every mark on exactly one line of the gateway's access log, and that"
        " line's subset the version that answered"
    )
    if weight in (0, 100):
        return f"{each}; with a weight of {weight} not one request on the other side"
    regions = [
        f"v2's count of {series['n']} in the exact two-sided binomial region {_region(weight, series).text} at alpha"
        f" {float(Fraction(series['alpha'])):g}"
        for series in rounds
    ]
    if len(regions) == 1:
        return f"{each}; {regions[0]}"
    return f"{each}; {regions[0]}, or, declared beforehand, {regions[1]} alone"
