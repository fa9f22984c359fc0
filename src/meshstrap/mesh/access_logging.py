"""Whether proxies write an access log that can be read: by the mesh config and the Telemetry objects. Pure.

Which object takes lines away is to be named; that lines are missing says nothing about the mesh otherwise.

Source: istio/istio pilot/pkg/model/telemetry.go (`applicableTelemetries`, `mergeLogs`) and
pilot/pkg/networking/core/accesslog.go: without a provider that is known the mesh config's accessLogFile counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from meshstrap.mesh import gateway
from meshstrap.mesh.applies import Object, selector, sorted_by_age, to_pod
from meshstrap.mesh.lint.finding import at, items, namespace_of

STDOUT = "/dev/stdout"
# What Istio defines without being told.
_BUILT_IN: dict[str, Mapping[str, Any]] = {"envoy": {"envoyFileAccessLog": {"path": STDOUT}}}
# Which lines: of what a proxy's own pod asks for and what a gateway takes in, and of what is asked of the pod.
CLIENT, SERVER = "CLIENT", "SERVER"
_SAID = {CLIENT: "of what pods ask for", SERVER: "of what pods are asked for"}


@dataclass(frozen=True)
class Unlogged:
    """Lines that are not there to be read.

    Args:
        by: the object or setting that takes them away.
        why: how, as a predicate, and what to do.
        all: whether every line of the pod is taken away; else some, by side or by a filter.
    """

    by: str
    why: str
    all: bool


@dataclass(frozen=True)
class _Sink:
    """Where a provider's lines go, and who says so."""

    name: str
    by: str
    disabled: bool = False
    filtered: str = ""


def settings(config: Mapping[str, Any] | None, name: str) -> tuple[dict[str, Any], str]:
    """Read the mesh config.

    Args:
        config: the ConfigMap of istio-system that holds it; None when it is not there.
        name: its name, which is the revision's.

    Returns:
        Its settings, and what is wrong with it; one of the two is empty.
    """
    where = place(name)
    if config is None:
        return {}, f"{where} is not there; run deploys/istio.py"
    try:
        found = yaml.safe_load(config.get("data", {}).get("mesh", "")) or {}
    except yaml.YAMLError as error:
        return {}, f"{where} is no YAML: {error}"
    return (found, "") if isinstance(found, dict) else ({}, f"{where} is no mapping")


def place(name: str) -> str:
    """Say where the mesh config stands."""
    return f"mesh config (ConfigMap {gateway.NAMESPACE}/{name})"


def unlogged(
    pod: Object, telemetries: Iterable[Object], mesh: Mapping[str, Any], *, where: str, root: str
) -> list[Unlogged]:
    """Say which of a pod's access-log lines its proxy does not write to where they can be read, and by whose word.

    Args:
        pod: the pod; a gateway's writes the lines of the client's side only.
        telemetries: all Telemetry objects of the cluster.
        mesh: the mesh config's settings.
        where: its place, for people.
        root: the mesh's root namespace.

    Returns:
        A reason each; empty when each request leaves one line in Istio's default format, TEXT or JSON, on stdout.
    """
    applied = _applied(pod, telemetries, root)
    labels = pod["metadata"].get("labels") or {}
    sides = (CLIENT,) if gateway.SELECTOR.items() <= labels.items() else (CLIENT, SERVER)
    found = {side: _of_side(applied, mesh, side, where) for side in sides}
    lost = {side: reasons for side, reasons in found.items() if reasons}
    everywhere = len(lost) == len(sides)
    total = everywhere and all(whole for reasons in lost.values() for *_, whole in reasons)
    said = [
        (by, why if everywhere else f"{why} ({_SAID[side]})")
        for side, reasons in lost.items()
        for by, why, _ in reasons
    ]
    return [Unlogged(by, why, total) for by, why in dict.fromkeys(said)]


def _of_side(applied: list[Object], mesh: Mapping[str, Any], side: str, where: str) -> list[tuple[str, str, bool]]:
    """Say who does what to the log of one side, each with whether nothing is left of it."""
    providers = _BUILT_IN | {
        str(each.get("name")).lower(): each for _, each in items(at(mesh, "extensionProviders")) if each.get("name")
    }
    known = [sink for sink in _merged(applied, mesh, side, where) if sink.name.lower() in providers]
    if not known:
        return [(where, why, True) for why in _by_file(mesh)]
    legible, reasons = [], []
    for sink in known:
        if sink.disabled:
            reasons.append((sink.by, f"disables the access log ({sink.name}); take that out or delete it", True))
        elif wrong := _elsewhere(providers[sink.name.lower()]):
            reasons.append((sink.by, f"has the access log written by provider {sink.name}, which {wrong}", True))
        else:
            legible.append(sink)
    if not legible:
        return reasons
    if len(legible) > 1:
        names = ", ".join(sink.name for sink in legible)
        return [(legible[0].by, f"has each request logged {len(legible)} times ({names}); leave one of them", True)]
    (sink,) = legible
    return [(sink.by, f"has only requests logged that pass {sink.filtered!r}", False)] if sink.filtered else []


def _merged(applied: list[Object], mesh: Mapping[str, Any], side: str, where: str) -> list[_Sink]:
    """Merge Telemetry objects, root's first, as istiod does: a list of providers replaces the one before."""
    default = at(mesh, "defaultProviders", "accessLogging")
    defaults = [str(name) for name in default] if isinstance(default, list) else []
    if not applied:
        return [_Sink(name, f"{where}, defaultProviders,") for name in defaults]
    scope, filters = defaults, dict[str, str]()
    for telemetry in applied:
        named = [
            (name, str(at(rule, "filter", "expression") or ""))
            for _, rule in items(at(telemetry, "spec", "accessLogging"))
            if _is_for(rule, side)
            for name in _names(rule)
        ]
        filters |= dict(named)
        scope = [name for name, _ in named] or scope
    sinks: dict[str, _Sink] = {}
    parents = defaults
    for telemetry in applied:
        by = f"Telemetry {namespace_of(telemetry)}/{telemetry['metadata']['name']}"
        for _, rule in items(at(telemetry, "spec", "accessLogging")):
            parents = _names(rule) or parents
            for name in parents:
                if name in scope and _is_for(rule, side):
                    sinks[name] = _Sink(name, by, rule.get("disabled") is True, filters.get(name, ""))
    return list(sinks.values())


def _applied(pod: Object, telemetries: Iterable[Object], root: str) -> list[Object]:
    """Pick the Telemetry objects that are for a pod: the root namespace's, its own namespace's, its own; one each."""
    mine = namespace_of(pod)
    ordered = [each for each in sorted_by_age(telemetries) if to_pod(each, pod, root)]
    levels = [
        [each for each in ordered if not selector(each) and namespace_of(each) == root],
        [each for each in ordered if not selector(each) and namespace_of(each) == mine != root],
        [each for each in ordered if selector(each)],
    ]
    return [level[0] for level in levels if level and items(at(level[0], "spec", "accessLogging"))]


def _by_file(mesh: Mapping[str, Any]) -> list[str]:
    lacks = []
    if mesh.get("accessLogFile") != STDOUT:
        lacks.append(f"lacks accessLogFile: {STDOUT}, without which the proxies log no request")
    if mesh.get("accessLogFormat"):
        lacks.append("sets accessLogFormat; the proof reads Istio's default format, TEXT or JSON")
    return lacks


def _elsewhere(provider: Mapping[str, Any]) -> str:
    """Say why a provider's lines cannot be read; empty when they can."""
    file = provider.get("envoyFileAccessLog")
    if not isinstance(file, Mapping):
        kinds = ", ".join(key for key in provider if key != "name")
        return f"is no file of the proxy ({kinds}); the proof reads {STDOUT}"
    if (path := file.get("path") or STDOUT) != STDOUT:
        return f"writes to {path}; the proof reads {STDOUT}"
    return "has a logFormat of its own; the proof reads Istio's default format" if file.get("logFormat") else ""


def _is_for(rule: Mapping[str, Any], side: str) -> bool:
    return at(rule, "match", "mode") in (None, "CLIENT_AND_SERVER", side)


def _names(rule: Mapping[str, Any]) -> list[str]:
    return [str(each["name"]) for _, each in items(rule.get("providers")) if each.get("name")]
