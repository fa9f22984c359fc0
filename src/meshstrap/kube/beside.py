"""What stands in a live object beside our declaration, who holds it, and what an apply makes of it once we own it.

Pure functions. How the server merges (by key, as a set, as a whole) is not written down here: it is read off
metadata.managedFields, where `k:`, `v:` and empty trees say so for every list and mapping that anybody wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meshstrap.kube.compare import (
    DEFAULT_KEYS,
    FieldSet,
    child,
    declares,
    managed_fields,
    place,
    project,
    step_label,
    union,
    without,
)

Path = tuple[str, ...]
Holder = Literal["hand", "nobody", "program"]

# What a declaration's neighbours are not looked for in: the server's own, and what any program may add to.
_APART = ("f:apiVersion", "f:kind", "f:metadata", "f:status")


def by_hand(manager: str) -> bool:
    """Whether a field manager is a person with kubectl (edit, patch, set, scale, ...)."""
    return manager.startswith("kubectl-")


def gives_way(entry: Mapping[str, Any], manager: str) -> bool:
    """Whether what an entry of managedFields holds is a person's, or our own by other means than apply."""
    name = str(entry.get("manager"))
    return entry.get("operation") == "Update" and not entry.get("subresource") and (by_hand(name) or name == manager)


@dataclass(frozen=True)
class Holders:
    """Who holds the fields of a live object: ourselves by apply, people (and ourselves by other means), programs."""

    ours: FieldSet
    hand: FieldSet
    programs: FieldSet

    @staticmethod
    def of(live: Mapping[str, Any], manager: str, taken: Collection[Mapping[str, Any]]) -> Holders:
        """Sort an object's managedFields.

        Args:
            live: the object in the cluster.
            manager: our field manager.
            taken: entries whose fields become ours.
        """
        sorted_: dict[str, list[FieldSet]] = {"ours": [], "hand": [], "programs": []}
        for entry in managed_fields(live):
            if entry in taken or (entry.get("manager") == manager and entry.get("operation") == "Apply"):
                holder = "ours"
            elif gives_way(entry, manager):
                holder = "hand"
            else:
                holder = "programs"
            sorted_[holder].append(entry.get("fieldsV1") or {})
        return Holders(**{holder: union(sets) for holder, sets in sorted_.items()})

    @property
    def known(self) -> FieldSet:
        """All that anybody holds."""
        return union([self.ours, self.hand, self.programs])


def beside(live: Mapping[str, Any], body: Mapping[str, Any], holders: Holders) -> list[tuple[Path, Holder]]:
    """Return what a live object holds beside a declaration, each part with who holds it.

    A part is a field of a mapping that is declared, or an item of a keyed list that is declared. Where a program
    holds only some of it, it is taken apart.

    Args:
        live: the object in the cluster.
        body: the declaration.
        holders: who holds the object's fields.
    """
    parts = (part for part in _undeclared(live, body, holders.known, ()) if part[0][0] not in _APART)
    return [held for path, value in parts for held in _held(path, value, holders)]


def items_by_hand(live: Mapping[str, Any], body: Mapping[str, Any], holders: Holders) -> list[Path]:
    """Return the items that a person added to the keyed lists that we declare: a renamed container, one more port."""
    return [
        path for path, holder in beside(live, body, holders) if holder == "hand" and path[-1].startswith("k:")
    ]  # fmt: skip


def decisive_by_hand(
    live: Mapping[str, Any], body: Mapping[str, Any], holders: Holders, decides: Callable[[Path], bool]
) -> list[Path]:
    """Return what a person added beside a declaration that decides whether that does what it is for.

    Args:
        live: the object in the cluster.
        body: the declaration.
        holders: who holds the object's fields.
        decides: says of a field whether it does.
    """

    def within(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
        if decides(path):
            yield path, value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from within((*path, f"f:{key}"), inner)

    parts = [part for path, value in _undeclared(live, body, holders.known, ()) for part in within(path, value)]
    return [path for part in parts for path, holder in _held(*part, holders) if holder == "hand"]


def fields_of(paths: Iterable[Path]) -> FieldSet:
    """Return the field set that names some parts of an object, each as a whole."""
    sets = []
    for path in paths:
        fields: FieldSet = {".": {}} if path[-1].startswith("k:") else {}
        for step in reversed(path):
            fields = {step: fields}
        sets.append(fields)
    return union(sets)


def declared_fields(body: Mapping[str, Any], planned: Mapping[str, Any]) -> FieldSet:
    """Return the fields that a declaration spells out, of those that anybody holds in what is stored then."""
    return declares(body, union(entry.get("fieldsV1") or {} for entry in managed_fields(planned)))


def fields_in(live: Mapping[str, Any], path: Path) -> list[Path]:
    """Return the fields of the mapping that a path leads to; none where it leads to no mapping."""
    value: Any = live
    for step in path:
        value = child(value, step)
    return [(*path, f"f:{key}") for key in value] if isinstance(value, Mapping) else []


def managers_of(live: Mapping[str, Any], path: Path, *, person: bool) -> list[str]:
    """Return who holds a part of an object, or something in it: the people, or the programs."""
    return sorted(
        {
            str(entry.get("manager"))
            for entry in managed_fields(live)
            if by_hand(str(entry.get("manager"))) == person and _at(entry.get("fieldsV1") or {}, path) is not None
        }
    )


def spelt(path: Path) -> str:
    """Return a part's path as a person reads it."""
    return "".join(step_label(step) for step in path)


def applied(
    live: Mapping[str, Any], body: Mapping[str, Any], known: FieldSet, holders: Holders, taken_out: FieldSet
) -> dict[str, Any]:
    """Return what a server-side apply would store once some fields of others are ours and not declared.

    The server itself cannot be asked: a dry-run keeps no change of ownership for the next one.
    Source: sigs.k8s.io/structured-merge-diff v6, merge/update.go, Apply and prune.

    Args:
        live: the object in the cluster.
        body: the declaration.
        known: how lists and mappings are merged: the union of all that is held.
        holders: who holds the object's fields.
        taken_out: what becomes ours, to be dropped.
    """
    ours = union([holders.ours, taken_out])
    others = without(union([holders.hand, holders.programs]), taken_out)
    base = _dropped(live, ours, declares(body, ours), others)
    result: dict[str, Any] = _merged(base, body, known)
    return result


def _undeclared(live: Any, body: Any, known: FieldSet, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the parts of a live value that a declaration does not spell out, as large as can be."""
    if isinstance(live, Mapping) and isinstance(body, Mapping):
        for key, value in live.items():
            step = f"f:{key}"
            if key not in body:
                yield (*path, step), value
            else:
                yield from _undeclared(value, body[key], known.get(step, {}), (*path, step))
    elif isinstance(live, list) and isinstance(body, list) and (names := _key_fields(known)):
        declared = {_key(item, names): item for item in body}
        for item in live:
            step = _key(item, names)
            if step in declared:
                yield from _undeclared(item, declared[step], known.get(step, {}), (*path, step))
            else:
                yield (*path, step), item


def _held(path: Path, value: Any, holders: Holders) -> Iterator[tuple[Path, Holder]]:
    program = _at(holders.programs, path)
    if program is None:
        if _at(holders.hand, path) is not None:
            yield path, "hand"
        elif _at(holders.ours, path) is None:
            yield path, "nobody"
        return
    # An item that a program put there is the program's with all that is in it.
    if isinstance(value, Mapping) and program and "." not in program:
        for key, inner in value.items():
            yield from _held((*path, f"f:{key}"), inner, holders)
    else:
        yield path, "program"


def _at(fields: FieldSet, path: Path) -> FieldSet | None:
    """Return the part of a field set below a path; None where the path is not in it."""
    for step in path:
        if step not in fields:
            return None
        fields = fields[step]
    return fields


def _key_fields(known: FieldSet) -> tuple[str, ...]:
    """Return the fields that a list's items are told apart by; none where the list is no keyed one."""
    return next((tuple(json.loads(step[2:])) for step in known if step.startswith("k:")), ())


def _key(item: Any, names: Iterable[str]) -> str:
    """Return the step of a field set that names an item."""
    values = {name: item.get(name, DEFAULT_KEYS.get(name)) for name in names} if isinstance(item, Mapping) else item
    return "k:" + json.dumps(values, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _dropped(value: Any, ours: FieldSet, wanted: FieldSet, others: FieldSet) -> Any:
    """Return a value without what was ours and is declared no more; of that, what others hold stays."""
    if isinstance(value, Mapping):
        kept = {}
        for key, inner in value.items():
            left = _left(inner, f"f:{key}", ours, wanted, others)
            if left:
                kept[key] = left[0]
        return kept
    if isinstance(value, list):
        steps = {place(value, step): step for step in ours if step != "."}
        lefts = [
            _left(item, steps[index], ours, wanted, others) if index in steps else [item]
            for index, item in enumerate(value)
        ]
        return [item for left in lefts for item in left]
    return value


def _left(value: Any, step: str, ours: FieldSet, wanted: FieldSet, others: FieldSet) -> list[Any]:
    """Return what is left of a field or item: a list of one, or of none."""
    if step not in ours:
        return [value]
    if step in wanted:
        return [_dropped(value, ours[step], wanted[step], others.get(step, {}))]
    return [project(value, others[step])] if step in others else []


def _merged(live: Any, body: Any, known: FieldSet | None) -> Any:
    """Return a declaration merged into a live value; `known` is empty for what is owned as a whole."""
    if isinstance(live, Mapping) and isinstance(body, Mapping) and known != {}:
        inner = {
            key: _merged(live[key], value, (known or {}).get(f"f:{key}")) if key in live else value
            for key, value in body.items()
        }
        return {**live, **inner}
    if isinstance(live, list) and isinstance(body, list):
        if names := _key_fields(known or {}):
            standing = {_key(item, names): item for item in live}
            merged = {
                step: _merged(standing[step], item, (known or {}).get(step)) if step in standing else item
                for step, item in ((_key(item, names), item) for item in body)
            }
            return [*merged.values(), *(item for step, item in standing.items() if step not in merged)]
        if any(step.startswith("v:") for step in known or {}):
            return [*body, *(item for item in live if item not in body)]
    return body
