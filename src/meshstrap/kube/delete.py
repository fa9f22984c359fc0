"""Deleting objects and waiting until they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import ApiError, KubeError, UnknownKind
from meshstrap.kube.parallel import each
from meshstrap.kube.query import read
from meshstrap.kube.ref import Ref
from meshstrap.kube.stages import stages

POLL = 0.2


class DeleteFailed(KubeError):
    """Objects that could not be deleted, or are not gone in time: `failures` maps each to the reason."""

    def __init__(self, failures: Mapping[Ref, str]) -> None:
        self.failures = dict(failures)
        super().__init__("\n".join(f"{ref}: {reason}" for ref, reason in failures.items()))


def delete(
    client: Client,
    refs: Iterable[Ref],
    *,
    timeout: float = 120.0,
    propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
    on_gone: Callable[[Ref], None] | None = None,
) -> list[Ref]:
    """Delete objects in the reverse of the order in which they are applied, each stage gone before the next.

    Args:
        client: the connection.
        refs: the objects' names; those that are not there are skipped.
        timeout: seconds for all to be gone.
        propagation: what becomes of what the objects own; "Foreground" waits for their Pods too.
        on_gone: called, in the caller's thread, for each object once it is gone.

    Returns the names of those that were there. Raises DeleteFailed naming what is stuck, with its finalizers.
    """
    known: dict[Ref, Resource] = {}
    for ref in refs:
        try:
            known[ref] = client.resource(ref.api_version, ref.kind)
        except UnknownKind:
            continue
    deadline = time.monotonic() + timeout
    deleted: list[Ref] = []
    for stage in reversed(stages(known, known)):
        deleted += _delete_stage(client, {ref: known[ref] for ref in stage}, propagation, deadline, on_gone)
    return deleted


def wait_gone(client: Client, refs: Mapping[Ref, Resource], deadline: float) -> dict[Ref, str]:
    """Wait until objects are gone; returns what still stands at the deadline (of time.monotonic), with the reason."""
    pending = dict(refs)
    while True:
        items = each(lambda pair: read(client, pair[1], pair[0].namespace, pair[0].name), pending.items())
        standing = {ref: item for ref, item in zip(pending, items, strict=True) if item is not None}
        pending = {ref: pending[ref] for ref in standing}
        if not pending:
            return {}
        if time.monotonic() > deadline:
            return {ref: _stuck(item) for ref, item in standing.items()}
        time.sleep(POLL)


def _delete_stage(
    client: Client,
    objects: Mapping[Ref, Resource],
    propagation: str,
    deadline: float,
    on_gone: Callable[[Ref], None] | None,
) -> list[Ref]:
    failures: dict[Ref, str] = {}

    def one(pair: tuple[Ref, Resource]) -> bool:
        ref, resource = pair
        try:
            body = {"propagationPolicy": propagation}
            client.request("DELETE", resource.path(ref.namespace, ref.name), body=body)
        except ApiError as error:
            if error.status == 404:
                return False
            # A namespace answers 409 while it is being emptied: that is under way, not refused.
            if error.status != 409:
                failures[ref] = str(error)
        return True

    there = [ref for ref, was in zip(objects, each(one, objects.items()), strict=True) if was]
    failures |= wait_gone(client, {ref: objects[ref] for ref in there if ref not in failures}, deadline)
    if failures:
        raise DeleteFailed(failures)
    for ref in there:
        if on_gone:
            on_gone(ref)
    return there


def _stuck(item: Mapping[str, Any]) -> str:
    """Say why an object is still there."""
    metadata = item["metadata"]
    if "deletionTimestamp" not in metadata:
        return "still there; something made it again"
    # A namespace says which of its contents hold it up.
    remaining = [
        condition.get("message", "")
        for condition in (item.get("status") or {}).get("conditions") or ()
        if condition.get("type") in ("NamespaceContentRemaining", "NamespaceFinalizersRemaining")
        and condition.get("status") == "True"
    ]
    finalizers = metadata.get("finalizers") or (item.get("spec") or {}).get("finalizers") or []
    if not finalizers:
        return "still being deleted"
    held = f"still there, held by its finalizers {', '.join(finalizers)}"
    return f"{held} ({'; '.join(remaining)})" if remaining else held
