"""The name of one cluster object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override


@dataclass(frozen=True, order=True)
class Ref:
    """Which object: apiVersion, kind, namespace (empty for cluster-scoped ones) and name."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @override
    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)

    @property
    def group(self) -> str:
        """API group, empty for the core one."""
        return self.api_version.rpartition("/")[0]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What stays the same when the object is spelled in another version of its group."""
        return (self.group, self.kind, self.namespace, self.name)

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Ref:
        """Return the name that an object carries."""
        metadata = item["metadata"]
        return cls(item["apiVersion"], item["kind"], metadata.get("namespace") or "", metadata["name"])
