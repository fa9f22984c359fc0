"""What stands in the way of a declaration: the other member of a union, the same port under another key.

The API server publishes no list of its unions (its OpenAPI document marks two), so its own answer is the rule: where it
refuses our apply, and takes what the apply would store without some fields that we do not declare, those fields
stand in the way. As few as can be are looked for, a person's first, then what the server itself filled in, last
what programs hold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshstrap.kube.beside import (
    Holder,
    Holders,
    Path,
    applied,
    beside,
    decisive_by_hand,
    declared_fields,
    fields_in,
    fields_of,
    gives_way,
    items_by_hand,
)
from meshstrap.kube.compare import FieldSet, managed_fields, union
from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import ApiError
from meshstrap.kube.ref import Ref

# Whose fields are tried to be taken out, in this order.
_ORDER: tuple[tuple[Holder, ...], ...] = ((), ("hand",), ("nobody",), ("hand", "nobody"), ("hand", "nobody", "program"))

# Refusals that are not about what stands beside the declaration: a webhook is away, a field is none of the schema.
_OTHER = ("failed to call webhook", "failed to create typed patch object")


@dataclass(frozen=True)
class Clearing:
    """What is taken out of a live object so that our declaration fits, and what the server stores then."""

    paths: tuple[Path, ...]
    programs: tuple[Path, ...]
    planned: dict[str, Any]

    @property
    def taken_out(self) -> FieldSet:
        """The same as a field set."""
        return fields_of(self.paths)


def in_the_way(error: ApiError) -> bool:
    """Whether a refusal of an apply may be for what stands beside the declaration."""
    return error.status in (400, 422, 500) and not error.immutable and not any(word in error.message for word in _OTHER)


def clearing(
    client: Client,
    resource: Resource,
    ref: Ref,
    live: Mapping[str, Any],
    body: Mapping[str, Any],
    manager: str,
    taken: Collection[Mapping[str, Any]],
    *,
    refused: bool,
    decides: Callable[[Path], bool],
) -> Clearing | None:
    """Find out what has to be taken out of a live object, and what is stored then; changes nothing.

    What a person added to a keyed list that we declare, or to fields that decide, is taken out in any case.

    Args:
        client: the connection.
        resource: the object's kind.
        ref: the object.
        live: the object in the cluster.
        body: the declaration, as it is sent.
        manager: our field manager.
        taken: entries of its managedFields whose fields become ours.
        refused: whether the server refuses the declaration beside what stands.
        decides: says of a field whether nothing but our declaration may set it.

    Returns None where nothing is to be taken out, or nothing helps.
    """
    # Most objects are as declared, and nobody's hand was on them.
    if not refused and not any(gives_way(entry, manager) for entry in managed_fields(live)):
        return None
    holders = Holders.of(live, manager, taken)
    strays = [*items_by_hand(live, body, holders), *decisive_by_hand(live, body, holders, decides)]
    if not strays and not refused:
        return None
    attempt = _Attempt(client, resource, ref, live, body, manager, holders)
    while True:
        known = attempt.known
        found = _search(attempt, strays)
        if found is None or attempt.known == known:
            break
        # The answer told more of how lists and mappings are merged than the live object did: once more with that.
    if found is None or (planned := attempt.stored(found)) is None:
        return None
    planned["metadata"]["managedFields"] = [
        {"manager": manager, "operation": "Apply", "fieldsV1": declared_fields(body, planned)}
    ]
    programs = {path for path, holder in beside(live, body, holders) if holder == "program"}
    return Clearing(tuple(found), tuple(path for path in found if path in programs), planned)


class _Attempt:
    """Dry-runs of what an apply would store with some parts of others taken out."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        ref: Ref,
        live: Mapping[str, Any],
        body: Mapping[str, Any],
        manager: str,
        holders: Holders,
    ) -> None:
        self._client, self._path, self._manager = client, resource.path(ref.namespace, ref.name), manager
        self.live, self.body, self.holders = live, body, holders
        self.known = holders.known

    def stored(self, paths: Sequence[Path]) -> dict[str, Any] | None:
        """Return what the server would store, or None where it refuses."""
        wanted = applied(self.live, self.body, self.known, self.holders, fields_of(paths))
        query = {"dryRun": "All", "fieldManager": self._manager, "fieldValidation": "Strict"}
        try:
            answer: dict[str, Any] = self._client.request("PUT", self._path, query=query, body=wanted)
        except ApiError:
            return None
        known = union([self.known, *(entry.get("fieldsV1") or {} for entry in managed_fields(answer))])
        if applied(self.live, self.body, known, self.holders, fields_of(paths)) != wanted:
            self.known = known
        return answer


def _search(attempt: _Attempt, always: list[Path]) -> list[Path] | None:
    """Return as few parts as can be, besides those that are taken out always; None where nothing helps."""
    parts = [part for part in beside(attempt.live, attempt.body, attempt.holders) if part[0] not in always]
    tried: list[list[Path]] = []
    for holders in _ORDER:
        chosen = [path for path, holder in parts if holder in holders]
        if chosen not in tried and attempt.stored([*always, *chosen]) is not None:
            return _finer(attempt, always, _fewest(attempt, always, chosen, changed=False))
        tried.append(chosen)
    return None


def _finer(attempt: _Attempt, always: list[Path], paths: list[Path]) -> list[Path]:
    """Return the parts with those narrowed down of which only some fields are in the way: one key of a ConfigMap."""
    found = list(always)
    for number, path in enumerate(paths):
        rest = found + paths[number + 1 :]
        inner = fields_in(attempt.live, path)
        if len(inner) > 1 and attempt.stored(rest + inner) is not None:
            fewest = _fewest(attempt, rest, inner, changed=False)
            found += fewest if len(fewest) < len(inner) else [path]
        else:
            found.append(path)
    return found


def _fewest(attempt: _Attempt, fixed: list[Path], parts: list[Path], *, changed: bool) -> list[Path]:
    """Return the fewest of some parts that have to go besides the fixed ones, if all together are enough.

    Source: U. Junker, QuickXplain (AAAI 2004): few questions where few of many parts matter.
    """
    if changed and attempt.stored(fixed) is not None:
        return []
    if len(parts) <= 1:
        return parts
    half = len(parts) // 2
    one, two = parts[:half], parts[half:]
    of_two = _fewest(attempt, fixed + one, two, changed=True)
    of_one = _fewest(attempt, fixed + of_two, one, changed=bool(of_two))
    return of_one + of_two
