"""What the cluster's own programs keep writing into objects that others declare: CA bundles, and a webhook's policy.

istiod, cert-manager's injector and the like write a caBundle, and istiod flips a webhook's failurePolicy once it is up.
To declare them still would be a conflict, or drift for ever.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from typing import Any

from meshstrap.kube.compare import FieldSet, managed_fields

_WEBHOOK_KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")

# Where the other kinds that name a server by its CA have its certificate.
_BUNDLES = {
    "APIService": ("spec",),
    "CustomResourceDefinition": ("spec", "conversion", "webhook", "clientConfig"),
}

# Annotations and labels by which an object asks to have it written. Sources: cert-manager.io, CA Injector; istio/istio
# pkg/webhooks (1.31), which takes webhooks by the label of their revision; OpenShift's service CA operator.
_ASKED = (
    "cert-manager.io/inject-ca-from",
    "cert-manager.io/inject-ca-from-secret",
    "cert-manager.io/inject-apiserver-ca",
    "istio.io/rev",
    "service.beta.openshift.io/inject-cabundle",
)


def without_injected(body: dict[str, Any], live: Mapping[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """Return a declaration without what a program of the cluster has written into the live object.

    A program is whoever holds the field beside us. What kubectl has written is a person's, unless the object asks
    (by an annotation or label) to have it written. A field that is ours alone stays declared.

    Args:
        body: the declaration; not altered.
        live: the object in the cluster.
        ours: field managers whose fields are ours, or become so.
    """
    asked = any(key in (body["metadata"].get(part) or {}) for part in ("annotations", "labels") for key in _ASKED)
    held = [
        entry.get("fieldsV1") or {}
        for entry in managed_fields(live)
        if entry.get("manager") not in ours and (asked or not str(entry.get("manager")).startswith("kubectl"))
    ]
    if body["kind"] in _WEBHOOK_KINDS:
        return _webhooks_without(body, held)
    path = _BUNDLES.get(body["kind"])
    if path and any(_holds(fields, (*path, "caBundle")) for fields in held):
        body = copy.deepcopy(body)
        inner: Any = body
        for step in path:
            inner = inner.get(step) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop("caBundle", None)
    return body


def injected(fields: FieldSet) -> FieldSet:
    """Return the part of what a manager holds in an object that is for programs to write, whoever declares the rest."""
    found: FieldSet = {}
    for key, below in fields.get("f:webhooks", {}).items():
        if key.startswith("k:"):
            bundle: FieldSet = (
                {"f:clientConfig": {"f:caBundle": {}}} if _holds(below, ("clientConfig", "caBundle")) else {}
            )
            policy: FieldSet = {"f:failurePolicy": {}} if _holds(below, ("failurePolicy",)) else {}
            if bundle or policy:
                found.setdefault("f:webhooks", {})[key] = {**bundle, **policy}
    return found


def _holds(fields: FieldSet, path: Collection[str]) -> bool:
    for step in path:
        if f"f:{step}" not in fields:
            return False
        fields = fields[f"f:{step}"]
    return True


def _webhooks_without(body: dict[str, Any], held: Collection[FieldSet]) -> dict[str, Any]:
    names: dict[str, set[str]] = {}
    for fields in held:
        for key, below in fields.get("f:webhooks", {}).items():
            if key.startswith("k:"):
                found = names.setdefault(json.loads(key[2:]).get("name", ""), set())
                found |= {"caBundle"} if _holds(below, ("clientConfig", "caBundle")) else set()
                found |= {"failurePolicy"} if _holds(below, ("failurePolicy",)) else set()
    webhooks = copy.deepcopy(body.get("webhooks") or [])
    for webhook in webhooks:
        found = names.get(str(webhook.get("name")), set())
        if "caBundle" in found:
            (webhook.get("clientConfig") or {}).pop("caBundle", None)
        if "failurePolicy" in found:
            webhook.pop("failurePolicy", None)
    return {**body, "webhooks": webhooks} if "webhooks" in body else body
