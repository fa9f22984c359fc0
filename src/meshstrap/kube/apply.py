"""Making a plan so: stage by stage, only what differs, every failure with the server's own words."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from meshstrap.kube.compare import FieldSet, declares, difference, managed_fields, union, without
from meshstrap.kube.connect import APPLY_PATCH, JSON_PATCH, Client
from meshstrap.kube.delete import DeleteFailed, delete, wait_gone
from meshstrap.kube.discovery import Resource
from meshstrap.kube.dry_run import dry_run
from meshstrap.kube.errors import ApiError, KubeError, UnknownKind
from meshstrap.kube.injected import injected
from meshstrap.kube.parallel import finished
from meshstrap.kube.plan import Change, Conflict, Plan, conflicts_in, entries_to_take, words
from meshstrap.kube.query import read
from meshstrap.kube.ref import Ref
from meshstrap.kube.stages import stages

# Seconds for a CustomResourceDefinition to be Established and its kind to be served.
_ESTABLISH = 30.0

# Seconds for what is being deleted to be gone before it is made anew.
_GONE = 120.0


class ApplyFailed(KubeError):
    """Objects that could not be applied: `failures` maps each to the server's words, `not_begun` are the rest."""

    def __init__(self, failures: Mapping[Ref, str], not_begun: Collection[Ref]) -> None:
        self.failures = dict(failures)
        self.not_begun = tuple(not_begun)
        lines = [f"{ref}: {reason}" for ref, reason in failures.items()]
        if not_begun:
            lines.append(f"not begun because of that: {', '.join(map(str, not_begun))}")
        super().__init__("\n".join(lines))


class Held(ApplyFailed):
    """Fields that are declared and that other programs hold, all of them; nothing was applied."""

    def __init__(self, conflicts: Mapping[Ref, Collection[Conflict]], others: Collection[Ref]) -> None:
        listed = {ref: "; ".join(sorted({str(conflict) for conflict in held})) for ref, held in conflicts.items()}
        super().__init__(listed, others)
        holders = sorted({conflict.manager for held in conflicts.values() for conflict in held})
        lines = [f"other programs hold what is declared ({', '.join(holders)}), so nothing is applied:"]
        lines += [f"{ref}: {words}" for ref, words in listed.items()]
        lines.append("Take these fields over with force=True (for a deploy: --data force=True), or leave them out")
        self.args = ("\n".join(lines),)


def held_by_others(plan: Plan) -> Held | None:
    """Return why a plan is not applied without force, if it is not."""
    found = {change.ref: [conflict for conflict in change.conflicts if conflict.foreign] for change in plan.pending}
    held = {ref: conflicts for ref, conflicts in found.items() if conflicts}
    return Held(held, [ref for ref in found if ref not in held]) if held else None


def apply(
    client: Client,
    plan: Plan,
    *,
    force: bool = False,
    recreate: bool = False,
    timeout: float = _GONE,
    on_change: Callable[[Change], None] | None = None,
) -> list[Change]:
    """Apply what a plan found to differ; what is unchanged is not touched.

    Stages: definitions and namespaces; cluster-scoped; the rest; workloads; what intercepts requests; then what is
    pruned. Within a stage objects are sent concurrently and all are finished; after a failure no later stage is
    begun. A second plan and apply go on from there.

    Args:
        client: the connection.
        plan: from `plan.plan`, made a moment ago.
        force: whether fields that another program holds are taken from it. What a person changed with kubectl is
            put back without it.
        recreate: whether an object is deleted and made anew where a field that cannot be changed differs.
        timeout: seconds for a deleted object to be gone.
        on_change: called, in the caller's thread, for each change once it is made.

    Returns the changes that were made. Raises ApplyFailed (Held, before anything is sent, where other programs hold
    what is declared and it is not forced), ApiUnreachable.
    """
    if not force and (held := held_by_others(plan)):
        raise held
    changes = {change.ref: change for change in plan.pending}
    sent = {ref: change for ref, change in changes.items() if change.outcome != "deleted"}
    gone = [ref for ref, change in changes.items() if change.outcome == "deleted"]
    ordered = stages(sent, {ref: change.resource for ref, change in sent.items()})
    made: list[Change] = []
    # Nothing that this plan brings will serve them.
    misplaced = {ref: change.error for ref, change in sent.items() if change.error and change.resource is None}
    if misplaced:
        raise ApplyFailed(misplaced, [ref for ref in changes if ref not in misplaced])

    def send(ref: Ref) -> str:
        change = changes[ref]
        try:
            uid = _send(client, change, plan, force=force, recreate=recreate, timeout=timeout)
        except (ApiError, UnknownKind, DeleteFailed, _Refused) as error:
            return words(error, change.body or {})
        changes[ref] = replace(change, uid=uid)
        return ""

    for number, stage in enumerate(ordered):
        failures: dict[Ref, str] = {}
        for ref, failure in finished(send, stage):
            if failure:
                failures[ref] = failure
                continue
            made.append(changes[ref])
            if on_change:
                on_change(changes[ref])
        definitions = [changes[ref] for ref in stage if ref.kind == "CustomResourceDefinition"]
        if definitions and not failures:
            failures = _wait_established(client, definitions)
        if failures:
            later = [ref for rest in ordered[number + 1 :] for ref in rest] + gone
            raise ApplyFailed({ref: failures[ref] for ref in stage if ref in failures}, later)
    try:
        delete(client, gone, timeout=timeout, on_gone=lambda ref: on_change(changes[ref]) if on_change else None)
    except DeleteFailed as error:
        raise ApplyFailed(error.failures, ()) from None
    return made + [changes[ref] for ref in gone]


class _Refused(KubeError):
    """An object that we do not send, or whose server cannot take it, in our own words."""


def _send(client: Client, change: Change, plan: Plan, *, force: bool, recreate: bool, timeout: float) -> str:
    """Apply one object; returns its uid."""
    ref, body = change.ref, change.body or {}
    # A kind that was not there at plan time may have been brought by an earlier stage.
    resource = change.resource or client.resource(ref.api_version, ref.kind)
    if resource.namespaced and not ref.namespace:
        ref = replace(ref, namespace=plan.namespace)
    if change.terminating and (left := wait_gone(client, {ref: resource}, time.monotonic() + timeout)):
        raise _Refused(left[ref])
    if change.taken_over or change.taken_out or (change.first and change.outcome == "configured"):
        _take_over(client, resource, ref, change, plan.manager)
    path = resource.path(ref.namespace, ref.name)
    query = {"fieldManager": plan.manager, "force": "true" if force or change.conflicts else "false"}
    deadline = time.monotonic() + _ESTABLISH
    while True:
        try:
            for sent in (change.beforehand, body):
                if sent is not None:
                    stored = client.request("PATCH", path, query=query, body=sent, content_type=APPLY_PATCH)
            return str(stored["metadata"].get("uid", ""))
        except ApiError as error:
            if error.conflict:
                raise _Refused(_conflict_words(list(conflicts_in(error)))) from None
            # Where the plan has found that a new object would be refused too, the standing one is kept.
            anew = change.immutable or (error.immutable and not change.error)
            if anew and recreate:
                delete(client, [ref], timeout=timeout)
                recreate = False
                continue
            if anew:
                raise _Refused(f"{error}. Deleting it and making it anew is done only when told (recreate)") from None
            if not _settling(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _settling(error: ApiError) -> bool:
    """Whether a refusal passes by itself in a moment, after what was applied just before.

    A kind that is served but whose endpoint is not up yet (404 without an object's name); the account that every
    namespace gets.
    """
    if error.status == 404:
        return "could not find the requested resource" in error.message
    return error.status == 403 and "error looking up service account" in error.message


def _conflict_words(conflicts: Collection[Conflict]) -> str:
    listed = "; ".join(sorted({str(conflict) for conflict in conflicts}))
    return f"conflict: {listed}. Take the field out of the declaration, or take it over with force=True"


def _take_over(client: Client, resource: Resource, ref: Ref, change: Change, manager: str) -> None:
    """Hand fields of others over to us, as `kubectl apply --server-side` does for client-side apply.

    Only metadata.managedFields is rewritten. What client-side apply (or a manager named to be taken over) held is ours,
    and the apply that follows removes what of it is not declared. Other writers, when we apply an object for the
    first time, keep what we do not declare: what we declare would otherwise stay when we drop it. What cannot stand
    beside what is declared becomes ours in the same way, and the apply that follows removes it.
    """
    while True:
        live = read(client, resource, ref.namespace, ref.name)
        if live is None:
            return
        entries = _handed_over(client, resource, ref, live, change, manager)
        if entries == managed_fields(live):
            return
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
            # Refused if anybody wrote in between: then all is read again.
            {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        ]
        try:
            client.request(
                "PATCH",
                resource.path(ref.namespace, ref.name),
                query={"fieldManager": manager},
                body=patch,
                content_type=JSON_PATCH,
            )
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            return


def _handed_over(
    client: Client, resource: Resource, ref: Ref, live: Mapping[str, Any], change: Change, manager: str
) -> list[dict[str, Any]]:
    """Return managedFields as they are to be before our apply."""
    taken = entries_to_take(live, change.taken_over)
    rest = [entry for entry in managed_fields(live) if entry not in taken]
    # Not once more where it was done and only the answer got lost: what we took over would be dropped from our fields.
    if change.first and not _applied(live, manager):
        if change.taken_out:
            # The server refuses our apply as yet: of what is held now, what our declaration spells out becomes ours.
            held = declares(change.body, union(entry.get("fieldsV1") or {} for entry in rest))
            made = [{**_unwritten(ref), "manager": manager, "fieldsV1": held}]
        else:
            made = _applied(dry_run(client, resource, ref, change.body or {}, manager, force=True), manager)
        rest = _yielded(rest, union(entry["fieldsV1"] for entry in made)) + made
    if not taken and not change.taken_out:
        return rest
    rest = [{**entry, "fieldsV1": without(entry.get("fieldsV1") or {}, change.taken_out)} for entry in rest]
    rest = [entry for entry in rest if entry["fieldsV1"]]
    ours = _applied({"metadata": {"managedFields": rest}}, manager)
    entry = copy.deepcopy((ours or taken or [_unwritten(ref)])[0])
    entry.update(manager=manager, operation="Apply")
    entry["fieldsV1"] = union([change.taken_out, *(item.get("fieldsV1") or {} for item in [entry, *taken])])
    return [entry, *(item for item in rest if item not in ours)]


def _unwritten(ref: Ref) -> dict[str, Any]:
    """Return an entry of managedFields for fields that nobody wrote by apply so far."""
    return {"apiVersion": ref.api_version, "fieldsType": "FieldsV1", "operation": "Apply"}


def _applied(item: Mapping[str, Any], manager: str) -> list[dict[str, Any]]:
    """Return a manager's entries by apply: one, or none."""
    entries = managed_fields(item)
    return [entry for entry in entries if entry.get("manager") == manager and entry.get("operation") == "Apply"]


def _yielded(entries: list[dict[str, Any]], ours: FieldSet) -> list[dict[str, Any]]:
    """Return entries without our fields, of those who wrote them once; who applies by declaration keeps sharing."""
    kept = []
    for entry in entries:
        if entry.get("operation") == "Update" and not entry.get("subresource"):
            held = entry.get("fieldsV1") or {}
            fields = without(held, ours)
            if not str(entry.get("manager")).startswith("kubectl"):
                fields = union([fields, difference(injected(held), ours)])
            kept += [{**entry, "fieldsV1": fields}] if fields else []
        else:
            kept.append(entry)
    return kept


def _wait_established(client: Client, definitions: Collection[Change]) -> dict[Ref, str]:
    """Wait until kinds are served; returns those that are not, with the reason."""
    deadline = time.monotonic() + _ESTABLISH
    pending = {change.ref: change for change in definitions}
    while True:
        reasons = {ref: reason for ref, change in pending.items() if (reason := _unserved(client, change))}
        if not reasons or time.monotonic() > deadline:
            return reasons
        pending = {ref: pending[ref] for ref in reasons}
        time.sleep(0.05)


def _unserved(client: Client, change: Change) -> str:
    """Return why a definition's kinds are not served yet; empty if they are."""
    if change.resource is None:
        return "not established"
    live = read(client, change.resource, None, change.ref.name)
    conditions = ((live or {}).get("status") or {}).get("conditions") or []
    states = {condition["type"]: condition for condition in conditions}
    if states.get("NamesAccepted", {}).get("status") == "False":
        return f"its names are not accepted: {states['NamesAccepted'].get('message')}"
    if states.get("Established", {}).get("status") != "True":
        return f"not Established after {_ESTABLISH:g} s"
    spec = (live or {})["spec"]
    for version in spec["versions"]:
        if version.get("served"):
            try:
                client.resource(f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            except UnknownKind as error:
                return str(error)
    return ""
