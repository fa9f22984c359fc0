"""One API server for all tests of this tier; a test that kills its server gets one of its own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshstrap.kube.connect import Client

from .apiserver import ApiServer

_numbers = itertools.count(1)


@contextmanager
def _running() -> Iterator[ApiServer]:
    with tempfile.TemporaryDirectory(prefix="meshstrap-api-") as directory:
        server = ApiServer(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """A running API server, shared: what a test makes in it stays, so each uses names of its own."""
    with _running() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[ApiServer]:
    """A running API server that the test may kill and start again."""
    with _running() as server:
        yield server


@pytest.fixture
def client(api_server: ApiServer) -> Client:
    """A client of the shared server."""
    return api_server.client()


@pytest.fixture
def namespace(client: Client) -> str:
    """A new namespace."""
    name = f"test-{next(_numbers)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    client.request("POST", "/api/v1/namespaces", body=body)
    return name
