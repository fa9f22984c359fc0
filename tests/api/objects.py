"""Objects that the tests of this tier declare, and how they put them onto the cluster."""

from __future__ import annotations

import copy
from typing import Any

from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import Change, Plan, plan

Item = dict[str, Any]


def config_map(name: str, namespace: str, **data: Any) -> Item:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def secret(name: str, namespace: str, **text: Any) -> Item:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": text}


def deployment(name: str, namespace: str, **container: Any) -> Item:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "example.org/app:1", **container}]},
            },
        },
    }


def service(name: str, namespace: str, **spec: Any) -> Item:
    metadata = {"name": name, "namespace": namespace}
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def definition(group: str, kind: str, *, scope: str = "Namespaced", schema: Item | None = None) -> Item:
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": schema or {"type": "object"}},
                        }
                    },
                }
            ],
        },
    }


def container(item: Item) -> Item:
    """Return a Deployment's container, to be changed."""
    found: Item = item["spec"]["template"]["spec"]["containers"][0]
    return found


def put(client: Client, *objects: Item, **settings: Any) -> Plan:
    """Plan and apply objects; returns the plan."""
    found = plan(client, objects, **settings)
    apply(client, found)
    return found


def changes(client: Client, *objects: Item, **settings: Any) -> list[Change]:
    """Return what applying would change."""
    return list(plan(client, objects, **settings).changes)


def fields(client: Client, item: Item, **settings: Any) -> list[str]:
    """Return the fields that applying one object would change, as text."""
    [change] = changes(client, item, **settings)
    assert not change.error, change.error
    return [str(field) for field in change.fields]


def outcome(client: Client, item: Item, **settings: Any) -> str:
    """Return the outcome for one object."""
    [change] = changes(client, item, **settings)
    assert not change.error, change.error
    return change.outcome


def changed(item: Item, **metadata: Any) -> Item:
    """Return a copy that the test may alter."""
    copied = copy.deepcopy(item)
    copied["metadata"].update(metadata)
    return copied


def patch(client: Client, path: str, body: Any, *, manager: str, kind: str = "merge-patch") -> Item:
    """Write as somebody else does."""
    answer: Item = client.request(
        "PATCH", path, query={"fieldManager": manager}, body=body, content_type=f"application/{kind}+json"
    )
    return answer


def set_status(client: Client, path: str, status: Item) -> None:
    """Write a status as its controller would."""
    patch(client, f"{path}/status", {"status": status}, manager="controller")


def live(client: Client, path: str) -> Item:
    """Return an object as it stands, read without the code under test's parsers."""
    found: Item = client.request("GET", path)
    return found


def object_path(item: Item) -> str:
    """Return where an object of a namespace is served."""
    root = "/api" if "/" not in item["apiVersion"] else "/apis"
    metadata = item["metadata"]
    kind = item["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    return f"{root}/{item['apiVersion']}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


def without_bookkeeping(item: Item) -> Item:
    """Return an object without what every write changes."""
    metadata = {
        key: value
        for key, value in item["metadata"].items()
        if key not in ("generation", "managedFields", "resourceVersion")
    }
    return {**item, "metadata": metadata}
