"""We test how a node's port is reached: from here, from another node, never from the node itself, or by nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from pyinfra.api.host import Host

from meshstrap import transport
from meshstrap.kube.connect import Client
from meshstrap.operations import node_ports
from meshstrap.scenarios import ingress
from meshstrap.scenarios.site import Node, Site

NODE = Node("worker-1", "192.0.2.11")
URL = "http://192.0.2.11:30191"


class Elsewhere:
    """A host that can be asked from; its name is all that matters here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said: list[str] = []

    def log(self, message: str, *_: Any) -> None:
        self.said.append(message)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """This host, with every node's port closed to this machine and a tunnel's port open."""
    host = Elsewhere("control-1")
    monkeypatch.setattr(node_ports, "host", host)
    monkeypatch.setattr(ingress, "base_url", lambda _site, node: node.url or URL)
    monkeypatch.setattr(ingress, "out_of_reach", lambda _site, node: "" if node.via else "timed out")

    @contextmanager
    def tunnel(other: Elsewhere, to: tuple[str, int], timeout: float) -> Iterator[int]:
        assert to == ("192.0.2.11", 30191) and timeout < 10
        yield 40123

    monkeypatch.setattr(transport, "tunnel", tunnel)
    return host


def reach(node: Node, others: list[str], monkeypatch: pytest.MonkeyPatch) -> Node:
    hosts = [cast(Host, Elsewhere(name)) for name in others]
    monkeypatch.setattr(node_ports, "_others", lambda _: hosts)
    return node_ports._reach(Site(cast(Client, None), (node,), cast(Any, None)), node)


def test_what_answers_is_asked_directly(monkeypatch: pytest.MonkeyPatch, here: Elsewhere) -> None:
    monkeypatch.setattr(ingress, "out_of_reach", lambda *_: "")
    assert reach(NODE, ["control-1"], monkeypatch) == NODE
    assert here.said == []


def test_another_node_is_the_way_around_and_people_keep_the_real_url(
    monkeypatch: pytest.MonkeyPatch, here: Elsewhere
) -> None:
    found = reach(NODE, ["control-1"], monkeypatch)
    assert (found.by, found.via, found.url, found.unknown) == ("control-1", "http://127.0.0.1:40123", None, "")
    assert here.said[0].startswith(f"worker-1: {URL} cannot be reached from here (timed out); asked from control-1")
    assert "40123" not in here.said[0]


def test_a_published_url_that_is_dead_is_gone_around_by_the_nodes_own_address(
    monkeypatch: pytest.MonkeyPatch, here: Elsewhere
) -> None:
    published = Node("worker-1", "192.0.2.11", "http://127.0.0.1:20387")
    found = reach(published, ["control-1"], monkeypatch)
    assert (found.url, found.by) == ("http://127.0.0.1:20387", "control-1")


def test_what_nobody_reaches_is_left_for_the_proof_to_fail_on(monkeypatch: pytest.MonkeyPatch, here: Elsewhere) -> None:
    monkeypatch.setattr(ingress, "out_of_reach", lambda *_: "timed out")
    assert reach(NODE, ["control-1"], monkeypatch) == NODE
    assert "reached neither from here (timed out) nor from another node" in here.said[0]


def test_without_another_node_to_ask_from_nobody_knows(monkeypatch: pytest.MonkeyPatch, here: Elsewhere) -> None:
    found = reach(NODE, [], monkeypatch)
    assert (found.by, found.via) == ("", "")
    assert found.unknown == f"{URL} cannot be reached from here (timed out), and there is no other node to ask from"
