"""Waiting until objects are ready, by what ready means for their kind, and giving up early where they never will be.

`state` is the pure rule for one object; `wait` polls all objects together and looks at the Pods behind those that
are not ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meshstrap.kube import logs, query, refusals
from meshstrap.kube.connect import Client
from meshstrap.kube.discovery import Resource
from meshstrap.kube.errors import KubeError, UnknownKind
from meshstrap.kube.parallel import each
from meshstrap.kube.ref import Ref

Item = Mapping[str, Any]

# A Pod's image that will not come by waiting: nothing pulls in a site without a registry.
_NO_IMAGE = ("ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName")

# Seconds between looks at the Pods of one object; more often than that the reason does not change.
_LOOK = 1.0


# The conditions by which kinds without a rule of their own are judged.
_JUDGED = ("Stalled", "Ready", "Available")


@dataclass(frozen=True)
class State:
    """How far one object is: ready, or not yet for a reason, or failed for a reason."""

    ready: bool
    reason: str
    failed: bool = False


# What stands behind such an object still belongs to its former declaration.
_UNSEEN = State(False, "its controller has not seen it yet")


class NotReady(KubeError):
    """Objects that are not ready: `states` maps each to how far it is (those that failed have `failed` set)."""

    def __init__(self, what: str, states: Mapping[Ref, State]) -> None:
        self.states = dict(states)
        ordered = sorted(states.items(), key=lambda pair: not pair[1].failed)
        super().__init__("\n".join([what, *(f"{ref}: {state.reason}" for ref, state in ordered)]))


def wait(
    client: Client,
    objects: Iterable[Mapping[str, Any] | Ref],
    *,
    timeout: float = 300.0,
    poll: float = 0.2,
    unschedulable: float = 10.0,
    namespace: str = "default",
    applied: Mapping[Ref, str] | None = None,
    progress: Callable[[Mapping[Ref, State]], None] | None = None,
) -> None:
    """Wait until all objects are ready; returns then, and raises as soon as one never will be.

    Args:
        client: the connection.
        objects: objects or their names; each must exist or come into being in time.
        timeout: seconds for all of them.
        poll: seconds between two looks.
        unschedulable: seconds for which a Pod may find no node, or no room in a quota (others may still be leaving).
        namespace: for objects of namespaced kinds that name none.
        applied: the uids of objects that were applied just before: of a Job that its ttlSecondsAfterFinished has
            deleted meanwhile, its events say how it ended.
        progress: called with the state of every object at each look.

    Raises NotReady naming each object that is not ready, and why.
    """
    targets = _targets(client, objects, namespace)
    states = {ref: State(False, "not looked at yet") for ref in targets}
    inspector = _Inspector(client, unschedulable, dict(applied or {}))
    deadline = time.monotonic() + timeout
    while True:
        pending = {ref: resource for ref, resource in targets.items() if not states[ref].ready}
        live = query.read_many(client, [(ref, resource) for ref, resource in pending.items() if resource])
        states.update(inspector.states(pending, live))
        if progress:
            progress(states)
        waiting = {ref: state for ref, state in states.items() if not state.ready}
        if not waiting:
            return
        if any(state.failed for state in waiting.values()):
            raise NotReady("cannot become ready:", waiting)
        if time.monotonic() + poll > deadline:
            raise NotReady(f"not ready after {timeout:g} s:", waiting)
        time.sleep(poll)
        for ref in [ref for ref in pending if targets[ref] is None]:
            targets |= _targets(client, [ref], namespace)


def state(item: Item) -> State:
    """Return how far an object is, from the object alone."""
    if "deletionTimestamp" in item["metadata"]:
        return State(False, "is being deleted")
    status = item.get("status") or {}
    observed = status.get("observedGeneration")
    generation = item["metadata"].get("generation", 0)
    rule = _RULES.get((Ref.of(item).group, item["kind"]))
    # Workload controllers always report the generation they saw; other kinds only may.
    behind = observed < generation if observed is not None else rule in _WORKLOAD_RULES
    # Gateways, certificates and the like have it condition by condition.
    judged = [condition for condition in status.get("conditions") or () if condition.get("type") in _JUDGED]
    if behind or any(condition.get("observedGeneration", generation) < generation for condition in judged):
        return _UNSEEN
    return (rule or _by_conditions)(item.get("spec") or {}, status)


def pod_trouble(pod: Item) -> str:
    """Return why a Pod will not start whatever one waits, except for crashes and want of a node; empty if none."""
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _NO_IMAGE:
            detail = f": {waiting['message']}" if waiting.get("message") else ""
            return f"image {container.get('image')} is not there ({waiting['reason']}{detail})"
    return ""


def crashed(pod: Item) -> Item | None:
    """Return the status of a Pod's container that keeps crashing, or None."""
    for container in _containers(pod):
        if ((container.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff":
            return container
    return None


def unschedulable_reason(pod: Item) -> str:
    """Return the scheduler's words about a Pod that finds no node; empty if it has one or is not judged yet."""
    condition = _conditions(pod.get("status") or {}).get("PodScheduled", {})
    if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
        return condition.get("message") or "no node takes it"
    return ""


class _Inspector:
    """Looks behind objects that are not ready; remembers since when Pods find no node."""

    def __init__(self, client: Client, unschedulable: float, uids: dict[Ref, str]) -> None:
        self._client = client
        self._unschedulable = unschedulable
        self._uids = uids
        self._homeless: dict[str, float] = {}
        self._refused: dict[Ref, float] = {}
        self._looked: dict[Ref, tuple[float, State]] = {}

    def states(self, refs: Iterable[Ref], live: Mapping[Ref, Item]) -> dict[Ref, State]:
        """Return the states of objects, by themselves and by what stands behind them."""

        def one(ref: Ref) -> State:
            item = live.get(ref)
            if item is None:
                return self._finished(ref) or State(False, "is not there")
            self._uids[ref] = item["metadata"].get("uid", "")
            found = state(item)
            return found if found.ready or found.failed or found == _UNSEEN else self._behind(ref, item, found)

        ordered = list(refs)
        return dict(zip(ordered, each(one, ordered), strict=True))

    def _behind(self, ref: Ref, item: Item, found: State) -> State:
        """Return a state made more precise by Pods, events and storage classes; looked up once a second."""
        now = time.monotonic()
        last = self._looked.get(ref)
        if last and now - last[0] < _LOOK:
            # What held the Pods up a moment ago still explains the numbers of now.
            return last[1] if last[1].reason.startswith(found.reason) else found
        if ref.kind == "PersistentVolumeClaim":
            precise = self._claim(item, found)
        else:
            pods = pods_behind(self._client, item)
            precise = self._pods(pods, found, now)
            if not pods and ref.kind in _POD_OWNERS:
                precise = self._events(ref, item, precise)
            precise = self._bounded(ref, precise, now)
        self._looked[ref] = (now, precise)
        return precise

    def _bounded(self, ref: Ref, found: State, now: float) -> State:
        """Return a state that has failed where what refuses its Pods may pass, and has not for some seconds."""
        if not found.reason.startswith(_NO_POD) or found.failed or not refusals.may_pass(found.reason):
            self._refused.pop(ref, None)
            return found
        since = self._refused.setdefault(ref, now)
        return replace(found, failed=now - since >= self._unschedulable)

    def _finished(self, ref: Ref) -> State | None:
        """Return how a Job ended that is not there any more, by the events that it left; None where they do not say."""
        uid = self._uids.get(ref)
        if (ref.group, ref.kind) != ("batch", "Job") or not uid:
            return None
        events = query.list(self._client, "v1", "Event", ref.namespace, fields=f"involvedObject.uid={uid}")
        said = {str(event.get("reason")): str(event.get("message") or "") for event in events}
        if "Completed" in said:
            return State(True, "complete, and deleted since (ttlSecondsAfterFinished)")
        for reason in _JOB_FAILED & said.keys():
            return State(False, f"failed, and was deleted since: {said[reason] or reason}", failed=True)
        return None

    def _pods(self, pods: list[dict[str, Any]], found: State, now: float) -> State:
        waiting = ""
        for pod in pods:
            name = f"Pod {pod['metadata']['name']}"
            if trouble := pod_trouble(pod):
                return State(False, f"{name}: {trouble}", failed=True)
            if container := crashed(pod):
                return State(False, f"{name}: {self._crash(pod, container)}", failed=True)
            uid = pod["metadata"]["uid"]
            if reason := unschedulable_reason(pod):
                since = self._homeless.setdefault(uid, now)
                if now - since >= self._unschedulable:
                    return State(False, f"{name}: no node takes it: {reason}", failed=True)
                waiting = waiting or f"{name}: {reason}"
            else:
                self._homeless.pop(uid, None)
                waiting = waiting or _container_reason(pod)
        return replace(found, reason=f"{found.reason} ({waiting})") if waiting else found

    def _crash(self, pod: Item, container: Item) -> str:
        """Say which container crashes, how it ended and what it said last."""
        name = container["name"]
        ended = (container.get("lastState") or {}).get("terminated") or {}
        code = f", exit code {ended['exitCode']}" if "exitCode" in ended else ""
        metadata = pod["metadata"]
        try:
            said = logs.read(self._client, metadata["namespace"], metadata["name"], name, tail=1, previous=True)
        except KubeError:
            said = ""
        said = said.strip() or (ended.get("message") or "").strip()
        last = f"; its last words: {said}" if said else ""
        return f"container {name} keeps crashing{code}{last}"

    def _events(self, ref: Ref, item: Item, found: State) -> State:
        """Return why no Pod was made at all, from the controller's events."""
        events = query.list(
            self._client,
            "v1",
            "Event",
            ref.namespace,
            fields=f"involvedObject.uid={item['metadata'].get('uid', '')},reason=FailedCreate",
        )
        if not events:
            return found
        message = str(events[-1].get("message") or "")
        return State(False, f"{_NO_POD}{message}", failed=refusals.final(message))

    def _claim(self, item: Item, found: State) -> State:
        """Return a claim's state; one whose class waits for the first Pod is as ready as it can be."""
        name = (item.get("spec") or {}).get("storageClassName")
        storage = query.get(self._client, "storage.k8s.io/v1", "StorageClass", name) if name else None
        waits = storage is not None and storage.get("volumeBindingMode") == "WaitForFirstConsumer"
        return State(True, "waits for the first Pod that uses it") if waits else found


def _targets(client: Client, objects: Iterable[Mapping[str, Any] | Ref], namespace: str) -> dict[Ref, Resource | None]:
    """Return the objects' full names and where they are served; None for a kind that is not there yet."""
    targets: dict[Ref, Resource | None] = {}
    for item in objects:
        ref = item if isinstance(item, Ref) else Ref.of(item)
        resource: Resource | None
        try:
            resource = client.resource(ref.api_version, ref.kind)
        except UnknownKind:
            resource = None
        else:
            if not resource.namespaced:
                ref = replace(ref, namespace="")
            elif not ref.namespace:
                ref = replace(ref, namespace=namespace)
        targets[ref] = resource
    return targets


_NO_POD = "no Pod can be made: "

# How the Job controller's events say that a Job has failed. Source: k8s.io/api batch/v1/types.go (v0.34), JobReason*.
_JOB_FAILED = {
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
}


_POD_OWNERS = ("DaemonSet", "Job", "ReplicaSet", "StatefulSet")


def pods_behind(client: Client, item: Item) -> list[dict[str, Any]]:
    """Return the Pods behind an object, only those of its newest revision: older ones may well be broken."""
    kind, namespace = item["kind"], item["metadata"].get("namespace")
    if kind == "Pod":
        return [dict(item)]
    if kind != "Deployment" and kind not in _POD_OWNERS:
        return []
    selector = _selector((item.get("spec") or {}).get("selector") or {})
    if not selector:
        return []
    revision: tuple[str, str] | None = None
    if kind == "Deployment":
        revision = _newest_replica_set(client, item, selector)
        if revision is None:
            return []
    elif kind == "StatefulSet" and (hash_ := (item.get("status") or {}).get("updateRevision")):
        revision = ("controller-revision-hash", hash_)
    elif kind == "DaemonSet":
        template = (item["metadata"].get("annotations") or {}).get("deprecated.daemonset.template.generation")
        revision = ("pod-template-generation", template) if template else None
    if revision:
        selector += f",{revision[0]}={revision[1]}"
    return [
        pod
        for pod in query.list(client, "v1", "Pod", namespace, labels=selector)
        if "deletionTimestamp" not in pod["metadata"]
    ]


def _newest_replica_set(client: Client, item: Item, selector: str) -> tuple[str, str] | None:
    """Return the label that marks a Deployment's newest Pods."""
    key = "deployment.kubernetes.io/revision"
    revision = (item["metadata"].get("annotations") or {}).get(key)
    for owned in query.list(client, "apps/v1", "ReplicaSet", item["metadata"]["namespace"], labels=selector):
        metadata = owned["metadata"]
        ours = any(owner["uid"] == item["metadata"]["uid"] for owner in metadata.get("ownerReferences") or ())
        if ours and revision and (metadata.get("annotations") or {}).get(key) == revision:
            return ("pod-template-hash", metadata["labels"]["pod-template-hash"])
    return None


def _selector(selector: Item) -> str:
    """Return a label selector object as the API's query string."""
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for rule in selector.get("matchExpressions") or ():
        key, values = rule["key"], ",".join(rule.get("values") or ())
        match rule["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case "DoesNotExist":
                parts.append(f"!{key}")
    return ",".join(parts)


def _containers(pod: Item) -> list[dict[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _container_reason(pod: Item) -> str:
    """Say what a Pod's first unready container is waiting for."""
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] != "PodInitializing":
            detail = f": {waiting['message']}" if waiting.get("message") else ""
            return f"Pod {pod['metadata']['name']}: {container['name']} {waiting['reason']}{detail}"
    return ""


def _conditions(status: Item) -> dict[str, dict[str, Any]]:
    return {condition.get("type", ""): condition for condition in status.get("conditions") or ()}


def _deployment(spec: Item, status: Item) -> State:
    conditions = _conditions(status)
    progressing, failure = conditions.get("Progressing", {}), conditions.get("ReplicaFailure", {})
    wanted, updated = spec.get("replicas", 1), status.get("updatedReplicas", 0)
    if updated >= wanted and status.get("replicas", 0) <= updated and status.get("availableReplicas", 0) >= updated:
        return State(True, f"{wanted} of {wanted} available")
    if progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded":
        return State(False, f"progress deadline exceeded: {progressing.get('message')}", failed=True)
    if failure.get("status") == "True":
        message = str(failure.get("message") or failure.get("reason"))
        return State(False, f"{_NO_POD}{message}", failed=refusals.final(message))
    if updated < wanted:
        paused = "; it is paused: nothing is rolled out until it is resumed" if spec.get("paused") else ""
        return State(False, f"{updated} of {wanted} updated{paused}")
    if (old := status.get("replicas", 0) - updated) > 0:
        return State(False, f"{old} old Pods are still there")
    return State(False, f"{status.get('availableReplicas', 0)} of {updated} available")


def _stateful_set(spec: Item, status: Item) -> State:
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    strategy = spec.get("updateStrategy") or {}
    if ready < wanted:
        return State(False, f"{ready} of {wanted} ready")
    if strategy.get("type", "RollingUpdate") == "RollingUpdate":
        due = wanted - ((strategy.get("rollingUpdate") or {}).get("partition") or 0)
        updated = status.get("updatedReplicas", 0)
        if status.get("updateRevision") != status.get("currentRevision") and updated < due:
            return State(False, f"{updated} of {due} updated")
    return State(True, f"{ready} of {wanted} ready")


def _daemon_set(spec: Item, status: Item) -> State:
    wanted, available = status.get("desiredNumberScheduled", 0), status.get("numberAvailable", 0)
    updated = status.get("updatedNumberScheduled", 0)
    if (spec.get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate" and updated < wanted:
        return State(False, f"{updated} of {wanted} updated")
    return State(available >= wanted, f"{available} of {wanted} available")


def _replica_set(spec: Item, status: Item) -> State:
    wanted, available = spec.get("replicas", 1), status.get("availableReplicas", 0)
    return State(available >= wanted, f"{available} of {wanted} available")


def _job(spec: Item, status: Item) -> State:
    conditions = _conditions(status)
    for kind in ("Failed", "FailureTarget"):
        if (condition := conditions.get(kind, {})).get("status") == "True":
            return State(False, f"failed: {condition.get('message') or condition.get('reason')}", failed=True)
    if conditions.get("Complete", {}).get("status") == "True" or spec.get("suspend"):
        return State(True, "suspended" if spec.get("suspend") else "complete")
    return State(False, f"{status.get('active', 0)} active, {status.get('succeeded', 0)} succeeded")


def _pod(spec: Item, status: Item) -> State:
    phase = status.get("phase", "Pending")
    if phase == "Succeeded":
        return State(True, phase)
    if phase == "Failed":
        reason = status.get("message") or status.get("reason") or "no reason given"
        return State(False, f"failed: {reason}", failed=True)
    ready = _conditions(status).get("Ready", {})
    if ready.get("status") == "True":
        return State(True, "ready")
    return State(False, f"{phase}: {ready['message']}" if ready.get("message") else phase)


def _service(spec: Item, status: Item) -> State:
    if spec.get("type") != "LoadBalancer" or (status.get("loadBalancer") or {}).get("ingress"):
        return State(True, "there")
    return State(False, "no address given by a load balancer")


def _claim(spec: Item, status: Item) -> State:
    phase = status.get("phase", "Pending")
    return State(phase == "Bound", phase, failed=phase == "Lost")


def _definition(spec: Item, status: Item) -> State:
    conditions = _conditions(status)
    names = conditions.get("NamesAccepted", {})
    if names.get("status") == "False":
        return State(False, f"its names are not accepted: {names.get('message')}", failed=True)
    established = conditions.get("Established", {}).get("status") == "True"
    return State(established, "established" if established else "not established")


def _api_service(spec: Item, status: Item) -> State:
    available = _conditions(status).get("Available", {})
    if available.get("status") == "True":
        return State(True, "available")
    return State(False, f"not available: {available.get('message') or 'not looked at yet by the API server'}")


def _namespace(spec: Item, status: Item) -> State:
    phase = status.get("phase", "Active")
    return State(phase == "Active", phase)


def _by_conditions(spec: Item, status: Item) -> State:
    """Judge any other kind by Stalled, Ready or Available; one that has none of them is ready by being there."""
    conditions = _conditions(status)
    stalled = conditions.get("Stalled", {})
    if stalled.get("status") == "True":
        return State(False, f"stalled: {stalled.get('message') or stalled.get('reason')}", failed=True)
    for kind in ("Ready", "Available"):
        if condition := conditions.get(kind):
            ready = condition.get("status") == "True"
            reason = condition.get("message") or condition.get("reason") or "no reason given"
            return State(ready, kind.lower() if ready else f"not {kind.lower()}: {reason}")
    return State(True, "there")


_RULES: dict[tuple[str, str], Callable[[Item, Item], State]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "ReplicaSet"): _replica_set,
    ("batch", "Job"): _job,
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Namespace"): _namespace,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("apiregistration.k8s.io", "APIService"): _api_service,
}
_WORKLOAD_RULES = (_deployment, _stateful_set, _daemon_set, _replica_set)
