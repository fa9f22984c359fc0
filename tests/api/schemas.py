"""What the API server's OpenAPI documents say of kinds: their keyed lists, and values that fit their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshstrap.kube.connect import Client

Schema = Mapping[str, Any]
Place = tuple[str | int, ...]


class Document:
    """The OpenAPI document of one apiVersion."""

    def __init__(self, client: Client, api_version: str) -> None:
        root = "apis" if "/" in api_version else "api"
        self.schemas: dict[str, Schema] = client.request("GET", f"/openapi/v3/{root}/{api_version}")["components"][
            "schemas"
        ]
        self.api_version = api_version

    def kind(self, kind: str) -> tuple[str, Schema]:
        """Return the name and the schema of a kind."""
        group, _, version = self.api_version.rpartition("/")
        wanted = {"group": group, "version": version, "kind": kind}
        return next(
            (name, schema)
            for name, schema in self.schemas.items()
            if wanted in schema.get("x-kubernetes-group-version-kind", [])
        )

    def resolved(self, name: str, schema: Schema) -> tuple[str, Schema]:
        """Follow a reference; `name` is kept for what has no name of its own."""
        reference = (schema.get("allOf") or [schema])[0].get("$ref")
        if reference is None:
            return name, schema
        target = reference.rpartition("/")[2]
        return target.rpartition(".")[2], self.schemas[target]

    def keyed_lists(self) -> set[tuple[str, str]]:
        """Return every keyed list that people can declare, by the name of its struct and its field."""
        return {
            (name.rpartition(".")[2], field)
            for name, schema in self.schemas.items()
            for field, value in (schema.get("properties") or {}).items()
            if value.get("x-kubernetes-list-type") == "map"
        }

    def walk(
        self, value: Any, name: str, schema: Schema, place: Place = ()
    ) -> Iterator[tuple[Place, Any, str, Schema]]:
        """Yield every mapping and list in an object: place, value, name of its struct (and field), schema."""
        name, schema = self.resolved(name, schema)
        if isinstance(value, Mapping) and schema.get("x-kubernetes-map-type") != "atomic":
            yield place, value, name, schema
            for key, inner in value.items():
                if key in (schema.get("properties") or {}) and (place or key not in ("metadata", "status")):
                    yield from self.walk(inner, f"{name}.{key}", schema["properties"][key], (*place, key))
        elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "map":
            yield place, value, name, schema
            for index, inner in enumerate(value):
                yield from self.walk(inner, name, schema["items"], (*place, index))

    def examples(self, schema: Schema) -> list[Any]:
        """Return values that may fit a field: with what is required alone, with some more, with one mapping in it."""
        found = [self._example(schema, more=False), self._example(schema, more=True)]
        for key, inner in (self.resolved("", schema)[1].get("properties") or {}).items():
            example = self._example(inner, more=False)
            if isinstance(example, dict):
                found.append({key: example})
        return [example for index, example in enumerate(found) if example not in found[:index]]

    def _example(self, schema: Schema, *, more: bool) -> Any:
        _, schema = self.resolved("", schema)
        if schema.get("enum"):
            return next(value for value in schema["enum"] if value)
        kind = schema.get("type")
        if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string") or kind == "integer":
            return 1
        if kind == "boolean":
            return True
        if kind == "array":
            return [self._example(schema["items"], more=False)] if more else []
        if kind == "object" or "properties" in schema:
            plain = ("string", "array", "integer")
            return {
                key: self._example(inner, more=more)
                for key, inner in (schema.get("properties") or {}).items()
                if key in schema.get("required", ()) or (more and inner.get("type") in plain)
            }
        return "1" if "oneOf" in schema else "a"
