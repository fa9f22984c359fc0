"""Every keyed list and every union of the kinds that people declare, found from the API server's OpenAPI documents.

The documents name the keyed lists. Of unions they mark two, so these are found by asking: two fields of one struct
are members of a union where the server takes an object with either and refuses it with both. In each case somebody
changes the key, or puts the other member in place of ours; the next apply has to put it back.
"""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from meshstrap.kube.apply import apply
from meshstrap.kube.compare import DEFAULT_KEYS
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import ApiError
from meshstrap.kube.manifests import load
from meshstrap.kube.plan import plan

from .apiserver import program
from .objects import Item, deployment, live, object_path, outcome, patch, put, service, without_bookkeeping
from .schemas import Document, Place

# Lists that cannot be declared, or not by people: the status's, owners', and what `kubectl debug` adds to a Pod.
_NOBODYS = re.compile(r"\w*Status \w+|ObjectMeta ownerReferences|PodSpec ephemeralContainers|EphemeralContainer \w+")


def _pods(namespace: str) -> Item:
    item = deployment("web", namespace)
    probe = {"httpGet": {"path": "/", "port": 80}}
    item["spec"]["template"]["spec"] |= {
        "containers": [
            {
                "name": "app",
                "image": "example.org/app:1",
                "env": [
                    {"name": "ONE", "value": "1"},
                    {"name": "TWO", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "two"}}},
                ],
                "ports": [{"name": "http", "containerPort": 80}],
                "volumeMounts": [{"name": "files", "mountPath": "/files"}],
                "volumeDevices": [{"name": "block", "devicePath": "/dev/block"}],
                "resources": {"claims": [{"name": "claim"}]},
                "livenessProbe": probe,
                "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            }
        ],
        "initContainers": [{"name": "first", "image": "example.org/first:1"}],
        "volumes": [
            {"name": "block", "persistentVolumeClaim": {"claimName": "block"}},
            {"name": "files", "configMap": {"name": "files"}},
            {"name": "spare", "secret": {"secretName": "spare"}},
        ],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["one"]}],
        "imagePullSecrets": [{"name": "login"}],
        "resourceClaims": [
            {"name": "claim", "resourceClaimName": "one"},
            {"name": "claimx", "resourceClaimName": "two"},
        ],
        "schedulingGates": [{"name": "example.org/gate"}],
        "topologySpreadConstraints": [
            {
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "maxSkew": 1,
                "labelSelector": {"matchLabels": {"app": "web"}},
            }
        ],
    }
    return item


def _core(namespace: str) -> list[Item]:
    metadata = {"name": "web", "namespace": namespace}
    pods = _pods(namespace)
    job = {"template": copy.deepcopy(pods["spec"]["template"])}
    job["template"]["spec"]["restartPolicy"] = "Never"
    return [
        pods,
        service("web", namespace),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "secrets": [{"name": "token"}]},
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": metadata,
            "spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": job}},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        },
    ]


def _istio(namespace: str) -> list[Item]:
    api_version, metadata = "networking.istio.io/v1", {"name": "web", "namespace": namespace}
    return [
        {
            "apiVersion": api_version,
            "kind": "DestinationRule",
            "metadata": metadata,
            "spec": {"host": "web", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}},
        },
        {
            "apiVersion": api_version,
            "kind": "DestinationRule",
            "metadata": {**metadata, "name": "sticky"},
            "spec": {"host": "web", "trafficPolicy": {"loadBalancer": {"consistentHash": {"useSourceIp": True}}}},
        },
        {
            "apiVersion": api_version,
            "kind": "ServiceEntry",
            "metadata": metadata,
            "spec": {"hosts": ["example.org"], "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}]},
        },
        {
            "apiVersion": api_version,
            "kind": "WorkloadGroup",
            "metadata": metadata,
            "spec": {"template": {"serviceAccount": "web"}, "probe": {"httpGet": {"port": 80}}},
        },
    ]


@pytest.fixture(scope="module")
def istio(api_server: Any) -> None:
    """The definitions of Istio's kinds, as istioctl renders them."""
    command = [str(program("istioctl")), "manifest", "generate", "--set", "profile=minimal"]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    put(api_server.client(), *(item for item in load(rendered) if item["kind"] == "CustomResourceDefinition"))


def _pointer(place: Place) -> str:
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in place)


def _other(value: Any) -> Any:
    """Return another key that may do as well."""
    others = {"TCP": "UDP", "DoNotSchedule": "ScheduleAnyway", "10.0.0.1": "10.0.0.2"}
    return value + 1 if isinstance(value, int) else others.get(value, f"{value}x")


def _keys(document: Document, item: Item) -> Iterator[tuple[tuple[str, str], str, list[Item]]]:
    """Yield (struct and field, key field, the edit that changes it) for every keyed list of an object."""
    for place, value, name, schema in document.walk(item, *document.kind(item["kind"])):
        if isinstance(value, list):
            struct, _, field = name.rpartition(".")
            for key in schema["x-kubernetes-list-map-keys"]:
                was = value[-1].get(key, DEFAULT_KEYS.get(key))
                edit = {"op": "add", "path": _pointer((*place, len(value) - 1, key)), "value": _other(was)}
                yield (struct.rpartition(".")[2], field), key, [edit]


def _accepted(client: Client, item: Item) -> bool:
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    other = {**item, "metadata": {**item["metadata"], "name": "other"}}
    try:
        client.request("POST", object_path(item).rpartition("/")[0], query=query, body=other)
    except ApiError:
        return False
    return True


def _with(item: Item, place: Place, **changed: Any) -> Item:
    """Return an object with some fields of a mapping in it changed, or gone (None)."""
    copied = copy.deepcopy(item)
    found: Any = copied
    for step in place:
        found = found[step]
    for key, value in changed.items():
        found.pop(key, None)
        if value is not None:
            found[key] = value
    return copied


def _unions(
    client: Client, document: Document, item: Item, seen: set[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str, str], list[Item]]]:
    """Yield ((struct, our member, the other), the edit that puts the other in place of ours) for every union.

    `seen` holds the structs' members that were found already; a new one is added to it.
    """
    for place, value, name, schema in document.walk(item, *document.kind(item["kind"])):
        if not isinstance(value, dict) or not place:
            continue
        struct = name.rpartition(".")[2]
        for other, inner in (schema.get("properties") or {}).items():
            if other in value or (struct, other) in seen:
                continue
            for example in document.examples(inner):
                if _accepted(client, _with(item, place, **{other: example})):
                    continue
                for ours in value:
                    if _accepted(client, _with(item, place, **{ours: None, other: example})):
                        seen.add((struct, other))
                        yield (
                            (struct, ours, other),
                            [
                                {"op": "remove", "path": _pointer((*place, ours))},
                                {"op": "add", "path": _pointer((*place, other)), "value": example},
                            ],
                        )
                        break
                else:
                    continue
                break


def _trouble(client: Client, item: Item, before: Item, edit: list[Item]) -> str:
    """Say what is wrong with what becomes of a hand edit; empty if it is put back and nothing else is touched."""
    try:
        patch(client, object_path(item), edit, manager="kubectl-edit", kind="json-patch")
    except ApiError as error:
        return f"cannot be done by hand: {error}"
    try:
        planned = plan(client, [item])
        if [(change.outcome, change.error) for change in planned.changes] != [("configured", "")]:
            return f"planned: {planned.changes[0]} {planned.changes[0].error}"
        apply(client, planned)
        if without_bookkeeping(live(client, object_path(item))) != before:
            return "not as it was"
        return "" if outcome(client, item) == "unchanged" else "not unchanged afterwards"
    finally:
        if without_bookkeeping(live(client, object_path(item))) != before:
            client.request("DELETE", object_path(item))
            put(client, item)


def _walked(client: Client, items: list[Item]) -> tuple[dict[str, Document], set[Any], set[Any], list[str]]:
    """Edit every keyed list and union of some objects by hand; returns what was met, and what went wrong."""
    documents: dict[str, Document] = {}
    lists: set[Any] = set()
    unions: set[Any] = set()
    troubles: list[str] = []
    done: set[Any] = set()
    seen: set[tuple[str, str]] = set()
    for item in items:
        document = documents.setdefault(item["apiVersion"], Document(client, item["apiVersion"]))
        put(client, item)
        for kept, cases in (
            (lists, ((field, (field, key), edit) for field, key, edit in _keys(document, item))),
            (unions, ((union, union, edit) for union, edit in _unions(client, document, item, seen))),
        ):
            for what, case, edit in cases:
                if case in done:
                    continue
                done.add(case)
                kept.add(what)
                before = without_bookkeeping(live(client, object_path(item)))
                if trouble := _trouble(client, item, before, edit):
                    troubles.append(f"{item['kind']} {case} {edit}: {trouble}")
    return documents, lists, unions, troubles


def test_every_keyed_list_and_union_of_kubernetes(client: Client, namespace: str) -> None:
    documents, lists, unions, troubles = _walked(client, _core(namespace))
    assert not troubles, "\n".join(troubles)
    # None that the server knows was left out, and those that everybody meets are among those found.
    known = {found for document in documents.values() for found in document.keyed_lists()}
    assert {found for found in known if not _NOBODYS.fullmatch(" ".join(found))} <= lists
    assert unions >= {
        ("EnvVar", "valueFrom", "value"),
        ("EnvVarSource", "configMapKeyRef", "secretKeyRef"),
        ("LifecycleHandler", "exec", "httpGet"),
        ("PodDisruptionBudgetSpec", "minAvailable", "maxUnavailable"),
        ("Probe", "httpGet", "tcpSocket"),
        ("Volume", "configMap", "emptyDir"),
    }


def test_every_keyed_list_and_union_of_istio(istio: None, client: Client, namespace: str) -> None:
    _, lists, unions, troubles = _walked(client, _istio(namespace))
    assert not troubles, "\n".join(troubles)
    assert {field for _, field in lists} == {"ports"}
    assert {(ours, other) for _, ours, other in unions} >= {
        ("httpGet", "tcpSocket"),
        ("simple", "consistentHash"),
        ("useSourceIp", "httpHeaderName"),
    }


def test_the_only_key_that_may_be_left_out_is_the_protocol(client: Client) -> None:
    """What a hand-written list in `compare` says is what the documents say."""
    defaults = {}
    for api_version in ("v1", "apps/v1", "batch/v1", "policy/v1"):
        document = Document(client, api_version)
        for schema in document.schemas.values():
            for field in (schema.get("properties") or {}).values():
                if field.get("x-kubernetes-list-type") == "map":
                    _, items = document.resolved("", field["items"])
                    for key in field["x-kubernetes-list-map-keys"]:
                        # Zero values are Go's, of keys that have to be given.
                        if items["properties"][key].get("default"):
                            defaults[key] = items["properties"][key]["default"]
    assert defaults == DEFAULT_KEYS
