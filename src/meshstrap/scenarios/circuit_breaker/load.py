"""Several connections at once: fortio, run once in its own pod, each of its requests with a mark of its own."""

from __future__ import annotations

import json
import secrets
from typing import Any

from meshstrap.kube.errors import KubeError
from meshstrap.mesh.access_log import MARK
from meshstrap.scenarios import inside
from meshstrap.scenarios.site import Site

# What one request may take, in seconds, and what the program itself may need besides.
_REQUEST_SECONDS = 15
_SECONDS = 60.0


def run(site: Site, client: inside.Client, url: str, *, connections: int, requests: int) -> dict[str, Any]:
    """Send a number of requests over several connections, as fast as these allow.

    Args:
        site: where.
        client: the pod with fortio.
        url: what is asked for, without a query.
        connections: how many at once.
        requests: how many in all.

    Returns:
        An observation: `run`, with which and a dash all marks begin (fortio puts a UUID behind it), `began`, `pod`,
        `n`, `connections`, and `codes`, fortio's own count of answers by status; or `error`, with no codes.
    """
    from meshstrap.kube.exec import execute  # As in mesh.proxy: only where a pod is asked.

    mark = secrets.token_hex(8)
    seen: dict[str, Any] = {
        "run": mark,
        "began": site.clock.now().isoformat(),
        "connections": connections,
        "n": requests,
        "codes": {},
        "error": "",
    }
    callers = inside.names(inside.pods(site, client.namespace, client.labels))
    if not callers:
        return seen | {"error": f"no ready pod {client.namespace}/{client.labels}"}
    # With -n fortio warms nothing up: what it counts is all that it sends.
    how = ["-c", str(connections), "-n", str(requests), "-qps", "0", "-timeout", f"{_REQUEST_SECONDS}s", "-json", "-"]
    argv = ["/usr/bin/fortio", "load", *how, f"{url}?{MARK}={mark}-{{uuid}}"]

    def ask() -> dict[str, Any]:
        try:
            done = execute(site.client, client.namespace, callers[0], client.container, argv, timeout=_SECONDS)
        except KubeError as error:
            return {"error": f"fortio could not be run: {error}"}
        return read(done.exit_code, done.stdout, done.stderr)

    return seen | {"pod": callers[0]} | inside.until_known(site, ask, lambda answer: answer["error"])


def read(exit_code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """Read what a run of fortio left behind; pure.

    Returns:
        `codes`, the number of answers by status (as text; -1 where there was no answer), and an empty `error`; or only
        `error`.
    """
    said = (stderr.strip() or stdout.strip())[-500:]
    if exit_code != 0:
        return {"error": f"fortio ended with {exit_code}: {said}"}
    try:
        codes = json.loads(stdout[stdout.index("{") :])["RetCodes"]
        return {"codes": {str(code): int(count) for code, count in codes.items()}, "error": ""}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"error": f"fortio's answer cannot be read: {said}"}
