"""What a person sees of a change."""

from __future__ import annotations

import json

from meshstrap.kube.connect import Client
from meshstrap.kube.diff import unified

from .objects import changes, config_map, container, deployment, patch, put, secret


def test_a_changed_field_in_its_surroundings(client: Client, namespace: str) -> None:
    item = deployment("web", namespace, env=[{"name": "ONE", "value": "1"}])
    put(client, item)
    others = {"spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "s"}]}}}}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
    patch(client, path, others, manager="injector", kind="strategic-merge-patch")
    container(item)["env"][0]["value"] = "2"
    [change] = changes(client, item)
    lines = unified(change).splitlines()
    assert lines[:2] == [f"--- Deployment/{namespace}/web (cluster)", f"+++ Deployment/{namespace}/web (declared)"]
    assert [line.strip() for line in lines[3:]] == [
        "image: example.org/app:1",
        "env:",
        "- name: ONE",
        "-              value: '1'",
        "+              value: '2'",
    ]


def test_text_of_several_lines_is_shown_line_by_line(client: Client, namespace: str) -> None:
    put(client, config_map("nginx", namespace, conf="one\ntwo\nthree\n"))
    [change] = changes(client, config_map("nginx", namespace, conf="one\n2\nthree\n"))
    assert [line for line in unified(change).splitlines()[2:] if line[0] in "+-"] == ["-    two", "+    2"]


def test_a_created_object_is_shown_whole(client: Client, namespace: str) -> None:
    [change] = changes(client, config_map("new", namespace, a="1"))
    assert "+  a: '1'" in unified(change).splitlines()


def test_nothing_to_show(client: Client, namespace: str) -> None:
    item = config_map("same", namespace, a="1")
    put(client, item)
    assert unified(changes(client, item)[0]) == ""


def test_secrets_are_masked_and_their_change_visible(client: Client, namespace: str) -> None:
    item = secret("login", namespace, user="same-user", password="old-password")
    assert "old-password" not in unified(changes(client, item)[0])
    put(client, item)
    [change] = changes(client, secret("login", namespace, user="same-user", password="new-password"))
    text = unified(change)
    assert "-  password: '*** (before)'" in text and "+  password: '*** (after)'" in text
    assert "   user: '***'" in text.splitlines()
    assert "b2xkLXBhc3N3b3Jk" not in text and "bmV3LXBhc3N3b3Jk" not in text


def test_colours(client: Client, namespace: str) -> None:
    put(client, config_map("one", namespace, a="1"))
    [change] = changes(client, config_map("one", namespace, a="2"))
    assert "\033[31m-  a: '1'\033[0m\n\033[32m+  a: '2'\033[0m" in unified(change, color=True)


def test_a_change_as_data(client: Client, namespace: str) -> None:
    put(client, config_map("one", namespace, a="1"))
    [change] = changes(client, config_map("one", namespace, b="2"))
    assert json.loads(json.dumps(change.report())) == {
        "object": f"ConfigMap/{namespace}/one",
        "outcome": "configured",
        "fields": [
            {"path": ".data.a", "live": "1", "declared": None},
            {"path": ".data.b", "live": None, "declared": "2"},
        ],
        "note": "",
        "error": "",
    }
