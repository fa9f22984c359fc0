"""Pruning and deleting: what carries our owner's label and is no longer declared, and nothing else."""

from __future__ import annotations

import threading

import pytest

from meshstrap.kube.apply import ApplyFailed, apply
from meshstrap.kube.connect import Client
from meshstrap.kube.delete import DeleteFailed, delete
from meshstrap.kube.errors import ApiError, KubeError
from meshstrap.kube.plan import plan
from meshstrap.kube.ref import Ref

from .objects import (
    Item,
    changed,
    config_map,
    definition,
    deployment,
    live,
    patch,
    put,
    secret,
    service,
)


def _names(client: Client, namespace: str) -> list[str]:
    items = client.request("GET", f"/api/v1/namespaces/{namespace}/configmaps")["items"]
    return sorted(item["metadata"]["name"] for item in items)


def test_only_the_owners_and_only_the_undeclared_go(client: Client, namespace: str) -> None:
    kept, dropped = config_map("kept", namespace, a="1"), config_map("dropped", namespace, a="1")
    put(client, kept, dropped, deployment("dropped", namespace), owner=namespace)
    put(client, config_map("others", namespace, a="1"), owner=f"{namespace}-other")
    put(client, config_map("nobodys", namespace, a="1"))

    planned = plan(client, [kept], owner=namespace, prune=True)
    assert [str(change) for change in planned.changes] == [
        f"ConfigMap/{namespace}/kept unchanged",
        f"Deployment/{namespace}/dropped deleted",
        f"ConfigMap/{namespace}/dropped deleted",
    ]
    assert _names(client, namespace) == ["dropped", "kept", "nobodys", "others"]
    seen: list[str] = []
    made = apply(client, planned, on_change=lambda change: seen.append(str(change)))
    # In the reverse of the order in which they are applied.
    assert seen == [f"Deployment/{namespace}/dropped deleted", f"ConfigMap/{namespace}/dropped deleted"]
    assert len(made) == 2
    assert _names(client, namespace) == ["kept", "nobodys", "others"]
    assert not plan(client, [kept], owner=namespace, prune=True).pending


def test_an_object_of_two_sets_is_a_conflict_that_names_the_other(client: Client, namespace: str) -> None:
    item = config_map("shared", namespace, a="1")
    put(client, item, owner=f"{namespace}-one")
    with pytest.raises(ApplyFailed, match=rf"owner\"\] is held by 'the set of owner {namespace}-one'"):
        put(client, item, owner=f"{namespace}-two")
    assert not plan(client, [item], owner=f"{namespace}-one").pending
    apply(client, plan(client, [item], owner=f"{namespace}-two"), force=True)
    assert not plan(client, [item], owner=f"{namespace}-two").pending


def test_without_prune_nothing_goes(client: Client, namespace: str) -> None:
    put(client, config_map("one", namespace, a="1"), owner=namespace)
    assert plan(client, [], owner=namespace).changes == ()


def test_prune_needs_an_owner(client: Client) -> None:
    with pytest.raises(ValueError, match="owner"):
        plan(client, [], prune=True)


@pytest.mark.parametrize("owner", ["mine,team", "mine,!none", "in (mine)", "-mine", "m" * 64])
def test_an_owner_that_is_no_label_selects_nothing_of_others(client: Client, namespace: str, owner: str) -> None:
    item = config_map("others", namespace)
    item["metadata"]["labels"] = {"team": "x"}
    put(client, item, owner="mine")
    with pytest.raises(KubeError, match="cannot be a label"):
        plan(client, [], owner=owner, prune=True)


def test_labels_that_a_controller_copied_are_not_ours(client: Client, namespace: str) -> None:
    """A Service's labels are copied onto its Endpoints, by a manager that is not ours."""
    put(client, service("web", namespace), owner=namespace)
    copy = changed(
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": namespace}},
        labels={"meshstrap.dev/owner": namespace},
    )
    client.request("POST", f"/api/v1/namespaces/{namespace}/endpoints", body=copy)
    pruned = plan(client, [], owner=namespace, prune=True)
    assert [str(change.ref) for change in pruned.changes] == [f"Service/{namespace}/web"]


def test_custom_objects_are_found_too(client: Client, namespace: str) -> None:
    put(client, definition("prune.example.org", "Gadget"))
    gadget = {
        "apiVersion": "prune.example.org/v1",
        "kind": "Gadget",
        "metadata": {"name": "one", "namespace": namespace},
    }
    put(client, gadget, owner=namespace)
    pruned = plan(client, [], owner=namespace, prune=True)
    assert [str(change) for change in pruned.changes] == [f"Gadget/{namespace}/one deleted"]
    apply(client, pruned)
    assert client.request("GET", f"/apis/prune.example.org/v1/namespaces/{namespace}/gadgets")["items"] == []


def test_the_same_object_in_another_version_is_declared(client: Client, namespace: str) -> None:
    scaler: Item = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    }
    put(client, scaler, owner=namespace)
    assert [change.outcome for change in plan(client, [scaler], owner=namespace, prune=True).changes] == ["unchanged"]


def test_namespaces_go_only_when_told(client: Client) -> None:
    space: Item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prune-space"}}
    put(client, space, owner="prune-space")
    assert plan(client, [], owner="prune-space", prune=True).changes == ()
    told = plan(client, [], owner="prune-space", prune=True, prune_all=True)
    assert [str(change) for change in told.changes] == ["Namespace/prune-space deleted"]


def test_definitions_go_only_when_told(client: Client) -> None:
    kind = definition("told.example.org", "Told")
    put(client, kind, owner="told")
    assert plan(client, [], owner="told", prune=True).changes == ()
    told = plan(client, [], owner="told", prune=True, prune_all=True)
    assert [change.ref.kind for change in told.changes] == ["CustomResourceDefinition"]


def test_deleting_waits_until_all_is_gone(client: Client, namespace: str) -> None:
    held = config_map("held", namespace, a="1")
    held["metadata"]["finalizers"] = ["example.org/hold"]
    put(client, held, secret("free", namespace, a="b"))
    path = f"/api/v1/namespaces/{namespace}/configmaps/held"
    release = threading.Timer(0.6, patch, [client, path, {"metadata": {"finalizers": None}}], {"manager": "holder"})
    release.start()
    gone = delete(client, [Ref.of(held), Ref("v1", "Secret", namespace, "free"), Ref("v1", "Secret", namespace, "no")])
    assert set(gone) == {Ref.of(held), Ref("v1", "Secret", namespace, "free")}
    with pytest.raises(ApiError, match="not found"):
        live(client, path)


def test_a_stuck_finalizer_is_named(client: Client, namespace: str) -> None:
    held = config_map("held", namespace, a="1")
    held["metadata"]["finalizers"] = ["example.org/hold"]
    put(client, held, owner=namespace)
    with pytest.raises(DeleteFailed, match=r"ConfigMap/.*/held: still there, held by its finalizers example\.org/hold"):
        delete(client, [Ref.of(held)], timeout=0.3)
    # The next run does not count it as ours to delete again, nor as gone.
    assert plan(client, [], owner=namespace, prune=True).changes == ()


def test_pruning_names_a_stuck_finalizer(client: Client, namespace: str) -> None:
    held = config_map("held", namespace, a="1")
    held["metadata"]["finalizers"] = ["example.org/hold"]
    put(client, held, owner=namespace)
    with pytest.raises(ApplyFailed, match=r"example\.org/hold"):
        apply(client, plan(client, [], owner=namespace, prune=True), timeout=0.3)


def test_a_namespace_that_nobody_empties_is_named(client: Client) -> None:
    """No namespace controller runs here: exactly what a stuck namespace looks like."""
    space: Item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stuck-space"}}
    put(client, space)
    with pytest.raises(DeleteFailed, match="Namespace/stuck-space: still there, held by its finalizers kubernetes"):
        delete(client, [Ref.of(space)], timeout=0.3)
    planned = plan(client, [space, config_map("in", "stuck-space", a="1")])
    assert [change.note for change in planned.changes] == [
        "the standing one is being deleted",
        "namespace stuck-space is being deleted",
    ]


def test_deleting_what_is_of_no_known_kind_is_nothing(client: Client) -> None:
    assert delete(client, [Ref("nobody.example.org/v1", "Ghost", "default", "g")]) == []


def test_an_aggregated_api_that_is_away_does_not_stop_pruning(client: Client, namespace: str) -> None:
    away: Item = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.gone.example.org"},
        "spec": {
            "group": "gone.example.org",
            "version": "v1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "none", "namespace": "default"},
        },
    }
    item = config_map("one", namespace, a="1")
    put(client, away)
    put(client, item, owner=namespace)
    try:
        pruned = plan(client, [], owner=namespace, prune=True)
    finally:
        delete(client, [Ref.of(away)])
    assert [str(change) for change in pruned.changes] == [f"ConfigMap/{namespace}/one deleted"]
