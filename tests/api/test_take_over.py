"""Taking over objects that `kubectl apply` or another tool made: said once, and completely.

What is later dropped from our declaration must really go away, which it does not while client-side apply's manager
still holds it.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from meshstrap.kube.connect import JSON_PATCH, Client

from .apiserver import ApiServer
from .objects import Item, changes, config_map, container, deployment, fields, live, outcome, patch, put, secret


def _client_side(api_server: ApiServer, item: Item) -> None:
    api_server.kubectl("apply", "-f", "-", stdin=json.dumps(item))


def test_objects_of_client_side_apply_are_taken_over_once(
    api_server: ApiServer, client: Client, namespace: str
) -> None:
    item = deployment("web", namespace, env=[{"name": "ONE", "value": "1"}, {"name": "TWO", "value": "2"}])
    _client_side(api_server, item)

    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    made = live(client, path)["spec"]
    [change] = changes(client, item)
    assert change.outcome == "configured"
    assert change.note == "taken over from kubectl-client-side-apply"
    # Nothing of what we declare differs; kubectl's own note about its last apply goes away.
    assert [field.path for field in change.fields] == [
        '.metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]'
    ]
    put(client, item)
    taken = live(client, path)
    assert [entry["manager"] for entry in taken["metadata"]["managedFields"]] == ["meshstrap"]
    assert "kubectl.kubernetes.io/last-applied-configuration" not in taken["metadata"].get("annotations", {})
    assert taken["spec"] == made
    assert outcome(client, item) == "unchanged"

    container(item)["env"].pop()
    put(client, item)
    assert container(live(client, path))["env"] == [{"name": "ONE", "value": "1"}]


def test_what_was_only_declared_to_kubectl_goes_and_is_shown(
    api_server: ApiServer, client: Client, namespace: str
) -> None:
    old = config_map("settings", namespace, a="1", b="2")
    old["metadata"]["labels"] = {"old": "yes"}
    _client_side(api_server, old)
    new = config_map("settings", namespace, a="1")
    shown = fields(client, new)
    assert '.data.b: "2" -> absent' in shown and '.metadata.labels.old: "yes" -> absent' in shown
    put(client, new)
    stored = live(client, f"/api/v1/namespaces/{namespace}/configmaps/settings")
    assert stored["data"] == {"a": "1"} and "labels" not in stored["metadata"]
    assert outcome(client, new) == "unchanged"


def test_a_value_that_differs_from_client_side_apply_is_no_conflict(
    api_server: ApiServer, client: Client, namespace: str
) -> None:
    _client_side(api_server, config_map("settings", namespace, a="1"))
    new = config_map("settings", namespace, a="2")
    assert '.data.a: "1" -> "2"' in fields(client, new)
    put(client, new)
    assert outcome(client, new) == "unchanged"


def test_a_lost_answer_does_not_lose_what_was_taken_over(
    api_server: ApiServer, client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _client_side(api_server, config_map("lost", namespace, a="1", b="2"))
    request = client.request

    def twice(*arguments: Any, **settings: Any) -> Any:
        # As a client does that heard nothing of the first one: the second meets another resourceVersion.
        if settings.get("content_type") == JSON_PATCH:
            request(*arguments, **settings)
        return request(*arguments, **settings)

    monkeypatch.setattr(client, "request", twice)
    put(client, config_map("lost", namespace, a="1"))
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/lost")["data"] == {"a": "1"}


def test_what_kubectl_last_applied_may_be_garbage(api_server: ApiServer, client: Client, namespace: str) -> None:
    item = config_map("garbled", namespace, a="1")
    api_server.kubectl("apply", "-f", "-", stdin=json.dumps(item))
    garbage = "kubectl.kubernetes.io/last-applied-configuration={garbage"
    api_server.kubectl("annotate", "--overwrite", "-n", namespace, "configmap", "garbled", garbage)
    put(client, item)
    assert "annotations" not in live(client, f"/api/v1/namespaces/{namespace}/configmaps/garbled")["metadata"]


def test_defaults_that_client_side_apply_recorded_are_not_shown_as_going(
    api_server: ApiServer, client: Client, namespace: str
) -> None:
    item = deployment("web", namespace)
    _client_side(api_server, item)
    assert [path for path in fields(client, item) if not path.startswith(".metadata.annotations")] == []


def test_a_secret_of_client_side_apply_shows_nothing(api_server: ApiServer, client: Client, namespace: str) -> None:
    _client_side(api_server, secret("login", namespace, password="hush-hush"))
    [change] = changes(client, secret("login", namespace, password="other"))
    assert change.outcome == "configured"
    text = str(change.fields) + change.note
    assert "hush-hush" not in text and "aHVzaC1odXNo" not in text


def test_objects_of_another_tool_are_shared_and_said_so(client: Client, namespace: str) -> None:
    item = config_map("theirs", namespace, a="1", b="2")
    put(client, item, manager="other-tool")
    mine = config_map("theirs", namespace, a="1")
    [change] = changes(client, mine)
    assert (change.outcome, change.fields) == ("configured", ())
    assert change.note == "first applied by meshstrap; written so far by other-tool"
    put(client, mine)
    assert outcome(client, mine) == "unchanged"
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/theirs")["data"] == {"a": "1", "b": "2"}


def test_another_tool_is_replaced_when_named(client: Client, namespace: str) -> None:
    put(client, config_map("theirs", namespace, a="1", b="2"), manager="other-tool")
    mine = config_map("theirs", namespace, a="1")
    assert fields(client, mine, take_over=["other-tool"]) == ['.data.b: "2" -> absent']
    put(client, mine, take_over=["other-tool"])
    stored = live(client, f"/api/v1/namespaces/{namespace}/configmaps/theirs")
    assert stored["data"] == {"a": "1"}
    assert [entry["manager"] for entry in stored["metadata"]["managedFields"]] == ["meshstrap"]
    assert outcome(client, mine, take_over=["other-tool"]) == "unchanged"


def test_what_a_rollout_restart_wrote_stays(api_server: ApiServer, client: Client, namespace: str) -> None:
    """`kubectl rollout restart` annotates the Pods' template: taking that away would restart them again."""
    item = deployment("web", namespace)
    put(client, item)
    api_server.kubectl("rollout", "restart", "deployment/web", "-n", namespace)
    assert outcome(client, item) == "unchanged"
    container(item)["image"] = "example.org/app:2"
    put(client, item)
    template = live(client, f"/apis/apps/v1/namespaces/{namespace}/deployments/web")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_declaring_a_value_that_stood_as_a_default_is_a_change_of_ownership(client: Client, namespace: str) -> None:
    item = deployment("web", namespace)
    put(client, item)
    item["spec"]["replicas"] = 1
    [change] = changes(client, item)
    assert (change.outcome, change.fields) == ("configured", ())
    assert change.note == "same values; which fields are declared changes"
    put(client, item)
    assert outcome(client, item) == "unchanged"


def test_what_we_wrote_by_other_means_than_apply_gives_way(client: Client, namespace: str) -> None:
    item = config_map("labelled", namespace, a="1")
    item["metadata"]["labels"] = {"mode": "on"}
    put(client, item)
    path = f"/api/v1/namespaces/{namespace}/configmaps/labelled"
    patch(client, path, {"metadata": {"labels": {"mode": "off", "more": "kept"}}}, manager="meshstrap")
    assert fields(client, item) == ['.metadata.labels.mode: "off" -> "on"']
    put(client, item)
    assert live(client, path)["metadata"]["labels"] == {"mode": "on", "more": "kept"}


def test_a_manager_named_to_be_taken_over_is_no_conflict(client: Client, namespace: str) -> None:
    put(client, config_map("theirs", namespace, a="1"), manager="other-tool")
    mine = config_map("theirs", namespace, a="2")
    [change] = changes(client, mine, take_over=["other-tool"])
    assert change.note == "taken over from other-tool"
    put(client, mine, take_over=["other-tool"])
    assert outcome(client, mine) == "unchanged"


def test_what_another_tool_made_goes_when_we_drop_it_and_what_we_never_declared_stays(
    client: Client, namespace: str
) -> None:
    env = [{"name": "ONE", "value": "1"}, {"name": "TWO", "value": "2"}]
    item = deployment("made", namespace, env=env)
    item["metadata"]["labels"] = {"ours": "1"}
    sidecar = {"name": "sidecar", "image": "example.org/sidecar:1"}
    item["spec"]["template"]["spec"]["containers"].append(sidecar)
    theirs = copy.deepcopy(item)
    theirs["metadata"]["labels"]["theirs"] = "2"
    theirs["spec"]["revisionHistoryLimit"] = 3
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    client.request("POST", path, query={"fieldManager": "OpenAPI-Generator"}, body=theirs)

    [change] = changes(client, item)
    assert (change.outcome, change.fields) == ("configured", ())
    assert change.note == "first applied by meshstrap; written so far by OpenAPI-Generator"
    put(client, item)
    assert outcome(client, item) == "unchanged"

    fewer = deployment("made", namespace, env=env[:1])
    put(client, fewer)
    stored = live(client, f"{path}/made")
    assert stored["metadata"]["labels"] == {"theirs": "2"}
    assert [found["name"] for found in stored["spec"]["template"]["spec"]["containers"]] == ["app"]
    assert container(stored)["env"] == env[:1]
    assert stored["spec"]["revisionHistoryLimit"] == 3
    assert outcome(client, fewer) == "unchanged"


def test_the_only_field_that_another_tool_wrote_becomes_ours(client: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    item = config_map("small", namespace, a="1")
    client.request("POST", path, query={"fieldManager": "OpenAPI-Generator"}, body=item)
    put(client, item)
    assert [entry["manager"] for entry in live(client, f"{path}/small")["metadata"]["managedFields"]] == ["meshstrap"]
    assert outcome(client, item) == "unchanged"
    put(client, config_map("small", namespace))
    assert "data" not in live(client, f"{path}/small")
