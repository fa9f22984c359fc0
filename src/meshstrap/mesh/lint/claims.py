"""Which requests a VirtualService takes: of which hosts, on which Gateways, by which conditions.

One reader for manifests (the rule of shared hosts) and for what stands on a cluster (the scenarios' rivals).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from meshstrap.mesh.lint.finding import Object, Path, at, items, namespace_of, texts

_EVERYTHING = {"prefix": "/"}
# What a VirtualService is for when it names no gateway: the sidecars.
MESH = "mesh"


def gateways(item: Object) -> set[str]:
    """Name the Gateways that a VirtualService is bound to, as namespace/name; sidecars (`mesh`) are none."""
    names = [name for name in texts(at(item, "spec", "gateways")) if name != MESH]
    return {name if "/" in name else f"{namespace_of(item)}/{name}" for name in names}


def for_sidecars(item: Object) -> bool:
    """Tell whether a VirtualService is for the sidecars of the mesh, alone or besides Gateways."""
    named = texts(at(item, "spec", "gateways"))
    return not named or MESH in named


def hosts(item: Object) -> set[str]:
    """Name the hosts; a short name means another host in another namespace."""
    named = texts(at(item, "spec", "hosts"))
    return {name if "." in name or name == "*" else f"{name}.{namespace_of(item)}" for name in named}


def matches(item: Object) -> Iterator[tuple[Path, Object]]:
    """Go through what a VirtualService's http rules take, each with the path of its rule or match."""
    for number, rule in items(at(item, "spec", "http")):
        path: Path = ("spec", "http", number)
        conditions = items(rule.get("match"))
        if not conditions and not rule.get("match"):
            yield path, {}
        for which, match in conditions:
            yield (*path, "match", which), {key: value for key, value in match.items() if key != "name"}


def meet(one: Object, other: Object) -> bool:
    """Tell whether age decides between two matches: they are the same, or one takes all that the other takes.

    What may or may not meet (a regex, headers that differ) is passed over. A catch-all meets only another one: Istio
    sorts it last.
    """
    if _canonical(one) == _canonical(other):
        return True
    if catches_all(one) or catches_all(other):
        return False
    return _contains(one, other) or _contains(other, one)


def catches_all(match: Object) -> bool:
    """Tell whether a match takes every request of its host."""
    return not match or match == {"uri": _EVERYTHING}


def meets_any(one: Object, other: Object) -> bool:
    """Tell whether two matches have requests in common, where neither host's order decides."""
    return catches_all(one) or catches_all(other) or meet(one, other)


def takes_root(match: Object) -> bool:
    """Tell whether a match takes a plain request for `/`, without headers of its own."""
    if "headers" in match or "port" in match:
        return False
    uri = match.get("uri")
    if not isinstance(uri, Mapping):
        return True
    if isinstance(prefix := uri.get("prefix"), str):
        return "/".startswith(prefix)
    if isinstance(pattern := uri.get("regex"), str):
        try:
            return re.fullmatch(pattern, "/") is not None
        except re.error:
            return True
    return bool(uri.get("exact") == "/")


def text(match: Object) -> str:
    """Give a match as people read it: `prefix /`, `exact /x with headers`."""
    uri = match.get("uri") or _EVERYTHING
    rest = sorted(set(match) - {"uri"})
    said = " ".join(f"{kind} {value}" for kind, value in uri.items()) if isinstance(uri, Mapping) else str(uri)
    return f"{said} with {', '.join(rest)}" if rest else said


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


def _canonical(match: Object) -> str:
    """Give a match as text to compare; without a condition it is the prefix /."""
    return json.dumps(match or {"uri": _EVERYTHING}, sort_keys=True)
