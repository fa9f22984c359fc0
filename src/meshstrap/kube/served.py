"""Where each declared object is served: by the cluster as it is, or by the definitions that are declared with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import UnknownKind
from meshstrap.kube.ref import Ref

# By group and kind: the versions that a declared definition serves, each with its resource.
Defined = Mapping[tuple[str, str], Mapping[str, Resource]]


def defined_kinds(objects: Sequence[Mapping[str, Any]]) -> Defined:
    """Return the kinds that CustomResourceDefinitions among some objects bring, in the versions that they serve."""
    defined: dict[tuple[str, str], dict[str, Resource]] = {}
    for item in objects:
        if item["kind"] == "CustomResourceDefinition":
            spec = item.get("spec") or {}
            names = spec.get("names") or {}
            kind = str(names.get("kind"))
            defined[str(spec.get("group")), kind] = {
                api_version: Resource(api_version, kind, str(names.get("plural")), spec.get("scope") == "Namespaced")
                for version in spec.get("versions") or ()
                if version.get("served", True)
                for api_version in (f"{spec.get('group')}/{version.get('name')}",)
            }
    return defined


def target(
    client: Client, item: Mapping[str, Any], defined: Defined, namespace: str
) -> tuple[Ref, Resource | None, bool]:
    """Return an object's full name, where it is served (None: nowhere), and whether it is served already."""
    ref = Ref.of(item)
    brought = defined.get((ref.group, ref.kind))
    # What the definition serves no longer will be gone when the object is sent.
    if brought is not None and ref.api_version not in brought:
        return ref, None, False
    try:
        resource, known = client.resource(ref.api_version, ref.kind), True
    except UnknownKind:
        if brought is None:
            return ref, None, False
        resource, known = brought[ref.api_version], False
    if not resource.namespaced:
        ref = replace(ref, namespace="")
    elif not ref.namespace:
        ref = replace(ref, namespace=namespace)
    return ref, resource, known


def misplaced(ref: Ref, defined: Defined, versions: Mapping[str, Iterable[str]]) -> str:
    """Say why nothing that may come yet will serve an object as it is declared; empty where something may.

    Args:
        ref: an object whose kind is not served in its apiVersion.
        defined: from `defined_kinds`.
        versions: from `Client.versions`.
    """
    brought = defined.get((ref.group, ref.kind))
    if brought is not None:
        if ref.api_version in brought:
            return ""
        return f"its CustomResourceDefinition, declared with it, serves {_instead(ref, list(brought))}"
    everywhere = list(versions.get(ref.kind, ()))
    same = [api_version for api_version in everywhere if api_version.rpartition("/")[0] == ref.group]
    # A definition's group has a dot in it: what is in a group without one only Kubernetes itself can serve.
    # Source: k8s.io/apiextensions-apiserver pkg/apis/apiextensions/validation (v0.34).
    if same or ("." not in ref.group and everywhere):
        return f"the cluster serves {_instead(ref, same or everywhere)}"
    if "." not in ref.group:
        return f"this version of Kubernetes serves no {ref.kind} as {ref.api_version}, nor as anything else"
    return ""


def _instead(ref: Ref, versions: Sequence[str]) -> str:
    if not versions:
        return f"no version of {ref.kind}"
    return f"{ref.kind} as {', '.join(versions)}, not as {ref.api_version}; write apiVersion: {versions[0]}"
