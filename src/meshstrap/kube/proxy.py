"""HTTP to a Pod or Service through the API server, for what has no way out of the cluster (proxies' statistics)."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from meshstrap.kube.connect import Client


def get(
    client: Client,
    kind: Literal["pods", "services"],
    namespace: str,
    name: str,
    port: int | str,
    path: str = "/",
    *,
    timeout: float = 15.0,
) -> bytes:
    """Return what a Pod or Service answers to a GET.

    Args:
        client: the connection.
        kind: "pods" or "services".
        namespace: of the Pod or Service.
        name: its name.
        port: its port, by number or (Services) by name.
        path: path and query to ask for, from the first slash.
        timeout: seconds to wait.

    Raises ApiError with the answer's status where that is no success.
    """
    base = f"/api/v1/namespaces/{quote(namespace)}/{kind}/{quote(name)}:{port}/proxy"
    # What is behind the proxy may be away for good; that is for the caller to repeat or not.
    return client.fetch("GET", base + path, timeout=timeout, patience=0)
