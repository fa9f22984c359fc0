"""The access-log lines of marked requests, read from the proxies of any pods: gateways, clients, servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from meshstrap.kube import logs
from meshstrap.mesh import access_log, gateway
from meshstrap.scenarios.site import Site

# Log lines carry the node's time, not ours: so much older ones are read too, and the marks pick out what is ours.
CLOCKS_APART = timedelta(minutes=2)


def read(
    site: Site, namespace: str, pods: Iterable[str], observed: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Read the access-log lines of a series from pods' proxies.

    Args:
        site: where.
        namespace: the pods'.
        pods: their names.
        observed: an observation with `began` (ISO time) and either `requests`, each with its `mark`, or `run`, with
            which, and a dash, the marks of a program that makes them itself begin.

    Returns:
        For each mark that was found its lines, as data and as they were written.

    Raises:
        KubeError: a pod's log cannot be read.
    """
    since = datetime.fromisoformat(observed["began"]) - CLOCKS_APART
    marks = {request["mark"] for request in observed.get("requests", [])}
    prefix = f"{observed['run']}-" if "run" in observed else None
    log: dict[str, list[dict[str, Any]]] = {}
    for name in pods:
        text = logs.read(site.client, namespace, name, gateway.PROXY, since=since)
        for mark, lines in marked(name, text).items():
            if mark in marks or (prefix and mark.startswith(prefix)):
                log.setdefault(mark, []).extend(lines)
    return log


def marked(pod: str, text: str) -> dict[str, list[dict[str, Any]]]:
    """Give the lines of all marked requests in the log of a pod's proxy, by mark. Pure."""
    return {
        mark: [_line(pod, entry) for entry in entries]
        for mark, entries in access_log.by_mark(text.splitlines()).items()
    }


def _line(pod: str, entry: access_log.Entry) -> dict[str, Any]:
    return {
        "pod": pod,
        "time": entry.time,
        "code": entry.code,
        "flags": list(entry.flags),
        "details": entry.details,
        "cluster": entry.cluster,
        "upstream": entry.upstream,
        "milliseconds": entry.duration,
        "upstream_milliseconds": entry.upstream_time,
        "line": entry.raw,
    }
