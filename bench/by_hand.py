"""The baseline: the same requests by hand, over raw keep-alive HTTP, as fast as Python sends them.

Paths and bodies are made beforehand, answers are read and not even decoded: what is left is the network, the API
server and urllib3. The connection's certificates are the engine's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import urllib3

from meshstrap.kube.connect import APPLY_PATCH, Client
from meshstrap.kube.parallel import WORKERS
from meshstrap.kube.plan import MANAGER
from meshstrap.kube.ref import Ref

_DRY_RUN = f"?dryRun=All&fieldManager={MANAGER}&force=false"


@dataclass(frozen=True)
class Request:
    """One request, ready to be sent."""

    method: str
    path: str
    body: bytes | None = None


class ByHand:
    """A keep-alive connection pool and its workers, as many as the engine has."""

    def __init__(self, client: Client) -> None:
        self._pool = urllib3.HTTPSConnectionPool(
            client.host,
            client.port,
            maxsize=WORKERS,
            block=True,
            ssl_context=client.tls,
            server_hostname=client.tls_server_name,
            socket_options=[(IPPROTO_TCP, TCP_NODELAY, 1)],
        )
        self._workers = ThreadPoolExecutor(WORKERS)

    def send(self, requests: Iterable[Request]) -> None:
        """Send requests, as many at once as there are workers, and read the answers."""
        for _ in self._workers.map(self._send, requests):
            pass

    def _send(self, request: Request) -> None:
        headers = {"Content-Type": APPLY_PATCH} if request.body else None
        answer = self._pool.urlopen(request.method, request.path, body=request.body, headers=headers)
        assert answer.status == 200, answer.data

    def close(self) -> None:
        """Close the connections."""
        self._workers.shutdown()
        self._pool.close()


def reads(client: Client, objects: Iterable[Mapping[str, Any]]) -> list[Request]:
    """Make a GET for each object."""
    return [Request("GET", _path(client, item)) for item in objects]


def lists(client: Client, objects: Iterable[Mapping[str, Any]]) -> list[Request]:
    """Make a LIST for each kind and namespace of the objects."""
    return [Request("GET", path) for path in {_path(client, item).rpartition("/")[0] for item in objects}]


def dry_runs(client: Client, objects: Iterable[Mapping[str, Any]]) -> list[Request]:
    """Make a dry-run of a server-side apply for each object."""
    return [
        Request("PATCH", _path(client, item) + _DRY_RUN, json.dumps(item, ensure_ascii=False).encode())
        for item in objects
    ]


def _path(client: Client, item: Mapping[str, Any]) -> str:
    ref = Ref.of(item)
    return client.resource(ref.api_version, ref.kind).path(ref.namespace, ref.name)
