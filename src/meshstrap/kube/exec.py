"""Running a program in a container, over a websocket.

websocket-client directly, not the kubernetes package's stream helper: that one swaps a method of the shared client
while it runs, so that two threads get each other's answers.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import websocket

from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import ApiError, ApiUnreachable, KubeError

_PODS = Resource("v1", "Pod", "pods", True)

_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255

# Only version 5 can say that stdin has ended; API servers before 1.30 speak version 4.
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

# Bytes of stdin a frame.
_CHUNK = 32 * 1024


class Result(NamedTuple):
    """What a program left behind."""

    exit_code: int
    stdout: str
    stderr: str


def execute(
    client: Client,
    namespace: str,
    pod: str,
    container: str | None,
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout: float = 60.0,
) -> Result:
    """Run a program in a running container and return its exit code and output.

    Each call has a connection of its own, so any number may run at once. A program that ends without reading a
    stdin of more than some 100 kB may go unnoticed until the time is over: the API server is then still handing it on.

    Args:
        client: the connection's settings and credentials.
        namespace: of the Pod.
        pod: its name.
        container: its container; may be None where there is only one.
        argv: the program and its arguments, without a shell in between.
        stdin: what it reads, or None for nothing.
        timeout: seconds for the whole of it.

    Raises ApiError where it cannot be started (no such Pod, container or program), ApiUnreachable where the
    connection breaks or the time is over.
    """
    where = f"exec in {namespace}/{pod}" + (f", container {container}" if container else "")
    deadline = time.monotonic() + timeout
    connection = _open(client, namespace, pod, container, argv, stdin is not None, timeout, where)
    try:
        if stdin is not None:
            if connection.getsubprotocol() != _PROTOCOLS[0]:
                raise KubeError(f"{where}: stdin needs Kubernetes 1.30 or newer")
            # A program may print much before it reads: sending beside reading keeps both from waiting for ever.
            threading.Thread(target=_send, args=(connection, stdin), daemon=True).start()
        return _receive(connection, deadline, where)
    except websocket.WebSocketTimeoutException:
        raise ApiUnreachable(f"{where}: not finished after {timeout:g} s: {' '.join(argv)}") from None
    except (websocket.WebSocketException, OSError) as error:
        raise ApiUnreachable(f"{where}: the connection broke: {error}") from None
    finally:
        connection.shutdown()


def _open(
    client: Client,
    namespace: str,
    pod: str,
    container: str | None,
    argv: Sequence[str],
    stdin: bool,
    timeout: float,
    where: str,
) -> Any:
    query: list[tuple[str, str]] = [("command", argument) for argument in argv]
    query += [("stdout", "true"), ("stderr", "true")]
    query += [("stdin", "true")] if stdin else []
    query += [("container", container)] if container else []
    host = f"[{client.host}]" if ":" in client.host else client.host
    url = f"wss://{host}:{client.port}{client.prefix}{_PODS.path(namespace, pod)}/exec?{urlencode(query)}"
    # Half of the library's methods carry no types.
    connection: Any = websocket.WebSocket(
        sslopt={"context": client.tls, "server_hostname": client.tls_server_name or client.host},
        sockopt=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        enable_multithread=True,
    )
    connection.settimeout(timeout)
    try:
        connection.connect(
            url,
            header=client.authorization(),
            subprotocols=list(_PROTOCOLS),
            suppress_origin=True,
            http_no_proxy=["*"],
        )
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(error, where) from None
    except (websocket.WebSocketException, OSError) as error:
        raise ApiUnreachable(f"{where}: {client.address} does not answer: {error}") from None
    return connection


def _refusal(error: websocket.WebSocketBadStatusException, where: str) -> ApiError:
    """Read the Status object with which the API server refused the handshake."""
    body = error.resp_body or b""
    try:
        answer = json.loads(body)
        return ApiError(
            error.status_code, answer["reason"], f"{where}: {answer['message']}", details=answer.get("details")
        )
    except (ValueError, KeyError, TypeError):
        text = bytes(body).decode(errors="replace").strip() or "refused"
        return ApiError(error.status_code, "", f"{where}: {text[:500]}")


def _send(connection: Any, stdin: bytes) -> None:
    try:
        for start in range(0, len(stdin), _CHUNK):
            connection.send_binary(bytes([_STDIN]) + stdin[start : start + _CHUNK])
        connection.send_binary(bytes([_CLOSE, _STDIN]))
    except (websocket.WebSocketException, OSError):
        # The program ended without reading all of it; whether that is an error, its exit code says.
        return


def _receive(connection: Any, deadline: float, where: str) -> Result:
    """Collect output until the status comes, which is always the last message."""
    output = {_STDOUT: bytearray(), _STDERR: bytearray()}
    while True:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        message = connection.recv()
        data = message.encode() if isinstance(message, str) else bytes(message)
        if not data:
            raise ApiUnreachable(f"{where}: the connection ended before the program did")
        channel, content = data[0], data[1:]
        if channel in output:
            output[channel] += content
        elif channel == _STATUS:
            return Result(
                exit_code(json.loads(content), where),
                output[_STDOUT].decode(errors="replace"),
                output[_STDERR].decode(errors="replace"),
            )


def exit_code(status: dict[str, Any], where: str = "exec") -> int:
    """Return the exit code in the Status object that ends an exec; raises ApiError where nothing ran."""
    if status.get("status") == "Success":
        return 0
    details = status.get("details") or {}
    for cause in details.get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise ApiError(
        int(status.get("code") or 500), status.get("reason") or "", f"{where}: {status.get('message')}", details=details
    )
