"""Ask a running proxy through `pilot-agent request`, by exec: no port of it is open to others, and images lack curl."""

from __future__ import annotations

import json
from typing import Any

from meshstrap.kube.connect import Client
from meshstrap.mesh.errors import ProxyError
from meshstrap.mesh.gateway import PROXY


def ask(client: Client, namespace: str, pod: str, path: str) -> str:
    """Send a GET to Envoy's admin port inside a pod.

    Args:
        client: connection to the cluster.
        namespace: the pod's namespace.
        pod: the pod's name; its proxy's container is `istio-proxy`.
        path: path and query below the admin port, such as `stats`.

    Returns:
        The answer.

    Raises:
        ProxyError: pilot-agent reports a failure.
        KubeError: the cluster cannot be asked.
    """
    # Imported only where a proxy is asked: the websocket library takes a tenth of a deploy's own start.
    from meshstrap.kube.exec import execute

    result = execute(client, namespace, pod, PROXY, ["pilot-agent", "request", "GET", path])
    if result.exit_code != 0:
        raise ProxyError(
            f"{namespace}/{pod}: pilot-agent request GET {path} failed with {result.exit_code}: {result.stderr.strip()}"
        )
    return result.stdout


def dump(client: Client, namespace: str, pod: str, path: str) -> dict[str, Any]:
    """Read a part of a proxy's config dump; arguments and errors as in `ask`.

    Returns:
        The parsed answer; one without configs when the proxy holds nothing of the kind.
    """
    text = ask(client, namespace, pod, path)
    try:
        answer = json.loads(text)
    except ValueError:
        raise ProxyError(f"{namespace}/{pod}: {path} is no JSON: {text[:200]!r}") from None
    if not isinstance(answer, dict):
        raise ProxyError(f"{namespace}/{pod}: {path} is no object: {text[:200]!r}")
    return answer
