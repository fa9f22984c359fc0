"""Which fields of ours a server-side apply would change: pure functions over what the API server answers.

Who owns what stands in metadata.managedFields as trees ("FieldsV1"): `f:` a mapping's key, `k:` an item of a list
keyed by some of its fields, `v:` an item of a set, and an empty tree for a value owned as a whole. The comparison
walks the live object and the dry-run's answer along these trees, so that whatever others write never counts.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

FieldSet = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MASK = "***"


class _Absent:
    """The value of a field that is not there."""

    @override
    def __repr__(self) -> str:
        return "absent"

    def __bool__(self) -> bool:
        return False


ABSENT = _Absent()


@dataclass(frozen=True)
class Field:
    """One field that differs: its path, the value in the cluster and the value as declared (or ABSENT)."""

    path: str
    live: Any
    declared: Any

    @override
    def __str__(self) -> str:
        return f"{self.path}: {_short(self.live)} -> {_short(self.declared)}"


def same(live: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Whether two objects are equal to the last field, as JSON is: 1 is not true, which Python takes for equal."""
    return json.dumps(live, sort_keys=True) == json.dumps(planned, sort_keys=True)


def differences(
    live: Mapping[str, Any], planned: Mapping[str, Any], manager: str, also: FieldSet | None = None
) -> list[Field]:
    """Return the fields declared now or before by a manager that differ between live and planned.

    Args:
        live: the object in the cluster.
        planned: what a server-side apply dry-run by the manager answers.
        manager: our field manager.
        also: fields of others that are compared too, because they become ours.
    """
    owned = union([applied_fields(live, manager), applied_fields(planned, manager), also or {}])
    # Without a single declared field (a bare Namespace) nothing is ours; an empty set below would mean everything.
    return list(_walk("", live, planned, owned)) if owned else []


def applied_fields(item: Mapping[str, Any], manager: str) -> FieldSet:
    """Return what a manager owns in an object by server-side apply; empty if it never applied it."""
    return union(
        entry.get("fieldsV1") or {}
        for entry in managed_fields(item)
        if entry.get("manager") == manager and entry.get("operation") == "Apply"
    )


def managed_fields(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of metadata.managedFields."""
    entries: list[dict[str, Any]] = item.get("metadata", {}).get("managedFields") or []
    return entries


def union(sets: Iterable[FieldSet]) -> FieldSet:
    """Return the fields that are in any of some field sets."""
    whole: FieldSet = {}
    for fields in sets:
        for key, below in fields.items():
            whole[key] = union([whole[key], below]) if key in whole else below
    return whole


def difference(fields: FieldSet, others: FieldSet) -> FieldSet:
    """Return the fields that are in one field set and not in the other."""
    rest: FieldSet = {}
    for key, below in fields.items():
        if key not in others:
            rest[key] = below
        elif below and (inner := difference(below, others[key])):
            rest[key] = inner
    return rest


def without(fields: FieldSet, ours: FieldSet) -> FieldSet:
    """Return what another manager keeps of its fields when ours become ours alone.

    An item of a list that is ours goes with all that is in it: a default in it that another manager is recorded for
    would keep the item alive after we drop it.
    """
    rest: FieldSet = {}
    for key, below in fields.items():
        if key not in ours:
            rest[key] = below
            continue
        ours_whole = key.startswith("k:") and "." in ours[key]
        inner = {} if ours_whole or not ours[key] else without(below, ours[key])
        # A mapping in which only ours is left is nothing of theirs.
        if inner and set(inner) != {"."}:
            rest[key] = inner
    return rest


def leaves(item: Mapping[str, Any], fields: FieldSet) -> list[Field]:
    """Return the fields of a set that an object holds, as fields that would go away."""
    return list(_leaves("", item, fields))


def declares(item: Any, fields: FieldSet) -> FieldSet:
    """Return the part of a field set that a declaration (not yet defaulted by a server) spells out."""
    found: FieldSet = {}
    for key, below in fields.items():
        if key == ".":
            found[key] = {}
            continue
        value = child(item, key)
        if value is ABSENT:
            continue
        if not below:
            found[key] = {}
        elif inner := declares(value, below):
            found[key] = inner
    return found


def project(item: Any, fields: FieldSet) -> Any:
    """Return the part of an object that a field set names, in the object's own order."""
    if not fields:
        return item
    if isinstance(item, Mapping):
        below = {key[2:]: inner for key, inner in fields.items() if key.startswith("f:")}
        return {key: project(value, below[key]) for key, value in item.items() if key in below}
    if isinstance(item, list):
        places = {place(item, key): inner for key, inner in fields.items() if key != "."}
        return [project(value, places[index]) for index, value in enumerate(item) if index in places]
    return item


def without_emptied(body: Any, ours: FieldSet) -> Any:
    """Return a declaration without the mappings that are declared empty and hold fields of ours so far.

    The API server takes such a mapping away with the last of its fields, or makes it null, which a schema may refuse.
    Source: sigs.k8s.io/structured-merge-diff v6, typed/remove.go, doMap.

    Args:
        body: the declaration, or a part of it.
        ours: what our manager owns in the live object, or in that part.
    """
    if isinstance(body, Mapping):
        kept = {}
        for key, value in body.items():
            below = ours.get(f"f:{key}", {})
            inner = without_emptied(value, below) if below else value
            # With what is taken out of it, a mapping may be empty in its turn.
            if inner != {} or not set(below) - {"."}:
                kept[key] = inner
        return kept
    if isinstance(body, list):
        places = {place(body, key): below for key, below in ours.items() if key.startswith("k:")}
        return [without_emptied(value, places.get(index, {})) for index, value in enumerate(body)]
    return body


def masked(field: Field) -> Field:
    """Return a Secret's field without its secret; that it is there, or not, stays visible."""
    # kubectl keeps the whole Secret in an annotation, which may come or go with all the others.
    kept = (field.path, str(field.live), str(field.declared))
    if not field.path.startswith((".data", ".stringData")) and not any(LAST_APPLIED in text for text in kept):
        return field
    return Field(
        field.path,
        field.live if field.live is ABSENT else MASK,
        field.declared if field.declared is ABSENT else MASK,
    )


def without_secrets(before: Any, after: Any) -> tuple[Any, Any]:
    """Return two states of a Secret without its values; as kubectl does, what differs stays distinguishable."""
    one, two = copy.deepcopy(before), copy.deepcopy(after)
    for key in ("data", "stringData"):
        old, new = one.get(key) or {}, two.get(key) or {}
        for name in {*old, *new}:
            same = name in old and name in new and old[name] == new[name]
            if name in old:
                old[name] = MASK if same else f"{MASK} (before)"
            if name in new:
                new[name] = MASK if same else f"{MASK} (after)"
    for state in (one, two):
        annotations = (state.get("metadata") or {}).get("annotations") or {}
        if LAST_APPLIED in annotations:
            annotations[LAST_APPLIED] = MASK
    return one, two


def _walk(path: str, live: Any, planned: Any, owned: FieldSet) -> Iterator[Field]:
    """Yield what differs below a path, of what is owned."""
    if owned and isinstance(live, Mapping) and planned is ABSENT and not path.endswith("]"):
        # A mapping that goes: what of it was ours says more than the whole.
        planned = {}
    if not owned or not _comparable(live, planned):
        yield from _all(path, live, planned)
        return
    items: dict[bool, list[str]] = {}
    for key, below in owned.items():
        if key == ".":
            continue
        before, after = child(live, key), child(planned, key)
        if before is ABSENT and after is ABSENT:
            continue
        yield from _walk(path + step_label(key), before, after, below)
        if key.startswith("k:"):
            items.setdefault(before is not ABSENT and after is not ABSENT, []).append(key)
    # Keyed lists keep an order (environment variables refer to earlier ones), which no ownership records.
    if len(both := items.get(True, [])) > 1:
        yield from _order(path, live, planned, both)


def _comparable(live: Any, planned: Any) -> bool:
    return (isinstance(live, Mapping) and isinstance(planned, Mapping)) or (
        isinstance(live, list) and isinstance(planned, list)
    )


def _all(path: str, live: Any, planned: Any) -> Iterator[Field]:
    """Yield what differs below a path that is ours as a whole, as close to the cause as can be."""
    if isinstance(live, Mapping) and isinstance(planned, Mapping):
        for key in [*live, *(key for key in planned if key not in live)]:
            yield from _all(path + step_label(f"f:{key}"), live.get(key, ABSENT), planned.get(key, ABSENT))
    elif isinstance(live, list) and isinstance(planned, list):
        for index in range(max(len(live), len(planned))):
            before = live[index] if index < len(live) else ABSENT
            after = planned[index] if index < len(planned) else ABSENT
            yield from _all(f"{path}[{index}]", before, after)
    # Python holds 1 and True for equal, JSON does not.
    elif type(live) is not type(planned) or live != planned:
        yield Field(path, live, planned)


def _order(path: str, live: list[Any], planned: list[Any], keys: list[str]) -> Iterator[Field]:
    """Yield one field if items that both lists hold stand in another order."""
    before = sorted(keys, key=lambda key: place(live, key))
    after = sorted(keys, key=lambda key: place(planned, key))
    if before != after:
        yield Field(f"{path} (order)", [_label(key) for key in before], [_label(key) for key in after])


def _leaves(path: str, value: Any, fields: FieldSet) -> Iterator[Field]:
    for key, below in fields.items():
        if key == ".":
            continue
        inner = child(value, key)
        if inner is ABSENT:
            continue
        # A list's item that is ours itself goes as a whole.
        if not below or (key.startswith("k:") and "." in below):
            yield Field(path + step_label(key), inner, ABSENT)
        else:
            yield from _leaves(path + step_label(key), inner, below)


def child(value: Any, key: str) -> Any:
    """Return the part of a value that one step of a field set names."""
    mark, _, name = key.partition(":")
    if mark == "f":
        return value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT
    if not isinstance(value, list):
        return ABSENT
    index = place(value, key)
    return value[index] if index >= 0 else ABSENT


def place(items: list[Any], key: str) -> int:
    """Return where in a list the item is that a step of a field set names, or -1."""
    mark, _, name = key.partition(":")
    wanted = json.loads(name)
    for index, item in enumerate(items):
        if mark == "k" and isinstance(item, Mapping):
            if all(item.get(field, DEFAULT_KEYS.get(field)) == value for field, value in wanted.items()):
                return index
        elif mark == "v" and item == wanted:
            return index
    return wanted if mark == "i" and wanted < len(items) else -1


# The one list key that a declaration may leave out (ports are keyed by containerPort or port, and protocol).
DEFAULT_KEYS = {"protocol": "TCP"}


def step_label(key: str) -> str:
    """Return one step of a field set as a person reads it in a path."""
    mark, _, name = key.partition(":")
    if mark == "f":
        plain = name.replace("-", "").replace("_", "").isalnum()
        return f".{name}" if plain else f'["{name}"]'
    return f"[{_label(key)}]"


def _label(key: str) -> str:
    mark, _, name = key.partition(":")
    wanted = json.loads(name)
    return ",".join(f"{field}={value}" for field, value in wanted.items()) if mark == "k" else str(wanted)


def _short(value: Any) -> str:
    """Return a value on one line of bearable length."""
    text = repr(value) if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
