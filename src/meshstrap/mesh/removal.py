"""What of a cluster is Istio's, how a version of it is taken off, and whose objects would go with it. Pure.

`istioctl uninstall` finds by the labels that `istioctl install` puts; what was rendered by `manifest generate` lacks
some of them, and of what istiod makes itself (ConfigMaps in every namespace) it knows nothing. So its command is run
for what other installers left, and what stands afterwards is found by the rules here.
Source: istio/istio operator/pkg/uninstall/prune.go, `GetPrunedResources`.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from meshstrap.mesh import gateway, versions

Object = Mapping[str, Any]

# The kinds that Istio has outside of namespaces; what is in its own namespace goes with that.
CLUSTER_KINDS = (
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
)
# What istiod puts into every namespace for the sidecars there.
# Source: istio/istio pilot/pkg/serviceregistry/kube/controller/namespacecontroller.go.
CONFIG_MAPS_LABEL = "istio.io/config=true"
CONFIG_MAPS = ("istio-ca-crl", "istio-ca-root-cert")

OWNER_LABEL = "meshstrap.dev/owner"
_GROUPS = (".istio.io",)
_APPS = ("istiod", "istio-reader", "sidecar-injector")


def command(version: str, revision: str | None) -> list[str]:
    """Give the arguments by which a version's istioctl takes Istio off a cluster.

    Source: `uninstall` is a command of its own from 1.15.0 (istioctl/cmd/root.go); `experimental uninstall` went with
    1.19 (release note 45640). `--purge` takes CustomResourceDefinitions too, `--revision` keeps what it calls base.

    Args:
        version: istioctl's.
        revision: which control plane; None for all of them, and CustomResourceDefinitions.
    """
    verb = ["uninstall"] if versions.parse(version) >= (1, 15) else ["experimental", "uninstall"]
    return [*verb, *(["--purge"] if revision is None else ["--revision", revision]), "--skip-confirmation"]


def is_istios(item: Object) -> bool:
    """Tell whether an object of the cluster's own is part of Istio's installation, by any of its installers."""
    labels = item["metadata"].get("labels") or {}
    return bool(
        "operator.istio.io/component" in labels
        or labels.get("app.kubernetes.io/part-of") == "istio"
        or labels.get("app") in _APPS
        or (item["kind"].endswith("WebhookConfiguration") and "istio.io/rev" in labels)
    )


def is_istios_kind(definition: Object) -> bool:
    """Tell whether a CustomResourceDefinition defines one of Istio's kinds."""
    return str(definition["spec"]["group"]).endswith(_GROUPS)


def revisions(items: Iterable[Object]) -> list[str]:
    """List the revisions that Deployments of istiod, or injectors' webhooks, are of."""
    found = {(item["metadata"].get("labels") or {}).get("istio.io/rev") for item in items}
    return sorted(revision for revision in found if revision)


def needs_injector(pod: Object) -> str:
    """Say why a pod cannot live without Istio; empty when it can.

    A gateway by injection has no program of its own: its image is `auto`, which the injector replaces.
    Source: istio/istio pkg/kube/inject/template.go, `autoImage`.
    """
    template = (pod["metadata"].get("annotations") or {}).get("inject.istio.io/templates", "")
    if "gateway" in template.split(","):
        return "is a gateway that Istio's injector makes, and nothing without it"
    return ""


def foreign(items: Iterable[Object], discard: Collection[str]) -> list[str]:
    """Name objects of others that would go, leaving out those in namespaces that may.

    Args:
        items: objects that would go.
        discard: namespaces whose objects the operator gives up, by name.
    """
    return sorted(
        f"{item['kind']}/{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
        for item in items
        if OWNER_LABEL not in (item["metadata"].get("labels") or {})
        and item["metadata"].get("namespace") not in discard
        and not is_istios(item)
    )


def shell(istioctl: str, kubeconfig: str, arguments: Iterable[str]) -> str:
    """Give the shell's line that runs istioctl on a control plane node."""
    return f"KUBECONFIG={shlex.quote(kubeconfig)} exec {shlex.join([istioctl, *arguments])}"


def injected(labels: Mapping[str, str]) -> list[str]:
    """List the labels of a namespace that decide on injection."""
    return [key for key in ("istio-injection", "istio.io/rev") if key in labels]


def bearing_sidecar(pod: Object) -> str:
    """Complain of a pod that has a sidecar."""
    return "loses its sidecar" if gateway.has_sidecar(pod) else ""
