"""What a rule gets to look at and what it says: the declared objects with ways to go through them, and a finding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.kube.ref import Ref
from meshstrap.mesh.versions import Version

Object = Mapping[str, Any]
Path = tuple[str | int, ...]

NETWORKING = "networking.istio.io"
# What kubectl takes where neither the object nor the context says otherwise.
DEFAULT_NAMESPACE = "default"

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001, "ns": 0.000000001}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s|us|ns))+")


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Args:
        rule: its short name, the same in every release.
        index: which of the objects, from 0.
        ref: the object's name.
        path: keys and indices that lead to the field.
        what: what the mesh really does with it.
        instead: what to write.
        source: where that is written, or was seen.
        other: which other object it is about as well, if any.
    """

    rule: str
    index: int
    ref: Ref
    path: Path
    what: str
    instead: str
    source: str
    other: int | None = None

    @property
    def field(self) -> str:
        """The field as the diffs name it: `.spec.http[0].route`."""
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)


@dataclass(frozen=True)
class Declared:
    """The objects that are to stand together, and the Istio that will read them."""

    objects: list[Object]
    istio: Version

    def of(self, kind: str, group: str = "") -> Iterator[tuple[int, Object]]:
        """Go through the objects of a kind, each with its index."""
        for index, item in enumerate(self.objects):
            if item["kind"] == kind and Ref.of(item).group == group:
                yield index, item

    def finding(
        self, rule: str, index: int, path: Path, what: str, instead: str, source: str, other: int | None = None
    ) -> Finding:
        """Make a finding of an object."""
        return Finding(rule, index, Ref.of(self.objects[index]), path, what, instead, source, other)

    def service(self, host: object, namespace: str) -> Object | None:
        """Find the Service that a host names.

        Args:
            host: as a VirtualService or DestinationRule has it: a short name, or one with namespace and domain.
            namespace: the namespace of the object that has it.
        """
        parts = host.split(".") if isinstance(host, str) else []
        if len(parts) > 2 and parts[2] != "svc":
            return None
        for _, item in self.of("Service"):
            if parts and [item["metadata"]["name"], namespace_of(item)] == [parts[0], (parts[1:2] or [namespace])[0]]:
                return item
        return None


def namespace_of(item: Object) -> str:
    """Give an object's namespace, or the one that it gets when it names none."""
    return str(item["metadata"].get("namespace") or DEFAULT_NAMESPACE)


def at(value: object, *path: str | int) -> Any:
    """Follow keys and indices into data of any shape; None where they lead nowhere."""
    for step in path:
        if isinstance(value, Mapping) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def items(value: object) -> list[tuple[int, Object]]:
    """List the mappings of a list, each with its index; nothing for what is no list."""
    return [(i, item) for i, item in enumerate(value) if isinstance(item, Mapping)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """List the texts of a list; nothing for what is no list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def whole(value: object) -> int | None:
    """Read a whole number; None for anything else, which the API server refuses by its schema."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def seconds(value: object) -> float | None:
    """Read a duration such as `1m30s` or `500ms`; None for what is none."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)(h|ms|m|s|us|ns)", value))
