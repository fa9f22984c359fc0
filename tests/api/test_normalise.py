"""What is drift and what is not, case by case, against a real API server.

Each test applies a declaration once, lets the cluster or somebody else write, and plans again.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import plan

from .apiserver import Authority
from .objects import (
    Item,
    changed,
    changes,
    config_map,
    container,
    definition,
    deployment,
    fields,
    live,
    outcome,
    patch,
    put,
    secret,
    service,
)


def _path(item: Item) -> str:
    prefix = "/api/v1" if item["apiVersion"] == "v1" else f"/apis/{item['apiVersion']}"
    metadata = item["metadata"]
    return f"{prefix}/namespaces/{metadata['namespace']}/{item['kind'].lower()}s/{metadata['name']}"


def _unchanged_after(client: Client, item: Item) -> None:
    put(client, item)
    assert outcome(client, item) == "unchanged"


@pytest.mark.parametrize(
    "resources",
    [
        {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
        {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "1.5"}},
        {"requests": {"memory": 1073741824}},
    ],
)
def test_quantities_may_be_spelt_in_any_way(client: Client, namespace: str, resources: Any) -> None:
    _unchanged_after(client, deployment("spelt", namespace, resources=resources))


def test_the_same_quantity_in_another_spelling_is_no_drift(client: Client, namespace: str) -> None:
    put(client, deployment("spelt", namespace, resources={"requests": {"cpu": "1"}}))
    assert fields(client, deployment("spelt", namespace, resources={"requests": {"cpu": "1000m"}})) == []


def test_the_same_quantity_held_by_another_program_is_no_field_that_differs(client: Client, namespace: str) -> None:
    put(client, deployment("spelt", namespace, resources={"requests": {"cpu": "1"}}), manager="other")
    [change] = changes(client, deployment("spelt", namespace, resources={"requests": {"cpu": "1000m"}}))
    assert change.fields == ()
    assert change.note.endswith(".resources.requests.cpu is held by 'other'")


def test_defaults_of_the_server_are_no_drift(client: Client, namespace: str) -> None:
    _unchanged_after(client, deployment("defaulted", namespace, ports=[{"containerPort": 80}]))


def test_int_or_string(client: Client, namespace: str) -> None:
    probe = {"httpGet": {"port": "http", "path": "/"}}
    ports = [{"name": "http", "containerPort": 80}]
    _unchanged_after(client, deployment("named", namespace, ports=ports, readinessProbe=probe))
    _unchanged_after(client, service("numbered", namespace, ports=[{"port": 80, "targetPort": 8080}]))
    item = service("numbered", namespace, ports=[{"port": 80, "targetPort": "8080x"}])
    assert fields(client, item) == ['.spec.ports[port=80,protocol=TCP].targetPort: 8080 -> "8080x"']


def test_the_order_of_environment_variables_counts(client: Client, namespace: str) -> None:
    one, two = {"name": "ONE", "value": "1"}, {"name": "TWO", "value": "2"}
    put(client, deployment("env", namespace, env=[one, two]))
    turned = deployment("env", namespace, env=[two, one])
    assert fields(client, turned) == [
        '.spec.template.spec.containers[name=app].env (order): ["name=ONE", "name=TWO"] -> ["name=TWO", "name=ONE"]'
    ]
    put(client, turned)
    assert outcome(client, turned) == "unchanged"


def test_the_same_order_of_ports_and_containers_is_no_drift(client: Client, namespace: str) -> None:
    ports = [{"name": "b", "port": 81}, {"name": "a", "port": 80, "protocol": "TCP"}]
    _unchanged_after(client, service("ports", namespace, ports=ports))


def test_keyed_list_items_that_others_add_are_theirs(client: Client, namespace: str) -> None:
    item = deployment("injected", namespace)
    put(client, item)
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "s"}]}}}}
    patch(client, _path(item), sidecar, manager="injector", kind="strategic-merge-patch")
    assert outcome(client, item) == "unchanged"


def test_labels_and_annotations_of_others_are_theirs(client: Client, namespace: str) -> None:
    item = changed(config_map("shared", namespace, a="1"), labels={"ours": "1"})
    put(client, item)
    body = {"metadata": {"labels": {"theirs": "2"}, "annotations": {"theirs.example.org/x": "3"}}, "data": {"b": "2"}}
    patch(client, _path(item), body, manager="somebody")
    assert outcome(client, item) == "unchanged"


def test_status_is_nobodys_declaration(client: Client, namespace: str) -> None:
    item = deployment("status", namespace)
    item["status"] = {"replicas": 7}
    put(client, item)
    patch(client, f"{_path(item)}/status", {"status": {"observedGeneration": 1}}, manager="controller")
    assert outcome(client, item) == "unchanged"


def test_what_kubectl_get_prints_can_be_applied(client: Client, namespace: str) -> None:
    item = deployment("saved", namespace)
    put(client, item)
    saved = live(client, _path(item))
    saved["metadata"]["creationTimestamp"] = None
    patch(client, _path(item), {"metadata": {"labels": {"later": "1"}}}, manager="somebody")
    put(client, saved)
    assert outcome(client, saved) == "unchanged"


def test_string_data_is_data(client: Client, namespace: str) -> None:
    both = secret("login", namespace, user="one", password="p")
    put(client, both)
    assert outcome(client, both) == "unchanged"
    assert set(live(client, _path(both))["data"]) == {"user", "password"}
    # A key dropped from stringData really goes, which it would not if it were sent as such.
    fewer = secret("login", namespace, user="one")
    assert fields(client, fewer) == ['.data.password: "***" -> absent']
    put(client, fewer)
    assert set(live(client, _path(both))["data"]) == {"user"}


def test_string_data_wins_over_data(client: Client, namespace: str) -> None:
    item = secret("login", namespace, user="text")
    item["data"] = {"user": "b3RoZXI=", "more": "bW9yZQ=="}
    put(client, item)
    assert live(client, _path(item))["data"] == {"user": "dGV4dA==", "more": "bW9yZQ=="}
    assert outcome(client, item) == "unchanged"


def test_null_and_empty(client: Client, namespace: str) -> None:
    put(client, config_map("nulls", namespace, a="1", b="2"))
    # An empty map deletes nothing that others hold, and what we drop goes.
    empty = config_map("nulls", namespace)
    assert [field.split(":")[0] for field in fields(client, empty)] == [".data.a", ".data.b"]
    null = config_map("nulls", namespace, a=None)
    put(client, null)
    assert live(client, _path(null))["data"] == {"a": ""}
    assert outcome(client, null) == "unchanged"


def test_a_mapping_that_is_declared_empty_after_it_held_something(client: Client, namespace: str) -> None:
    item = deployment("emptied", namespace)
    pod = item["spec"]["template"]["spec"]
    rule = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "emptied"}}}
    pod["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}
    put(client, item)
    pod["affinity"] = {}
    put(client, item)
    stored = live(client, f"/apis/apps/v1/namespaces/{namespace}/deployments/emptied")
    assert stored["spec"]["template"]["spec"]["affinity"] == {}
    assert outcome(client, item) == "unchanged"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"rules": [1], "mode": "strict"}, {}),
        ({"tls": {"mode": "strict"}}, {"tls": {}}),
        ({"ports": [{"name": "a", "tls": {"mode": "strict"}}]}, {"ports": [{"name": "a", "tls": {}}]}),
        ({"free": {"a": {"b": {"c": 1}}}}, {"free": {"a": {"b": {}}}}),
    ],
)
def test_a_mapping_of_a_custom_object_that_is_declared_empty(
    client: Client, namespace: str, before: Item, after: Item
) -> None:
    # As in an Istio AuthorizationPolicy that is to deny all: `spec: {}`.
    tls = {"type": "object", "properties": {"mode": {"type": "string"}}}
    ports = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "tls": tls}},
    }
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    rules = {"type": "array", "items": {"type": "integer"}}
    properties = {"tls": tls, "ports": ports, "free": free, "rules": rules, "mode": {"type": "string"}}
    put(client, definition("emptied.example.org", "Policy", schema={"type": "object", "properties": properties}))
    metadata = {"name": "one", "namespace": namespace}
    item = {"apiVersion": "emptied.example.org/v1", "kind": "Policy", "metadata": metadata, "spec": before}
    put(client, item)
    item["spec"] = after
    put(client, item)
    assert live(client, f"/apis/emptied.example.org/v1/namespaces/{namespace}/policys/one")["spec"] == after
    assert outcome(client, item) == "unchanged"


def test_replicas_that_others_scale_are_theirs(client: Client, namespace: str) -> None:
    item = deployment("scaled", namespace)
    put(client, item)
    patch(client, f"{_path(item)}/scale", {"spec": {"replicas": 5}}, manager="autoscaler")
    assert outcome(client, item) == "unchanged"


def test_replicas_that_we_declared_and_drop_go_back_to_one(client: Client, namespace: str) -> None:
    item = deployment("scaled", namespace)
    three = changed(item)
    three["spec"]["replicas"] = 3
    put(client, three)
    assert fields(client, item) == [".spec.replicas: 3 -> 1"]
    put(client, item)
    assert live(client, _path(item))["spec"]["replicas"] == 1
    assert outcome(client, item) == "unchanged"


@pytest.mark.parametrize("key", ["labels", "annotations"])
def test_a_label_or_annotation_that_we_drop_goes(client: Client, namespace: str, key: str) -> None:
    item = config_map("one", namespace, a="1")
    put(client, changed(item, **{key: {"example.org/gone": "1", "stays": "2"}}))
    kept = changed(item, **{key: {"stays": "2"}})
    assert fields(client, kept) == [f'.metadata.{key}["example.org/gone"]: "1" -> absent']
    put(client, kept)
    assert live(client, _path(item))["metadata"][key] == {"stays": "2"}


def test_env_and_args_that_we_drop_go(client: Client, namespace: str) -> None:
    env = [{"name": "ONE", "value": "1"}, {"name": "TWO", "value": "2"}]
    put(client, deployment("dropped", namespace, env=env, args=["a", "b"]))
    kept = deployment("dropped", namespace, env=env[:1], args=["a"])
    assert fields(client, kept) == [
        '.spec.template.spec.containers[name=app].args[1]: "b" -> absent',
        '.spec.template.spec.containers[name=app].env[name=TWO]: {"name": "TWO", "value": "2"} -> absent',
    ]
    put(client, kept)
    assert outcome(client, kept) == "unchanged"
    assert container(live(client, _path(kept)))["env"] == env[:1]


def test_a_dropped_field_that_another_holds_too_stays(client: Client, namespace: str) -> None:
    put(client, config_map("both", namespace, a="1", b="2"))
    put(client, config_map("both", namespace, b="2"), manager="other")
    assert fields(client, config_map("both", namespace, a="1")) == []
    put(client, config_map("both", namespace, a="1"))
    assert live(client, f"/api/v1/namespaces/{namespace}/configmaps/both")["data"] == {"a": "1", "b": "2"}


def test_ports_and_addresses_that_the_server_allocates_are_no_drift(client: Client, namespace: str) -> None:
    item = service("front", namespace, type="NodePort")
    _unchanged_after(client, item)


def test_a_declared_node_port_that_we_drop_is_kept(client: Client, namespace: str) -> None:
    ports: list[Item] = [{"name": "http", "port": 80, "nodePort": 31234}]
    put(client, service("front", namespace, type="NodePort", ports=ports))
    dropped = service("front", namespace, type="NodePort")
    assert fields(client, dropped) == []
    put(client, dropped)
    stored = live(client, _path(dropped))
    assert stored["spec"]["ports"][0]["nodePort"] == 31234
    assert outcome(client, dropped) == "unchanged"


def test_a_hand_changed_node_port_is_put_back(client: Client, namespace: str) -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 31235}]
    item = service("front", namespace, type="NodePort", ports=ports)
    put(client, item)
    body = [{"op": "replace", "path": "/spec/ports/0/nodePort", "value": 31236}]
    patch(client, _path(item), body, manager="kubectl-edit", kind="json-patch")
    assert fields(client, item) == [".spec.ports[port=80,protocol=TCP].nodePort: 31236 -> 31235"]
    put(client, item)
    assert outcome(client, item) == "unchanged"


def test_a_deleted_object_is_created_again(client: Client, namespace: str) -> None:
    item = service("front", namespace)
    put(client, item)
    client.request("DELETE", _path(item))
    assert outcome(client, item) == "created"


def _two_versions(group: str) -> Item:
    kind = definition(group, "Route", schema={"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    versions = kind["spec"]["versions"]
    versions.append({**versions[0], "name": "v1beta1", "storage": False})
    return kind


def test_an_older_version_of_the_kind_declared_is_no_drift(client: Client, namespace: str) -> None:
    put(client, _two_versions("versions.example.org"))
    item = {
        "apiVersion": "versions.example.org/v1beta1",
        "kind": "Route",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"http": [{"route": [{"weight": 90}, {"weight": 10}]}]},
    }
    _unchanged_after(client, item)
    assert outcome(client, {**item, "apiVersion": "versions.example.org/v1"}) == "unchanged"
    # Lists of custom kinds are atomic: one weight is reported alone all the same.
    item["spec"] = {"http": [{"route": [{"weight": 80}, {"weight": 20}]}]}
    assert fields(client, item) == [
        ".spec.http[0].route[0].weight: 90 -> 80",
        ".spec.http[0].route[1].weight: 10 -> 20",
    ]


def test_whoever_owns_a_weight_owns_all_routes(client: Client, namespace: str) -> None:
    put(client, _two_versions("weights.example.org"))
    item = {
        "apiVersion": "weights.example.org/v1",
        "kind": "Route",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"http": [{"route": [{"weight": 90}, {"weight": 10}]}]},
    }
    put(client, item)
    path = f"/apis/weights.example.org/v1/namespaces/{namespace}/routes/one"
    patch(client, path, {"spec": {"http": [{"route": [{"weight": 50}, {"weight": 50}]}]}}, manager="other-program")
    [change] = changes(client, item)
    assert change.note == ".spec.http is held by 'other-program'"


def test_true_and_one_are_different(client: Client, namespace: str) -> None:
    put(client, _two_versions("truth.example.org"))
    item: Item = {
        "apiVersion": "truth.example.org/v1",
        "kind": "Route",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"flag": 1},
    }
    put(client, item)
    item["spec"]["flag"] = True
    assert fields(client, item) == [".spec.flag: 1 -> true"]


def test_what_istiod_writes_into_its_webhooks_is_no_drift(client: Client) -> None:
    def webhook(policy: str) -> Item:
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "istio-validator-test"},
            "webhooks": [
                {
                    "name": "rev.validation.istio.io",
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": policy,
                    "clientConfig": {
                        "service": {"name": "istiod", "namespace": "istio-system", "path": "/validate"},
                        "caBundle": "",
                    },
                    "objectSelector": {"matchLabels": {"no": "such"}},
                    "rules": [
                        {
                            "apiGroups": ["none.example.org"],
                            "apiVersions": ["*"],
                            "operations": ["CREATE"],
                            "resources": ["*"],
                        }
                    ],
                }
            ],
        }

    item = webhook("Ignore")
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/istio-validator-test"
    # As istioctl installs it; istiod's hold of what it writes has to outlive our first apply, which takes over.
    client.request(
        "PATCH", path, query={"fieldManager": "istio-operator"}, body=item, content_type="application/apply-patch+yaml"
    )
    flipped = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}]
    patch(client, path, flipped, manager="pilot-discovery", kind="json-patch")
    apply(client, plan(client, [item]), force=True)
    assert outcome(client, item) == "unchanged"
    assert live(client, path)["webhooks"][0]["failurePolicy"] == "Fail"
    client.request("DELETE", path)

    put(client, item)
    assert outcome(client, item) == "unchanged"
    written = [
        {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"},
        {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "Y2E="},
    ]
    patch(client, path, written, manager="pilot-discovery", kind="json-patch")
    assert outcome(client, item) == "unchanged"
    # What is really ours still counts.
    item["webhooks"][0]["objectSelector"] = {"matchLabels": {"no": "longer"}}
    assert fields(client, item) == [
        '.webhooks[name=rev.validation.istio.io].objectSelector.matchLabels.no: "such" -> "longer"'
    ]
    put(client, item)
    assert outcome(client, item) == "unchanged"
    assert live(client, path)["webhooks"][0]["failurePolicy"] == "Fail"
    assert live(client, path)["webhooks"][0]["clientConfig"]["caBundle"] == "Y2E="


@pytest.mark.parametrize(
    ("manager", "annotations", "settles"),
    [
        ("cert-manager-cainjector", {"cert-manager.io/inject-ca-from": "site/ca"}, True),
        ("some-controller", {}, True),
        # Whoever wrote it, the object asks for it.
        ("kubectl-replace", {"cert-manager.io/inject-ca-from-secret": "site/ca"}, True),
        ("kubectl-edit", {}, False),
    ],
)
def test_an_authority_that_a_program_writes_is_no_drift(
    client: Client, manager: str, annotations: dict[str, str], settles: bool
) -> None:
    one, two = (base64.b64encode(Authority().certificate).decode() for _ in range(2))
    name = f"ca-{manager}"
    converted = definition(f"{name}.example.org", "Thing")
    service = {"name": "converter", "namespace": "default"}
    given = {"clientConfig": {"service": service, "caBundle": one}, "conversionReviewVersions": ["v1"]}
    converted["spec"]["conversion"] = {"strategy": "Webhook", "webhook": given}
    api: Item = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1.{name}-api.example.org"},
        "spec": {
            "group": f"{name}-api.example.org",
            "version": "v1",
            "groupPriorityMinimum": 10,
            "versionPriority": 10,
            "service": service,
            "caBundle": one,
        },
    }
    root = f"/apis/{converted['apiVersion']}/customresourcedefinitions/{converted['metadata']['name']}"
    bundle = "/spec/conversion/webhook/clientConfig/caBundle"
    of_api = f"/apis/{api['apiVersion']}/apiservices/{api['metadata']['name']}"
    for item, path, where in ((converted, root, bundle), (api, of_api, "/spec/caBundle")):
        item["metadata"]["annotations"] = annotations
        put(client, item)
        # What is ours alone is declared like all else.
        assert outcome(client, item) == "unchanged"
        written = [{"op": "replace", "path": where, "value": two}]
        patch(client, path, written, manager=manager, kind="json-patch")
        [change] = changes(client, item)
        assert (change.outcome, change.error) == ("unchanged" if settles else "configured", "")
        put(client, item)
        stored: Any = live(client, path)
        for step in where.split("/")[1:]:
            stored = stored[step]
        assert stored == (two if settles else one)
        client.request("DELETE", path)


def test_an_object_that_declares_nothing_but_its_name(client: Client, namespace: str) -> None:
    item = config_map("bare", namespace)
    del item["data"]
    _unchanged_after(client, item)
    patch(client, _path(item), {"data": {"a": "theirs"}}, manager="somebody")
    assert outcome(client, item) == "unchanged"


def test_a_volume_claim_template_is_no_drift(client: Client, namespace: str) -> None:
    item = deployment("stateful", namespace)
    item["kind"] = "StatefulSet"
    item["spec"] |= {
        "serviceName": "stateful",
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}},
            }
        ],
    }
    _unchanged_after(client, item)
