"""What a person changes with kubectl in a keyed list or a union, or the server filled in beside a union's old member,
is taken out in the same apply; what programs put there is theirs.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from meshstrap.kube.apply import ApplyFailed, apply
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import plan
from meshstrap.mesh.decisive import decides

from .apiserver import ApiServer
from .objects import (
    Item,
    changes,
    config_map,
    container,
    definition,
    deployment,
    fields,
    live,
    object_path,
    outcome,
    patch,
    put,
    secret,
    service,
    without_bookkeeping,
)

APP = "/spec/template/spec/containers/0"
IN_APP = ".spec.template.spec.containers[name=app]"


def _replace(path: str, value: Any) -> list[Item]:
    return [{"op": "replace", "path": path, "value": value}]


def _instead(gone: str, path: str, value: Any) -> list[Item]:
    return [{"op": "remove", "path": gone}, {"op": "add", "path": path, "value": value}]


def _with_volume(name: str) -> Item:
    item = deployment("web", name, volumeMounts=[{"name": "files", "mountPath": "/files"}])
    item["spec"]["template"]["spec"]["volumes"] = [{"name": "files", "configMap": {"name": "files"}}]
    return item


EDITS: list[tuple[str, Any, list[Item], str]] = [
    (
        "the number of a Service's port",
        lambda name: service("web", name, ports=[{"name": "http", "port": 80}, {"name": "tcp", "port": 90}]),
        _replace("/spec/ports/1/port", 91),
        ".spec.ports[port=91,protocol=TCP]",
    ),
    (
        "the protocol of a Service's port",
        lambda name: service("web", name),
        _replace("/spec/ports/0/protocol", "UDP"),
        ".spec.ports[port=80,protocol=UDP]",
    ),
    (
        "the port of a NodePort without a name",
        lambda name: service("web", name, type="NodePort", ports=[{"port": 80, "nodePort": 31237}]),
        _replace("/spec/ports/0/port", 81),
        ".spec.ports[port=81,protocol=TCP]",
    ),
    (
        "a container's port",
        lambda name: deployment("web", name, ports=[{"name": "http", "containerPort": 80}]),
        _replace(f"{APP}/ports/0/containerPort", 81),
        f"{IN_APP}.ports[containerPort=81,protocol=TCP]",
    ),
    (
        "a probe's handler",
        lambda name: deployment("web", name, livenessProbe={"httpGet": {"path": "/", "port": 80}}),
        _instead(f"{APP}/livenessProbe/httpGet", f"{APP}/livenessProbe/tcpSocket", {"port": 80}),
        f"{IN_APP}.livenessProbe.tcpSocket",
    ),
    (
        "an environment variable's source",
        lambda name: deployment("web", name, env=[{"name": "MODE", "value": "a"}]),
        _instead(f"{APP}/env/0/value", f"{APP}/env/0/valueFrom", {"configMapKeyRef": {"name": "x", "key": "y"}}),
        f"{IN_APP}.env[name=MODE].valueFrom",
    ),
    (
        "a volume's source",
        _with_volume,
        _instead(
            "/spec/template/spec/volumes/0/configMap",
            "/spec/template/spec/volumes/0/emptyDir",
            {"medium": "Memory", "sizeLimit": "1Mi"},
        ),
        ".spec.template.spec.volumes[name=files].emptyDir",
    ),
    (
        "a key moved from data to binaryData",
        lambda name: config_map("web", name, a="1", b="2"),
        _instead("/data/a", "/binaryData", {"a": "eA=="}),
        ".binaryData",
    ),
    (
        "a container's name",
        lambda name: deployment("web", name),
        _replace(f"{APP}/name", "renamed"),
        ".spec.template.spec.containers[name=renamed]",
    ),
    (
        "one more container",
        lambda name: deployment("web", name),
        [{"op": "add", "path": f"{APP}", "value": {"name": "more", "image": "example.org/more:1"}}],
        ".spec.template.spec.containers[name=more]",
    ),
    (
        "one more environment variable",
        lambda name: deployment("web", name, env=[{"name": "MODE", "value": "a"}]),
        [{"op": "add", "path": f"{APP}/env/0", "value": {"name": "MORE", "value": "b"}}],
        f"{IN_APP}.env[name=MORE]",
    ),
]


@pytest.mark.parametrize(("declared", "edit", "gone"), [case[1:] for case in EDITS], ids=[case[0] for case in EDITS])
def test_a_hand_edit_is_shown_and_put_back(
    client: Client, namespace: str, declared: Any, edit: list[Item], gone: str
) -> None:
    item = declared(namespace)
    put(client, item)
    before = without_bookkeeping(live(client, object_path(item)))
    patch(client, object_path(item), edit, manager="kubectl-edit", kind="json-patch")

    planned = plan(client, [item])
    [change] = planned.changes
    assert (change.outcome, change.note, change.error) == ("configured", "changed by hand (kubectl-edit)", "")
    assert [field.path for field in change.fields if str(field).endswith("-> absent")] == [gone]
    assert without_bookkeeping(live(client, object_path(item))) != before
    apply(client, planned)
    stored = live(client, object_path(item))
    assert without_bookkeeping(stored) == before
    assert [entry["manager"] for entry in stored["metadata"]["managedFields"]] == ["meshstrap"]
    assert outcome(client, item) == "unchanged"


def test_kubectl_itself(api_server: ApiServer, client: Client, namespace: str) -> None:
    item = deployment("web", namespace, env=[{"name": "MODE", "value": "a"}])
    put(client, item)
    before = without_bookkeeping(live(client, object_path(item)))
    api_server.kubectl("set", "env", "-n", namespace, "deployment/web", "MORE=b")
    assert fields(client, item) == [f'{IN_APP}.env[name=MORE]: {{"name": "MORE", "value": "b"}} -> absent']
    put(client, item)
    assert without_bookkeeping(live(client, object_path(item))) == before


def test_what_a_person_wrote_and_what_is_not_in_the_way_stays(client: Client, namespace: str) -> None:
    item = config_map("web", namespace, a="1")
    put(client, item)
    edit = [
        {"op": "remove", "path": "/data/a"},
        {"op": "add", "path": "/data/more", "value": "2"},
        {"op": "add", "path": "/binaryData", "value": {"a": "eA==", "other": "eQ=="}},
    ]
    patch(client, object_path(item), edit, manager="kubectl-edit", kind="json-patch")
    assert fields(client, item) == ['.data.a: absent -> "1"', '.binaryData.a: "eA==" -> absent']
    put(client, item)
    stored = live(client, object_path(item))
    assert (stored["data"], stored["binaryData"]) == ({"a": "1", "more": "2"}, {"other": "eQ=="})
    assert outcome(client, item) == "unchanged"


def _annotated(namespace: str) -> tuple[Item, list[Item], list[str]]:
    item = deployment("web", namespace)
    metadata = {"sidecar.istio.io/inject": "false", "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    edit: list[Item] = [
        {"op": "add", "path": "/spec/template/metadata/annotations", "value": metadata},
        {"op": "add", "path": "/spec/template/metadata/labels/sidecar.istio.io~1inject", "value": "false"},
        {"op": "add", "path": "/spec/template/spec/hostNetwork", "value": True},
    ]
    inject = '["sidecar.istio.io/inject"]: "false" -> absent'
    return item, edit, [
        f".spec.template.metadata.annotations{inject}",
        f".spec.template.metadata.labels{inject}",
        ".spec.template.spec.hostNetwork: true -> absent",
    ]  # fmt: skip


def _switched_off(namespace: str) -> tuple[Item, list[Item], list[str]]:
    # Of an object of which nobody declares a field the server keeps no managers.
    metadata = {"name": f"{namespace}-off", "labels": {"istio.io/rev": "1-31"}}
    item: Item = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    edit = [{"op": "add", "path": "/metadata/labels/istio-injection", "value": "disabled"}]
    return item, edit, ['.metadata.labels.istio-injection: "disabled" -> absent']


@pytest.mark.parametrize("case", [_annotated, _switched_off])
def test_what_a_person_added_to_fields_that_decide_is_shown_and_put_back(
    client: Client, namespace: str, case: Any
) -> None:
    item, edit, gone = case(namespace)
    name = item["metadata"]["name"]
    path = f"/api/v1/namespaces/{name}" if item["kind"] == "Namespace" else object_path(item)
    put(client, item)
    before = without_bookkeeping(live(client, path))
    patch(client, path, edit, manager="kubectl-patch", kind="json-patch")
    assert outcome(client, item) == "unchanged", "nobody said that these fields decide"

    planned = plan(client, [item], decides=decides)
    [change] = planned.changes
    assert (change.outcome, change.note, change.error) == ("configured", "changed by hand (kubectl-patch)", "")
    assert sorted(str(field) for field in change.fields if str(field).endswith("-> absent")) == gone
    apply(client, planned)
    stored = live(client, path)
    kept = stored["spec"].get("template", {}).get("metadata", {}).pop("annotations", {})
    assert "sidecar.istio.io/inject" not in kept, "and a rollout's own mark stays"
    assert ("kubectl.kubernetes.io/restartedAt" in kept) == (item["kind"] == "Deployment")
    assert without_bookkeeping(stored) == before
    assert plan(client, [item], decides=decides).changes[0].outcome == "unchanged"


def test_what_a_program_added_to_fields_that_decide_is_its_own(client: Client, namespace: str) -> None:
    item, edit, _ = _annotated(namespace)
    put(client, item)
    patch(client, object_path(item), edit, manager="some-controller", kind="json-patch")
    assert plan(client, [item], decides=decides).changes[0].outcome == "unchanged"


def test_what_programs_and_webhooks_inject_is_theirs(client: Client, namespace: str) -> None:
    item = deployment("web", namespace, env=[{"name": "MODE", "value": "a"}])
    put(client, item)
    sidecar = {"name": "sidecar", "image": "example.org/sidecar:1", "env": [{"name": "ONE", "value": "1"}]}
    patch(
        client,
        object_path(item),
        [{"op": "add", "path": "/spec/template/spec/containers/-", "value": sidecar}],
        manager="injector",
        kind="json-patch",
    )
    # What is added by hand to a program's container is the program's to put back.
    added = [{"op": "add", "path": "/spec/template/spec/containers/1/env/-", "value": {"name": "TWO", "value": "2"}}]
    patch(client, object_path(item), added, manager="kubectl-edit", kind="json-patch")
    assert outcome(client, item) == "unchanged"
    patch(client, object_path(item), _replace(f"{APP}/name", "other"), manager="kubectl-edit", kind="json-patch")
    put(client, item)
    containers = live(client, object_path(item))["spec"]["template"]["spec"]["containers"]
    assert {found["name"]: len(found["env"]) for found in containers} == {"app": 1, "sidecar": 2}
    assert outcome(client, item) == "unchanged"


def test_what_a_program_holds_in_the_way_is_named_and_taken_out_when_told(client: Client, namespace: str) -> None:
    item = deployment("web", namespace, livenessProbe={"httpGet": {"path": "/", "port": 80}})
    put(client, item)
    before = without_bookkeeping(live(client, object_path(item)))
    edit = _instead(f"{APP}/livenessProbe/httpGet", f"{APP}/livenessProbe/tcpSocket", {"port": 80})
    patch(client, object_path(item), edit, manager="other-operator", kind="json-patch")
    held = f"{IN_APP}.livenessProbe.tcpSocket, which excludes what is declared, is held by 'other-operator'"
    [change] = changes(client, item)
    assert (change.note, change.error) == (held, "")
    with pytest.raises(ApplyFailed) as failed:
        put(client, item)
    assert held in str(failed.value) and "force=True" in str(failed.value)
    assert "tcpSocket" in container(live(client, object_path(item)))["livenessProbe"]
    apply(client, plan(client, [item]), force=True)
    assert without_bookkeeping(live(client, object_path(item))) == before
    assert outcome(client, item) == "unchanged"


def test_an_object_that_kubectl_created_is_taken_on_at_once(
    api_server: ApiServer, client: Client, namespace: str
) -> None:
    api_server.kubectl("create", "deployment", "web", "-n", namespace, "--image=example.org/app:1", "--port=80")
    item = deployment("web", namespace)
    assert container(item)["name"] == "app"
    item["spec"]["strategy"] = {"type": "Recreate"}
    planned = put(client, item)
    assert planned.changes[0].error == ""
    stored = live(client, object_path(item))["spec"]
    assert [found["name"] for found in stored["template"]["spec"]["containers"]] == ["app"]
    assert stored["strategy"] == {"type": "Recreate"}
    assert outcome(client, item) == "unchanged"


def test_a_declaration_that_is_wrong_by_itself_is_refused_in_the_servers_words(client: Client, namespace: str) -> None:
    item = deployment("web", namespace, livenessProbe={"httpGet": {"path": "/", "port": 80}})
    put(client, item)
    edit = _instead(f"{APP}/livenessProbe/httpGet", f"{APP}/livenessProbe/tcpSocket", {"port": 80})
    patch(client, object_path(item), edit, manager="kubectl-edit", kind="json-patch")
    container(item)["imagePullPolicy"] = "Perhaps"
    [change] = changes(client, item)
    assert 'Unsupported value: "Perhaps"' in change.error
    assert "tcpSocket" in container(live(client, object_path(item)))["livenessProbe"]


def test_a_secrets_key_in_the_way_is_not_printed(client: Client, namespace: str) -> None:
    schema = {
        "type": "object",
        "oneOf": [{"required": ["one"]}, {"required": ["two"]}],
        "properties": {"one": {"type": "string"}, "two": {"type": "string"}},
    }
    put(client, definition("either.example.org", "Either", schema=schema))
    item: Item = {
        "apiVersion": "either.example.org/v1",
        "kind": "Either",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"one": "a"},
    }
    hidden = secret("web", namespace, user="me")
    put(client, item, hidden)
    for found, edit in (
        (item, _instead("/spec/one", "/spec/two", "b")),
        (hidden, [{"op": "replace", "path": "/data/user", "value": "aHVzaA=="}]),
    ):
        patch(client, object_path(found), edit, manager="kubectl-edit", kind="json-patch")
    assert fields(client, item) == ['.spec.one: absent -> "a"', '.spec.two: "b" -> absent']
    assert fields(client, hidden) == ['.data.user: "***" -> "***"']
    put(client, item, hidden)
    assert [outcome(client, found) for found in (item, hidden)] == ["unchanged", "unchanged"]


def _updated(kind: str, name: str, space: str, key: str, update: Item | None) -> Item:
    item = deployment(name, space)
    item["kind"] = kind
    if kind == "StatefulSet":
        item["spec"]["serviceName"] = name
    if update is not None:
        item["spec"][key] = update
    return item


@pytest.mark.parametrize("before", [None, {}])
@pytest.mark.parametrize(
    ("kind", "key", "after"),
    [
        ("Deployment", "strategy", {"type": "Recreate"}),
        ("DaemonSet", "updateStrategy", {"type": "OnDelete"}),
        ("StatefulSet", "updateStrategy", {"type": "OnDelete"}),
    ],
)
def test_a_default_beside_a_unions_old_member_makes_way(
    client: Client, namespace: str, kind: str, key: str, after: Item, before: Item | None
) -> None:
    put(client, _updated(kind, "web", namespace, key, before))
    item = _updated(kind, "web", namespace, key, after)
    planned = plan(client, [item])
    assert planned.changes[0].error == ""
    assert f'.spec.{key}.type: "RollingUpdate" -> "{after["type"]}"' in [
        str(field) for field in planned.changes[0].fields
    ]
    apply(client, planned)
    assert live(client, object_path(item))["spec"][key]["type"] == after["type"]
    assert outcome(client, item) == "unchanged"
    back = _updated(kind, "web", namespace, key, {"type": "RollingUpdate"})
    put(client, back)
    assert outcome(client, back) == "unchanged"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"type": "ClusterIP"}, {"type": "ExternalName", "externalName": "example.org", "ports": []}),
        ({"type": "NodePort"}, {"type": "ClusterIP"}),
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, {"type": "ClusterIP"}),
        ({"sessionAffinity": "ClientIP"}, {"sessionAffinity": "None"}),
    ],
)
def test_a_service_that_becomes_another_type(client: Client, namespace: str, before: Item, after: Item) -> None:
    put(client, service("web", namespace, **before))
    item = service("web", namespace, **after)
    put(client, item)
    assert outcome(client, item) == "unchanged"


def test_a_no_op_costs_no_further_request(client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    item = deployment("web", namespace)
    put(client, item)
    patch(client, object_path(item), {"metadata": {"labels": {"by": "hand"}}}, manager="kubectl-label")
    asked: list[str] = []
    request = client.request

    def counted(method: Any, path: str, **settings: Any) -> Any:
        asked.append(method)
        return request(method, path, **settings)

    monkeypatch.setattr(client, "request", counted)
    assert outcome(client, item) == "unchanged"
    assert asked == ["GET", "PATCH"]
    copied = copy.deepcopy(item)
    container(copied)["image"] = "example.org/app:2"
    assert outcome(client, copied) == "configured"
    assert asked == ["GET", "PATCH"] * 2
