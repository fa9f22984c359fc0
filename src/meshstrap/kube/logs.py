"""Container logs."""

from __future__ import annotations

from datetime import UTC, datetime

from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource

_PODS = Resource("v1", "Pod", "pods", True)


def read(
    client: Client,
    namespace: str,
    pod: str,
    container: str | None = None,
    *,
    since: datetime | None = None,
    tail: int | None = None,
    previous: bool = False,
) -> str:
    """Return a container's log.

    Args:
        client: the connection.
        namespace: of the Pod.
        pod: its name.
        container: its container; may be None where there is only one.
        since: leave out what is older (the server counts whole seconds: cut to the second, nothing is lost).
        tail: only the last lines.
        previous: of the run before the last restart.

    Raises ApiError where there is no such Pod or container, or no log yet.
    """
    query = {}
    if container is not None:
        query["container"] = container
    if since is not None:
        query["sinceTime"] = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if tail is not None:
        query["tailLines"] = str(tail)
    if previous:
        query["previous"] = "true"
    return client.fetch("GET", f"{_PODS.path(namespace, pod)}/log", query=query).decode(errors="replace")
