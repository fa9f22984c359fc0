"""Which pods Istio's injector gives a sidecar, and of which revision: the one reader of labels and annotations for it.

Sources: istio/istio pkg/kube/inject/inject.go `injectRequired`, and the selectors of the webhooks in
manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml and revision-tags.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshstrap.mesh import revision as revisions

INJECT = "sidecar.istio.io/inject"
REVISION = "istio.io/rev"
TAG = "istio.io/tag"

_YES = frozenset({"y", "yes", "true", "on"})


def says(metadata: Mapping[str, Any]) -> bool | None:
    """Tell what a pod, or a pod's template, itself says of its sidecar; None where it says nothing.

    The label goes before the annotation. Of both, only `y`, `yes`, `true` and `on` ask for a sidecar, in any case of
    letters, and an empty text says nothing; every other text refuses it.

    Args:
        metadata: the pod's or template's metadata.
    """
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    said = str(labels[INJECT] if INJECT in labels else annotations.get(INJECT, ""))
    return None if said == "" else said.lower() in _YES


def wanted(item: Mapping[str, Any], revision: str) -> str:
    """Tell of which revision, or tag, a pod gets a sidecar when it is made; empty for none.

    Args:
        item: the Pod.
        revision: what its namespace asks for; empty where it does not ask.
    """
    labels = item["metadata"].get("labels") or {}
    if item["spec"].get("hostNetwork") or says(item["metadata"]) is False:
        return ""
    if revision:
        return revision
    # Without a namespace's label, the webhooks select pods by their own labels, and by these texts alone.
    if REVISION in labels:
        return str(labels[REVISION])
    return revisions.DEFAULT if labels.get(INJECT) == "true" else ""


def refusal(pod: Mapping[str, Any]) -> str:
    """Say by what a pod refuses its sidecar, and whose template says so; empty where it does not refuse.

    Args:
        pod: the Pod.
    """
    metadata = pod["metadata"]
    if says(metadata) is False:
        kind = "label" if INJECT in (metadata.get("labels") or {}) else "annotation"
        what = f'{kind} {INJECT}: "{metadata[f"{kind}s"][INJECT]}"'
    elif pod["spec"].get("hostNetwork"):
        what = "hostNetwork: true"
    else:
        return ""
    return f"{what} of {_template(metadata)}"


def unproxied(pod: Mapping[str, Any], deploy: str) -> str:
    """Say of a pod without a sidecar why it has none, and what to do.

    Args:
        pod: the Pod.
        deploy: the deploy that declares it, for people.
    """
    metadata = pod["metadata"]
    begin = f"pod {metadata['namespace']}/{metadata['name']} has no sidecar, so no rule of the mesh holds for it"
    if said := refusal(pod):
        return f"{begin}: {said} switches it off; {deploy} takes out what kubectl put there"
    return f"{begin}; label the namespace and restart it (deploys/injection.py)"


def _template(metadata: Mapping[str, Any]) -> str:
    """Name whose template a pod is made from: by its ReplicaSet's name, that has the template's hash at its end."""
    owner = next((each for each in metadata.get("ownerReferences") or [] if each.get("controller")), None)
    if owner is None:
        return "the pod itself"
    if owner["kind"] != "ReplicaSet":
        return f"the pod template of {owner['kind']} {owner['name']}"
    end = f"-{(metadata.get('labels') or {}).get('pod-template-hash', '')}"
    return f"the pod template of Deployment {owner['name'].removesuffix(end)}"


def tags(webhooks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Read to which revision each revision tag points.

    Args:
        webhooks: MutatingWebhookConfigurations of injectors.
    """
    found = [item["metadata"].get("labels") or {} for item in webhooks]
    return {labels[TAG]: labels[REVISION] for labels in found if TAG in labels and REVISION in labels}
