"""Reading objects, singly and by the hundred."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from meshstrap.kube import logs, query
from meshstrap.kube.connect import Client, _refusal
from meshstrap.kube.errors import ApiError, KubeError
from meshstrap.kube.ref import Ref

from .objects import Item, changed, config_map, put, service


def test_one_object(client: Client, namespace: str) -> None:
    put(client, config_map("one", namespace, a="1"))
    found = query.get(client, "v1", "ConfigMap", "one", namespace)
    assert found is not None and found["data"] == {"a": "1"}
    assert query.get(client, "v1", "ConfigMap", "two", namespace) is None
    assert query.get(client, "v1", "ConfigMap", "one", "nowhere") is None
    assert query.get(client, "nobody.example.org/v1", "Ghost", "one", namespace) is None


def test_all_of_a_kind(client: Client, namespace: str) -> None:
    put(
        client,
        changed(config_map("one", namespace, a="1"), labels={"tier": "web"}),
        changed(config_map("two", namespace, a="2"), labels={"tier": "db"}),
    )
    found = query.list(client, "v1", "ConfigMap", namespace, labels="tier=web")
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in found] == [
        ("ConfigMap", "v1", "one")
    ]
    names = query.select(query.list(client, "v1", "ConfigMap", namespace), "[].metadata.name")
    assert names == ["one", "two"]
    everywhere = query.list(client, "v1", "ConfigMap", fields="metadata.name=one")
    assert (namespace, "one") in {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in everywhere}
    assert query.list(client, "nobody.example.org/v1", "Ghost") == []


def test_node_ports_by_expression(client: Client, namespace: str) -> None:
    ports: list[Item] = [{"name": "http2", "port": 80, "nodePort": 30191}, {"name": "https", "port": 443}]
    put(client, service("gateway", namespace, type="NodePort", ports=ports))
    found = query.select(
        query.list(client, "v1", "Service", namespace), "[].spec.ports[?name=='http2'].nodePort | [][]"
    )
    assert found == [30191]
    client.request("DELETE", f"/api/v1/namespaces/{namespace}/services/gateway")


def test_a_malformed_expression_is_named(client: Client) -> None:
    with pytest.raises(KubeError, match=r"'\[\?': "):
        query.select([], "[?")


def test_more_objects_than_a_page(client: Client, namespace: str) -> None:
    count = query.PAGE + 20
    put(client, *(config_map(f"c{index}", namespace) for index in range(count)))
    assert len(query.list(client, "v1", "ConfigMap", namespace)) == count


def test_a_list_that_the_server_forgot_meanwhile(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, *(config_map(f"c{index}", namespace) for index in range(7)))
    monkeypatch.setattr(query, "PAGE", 2)
    request, refused = client.request, 0

    def late(*arguments: Any, **settings: Any) -> Any:
        nonlocal refused
        token = (settings.get("query") or {}).get("continue")
        if token and not refused:
            refused += 1
            # What Kubernetes 1.34 answers once etcd's history has been compacted (recorded).
            place = json.loads(base64.urlsafe_b64decode(token + "=="))
            now = json.dumps({**place, "rv": -1, "start": place["start"].lstrip("/")})
            resume = base64.urlsafe_b64encode(now.encode()).decode().rstrip("=")
            message = "The provided continue parameter is too old to display a consistent list result."
            answer = {"kind": "Status", "metadata": {"continue": resume}, "message": message, "reason": "Expired"}
            raise _refusal(410, json.dumps(answer).encode())
        return request(*arguments, **settings)

    monkeypatch.setattr(client, "request", late)
    found = query.list(client, "v1", "ConfigMap", namespace)
    assert refused
    assert [item["metadata"]["name"] for item in found] == [f"c{index}" for index in range(7)]


def test_few_of_ours_among_many_others(client: Client, namespace: str) -> None:
    """Listing stops where it does not pay, and what it did not reach is read singly."""
    count = 2 * query.PAGE
    put(client, *(config_map(f"c{index:04}", namespace) for index in range(count)))
    names = ["c0000", "c0300", "c0700", "c0999", "missing"]
    resource = client.resource("v1", "ConfigMap")
    refs = [Ref("v1", "ConfigMap", namespace, name) for name in names]
    found = query.read_many(client, [(ref, resource) for ref in refs])
    assert sorted(ref.name for ref in found) == names[:4]
    assert all(item["metadata"]["name"] == ref.name for ref, item in found.items())


def test_logs_of_a_pod_that_is_not_there(client: Client, namespace: str) -> None:
    with pytest.raises(ApiError, match='pods "none" not found'):
        logs.read(client, namespace, "none")
