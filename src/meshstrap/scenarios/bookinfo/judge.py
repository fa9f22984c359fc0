"""Judge Bookinfo's pages: observation to verdict, without a cluster."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from meshstrap.evidence.verdict import Verdict
from meshstrap.scenarios.witnesses import replaced, sentences, weighed

# What tells the versions apart on the page and in what reviews itself answers.
STARS = {"v1": "no stars", "v2": "black stars", "v3": "red stars"}

_COLOUR = re.compile(r"""<font color="(\w+)">|"color":\s*"(\w+)\"""")
_PAGE = ("Simple Bookstore App", "Book Details", "Book Reviews")

RULE = (
    "every page through every node 200, with title, details and reviews, its stars those of a known version; each mark"
    " on exactly one line of the gateway's access log and one inbound line of reviews' proxies, at a pod of the very"
    " version that the stars tell; all three versions seen in 60 pages (a healthy mesh misses one in 1 of 10^10 runs)"
)


def marker(body: str) -> str | None:
    """Read which version of reviews a page, or an answer of reviews itself, comes from.

    Returns:
        `v1` without stars, `v2` with black ones, `v3` with red ones; None for whatever else.
    """
    colours = {colour for found in _COLOUR.findall(body) for colour in found if colour}
    if "currently unavailable" in body or "Reviewer1" not in body:
        return None
    return {frozenset[str](): "v1", frozenset({"black"}): "v2", frozenset({"red"}): "v3"}.get(frozenset(colours))


def judge(observation: Mapping[str, Any]) -> Verdict:
    """Judge a finished observation.

    Args:
        observation: control and rounds as the scenario noted them.

    Returns:
        FAIL for whatever contradicts the claim; else INCONCLUSIVE for what is missing; else PASS.
    """
    (series,) = observation["rounds"]
    seen: Counter[str] = Counter()
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}
    for request in series["requests"]:
        wrong, lacks, version = _page(request, series)
        if wrong:
            failures.setdefault(wrong, []).append(request["mark"])
        elif lacks:
            gaps.setdefault(lacks, []).append(request["mark"])
        else:
            seen[version] += 1
    wrongs, unasked, asked = _control(observation["control"]["replies"])
    against, missing = [*wrongs, *sentences(failures)], [*unasked, *sentences(gaps)]
    absent = [f"no page showed {STARS[version]} ({version})" for version in STARS if not seen[version]]
    if not missing:
        # Of pages that are missing nobody knows what they would have shown.
        against += absent
    else:
        pods = {"reviews": sorted(series["reviews"]), "the gateway": series["gateways"]}
        after = {"reviews": sorted(series["reviews_after"]), "the gateway": series["gateways_after"]}
        missing = [*replaced(pods, after), *missing]
    nodes = sorted({request["node"] for request in series["requests"]})
    counts = ", ".join(f"{seen[version]} with {stars} ({version})" for version, stars in STARS.items())
    sound = not against and not missing
    return weighed(
        against,
        missing,
        summary=f"{len(series['requests'])} pages through {', '.join(nodes)}: {counts}" if sound else "",
        rule=RULE,
        lines=(
            f"the access logs of gateway and reviews agree on every mark ({', '.join(sorted(series['reviews']))})",
            f"control: asked directly, each pod of reviews shows its own version's stars ({asked} of {asked})",
        )
        if sound
        else (),
        numbers={"pages": len(series["requests"]), **{version: seen[version] for version in STARS}},
    )


def _page(request: Mapping[str, Any], series: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give what is wrong with a page, what is missing to judge it, and its version; the first two empty if nothing."""
    node, status = request["node"], request["status"]
    if not request["sent"]:
        return "", request["error"], ""
    if status is None:
        return f"through {node} got no answer from {request['url']}: {request['error']}", "", ""
    if status != 200:
        return f"through {node} got {status}", "", ""
    lacking = [text for text in _PAGE if text not in request["body"]]
    if lacking:
        return f"through {node} got a page without {', '.join(lacking)}", "", ""
    version = marker(request["body"])
    if version is None:
        return f"through {node} got a page whose reviews are of no known version", "", ""
    lines = series["log"].get(request["mark"], [])
    inbound = [
        line
        for line in series["reviews_log"].get(request["mark"], [])
        # A proxy logs what its pod asks of ratings under the same mark.
        if line["cluster"].startswith("inbound|")
    ]
    for where, found in (("the gateway's", lines), ("reviews'", inbound)):
        if len(found) > 1:
            return f"left {len(found)} lines in {where} access log", "", version
        if not found:
            return "", f"left no line in {where} access log", version
    served = series["reviews"].get(inbound[0]["pod"], series["reviews_after"].get(inbound[0]["pod"]))
    if served != version:
        return f"showed {STARS[version]} ({version}), and were served by {inbound[0]['pod']} ({served})", "", version
    return "", "", version


def _control(replies: list[Mapping[str, Any]]) -> tuple[list[str], list[str], int]:
    """Judge the control: asked directly, each version of reviews shows its own stars and no others."""
    wrong, unasked, asked = [], [], 0
    for reply in replies:
        where = f"control: pod {reply['pod']} ({reply['version']})"
        if reply["error"]:
            unasked.append(f"{where} could not be asked directly: {reply['error']}")
        elif marker(reply["body"]) != reply["version"]:
            wrong.append(f"{where}, asked directly, does not show {STARS.get(reply['version'], 'its stars')}")
        else:
            asked += 1
    absent = set(STARS) - {reply["version"] for reply in replies}
    unasked += [f"control: no pod of reviews {version} could be asked directly" for version in sorted(absent)]
    return list(dict.fromkeys(wrong)), list(dict.fromkeys(unasked)), asked
