"""What a set once declared and declares no more: found by the owner's label, whatever its kind."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from meshstrap.kube.compare import managed_fields
from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.parallel import each
from meshstrap.kube.query import pages
from meshstrap.kube.ref import Ref


def orphans(
    client: Client,
    resources: Iterable[Resource],
    selector: str,
    manager: str,
    keep: Collection[tuple[str, str, str, str]],
) -> list[tuple[Ref, Resource]]:
    """Return the objects that match a label selector, that our manager applied and that are not to be kept.

    Every listable kind of the cluster is asked, so nothing needs to be recorded anywhere. Controllers copy labels
    from what we declare (a Service's go onto its Endpoints): what our manager never applied is not ours to delete.

    Args:
        client: the connection.
        resources: the cluster's kinds, as `Client.resources` returned them just now.
        selector: the owner's label, "meshstrap.dev/owner=canary".
        manager: our field manager.
        keep: identities (`Ref.identity`) of what is declared.
    """
    kinds = [
        resource for resource in resources if {"list", "delete", "patch"} <= resource.verbs and resource.kind != "Event"
    ]

    def one(resource: Resource) -> list[tuple[Ref, Resource]]:
        found = []
        for item in pages(client, resource, labels=selector):
            ref = Ref.of(item)
            applied = any(
                entry.get("manager") == manager and entry.get("operation") == "Apply" for entry in managed_fields(item)
            )
            if applied and ref.identity not in keep and "deletionTimestamp" not in item["metadata"]:
                found.append((ref, resource))
        return found

    found = [pair for pairs in each(one, kinds) for pair in pairs]
    return sorted(found, key=lambda pair: pair[0])
