"""What a cluster says of its Pods in events: the newest line is what tells why they are not ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.kube.ref import Ref
from meshstrap.kube.wait import pods_behind


def newest(events: Iterable[Mapping[str, Any]], concerns: Callable[[str], bool]) -> str:
    """Put the newest event about some objects into words; empty where there is none.

    Args:
        events: Events of the core API, in any order.
        concerns: whether an object of that name is one of them.

    """
    told = [each for each in events if concerns(str((each.get("involvedObject") or {}).get("name", "")))]
    if not told:
        return ""
    event = max(told, key=_seen)
    about = event["involvedObject"]
    message = " ".join(str(event.get("message") or "").split())
    return f"{about.get('kind', 'object')}/{about['name']}: {event.get('reason') or 'no reason'}: {message}"


def of_pods(client: Client, ref: Ref) -> str:
    """Give the newest event of an object in a namespace and of the Pods behind it; empty where there is none."""
    item = query.get(client, ref.api_version, ref.kind, ref.name, ref.namespace) if ref.namespace else None
    if item is None:
        return ""
    names = {ref.name, *(pod["metadata"]["name"] for pod in pods_behind(client, item))}
    return newest(query.list(client, "v1", "Event", ref.namespace), names.__contains__)


def _seen(event: Mapping[str, Any]) -> str:
    """Tell when an event was seen last, as text that sorts: those of the newer API have other fields."""
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    return next((str(time) for time in times if time), "")
