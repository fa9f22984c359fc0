"""Admission webhooks that nobody will answer: those whose Service has no Pod, and nothing that makes one.

A webhook whose Pod comes back in a moment, as after a power cut, is worth waiting for; one that is scaled to 0 is not,
and each object that it must admit would be tried until the client's patience ends.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.kube.parallel import each
from meshstrap.kube.plan import OWNER_LABEL, Plan
from meshstrap.kube.ref import Ref

# The API server's words for a webhook that it could not reach; an error of the webhook's own has others.
# Source: k8s.io/apiserver pkg/admission/plugin/webhook/errors (v0.34), ErrCallingWebhook.
SILENT = "failed to call webhook"

_CONFIGURATIONS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
_MAKERS = ("Deployment", "StatefulSet", "DaemonSet")
_Item = Mapping[str, Any]


@dataclass(frozen=True)
class Away:
    """A Service of webhooks that has no Pod and will get none.

    Attributes:
        service: its name, as `name.namespace.svc`, as the API server's refusals spell it.
        why: a sentence that says what is missing.
        owner: the set that the webhook's configuration belongs to; empty for none of ours.
        workload: what is scaled to 0; None where there is no workload at all.
        autoscaled: whether an autoscaler sets its replicas, so that no declaration does.
    """

    service: str
    why: str
    owner: str = ""
    workload: Ref | None = None
    autoscaled: bool = False


def away(client: Client) -> list[Away]:
    """List the Services of webhooks that must answer (failurePolicy Fail) and cannot, now or by waiting.

    Raises:
        KubeError: the cluster cannot be asked.
    """
    kinds = each(lambda kind: query.list(client, "admissionregistration.k8s.io/v1", kind), _CONFIGURATIONS)
    services = required(configuration for listed in kinds for configuration in listed)
    return [found for found in each(lambda service: _away(client, *service), services) if found]


def required(configurations: Iterable[_Item]) -> list[tuple[str, str, str]]:
    """List namespace, name and owner of the Services without whose answer objects are refused. Pure."""
    return sorted(
        {
            (str(service["namespace"]), str(service["name"]), _labels(configuration).get(OWNER_LABEL, ""))
            for configuration in configurations
            for webhook in configuration.get("webhooks") or ()
            if webhook.get("failurePolicy", "Fail") == "Fail"
            and (service := (webhook.get("clientConfig") or {}).get("service"))
        }
    )


def admitted(
    client: Client,
    make: Callable[[Client], Plan],
    *,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Plan, tuple[Away, ...]]:
    """Plan; wait for webhooks that come back in a moment, as after a power cut, and for no others.

    Args:
        client: the connection.
        make: makes the plan with the connection that it is given, which does not try again what waits for nobody.
        seconds: how long to wait.
        sleep: how to.
        progress: told what is waited for.

    Returns:
        The plan, and those of `away` for which the server refused one of its objects, and which the plan itself
        does not bring back.
    """
    deadline = time.monotonic() + seconds
    while True:
        gone = away(client)
        asked = copy.copy(client)
        asked.unanswered = frozenset(found.service for found in gone)
        made = make(asked)
        comes = {change.ref for change in made.pending}
        in_the_way = tuple(
            found
            for found in gone
            if found.workload not in comes and any(refused_by(found, change.error) for change in made.changes)
        )
        silent = [change for change in made.changes if SILENT in (change.error or "")]
        if in_the_way or not silent or time.monotonic() >= deadline:
            return made, in_the_way
        progress(f"{silent[0].ref}: {silent[0].error}")
        sleep(1)


def refused_by(found: Away, error: str | None) -> bool:
    """Tell whether the server's words say that it could not reach this Service. Pure."""
    return bool(error) and SILENT in str(error) and f"//{found.service}" in str(error)


def _away(client: Client, namespace: str, name: str, owner: str) -> Away | None:
    service, full = query.get(client, "v1", "Service", name, namespace), f"{name}.{namespace}.svc"
    if service is None:
        return Away(full, f"the webhook of Service {namespace}/{name} cannot answer: there is no such Service", owner)
    selector = (service.get("spec") or {}).get("selector")
    if not selector:
        return None  # Its endpoints are somebody else's business.
    labels = ",".join(f"{key}={value}" for key, value in selector.items())
    if any(map(_alive, query.list(client, "v1", "Pod", namespace, labels=labels))):
        return None
    listed = each(lambda kind: query.list(client, "apps/v1", kind, namespace), _MAKERS)
    makers = [item for items in listed for item in items if _makes(item, selector)]
    if any(item["spec"].get("replicas", 1) for item in makers):
        return None
    why = f"the webhook of Service {namespace}/{name} cannot answer"
    if not makers:
        return Away(full, f"{why}: it has no Pod, and no workload makes one", owner)
    maker = Ref.of(makers[0])
    scalers = query.list(client, "autoscaling/v2", "HorizontalPodAutoscaler", namespace)
    targets = [
        (scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"]) for scaler in scalers
    ]
    return Away(full, f"{why}: {maker} is scaled to 0", owner, maker, (maker.kind, maker.name) in targets)


def _makes(workload: _Item, selector: Mapping[str, str]) -> bool:
    return selector.items() <= _labels(workload["spec"]["template"]).items()


def _alive(pod: _Item) -> bool:
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _labels(item: _Item) -> dict[str, str]:
    return dict((item.get("metadata") or {}).get("labels") or {})
