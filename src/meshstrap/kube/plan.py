"""What an apply would change: the live objects against the API server's own dry-run of our declaration.

The dry-run is the truth: it runs validation, defaulting and admission. Only fields that we declare, or declared
when we last applied, count as changes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from typing_extensions import override

from meshstrap.kube.beside import Path, by_hand, managers_of, spelt
from meshstrap.kube.compare import (
    ABSENT,
    LAST_APPLIED,
    MASK,
    Field,
    FieldSet,
    applied_fields,
    declares,
    difference,
    differences,
    leaves,
    managed_fields,
    masked,
    project,
    same,
    union,
    without_emptied,
    without_secrets,
)
from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.dry_run import dry_run, only_anew
from meshstrap.kube.errors import ApiError, KubeError, UnknownKind
from meshstrap.kube.injected import without_injected
from meshstrap.kube.manifests import undecodable
from meshstrap.kube.obstacles import Clearing, clearing, in_the_way
from meshstrap.kube.parallel import each
from meshstrap.kube.prune import orphans
from meshstrap.kube.query import TOGETHER, groups, read, read_many
from meshstrap.kube.ref import Ref
from meshstrap.kube.served import Defined, defined_kinds, misplaced, target

Outcome = Literal["created", "configured", "unchanged", "deleted"]

MANAGER = "meshstrap"
OWNER_LABEL = "meshstrap.dev/owner"

# What only the server writes; manifests saved by `kubectl get -o yaml` carry it, and some of it would be refused.
_SERVER_METADATA = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")

_GOES_BY_ITSELF = "its ttlSecondsAfterFinished deletes it when it has finished, and the next run makes it again"

# Characters of a Secret's value that are too many to be shown.
_PIECE = 5

# What a label may hold. Source: k8s.io/apimachinery pkg/util/validation (v0.34), labelValueFmt.
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

# Objects that are read and looked at together; in a site of thousands the live ones would be most of the memory.
_BATCH = 500


@dataclass(frozen=True)
class Conflict:
    """A field that we declare and another field manager holds with another value.

    A program's hold (`foreign`) is respected unless forced. What a person did with kubectl is drift, and put back.
    """

    manager: str
    field: str
    foreign: bool

    @override
    def __str__(self) -> str:
        return f"{self.field} is held by {self.manager!r}"


@dataclass(frozen=True)
class Change:
    """What becomes of one object.

    `fields` are what differs (for configured ones), `note` says what else a person should know, `error` holds the
    server's words where it refuses the object, `conflicts` who holds fields that we declare. `body` is what is
    sent, after `beforehand` where mappings are to be emptied; `taken_over` names the client-side managers whose fields
    become ours, `taken_out` the fields of others that cannot stand beside what is declared (as a field set), `first`
    says that our manager never applied the object before. `immutable` says that the server
    refuses because a field of the standing object cannot be changed: only a new object can have it. `uid` is the
    object's, once the change is made. `before` and `after` are the object's declared fields in the cluster and as
    they will be, for `diff.unified`; Secrets are masked in them.
    """

    ref: Ref
    outcome: Outcome
    fields: tuple[Field, ...] = ()
    note: str = ""
    error: str = ""
    conflicts: tuple[Conflict, ...] = ()
    taken_over: tuple[str, ...] = ()
    taken_out: FieldSet = field(default_factory=dict)
    first: bool = False
    beforehand: Mapping[str, Any] | None = None
    terminating: bool = False
    immutable: bool = False
    uid: str = ""
    body: Mapping[str, Any] | None = None
    resource: Resource | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    @override
    def __repr__(self) -> str:
        return f"<Change {self}>"

    def report(self) -> dict[str, Any]:
        """Return the change as plain data for a report; without what it would send, so without secrets."""
        return {
            "object": str(self.ref),
            "outcome": self.outcome,
            "fields": [
                {
                    "path": field.path,
                    "live": None if field.live is ABSENT else field.live,
                    "declared": None if field.declared is ABSENT else field.declared,
                }
                for field in self.fields
            ],
            "note": self.note,
            "error": self.error,
        }

    @override
    def __str__(self) -> str:
        return f"{self.ref} {self.outcome}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Plan:
    """Every declared object's change, in the order of declaration, then what is pruned."""

    changes: tuple[Change, ...]
    manager: str = MANAGER
    namespace: str = "default"

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that are to be made: all but the unchanged objects."""
        return tuple(change for change in self.changes if change.outcome != "unchanged")

    @property
    def errors(self) -> tuple[Change, ...]:
        """The changes that the server refuses as things stand."""
        return tuple(change for change in self.changes if change.error)

    @override
    def __str__(self) -> str:
        counts = {
            outcome: sum(change.outcome == outcome for change in self.changes)
            for outcome in ("created", "configured", "unchanged", "deleted")
        }
        return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "nothing declared"


def plan(
    client: Client,
    objects: Iterable[Mapping[str, Any]],
    *,
    manager: str = MANAGER,
    owner: str | None = None,
    prune: bool = False,
    prune_all: bool = False,
    namespace: str = "default",
    take_over: Collection[str] = (),
    decides: Callable[[Ref, Path], bool] = lambda ref, path: False,
) -> Plan:
    """Find out what applying objects would change; changes nothing.

    An object whose namespace or kind is not there yet is "created". An object that the server refuses keeps its
    place with `error` set: that may be cured by what is applied before it, so it is not raised.

    Args:
        client: the connection.
        objects: the declaration, as `manifests.load` returns it; not altered.
        manager: our field manager's name, the same for ever.
        owner: name of this set, put on each object as the label meshstrap.dev/owner.
        prune: whether objects that carry the owner's label and are no longer declared are to be deleted.
        prune_all: whether that goes for namespaces and definitions of kinds too: everybody's objects go with them.
        namespace: for objects of namespaced kinds that name none.
        take_over: further field managers whose fields become ours, besides kubectl's client-side apply.
        decides: says of an object's field whether a person's addition there is drift, though nothing is declared of it.

    Raises ValueError for prune without owner; KubeError for an object declared twice, or an owner that cannot
    be a label; what `Client.request` raises
    when the server cannot be reached.
    """
    if prune and not owner:
        raise ValueError("prune needs an owner: without its label nobody knows what was once declared")
    # Anything else would be a selector of its own: "a,b" finds what is a's and also has a label b.
    if owner and not _LABEL.fullmatch(owner):
        rule = "up to 63 letters, digits, '-', '_' and '.', with a letter or digit at each end"
        raise KubeError(f"owner {owner!r} cannot be a label: {rule}")
    declared = [_prepared(item, owner) for item in objects]
    kinds = client.resources() if prune else []
    client.discover(item["apiVersion"] for item in declared)
    defined = defined_kinds(declared)
    targets = [target(client, item, defined, namespace) for item in declared]
    places: dict[Ref, int] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for index, (ref, _, _) in enumerate(targets):
        if ref.identity in seen:
            raise KubeError(f"{ref} is declared twice: each run would undo a part of the other")
        seen.add(ref.identity)
        places[ref] = index
    changes: dict[Ref, Change] = {}
    # Whether they have a namespace is known of those alone that are served somewhere: neither is pruned.
    kept = seen | {replace(ref, namespace=namespace).identity for ref, resource, _ in targets if resource is None}
    # Asked once, and only where something is served neither now nor by what is declared.
    versions = client.versions() if any(resource is None for _, resource, _ in targets) else {}
    for ref, resource, known in targets:
        if not known or resource is None:
            unserved = Change(ref, "created", body=declared[places[ref]], resource=resource)
            changes[ref] = _unserved(client, unserved, defined, versions)
    served = [(ref, resource) for ref, resource, known in targets if known and resource is not None]

    def look(pair: tuple[Ref, Resource], live: Mapping[str, Any] | None, note: str = "") -> Change:
        return _change(client, *pair, declared[places[pair[0]]], live, manager, take_over, decides, note)

    for batch in _batches(groups(served)):
        changes |= _standing(client, batch, look)
    missing = [pair for pair in served if pair[0] not in changes]
    notes = _namespaces(client, {ref.namespace for ref, _ in missing if ref.namespace})
    for change in each(lambda pair: look(pair, None, notes.get(pair[0].namespace, "")), missing):
        changes[change.ref] = change
    going = {ref.name for ref, change in changes.items() if ref.kind == "Namespace" and change.terminating}
    # What stands in a declared namespace that is going will go with it, though nobody has marked it yet.
    for ref, resource in served:
        if ref.namespace in going and not changes[ref].terminating and changes[ref].outcome != "created":
            changes[ref] = _made_anew(Change(ref, "created", body=declared[places[ref]], resource=resource))
    ordered = [changes[ref] for ref in places]
    if prune and owner:
        ordered += [
            Change(ref, "deleted", resource=resource)
            for ref, resource in orphans(client, kinds, f"{OWNER_LABEL}={owner}", manager, kept)
            if prune_all or ref.kind not in ("CustomResourceDefinition", "Namespace")
        ]
    return Plan(tuple(ordered), manager, namespace)


def _batches(grouped: Iterable[list[tuple[Ref, Resource]]]) -> Iterator[list[tuple[Ref, Resource]]]:
    """Yield objects in batches of whole groups: the live ones are kept no longer than for one batch."""
    batch: list[tuple[Ref, Resource]] = []
    for group in grouped:
        batch += group
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _standing(
    client: Client,
    batch: list[tuple[Ref, Resource]],
    look: Callable[[tuple[Ref, Resource], Mapping[str, Any]], Change],
) -> dict[Ref, Change]:
    """Return what becomes of those of a batch that are there; objects that are not listed are read on the way."""
    large = [pair for group in groups(batch) if len(group) >= TOGETHER for pair in group]
    live = read_many(client, large)
    listed = {ref for ref, _ in large}

    def one(pair: tuple[Ref, Resource]) -> Change | None:
        ref, resource = pair
        item = live.pop(ref, None) if ref in listed else read(client, resource, ref.namespace, ref.name)
        return None if item is None else look(pair, item)

    return {change.ref: change for change in each(one, batch) if change is not None}


def conflicts_in(error: ApiError, yielding: Collection[str] = ()) -> tuple[Conflict, ...]:
    """Return who holds what, from a conflict that the server reports.

    Args:
        error: the server's refusal.
        yielding: managers that give way besides kubectl: ourselves (by other means than apply), and those whose
            fields are taken over.
    """
    found = []
    for cause in error.causes:
        if cause.reason == "FieldManagerConflict":
            match = re.match(r'conflict with "([^"]*)"( with subresource)?', cause.message)
            holder = match[1] if match else cause.message
            # `kubectl scale` writes as plain "kubectl" to a subresource; otherwise that name is kubectl's own
            # server-side apply, which is somebody's declaration.
            person = by_hand(holder) or (holder == "kubectl" and match is not None and bool(match[2]))
            found.append(Conflict(holder, cause.field, not person and holder not in yielding))
    return tuple(found)


def words(error: Exception, body: Mapping[str, Any]) -> str:
    """Return an error's text fit to be shown: of a Secret, the server may have quoted the content, or a piece of it."""
    text = str(error)
    if body.get("kind") != "Secret":
        return text
    spellings = {spelling for key in ("data", "stringData") for spelling in _spellings(body.get(key))}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", MASK, text)
    # Decoders quote a few bytes around the place they stumbled at.
    pieces = (spelling[start : start + _PIECE] for spelling in spellings for start in range(len(spelling) - _PIECE + 1))
    if any(piece in text for piece in pieces):
        status = f" (HTTP {error.status} {error.reason}".rstrip() + ")" if isinstance(error, ApiError) else ""
        return f"refused{status}; the server's words quote the Secret and are not shown"
    return text


def _prepared(item: Mapping[str, Any], owner: str | None) -> dict[str, Any]:
    """Return an object as it is sent: without what only the server writes, with its owner's label."""
    body = {key: value for key, value in item.items() if key != "status"}
    metadata = {key: value for key, value in item["metadata"].items() if key not in _SERVER_METADATA}
    body["metadata"] = metadata
    if owner:
        metadata["labels"] = {**(metadata.get("labels") or {}), OWNER_LABEL: owner}
    if body["kind"] == "Secret" and isinstance(body.get("stringData"), Mapping):
        # Ownership of stringData would be recorded under that name, and a key dropped from it stay in data for ever.
        text = body.pop("stringData")
        encoded = {
            key: base64.b64encode(value.encode()).decode() if isinstance(value, str) else value
            for key, value in text.items()
        }
        body["data"] = {**(body.get("data") or {}), **encoded}
    return body


def _unserved(client: Client, change: Change, defined: Defined, versions: Mapping[str, Iterable[str]]) -> Change:
    """Return what becomes of an object whose kind is not served as declared; it may stand in another version."""
    ref = change.ref
    if error := misplaced(ref, defined, versions):
        return replace(change, error=error)
    for api_version in defined.get((ref.group, ref.kind), ()):
        with suppress(UnknownKind):
            if read(client, client.resource(api_version, ref.kind), ref.namespace, ref.name) is not None:
                note = f"stands as {api_version}; {ref.api_version} is not served yet"
                return replace(change, outcome="configured", note=note)
    return replace(change, note="its kind is not there yet")


def _namespaces(client: Client, names: Iterable[str]) -> dict[str, str]:
    """Return those of some namespaces into which nothing can be put now, each with why.

    The API server would say so too, but makes every such request wait for 50 ms in case the namespace comes.
    """
    wanted = [Ref("v1", "Namespace", "", name) for name in names]
    if not wanted:
        return {}
    resource = client.resource("v1", "Namespace")
    found = read_many(client, [(ref, resource) for ref in wanted])
    notes = {ref.name: f"namespace {ref.name} is not there yet" for ref in wanted if ref not in found}
    going = [ref.name for ref, item in found.items() if _is_going(item)]
    return notes | {name: f"namespace {name} is being deleted" for name in going}


def _made_anew(change: Change) -> Change:
    """Return what becomes of an object that must be gone before it can be made."""
    return replace(change, outcome="created", note="the standing one is being deleted", terminating=True)


def _is_going(item: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _change(
    client: Client,
    ref: Ref,
    resource: Resource,
    body: dict[str, Any],
    live: Mapping[str, Any] | None,
    manager: str,
    take_over: Collection[str],
    decides: Callable[[Ref, Path], bool],
    absent: str,
) -> Change:
    """Return what becomes of one object of a kind that is served; `absent` says why its namespace takes nothing."""
    base = Change(ref, "created" if live is None else "configured", body=body, resource=resource)
    if wrong := undecodable(body):
        return replace(base, error="; ".join(wrong))
    if absent:
        return replace(base, note=absent)
    if live is not None and _is_going(live):
        return _made_anew(base)
    if live is not None and (without := without_injected(body, live, {manager, *take_over})) != body:
        body = without
        base = replace(base, body=body)
    entries = entries_to_take(live or {}, take_over)
    taken = tuple(sorted({entry["manager"] for entry in entries}))
    conflicts: tuple[Conflict, ...] = ()
    sent = without_emptied(body, applied_fields(live or {}, manager))
    if sent != body:
        base = replace(base, beforehand=sent)
    refusal = None
    try:
        try:
            planned = dry_run(client, resource, ref, sent, manager, force=False)
        except ApiError as error:
            if not error.conflict:
                raise
            conflicts = conflicts_in(error, (manager, *taken))
            planned = dry_run(client, resource, ref, sent, manager, force=True)
    except ApiError as error:
        if error.namespace_missing:
            return replace(base, outcome="created", note=f"namespace {ref.namespace} is not there yet")
        if error.status == 404:
            # Its definition went away since the kind was discovered.
            return replace(base, outcome="created", note="its kind is not there yet")
        refusal = error
    cleared = None
    if live is not None and (refusal is None or in_the_way(refusal)):
        cleared = clearing(client, resource, ref, live, sent, manager, entries, refused=refusal is not None,
            decides=lambda path: decides(ref, path),
        )  # fmt: skip
    if cleared:
        planned = cleared.planned
        conflicts += _held_by_programs(cleared, live or {})
    elif refusal:
        immutable = live is not None and only_anew(client, resource, ref, body, manager, refusal)
        return replace(base, error=words(refusal, body), conflicts=conflicts, immutable=immutable)
    if live is None:
        return replace(base, note=_GOES_BY_ITSELF) if _goes_by_itself(body) else base
    conflicts += _other_owner(body, live)
    if not taken and not conflicts and same(live, planned):
        return replace(base, outcome="unchanged")
    taken_out = cleared.taken_out if cleared else {}
    fields = differences(live, planned, manager, taken_out)
    ours, wanted = applied_fields(live, manager), applied_fields(planned, manager)
    notes = []
    if taken:
        fields += _dropped_by_take_over(live, planned, manager, take_over)
        notes.append(f"taken over from {', '.join(taken)}")
    elif not ours and wanted and not conflicts:
        others = sorted({entry.get("manager", "") for entry in managed_fields(live) if not entry.get("subresource")})
        notes.append(f"first applied by {manager}; written so far by {', '.join(others) or 'nobody known'}")
    elif ours != wanted and not fields and not conflicts:
        notes.append("same values; which fields are declared changes")
    if not fields and not taken and ours == wanted:
        return replace(base, outcome="unchanged")
    hands = {conflict.manager for conflict in conflicts if not conflict.foreign}
    hands |= {name for path in (cleared.paths if cleared else ()) for name in managers_of(live, path, person=True)}
    if hands and not taken:
        notes.append(f"changed by hand ({', '.join(sorted(hands))})")
    notes += [str(conflict) for conflict in conflicts if conflict.foreign]
    before, after = project(live, union([ours, wanted, taken_out])), project(planned, wanted)
    if ref.kind == "Secret":
        fields = [masked(field) for field in fields]
        before, after = without_secrets(before, after)
    return replace(
        base,
        fields=tuple(fields),
        note="; ".join(notes),
        conflicts=conflicts,
        taken_over=taken,
        taken_out=taken_out,
        first=not ours,
        before=before,
        after=after,
    )


def _goes_by_itself(body: Mapping[str, Any]) -> bool:
    """Whether an object is a Job that is deleted when it has finished, so that the next run finds none."""
    spec = body.get("spec") if body["kind"] == "Job" and body["apiVersion"].startswith("batch/") else None
    return isinstance(spec, Mapping) and spec.get("ttlSecondsAfterFinished") is not None


def _held_by_programs(cleared: Clearing, live: Mapping[str, Any]) -> tuple[Conflict, ...]:
    """Return the conflicts over what programs hold and what stands in the way of our declaration."""
    return tuple(
        Conflict(name, f"{spelt(path)}, which excludes what is declared,", True)
        for path in cleared.programs
        for name in managers_of(live, path, person=False)
    )


def _other_owner(body: Mapping[str, Any], live: Mapping[str, Any]) -> tuple[Conflict, ...]:
    """Return the conflict with another set that declares the object too: each run of one would undo the other's.

    The field manager is the same for all sets, so the API server sees none.
    """
    ours, theirs = ((item["metadata"].get("labels") or {}).get(OWNER_LABEL) for item in (body, live))
    if not ours or not theirs or ours == theirs:
        return ()
    return (Conflict(f"the set of owner {theirs}", f'.metadata.labels["{OWNER_LABEL}"]', True),)


def entries_to_take(live: Mapping[str, Any], take_over: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the managedFields entries whose fields become ours: client-side apply's, and the managers named."""

    def client_side(entry: Mapping[str, Any]) -> bool:
        owned = entry.get("fieldsV1") or {}
        annotations = owned.get("f:metadata", {}).get("f:annotations", {})
        return entry.get("manager") == "kubectl-client-side-apply" or f"f:{LAST_APPLIED}" in annotations

    return [
        entry
        for entry in managed_fields(live)
        if not entry.get("subresource")
        and ((entry.get("operation") == "Update" and client_side(entry)) or entry.get("manager") in take_over)
    ]


def _dropped_by_take_over(
    live: Mapping[str, Any], planned: Mapping[str, Any], manager: str, take_over: Collection[str]
) -> list[Field]:
    """Return the fields that go away because they become ours and we do not declare them.

    Client-side apply also owns what the server defaulted when it created the object; only what its
    last-applied annotation spells out was ever declared, and the rest comes back as the same defaults.
    """
    taken = entries_to_take(live, take_over)
    try:
        spelt = json.loads(live["metadata"].get("annotations", {}).get(LAST_APPLIED) or "{}")
    except ValueError:
        # Somebody wrote it by hand.
        spelt = {}
    ours: list[FieldSet] = []
    for entry in taken:
        fields = entry.get("fieldsV1") or {}
        if entry.get("operation") == "Update" and spelt:
            annotation: FieldSet = {"f:metadata": {"f:annotations": {f"f:{LAST_APPLIED}": {}}}}
            fields = union([declares(spelt, fields), annotation])
        ours.append(fields)
    held = [applied_fields(planned, manager)]
    held += [entry.get("fieldsV1") or {} for entry in managed_fields(live) if entry not in taken]
    return leaves(live, difference(union(ours), union(held)))


def _spellings(value: Any) -> Iterable[str]:
    """Yield every plain value in some data as the server may print it: as it is, escaped, and out of its base64."""
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _spellings(inner)
    elif value is not None and value != "":
        text = str(value)
        yield from (text, json.dumps(text, ensure_ascii=False)[1:-1])
        try:
            decoded = base64.b64decode(text, validate=True).decode()
        except ValueError:
            return
        if decoded:
            yield from (decoded, json.dumps(decoded, ensure_ascii=False)[1:-1])
