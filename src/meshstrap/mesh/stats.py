"""Read Envoy's own counters as `pilot-agent request GET stats` prints them.

A counter that is not there is not zero: per-cluster counters are kept only when the proxy was told to
(`proxy.istio.io/config: proxyStatsMatcher`), and `usedonly` hides zeros. Whoever reads says None, and the judge says
INCONCLUSIVE.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"^(?P<name>\S.*?): (?P<value>\d+)$")


def parse(text: str) -> dict[str, int]:
    """Read counters and gauges; histograms, text values and other lines are left out.

    Args:
        text: the answer of Envoy's `/stats`, one `name: value` a line.

    Returns:
        The values by full name.
    """
    found = (_LINE.match(line.strip()) for line in text.splitlines())
    return {match["name"]: int(match["value"]) for match in found if match}


def cluster_value(stats: dict[str, int], cluster: str, name: str) -> int | None:
    """Find a cluster's counter under either spelling of its name.

    Up to Istio 1.22 a name reads `cluster.<cluster>.<name>`; from 1.23 (release note 51761) a `;` ends the cluster.

    Args:
        stats: what `parse` gave.
        cluster: the cluster's name, such as `outbound|80||httpbin.default.svc.cluster.local`.
        name: the counter within the cluster, such as `upstream_rq_pending_overflow`.

    Returns:
        Its value; None when the proxy does not show it.
    """
    pattern = re.compile(rf"cluster\.{re.escape(cluster)};?\.{re.escape(name)}")
    return next((value for full, value in stats.items() if pattern.fullmatch(full)), None)


def total(stats: dict[str, int], suffix: str) -> int | None:
    """Sum the counters whose names end alike, such as `.fault.aborts_injected`, which each listener keeps for itself.

    Returns:
        The sum; None when the proxy shows none.
    """
    found = [value for name, value in stats.items() if name.endswith(suffix)]
    return sum(found) if found else None
