"""The rule of two VirtualServices that take the same requests of one host on one Gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import combinations

from meshstrap.kube.ref import Ref
from meshstrap.mesh.lint.finding import NETWORKING, Declared, Finding, Object, Path, at, items, namespace_of

_EVERYTHING = {"prefix": "/"}


def shared_hosts(declared: Declared) -> Iterator[Finding]:
    """Find two VirtualServices on one Gateway and host whose rules take the same requests.

    Rules that cannot meet (bookinfo's paths and canary's rest) may be spread over VirtualServices: Istio keeps each
    one's order and puts catch-alls last.
    """
    routed = list(declared.of("VirtualService", NETWORKING))
    for (other, first), (index, second) in combinations(routed, 2):
        gateways, hosts = _gateways(first) & _gateways(second), _hosts(first) & _hosts(second)
        if not gateways or not hosts:
            continue
        for path, match in _matches(second):
            if any(_meet(match, taken) for _, taken in _matches(first)):
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


def _gateways(item: Object) -> set[str]:
    """Name the Gateways that a VirtualService is bound to, as namespace/name; sidecars (`mesh`) are none."""
    named = at(item, "spec", "gateways")
    names = [name for name in named if isinstance(name, str) and name != "mesh"] if isinstance(named, list) else []
    return {name if "/" in name else f"{namespace_of(item)}/{name}" for name in names}


def _hosts(item: Object) -> set[str]:
    """Name the hosts; a short name means another host in another namespace."""
    named = at(item, "spec", "hosts")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return {name if "." in name or name == "*" else f"{name}.{namespace_of(item)}" for name in names}


def _matches(item: Object) -> Iterator[tuple[Path, Object]]:
    """Go through what a VirtualService's http rules take, each with the path of its rule or match."""
    for number, rule in items(at(item, "spec", "http")):
        path: Path = ("spec", "http", number)
        matches = items(rule.get("match"))
        if not matches and not rule.get("match"):
            yield path, {}
        for which, match in matches:
            yield (*path, "match", which), {key: value for key, value in match.items() if key != "name"}


def _meet(one: Object, other: Object) -> bool:
    """Tell whether age decides between two matches: they are the same, or one takes all that the other takes.

    What may or may not meet (a regex, headers that differ) is passed over.
    """
    if _text(one) == _text(other):
        return True
    if _catches_all(one) or _catches_all(other):
        return False
    return _contains(one, other) or _contains(other, one)


def _contains(wide: Object, narrow: Object) -> bool:
    if set(wide) != {"uri"} or narrow.get("ignoreUriCase"):
        return False
    uri, inner = wide["uri"], narrow.get("uri")
    start = at(inner, "exact") or at(inner, "prefix")
    if not isinstance(uri, Mapping) or not isinstance(start, str):
        return False
    prefix, exact = uri.get("prefix"), uri.get("exact")
    if isinstance(prefix, str):
        return start.startswith(prefix)
    return isinstance(exact, str) and exact == at(inner, "exact")


def _catches_all(match: Object) -> bool:
    return not match or match == {"uri": _EVERYTHING}


def _text(match: Object) -> str:
    """Give a match as text to compare; without a condition it is the prefix /."""
    return json.dumps(match or {"uri": _EVERYTHING}, sort_keys=True)
