"""Manage sidecar injection by namespace, and prove it by the pods.

A label decides only on pods that are made after it: what runs keeps or lacks its sidecar until it is restarted. So the
pods are looked at, their workloads restarted where need be, and looked at again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host

from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import KubeError
from meshstrap.kube.ref import Ref
from meshstrap.kube.wait import wait as wait_for
from meshstrap.mesh import gateway, injector
from meshstrap.mesh import revision as revision_names
from meshstrap.operations import api_server, k8s, progress
from meshstrap.operations.failure import executing, failure

Object = Mapping[str, Any]

# Istio's injector passes these over whatever their labels say; its own namespace holds what it needs to start.
NEVER = ("kube-node-lease", "kube-public", "kube-system", gateway.NAMESPACE)

# YAML 1.1 and people write these for True and False; as names of revisions they would be labels that do nothing.
_WORDS_FOR_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "y", "n")

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MERGE_PATCH = "application/merge-patch+json"
_RESTARTED = "kubectl.kubernetes.io/restartedAt"
_ROLLED = ("DaemonSet", "Deployment", "StatefulSet")
_SECONDS = 300.0
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class Concerned:
    """Whom a change of sidecars concerns: workloads to restart, pods nobody can restart, and Jobs' pods at work."""

    restart: dict[Ref, str]
    stuck: dict[str, str]
    jobs: dict[str, str]


@dataclass(frozen=True)
class Namespace:
    """What a namespace needs: label changes (None removes), workloads to restart, and pods nobody can restart."""

    name: str
    exists: bool
    labels: dict[str, str | None]
    restart: dict[Ref, str]
    stuck: dict[str, str]

    @property
    def changes(self) -> bool:
        """Whether there is something to do."""
        return bool(self.labels or self.restart)


def namespaces(
    injection: Mapping[str, bool | str], *, revision: str = revision_names.DEFAULT, **arguments: Any
) -> OperationMeta:
    """Switch injection on or off by namespace, restart what it concerns, prove it. Runs on a control plane node.

    + injection: for each namespace True (the site's revision), False, or the name of a revision
    + revision: the site's revision of Istio; `default` is labelled `istio-injection=enabled`, others `istio.io/rev`

    **Example:**

    .. code:: python

        injection.namespaces({"default": True, "legacy": False}, name="Sidecars by namespace")
    """
    if not isinstance(injection, Mapping):
        raise OperationValueError(f"injection must name namespaces, as in {{'default': True}}, not {injection!r}")
    _check_revision("istio_revision", revision)
    for namespace, wanted in injection.items():
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
            raise OperationValueError(f"injection: {namespace!r} is no name of a namespace")
        if namespace in NEVER:
            raise OperationValueError(f"injection: Istio injects nothing in {namespace}; leave it out")
        if not isinstance(wanted, bool | str) or wanted == "":
            raise OperationValueError(
                f"injection: {namespace} must be True, False or the name of a revision, not {wanted!r}"
            )
        if isinstance(wanted, str) and wanted.lower() in _WORDS_FOR_BOOLEANS:
            raise OperationValueError(f"injection: {namespace} must be True or False, not the text {wanted!r}")
        if isinstance(wanted, str):
            _check_revision(f"injection: {namespace}", wanted)
    revisions = {
        namespace: revision if wanted is True else wanted or "" for namespace, wanted in sorted(injection.items())
    }
    return _namespaces(revisions=revisions, **arguments)


@operation()
def _namespaces(*, revisions: Mapping[str, str]) -> Generator[PyinfraCommand, None, None]:
    try:
        client = api_server.client(host)
        standing = webhooks(client)
        absent = sorted({revision for revision in revisions.values() if revision} - injectors(standing))
        if absent and executing():
            yield failure(
                f"no injector of Istio revision {', '.join(absent)} is in the cluster, so a label would do nothing; "
                "run deploys/istio.py, or name a revision that is there"
            )
            return
        pointed = injector.tags(standing)
        found = [look(client, namespace, revision, pointed) for namespace, revision in revisions.items()]
    except k8s.ERRORS as error:
        yield k8s.unplanned(error)
        return
    for each in found:
        show(each)
    if any(each.changes for each in found):
        yield k8s.command(lambda: make_so(client, found, revisions))
    elif stuck := stuck_words(found):
        yield failure(stuck)
    else:
        host.noop("every pod has its sidecar, or none, as declared")


def _check_revision(key: str, value: object) -> None:
    try:
        revision_names.check(value)
    except ValueError as error:
        raise OperationValueError(f"{key} {error}") from None


def label_changes(labels: Mapping[str, str], revision: str) -> dict[str, str | None]:
    """Tell how a namespace's labels must change so that exactly one, or none, decides on injection.

    Args:
        labels: the namespace's labels.
        revision: the wanted revision; empty for no injection.

    Returns:
        New values by key, None for a label to remove; empty when nothing is to change.

    """
    wanted = revision_names.injection_labels(revision)
    return {key: value for key, value in wanted.items() if labels.get(key) != value}


def complaint(pod: Object, revision: str, tags: Mapping[str, str] = MappingProxyType({})) -> str:
    """Say in what a pod is not as the namespace's injection wants it; empty when it is.

    Args:
        pod: the Pod.
        revision: the revision, or revision tag, that its namespace is to ask for; empty for none.
        tags: to which revision each tag points: a sidecar tells its revision, never the tag.

    """
    asked, has = injector.wanted(pod, revision), gateway.has_sidecar(pod)
    wanted = tags.get(asked, asked)
    if wanted and not has:
        return "lacks its sidecar"
    if has and not wanted:
        return "should lose its sidecar"
    held = revision_of(pod)
    if has and held and held != wanted:
        return f"has a sidecar of revision {held}, not {wanted}"
    return ""


def revision_of(pod: Object) -> str:
    """Tell which revision's injector gave a pod its sidecar; empty where it does not say."""
    status = pod["metadata"].get("annotations", {}).get("sidecar.istio.io/status", "{}")
    try:
        return str(json.loads(status).get("revision", ""))
    except ValueError:
        return ""


def webhooks(client: Client) -> list[dict[str, Any]]:
    """List the injectors' MutatingWebhookConfigurations, those of revision tags among them."""
    kind = ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")
    return query.list(client, *kind, labels="app=sidecar-injector")


def injectors(webhooks: Iterable[Object]) -> set[str]:
    """Name the revisions, and tags of revisions, that an injector answers for."""
    labels = [item["metadata"].get("labels") or {} for item in webhooks]
    return {each[key] for each in labels for key in (injector.REVISION, injector.TAG) if key in each}


def look(client: Client, name: str, revision: str, tags: Mapping[str, str]) -> Namespace:
    """Tell what a namespace needs so that its pods have a revision's sidecar.

    Args:
        client: connection to the cluster.
        name: the namespace's.
        revision: the revision, or revision tag; empty for no sidecars.
        tags: to which revision each tag points.

    """
    namespace = query.get(client, "v1", "Namespace", name)
    if namespace is None:
        return Namespace(name, False, label_changes({}, revision), {}, {})
    found = concerned(client, name, lambda pod: complaint(pod, revision, tags))
    labels = label_changes(namespace["metadata"].get("labels", {}), revision)
    # A Job's pod ends by itself; the next one is made as the label says.
    return Namespace(name, True, labels, found.restart, found.stuck)


def concerned(client: Client, namespace: str | None, complain: Callable[[Object], str]) -> Concerned:
    """Find the workloads whose pods are not as wanted, and the pods that no workload makes anew.

    Args:
        client: connection to the cluster.
        namespace: where to look; None for all of them but Istio's own and those that Istio never injects into.
        complain: says of a pod in what it is not as wanted; empty when it is.

    """
    pods = [pod for pod in query.list(client, "v1", "Pod", namespace) if _runs(pod)]
    wrong = [(pod, complain(pod)) for pod in pods if namespace or pod["metadata"]["namespace"] not in NEVER]
    wrong = [(pod, said) for pod, said in wrong if said]
    found = Concerned({}, {}, {})
    if not wrong:
        return found
    sets = {item["metadata"]["uid"]: item for item in query.list(client, "apps/v1", "ReplicaSet", namespace)}
    for pod, said in wrong:
        name, where = pod["metadata"]["name"], pod["metadata"]["namespace"]
        owner = _controller(pod)
        if owner and owner["kind"] == "ReplicaSet" and owner["uid"] in sets:
            owner = _controller(sets[owner["uid"]])
        if owner and owner["kind"] in _ROLLED:
            found.restart[Ref(owner["apiVersion"], owner["kind"], where, owner["name"])] = f"Pod {name} {said}"
        elif owner and owner["kind"] == "Job":
            found.jobs[f"Pod {where}/{name}"] = f"of Job {owner['name']} is at work and {said}"
        else:
            found.stuck[f"Pod {where}/{name}"] = said
    return Concerned(dict(sorted(found.restart.items())), found.stuck, found.jobs)


def _runs(pod: Object) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _controller(item: Object) -> Mapping[str, Any] | None:
    owners = item["metadata"].get("ownerReferences", [])
    return next((owner for owner in owners if owner.get("controller")), None)


def show(each: Namespace) -> None:
    """List what a namespace's injection changes."""
    if each.labels and (each.exists or any(each.labels.values())):
        host.log(f"{'configured' if each.exists else 'created':<11} Namespace/{each.name}")
        for key, value in each.labels.items():
            host.log(f"{'':<11}   label {key}: {'removed' if value is None else value}")
    for ref, said in each.restart.items():
        host.log(f"restarted   {ref} ({said})")
    for pod, said in each.stuck.items():
        host.log(f"{pod} {said}, and no workload makes it anew", logger.warning)


def stuck_words(found: Iterable[Namespace | Concerned]) -> str:
    """Say which pods nobody makes anew; empty for none."""
    return "\n".join(
        f"{pod} {said}; no Deployment, StatefulSet or DaemonSet makes it: delete it and make it anew"
        for each in found
        for pod, said in each.stuck.items()
    )


def make_so(client: Client, found: Iterable[Namespace], revisions: Mapping[str, str]) -> None:
    """Set the labels, restart what they concern, and prove it by the pods.

    Raises:
        KubeError: a workload is not ready in time, or a pod is not as wanted.

    """
    restarted: list[Ref] = []
    for each in found:
        _label(client, each)
        restarted += each.restart
    restart(client, restarted)
    _prove(client, revisions)


def label(client: Client, namespace: str, labels: Mapping[str, str | None]) -> None:
    """Set labels of a namespace that is there; None removes one."""
    path = client.resource("v1", "Namespace").path(None, namespace)
    patch = {"metadata": {"labels": labels}}
    client.request("PATCH", path, body=patch, content_type=_MERGE_PATCH, query={"fieldManager": "meshstrap"})


def _label(client: Client, each: Namespace) -> None:
    if not each.labels:
        return
    if each.exists:
        label(client, each.name, each.labels)
    elif any(each.labels.values()):
        labels = {key: value for key, value in each.labels.items() if value}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": each.name, "labels": labels}}
        client.request("POST", client.resource("v1", "Namespace").path(), body=body)


def immovable(client: Client, workloads: Iterable[Ref]) -> dict[Ref, str]:
    """Say of workloads why a restart would not replace their pods; those that it would are left out."""
    found = {}
    for ref in workloads:
        spec = (query.get(client, ref.api_version, ref.kind, ref.name, ref.namespace) or {}).get("spec", {})
        if spec.get("paused"):
            found[ref] = "is paused (kubectl rollout resume)"
        elif spec.get("updateStrategy", {}).get("type") == "OnDelete":
            found[ref] = "replaces its pods only when they are deleted (updateStrategy OnDelete)"
    return found


def restart(client: Client, workloads: Iterable[Ref]) -> None:
    """Let workloads make their pods anew, as `kubectl rollout restart` does, and wait until the old ones are gone.

    An old pod that takes its time to end is waited for no longer than a minute.
    """
    workloads = list(workloads)
    annotations = {_RESTARTED: datetime.now(UTC).isoformat(timespec="seconds")}
    for ref in workloads:
        client.request(
            "PATCH",
            client.resource(ref.api_version, ref.kind).path(ref.namespace, ref.name),
            body={"spec": {"template": {"metadata": {"annotations": annotations}}}},
            content_type=_MERGE_PATCH,
            query={"fieldManager": "kubectl-rollout"},
        )
    wait_for(client, workloads, timeout=_SECONDS, progress=k8s.progress(host, client))
    deadline = time.monotonic() + _SETTLE_SECONDS
    with progress.waiting(host, lambda: f"old pods of {', '.join(map(str, workloads))} to end"):
        while time.monotonic() < deadline and any(
            "deletionTimestamp" in pod["metadata"]
            for namespace in {ref.namespace for ref in workloads}
            for pod in query.list(client, "v1", "Pod", namespace)
        ):
            time.sleep(0.5)


def _prove(client: Client, revisions: Mapping[str, str]) -> None:
    """Look at the pods again; what a rollout leaves behind may take a moment to go."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        pointed = injector.tags(webhooks(client))
        found = [look(client, namespace, revision, pointed) for namespace, revision in revisions.items()]
        wrong = [f"{ref}: {said}" for each in found for ref, said in each.restart.items()]
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(1)
    stuck = stuck_words(found)
    if wrong or stuck:
        raise KubeError("\n".join([*wrong, *([stuck] if stuck else [])]))
