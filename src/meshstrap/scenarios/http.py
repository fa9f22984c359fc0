"""One HTTP GET as a proof needs it: no proxy, no redirect, no repetition, and an error is an observation."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

# The bodies that scenarios look at are pages; more is cut off.
BODY_BYTES = 65_536


@dataclass(frozen=True)
class Reply:
    """What came back for one request: a status with its body, or the error that stood in its place."""

    status: int | None
    body: str
    error: str
    milliseconds: int


def get(url: str, *, host: str | None = None, agent: str = "meshstrap", timeout: float = 5.0) -> Reply:
    """Send one GET on a connection of its own; `*_PROXY` variables are not looked at.

    A connection of its own, because kube-proxy chooses among a gateway's replicas once a connection.

    Args:
        url: an http:// URL with host, port, path and query.
        host: the Host header to send instead of the URL's own.
        agent: the User-Agent.
        timeout: seconds for connecting, and again for each wait for bytes.

    Returns:
        The reply; a failure to connect or to read is in its `error`, never raised.

    Raises:
        ValueError: the URL is no http:// URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// URL")
    target = parts._replace(scheme="", netloc="").geturl() or "/"
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)
    headers = {"User-Agent": agent, "Connection": "close"} | ({"Host": host} if host else {})
    started = time.monotonic()
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        body = answer.read(BODY_BYTES).decode(errors="replace")
        return Reply(answer.status, body, "", _milliseconds(started))
    except (OSError, http.client.HTTPException) as error:
        return Reply(None, "", f"{type(error).__name__}: {error}", _milliseconds(started))
    finally:
        connection.close()


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
