"""Hold the replies of marked requests against the gateway's log lines for the same marks. Pure.

The reply's own marker says which version answered; the line's upstream cluster says which subset Envoy chose. Each
request needs both, exactly once, and they must agree: counts alone could agree by luck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.evidence.verdict import Outcome, Verdict
from meshstrap.mesh.proxy_config import cluster_name


@dataclass(frozen=True)
class Tally:
    """A series as both witnesses saw it.

    Args:
        replies: how many requests each arm answered, by the replies.
        lines: how many requests went to each arm, by the log.
        failures: what contradicts the claim, a sentence each.
        gaps: what is missing to judge, a sentence each.
        unconfirmed: how many known replies the log does not confirm, exactly once and as the same.
    """

    replies: dict[str, int]
    lines: dict[str, int]
    failures: tuple[str, ...]
    gaps: tuple[str, ...]
    unconfirmed: int


def tally(
    requests: Iterable[Mapping[str, Any]],
    log: Mapping[str, list[Mapping[str, Any]]],
    *,
    arms: Mapping[str, str],
    marker: Callable[[str], str | None],
) -> Tally:
    """Count a series by both witnesses, and note where either fails.

    Args:
        requests: the observations of `ingress.send`.
        log: the lines of `ingress.collect`, by mark.
        arms: for each upstream cluster that is part of the claim, its arm.
        marker: reads the arm from a reply's body; None for a body that is none of the arms'.

    Returns:
        The counts, the failures and the gaps.
    """
    confirmed = 0
    replies: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    failures: dict[str, list[str]] = {}
    gaps: dict[str, list[str]] = {}

    def note(notes: dict[str, list[str]], what: str, mark: str) -> None:
        notes.setdefault(what, []).append(mark)

    for request in requests:
        mark, status = request["mark"], request["status"]
        entries = log.get(mark, [])
        if not request.get("sent", True):
            note(gaps, request["error"], mark)
            continue
        if status is None:
            note(failures, f"got no answer from {request['url']}: {request['error']}", mark)
            continue
        if not 200 <= status < 300:
            note(failures, f"got {status}{_chosen(entries)}", mark)
            continue
        arm = marker(request["body"])
        if arm is None:
            note(failures, f"got an unknown body {request['body'].strip()[:60]!r}", mark)
            continue
        replies[arm] += 1
        if not entries:
            note(gaps, "left no line in the gateway's access log", mark)
            continue
        if len(entries) > 1:
            note(failures, f"left {len(entries)} lines in the gateway's access log", mark)
            continue
        chosen = arms.get(entries[0]["cluster"])
        if chosen is None:
            note(failures, f"went to {entries[0]['cluster'] or 'no cluster'}, which is not part of this", mark)
            continue
        lines[chosen] += 1
        if chosen != arm:
            note(failures, f"went to {chosen} by the gateway's log, and came back as {arm}", mark)
        if entries[0]["code"] != status:
            note(failures, f"got {status}, and {entries[0]['code']} by the gateway's log", mark)
        confirmed += chosen == arm and entries[0]["code"] == status
    unconfirmed = replies.total() - confirmed
    return Tally(dict(replies), dict(lines), sentences(failures), sentences(gaps), unconfirmed)


def weighed(
    failures: Iterable[str],
    gaps: Iterable[str],
    *,
    summary: str,
    rule: str,
    lines: Iterable[str] = (),
    numbers: Mapping[str, Any] | None = None,
    plots: Iterable[dict[str, Any]] = (),
) -> Verdict:
    """Weigh what contradicts a claim and what is missing to judge it; a contradiction outweighs a gap.

    Args:
        failures: what contradicts the claim, a sentence each; any makes it FAIL.
        gaps: what is missing, a sentence each; any makes it INCONCLUSIVE where nothing contradicts.
        summary: the line of a PASS.
        rule: the rule, in words.
        lines: what the witnesses say, printed in each case.
        numbers: the same for machines.
        plots: the same for the eye, as `evidence.plots` makes it.

    Returns:
        The verdict; its summary is the first failure, the first gap, or `summary`.
    """
    against, missing = list(failures), list(gaps)
    outcome = Outcome.FAIL if against else Outcome.INCONCLUSIVE if missing else Outcome.PASS
    reasons = [*against, *missing]
    first, *rest = reasons or [summary]
    said = [summary] if reasons and summary else []
    return Verdict(outcome, first, rule, (*rest, *said, *lines), dict(numbers or {}), tuple(plots))


def replaced(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[str]:
    """Say which pods came or went while they were looked at; with a gap, that is its likely cause.

    Args:
        before: the names of the pods of each role, before the first request.
        after: the same when the logs were read.
    """
    return [
        f"the pods of {role} changed meanwhile: {', '.join(names) or 'none'} before,"
        f" {', '.join(after.get(role, [])) or 'none'} after"
        for role, names in before.items()
        if names != after.get(role, [])
    ]


def sentences(notes: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Say each thing once, with how many requests it happened to and the mark of the first one.

    Args:
        notes: what happened, as `got 503`, with the marks of the requests.
    """
    return tuple(
        f"{len(marks)} request{'s' if len(marks) > 1 else ''} {what} (first mark {marks[0]})"
        for what, marks in notes.items()
    )


def risen(series: Mapping[str, Any]) -> dict[str, int | None]:
    """Say by how much each counter has risen; None where the proxy did not show it, or where it fell.

    One that fell was begun anew by a proxy that was restarted in between.
    One that is shown only afterwards stood at nothing: Envoy makes a cluster's counters with its first request (Istio's
    `ENABLE_DEFERRED_STATS_CREATION`).

    Args:
        series: an observation with `counters`, `before` and `after`.
    """
    before, after = series["counters"]["before"], series["counters"]["after"]
    return {
        key: None if value is None or value < (before[key] or 0) else value - (before[key] or 0)
        for key, value in after.items()
    }


def subset_arms(host: str, port: int, subsets: Iterable[str]) -> dict[str, str]:
    """Map the clusters of a Service's subsets to the subsets' names."""
    return {cluster_name(host, subset, port): subset for subset in subsets}


def _chosen(entries: list[Mapping[str, Any]]) -> str:
    if not entries:
        return ", with no line in the gateway's access log"
    return (
        f" ({','.join(entries[0]['flags']) or '-'} {entries[0]['details']} to {entries[0]['cluster'] or 'no cluster'})"
    )
