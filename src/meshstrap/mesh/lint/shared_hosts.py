"""The rule of two VirtualServices that take the same requests of one host on one Gateway."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from meshstrap.kube.ref import Ref
from meshstrap.mesh.lint import claims
from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding


def shared_hosts(declared: Declared) -> Iterator[Finding]:
    """Find two VirtualServices on one Gateway and host whose rules take the same requests.

    Rules that cannot meet (bookinfo's paths and canary's rest) may be spread over VirtualServices: Istio keeps each
    one's order and puts catch-alls last.
    """
    routed = list(declared.of("VirtualService", NETWORKING))
    for (other, first), (index, second) in combinations(routed, 2):
        gateways = claims.gateways(first) & claims.gateways(second)
        hosts = claims.hosts(first) & claims.hosts(second)
        if not gateways or not hosts:
            continue
        for path, match in claims.matches(second):
            if any(claims.meet(match, taken) for _, taken in claims.matches(first)):
                yield declared.finding(
                    "shared-host",
                    index,
                    path,
                    f"{Ref.of(first)} takes the same requests of host {', '.join(sorted(hosts))} on Gateway"
                    f" {', '.join(sorted(gateways))}: the older object wins, and one that is deleted and made again"
                    " becomes the newer",
                    "one VirtualService for both, a host of its own for each, or paths that do not meet",
                    "istio.io, Traffic Management Best Practices: the order across resources is undefined;"
                    " istio/istio#37500; seen: the older one won 30 of 30 (K5)",
                    other,
                )
                break
