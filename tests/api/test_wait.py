"""Waiting: ready by kind, generation-aware, giving up at once where an object never will be ready.

No controller runs in this tier: each test writes the status that the controller, scheduler or kubelet would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import plan
from meshstrap.kube.ref import Ref
from meshstrap.kube.wait import NotReady, State, wait

from .objects import Item, config_map, definition, deployment, live, patch, put, service, set_status


def _pod(client: Client, namespace: str, name: str, labels: Mapping[str, str], status: Item | None = None) -> str:
    """Make a Pod and return its path."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "app", "image": "example.org/app:1"}]},
    }
    client.request("POST", f"/api/v1/namespaces/{namespace}/pods", body=body)
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    if status:
        set_status(client, path, status)
    return path


def _waiting(reason: str, message: str = "", *, image: str = "example.org/app:1", **more: Any) -> Item:
    container = {
        "name": "app",
        "image": image,
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
        **more,
    }
    return {"phase": "Pending", "containerStatuses": [container]}


class _Rollout:
    """A Deployment as its controller sees it: replica sets by revision."""

    def __init__(self, client: Client, namespace: str, name: str = "web") -> None:
        self.client, self.namespace, self.name = client, namespace, name
        self.item = deployment(name, namespace)
        put(client, self.item)
        self.path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        self.ref = Ref("apps/v1", "Deployment", namespace, name)

    def revision(self, number: int) -> dict[str, str]:
        """Make the replica set of a revision the newest; returns its Pods' labels."""
        labels = {"app": self.name, "pod-template-hash": f"hash{number}"}
        revision = {"deployment.kubernetes.io/revision": str(number)}
        owner = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": self.name,
            "uid": live(self.client, self.path)["metadata"]["uid"],
        }
        spec = self.item["spec"]
        body = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{self.name}-hash{number}",
                "labels": labels,
                "annotations": revision,
                "ownerReferences": [owner],
            },
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {**spec["template"], "metadata": {"labels": labels}},
            },
        }
        self.client.request("POST", f"/apis/apps/v1/namespaces/{self.namespace}/replicasets", body=body)
        patch(self.client, self.path, {"metadata": {"annotations": revision}}, manager="controller")
        return labels

    def status(self, *, generation: int | None = None, **status: Any) -> None:
        if generation is None:
            generation = live(self.client, self.path)["metadata"]["generation"]
        set_status(self.client, self.path, {"observedGeneration": generation, **status})

    def complete(self) -> None:
        self.status(replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1)


def _reason(client: Client, *refs: Ref, timeout: float = 0.2) -> str:
    """Return why objects are not ready."""
    with pytest.raises(NotReady) as failed:
        wait(client, refs, timeout=timeout, poll=0.05)
    return str(failed.value)


def _fails(client: Client, ref: Ref, **settings: Any) -> str:
    """Return why an object never will be ready, having made sure that it was said at once."""
    start = time.monotonic()
    with pytest.raises(NotReady) as failed:
        wait(client, [ref], timeout=30, poll=0.05, **settings)
    assert time.monotonic() - start < 5
    assert failed.value.states[ref].failed
    assert str(failed.value).startswith("cannot become ready:")
    return failed.value.states[ref].reason


class TestDeployment:
    def test_ready_when_rolled_out(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        rollout.complete()
        wait(client, [rollout.item], timeout=5)

    def test_a_paused_one_says_so(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        patch(client, rollout.path, {"spec": {"paused": True}}, manager="kubectl-rollout")
        rollout.status()
        assert "0 of 1 updated; it is paused: nothing is rolled out until it is resumed" in _reason(client, rollout.ref)

    def test_returns_within_half_a_second_of_being_ready(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        done: list[float] = []

        def complete() -> None:
            rollout.complete()
            done.append(time.monotonic())

        threading.Timer(1.0, complete).start()
        wait(client, [rollout.ref], timeout=30)
        assert time.monotonic() - done[0] < 0.5

    def test_an_old_generations_status_does_not_count(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        rollout.complete()
        patch(client, rollout.path, {"spec": {"paused": True}}, manager="somebody")
        assert "its controller has not seen it yet" in _reason(client, rollout.ref)

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            ({}, "0 of 1 updated"),
            ({"replicas": 2, "updatedReplicas": 1}, "1 old Pods are still there"),
            ({"replicas": 1, "updatedReplicas": 1}, "0 of 1 available"),
        ],
    )
    def test_says_how_far_it_is(self, client: Client, namespace: str, status: Item, reason: str) -> None:
        rollout = _Rollout(client, namespace)
        rollout.status(**status)
        said = _reason(client, rollout.ref)
        assert said == f"not ready after 0.2 s:\nDeployment/{namespace}/web: {reason}"

    def test_gives_up_when_the_controller_does(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        condition = {
            "type": "Progressing",
            "status": "False",
            "reason": "ProgressDeadlineExceeded",
            "message": 'ReplicaSet "web-1" has timed out progressing.',
        }
        rollout.status(replicas=1, updatedReplicas=1, conditions=[condition])
        assert "has timed out progressing" in _fails(client, rollout.ref)

    def test_gives_up_over_quota(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        quota = (
            'pods "web-1-abc" is forbidden: exceeded quota: few, requested: pods=1, used: pods={0}, limited: pods={0}'
        )
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
        rollout.status(conditions=[{**condition, "message": quota.format(0)}])
        assert _fails(client, rollout.ref) == f"no Pod can be made: {quota.format(0)}"
        # Another Pod of three may go; for how long that is waited for is told.
        rollout.status(conditions=[{**condition, "message": quota.format(3)}])
        with pytest.raises(NotReady, match=r"^not ready after 0\.5 s"):
            wait(client, [rollout.ref], timeout=0.5)
        with pytest.raises(NotReady, match=r"^cannot become ready"):
            wait(client, [rollout.ref], timeout=30, unschedulable=0.5)

    def test_a_passing_failure_to_make_pods_is_waited_out(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        message = (
            'pods "x" is forbidden: error looking up service account a/default: serviceaccount "default" not found'
        )
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        rollout.status(conditions=[condition])
        threading.Timer(1.5, rollout.complete).start()
        wait(client, [rollout.ref], timeout=30, unschedulable=0.5)

    @pytest.mark.parametrize("reason", ["ErrImageNeverPull", "ImagePullBackOff"])
    def test_gives_up_over_a_missing_image(self, client: Client, namespace: str, reason: str) -> None:
        rollout = _Rollout(client, namespace)
        status = _waiting(reason, "not present with pull policy of Never", image="example.org/none:9")
        _pod(client, namespace, "web-a", rollout.revision(1), status)
        rollout.status(replicas=1, updatedReplicas=1)
        assert _fails(client, rollout.ref) == (
            f"Pod web-a: image example.org/none:9 is not there ({reason}: not present with pull policy of Never)"
        )

    def test_an_init_containers_image_counts(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        status = _waiting("ErrImageNeverPull", image="example.org/none:9")
        status["initContainerStatuses"] = status.pop("containerStatuses")
        _pod(client, namespace, "web-a", rollout.revision(1), status)
        rollout.status(replicas=1, updatedReplicas=1)
        assert "image example.org/none:9 is not there" in _fails(client, rollout.ref)

    def test_gives_up_over_crashes_with_how_it_ended(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        ended = {"terminated": {"exitCode": 3, "message": "no such file: /etc/app.conf\n"}}
        status = _waiting("CrashLoopBackOff", "back-off 10s restarting", lastState=ended)
        _pod(client, namespace, "web-a", rollout.revision(1), status)
        rollout.status(replicas=1, updatedReplicas=1)
        assert _fails(client, rollout.ref) == (
            "Pod web-a: container app keeps crashing, exit code 3; its last words: no such file: /etc/app.conf"
        )

    def test_an_older_revisions_broken_pods_do_not_count(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        _pod(client, namespace, "web-a", rollout.revision(1), _waiting("ImagePullBackOff"))
        _pod(client, namespace, "web-b", rollout.revision(2), _waiting("ContainerCreating"))
        rollout.status(replicas=2, updatedReplicas=1)
        assert "1 old Pods are still there (Pod web-b: app ContainerCreating)" in _reason(client, rollout.ref)

    def test_a_former_declarations_broken_pods_do_not_count(self, client: Client, namespace: str) -> None:
        """Between our repair and the controller's next look, the broken revision is still the newest."""
        rollout = _Rollout(client, namespace)
        _pod(client, namespace, "web-a", rollout.revision(1), _waiting("ImagePullBackOff"))
        rollout.status(replicas=1, updatedReplicas=1)
        assert "image" in _fails(client, rollout.ref)
        patch(client, rollout.path, {"spec": {"minReadySeconds": 1}}, manager="somebody")
        assert "its controller has not seen it yet" in _reason(client, rollout.ref)

    def test_gives_up_where_no_node_takes_a_pod(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        message = "0/2 nodes are available: 2 Insufficient memory."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        path = _pod(client, namespace, "web-a", rollout.revision(1), {"phase": "Pending", "conditions": [condition]})
        rollout.status(replicas=1, updatedReplicas=1)
        assert _fails(client, rollout.ref, unschedulable=1.0) == f"Pod web-a: no node takes it: {message}"
        # Not at once: what leaves a node this second makes room on it.
        assert f"0 of 1 available (Pod web-a: {message})" in _reason(client, rollout.ref)
        assert path

    def test_says_what_a_container_waits_for(self, client: Client, namespace: str) -> None:
        rollout = _Rollout(client, namespace)
        status = _waiting("CreateContainerConfigError", 'configmap "settings" not found')
        _pod(client, namespace, "web-a", rollout.revision(1), status)
        rollout.status(replicas=1, updatedReplicas=1)
        said = _reason(client, rollout.ref)
        assert 'Pod web-a: app CreateContainerConfigError: configmap "settings" not found' in said


def test_stateful_set(client: Client, namespace: str) -> None:
    item = deployment("db", namespace)
    item["kind"] = "StatefulSet"
    item["spec"] |= {"serviceName": "db", "replicas": 2}
    put(client, item)
    path, ref = f"/apis/apps/v1/namespaces/{namespace}/statefulsets/db", Ref.of(item)
    rolling = {"currentRevision": "db-1", "updateRevision": "db-2", "replicas": 2}
    set_status(client, path, {"observedGeneration": 1, **rolling, "readyReplicas": 1})
    assert "1 of 2 ready" in _reason(client, ref)
    set_status(client, path, {"observedGeneration": 1, **rolling, "readyReplicas": 2, "updatedReplicas": 1})
    assert "1 of 2 updated" in _reason(client, ref)
    _pod(client, namespace, "db-0", {"app": "db", "controller-revision-hash": "db-1"}, _waiting("ImagePullBackOff"))
    assert "1 of 2 updated" in _reason(client, ref)
    _pod(client, namespace, "db-1", {"app": "db", "controller-revision-hash": "db-2"}, _waiting("ImagePullBackOff"))
    assert "Pod db-1: image" in _fails(client, ref)
    set_status(client, path, {"currentRevision": "db-2", "readyReplicas": 2, "updatedReplicas": 2})
    wait(client, [ref], timeout=5)


def test_daemon_set(client: Client, namespace: str) -> None:
    item = deployment("agent", namespace)
    item["kind"] = "DaemonSet"
    put(client, item)
    path, ref = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/agent", Ref.of(item)
    assert "its controller has not seen it yet" in _reason(client, ref)
    counts = {"currentNumberScheduled": 2, "desiredNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 0}
    set_status(client, path, {"observedGeneration": 1, **counts, "updatedNumberScheduled": 1})
    assert "1 of 2 updated" in _reason(client, ref)
    set_status(client, path, {"updatedNumberScheduled": 2, "numberAvailable": 1})
    assert "1 of 2 available" in _reason(client, ref)
    set_status(client, path, {"numberAvailable": 2})
    wait(client, [ref], timeout=5)


def test_no_pod_can_be_made(client: Client, namespace: str) -> None:
    """StatefulSets and the like have no condition for it: the controller's event says it."""
    item = deployment("agent", namespace)
    item["kind"] = "DaemonSet"
    put(client, item)
    path, ref = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/agent", Ref.of(item)
    counts = {"currentNumberScheduled": 0, "desiredNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 0}
    set_status(client, path, {"observedGeneration": 1, **counts})
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "agent.1"},
        "involvedObject": {"kind": "DaemonSet", "uid": live(client, path)["metadata"]["uid"], "namespace": namespace},
        "reason": "FailedCreate",
        "message": 'Error creating: pods "agent-x" is forbidden: violates PodSecurity "restricted"',
    }
    client.request("POST", f"/api/v1/namespaces/{namespace}/events", body=event)
    assert "violates PodSecurity" in _fails(client, ref)


def _job(namespace: str) -> Item:
    spec = deployment("once", namespace)["spec"]["template"]["spec"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once", "namespace": namespace},
        "spec": {"template": {"spec": {**spec, "restartPolicy": "Never"}}},
    }


def test_job(client: Client, namespace: str) -> None:
    item = _job(namespace)
    put(client, item)
    path, ref = f"/apis/batch/v1/namespaces/{namespace}/jobs/once", Ref.of(item)
    now = "2026-11-23T12:00:00Z"
    set_status(client, path, {"active": 1, "startTime": now})
    assert "1 active, 0 succeeded" in _reason(client, ref)
    conditions = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
    set_status(client, path, {"active": 0, "succeeded": 1, "conditions": conditions, "completionTime": now})
    wait(client, [ref], timeout=5)


@pytest.mark.parametrize(
    ("reason", "seen"),
    [("Completed", True), ("Completed", False), ("BackoffLimitExceeded", True), ("BackoffLimitExceeded", False)],
)
def test_a_job_that_its_ttl_deleted_ended_as_its_events_say(
    client: Client, namespace: str, reason: str, seen: bool
) -> None:
    item = _job(namespace)
    item["spec"]["ttlSecondsAfterFinished"] = 0
    path, ref = f"/apis/batch/v1/namespaces/{namespace}/jobs/once", Ref.of(item)
    uids: dict[Ref, str] = {}
    apply(client, plan(client, [item]), on_change=lambda change: uids.update({change.ref: change.uid}))
    uid = live(client, path)["metadata"]["uid"]
    assert uids == {ref: uid}

    def finish() -> None:
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "once.1"},
            "involvedObject": {"kind": "Job", "uid": uid, "namespace": namespace},
            "reason": reason,
            "message": "Job has ended",
        }
        client.request("POST", f"/api/v1/namespaces/{namespace}/events", body=event)
        client.request("DELETE", path, query={"propagationPolicy": "Background"})

    if seen:
        threading.Timer(0.7, finish).start()
    else:
        finish()
    if reason == "Completed":
        wait(client, [item], timeout=20, applied={} if seen else uids)
    else:
        with pytest.raises(NotReady, match="failed, and was deleted since: Job has ended"):
            wait(client, [item], timeout=20, applied={} if seen else uids)
    # Of a Job that nobody has seen, events of an earlier one say nothing.
    with pytest.raises(NotReady, match="is not there"):
        wait(client, [item], timeout=0.3)
    [change] = plan(client, [item]).changes
    assert change.outcome == "created" and "ttlSecondsAfterFinished deletes it" in change.note


def test_a_failed_job(client: Client, namespace: str) -> None:
    item = _job(namespace)
    put(client, item)
    message = "Job has reached the specified backoff limit"
    conditions = [{"type": kind, "status": "True", "message": message} for kind in ("FailureTarget", "Failed")]
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/once"
    set_status(client, path, {"startTime": "2026-11-23T12:00:00Z", "conditions": conditions})
    assert _fails(client, Ref.of(item)) == f"failed: {message}"


def test_pod(client: Client, namespace: str) -> None:
    path, ref = _pod(client, namespace, "one", {}), Ref("v1", "Pod", namespace, "one")
    assert "Pending" in _reason(client, ref)
    set_status(client, path, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    wait(client, [ref], timeout=5)
    path, ref = _pod(client, namespace, "two", {}), Ref("v1", "Pod", namespace, "two")
    set_status(client, path, {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."})
    assert _fails(client, ref) == "failed: The node was low on memory."
    path, ref = _pod(client, namespace, "three", {}), Ref("v1", "Pod", namespace, "three")
    set_status(client, path, {"phase": "Succeeded"})
    wait(client, [ref], timeout=5)


def test_service(client: Client, namespace: str) -> None:
    plain, balanced = service("plain", namespace), service("balanced", namespace, type="LoadBalancer")
    put(client, plain, balanced)
    wait(client, [plain], timeout=5)
    assert "no address given by a load balancer" in _reason(client, Ref.of(balanced))
    path = f"/api/v1/namespaces/{namespace}/services/balanced"
    set_status(client, path, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})
    wait(client, [balanced], timeout=5)


def test_volume_claim(client: Client, namespace: str) -> None:
    storage = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": f"late-{namespace}"},
        "provisioner": "example.org/none",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    waits: Item = {**claim, "metadata": {"name": "waits", "namespace": namespace}}
    waits["spec"] = {**waits["spec"], "storageClassName": f"late-{namespace}"}
    put(client, storage, claim, waits)
    wait(client, [waits], timeout=5)
    assert "Pending" in _reason(client, Ref.of(claim))
    set_status(client, f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/data", {"phase": "Bound"})
    wait(client, [claim], timeout=5)


def test_definition(client: Client, namespace: str) -> None:
    kind = definition("wait.example.org", "Thing")
    put(client, kind)
    wait(client, [kind], timeout=5)
    clash = definition("wait.example.org", "Other")
    clash["spec"]["names"]["singular"] = "thing"
    client.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body=clash)
    assert "its names are not accepted" in _fails(client, Ref.of(clash))


def test_api_service(client: Client) -> None:
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.away.example.org"},
        "spec": {
            "group": "away.example.org",
            "version": "v1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "none", "namespace": "default"},
        },
    }
    put(client, body)
    assert "not available:" in _reason(client, Ref.of(body), timeout=1)
    client.request("DELETE", "/apis/apiregistration.k8s.io/v1/apiservices/v1.away.example.org")


def test_any_other_kind_by_its_conditions(client: Client, namespace: str) -> None:
    kind = definition("conditions.example.org", "Engine")
    version = kind["spec"]["versions"][0]
    version["subresources"] = {"status": {}}
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    item = {
        "apiVersion": "conditions.example.org/v1",
        "kind": "Engine",
        "metadata": {"name": "one", "namespace": namespace},
    }
    put(client, kind, item)
    path, ref = f"/apis/conditions.example.org/v1/namespaces/{namespace}/engines/one", Ref.of(item)
    wait(client, [item], timeout=5)
    set_status(client, path, {"conditions": [{"type": "Ready", "status": "False", "message": "warming up"}]})
    assert "not ready: warming up" in _reason(client, ref)
    set_status(client, path, {"observedGeneration": 0, "conditions": [{"type": "Ready", "status": "True"}]})
    assert "its controller has not seen it yet" in _reason(client, ref)
    set_status(client, path, {"observedGeneration": 1})
    wait(client, [item], timeout=5)
    set_status(client, path, {"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 0}]})
    assert "its controller has not seen it yet" in _reason(client, ref)
    set_status(client, path, {"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]})
    wait(client, [item], timeout=5)
    set_status(client, path, {"conditions": [{"type": "Stalled", "status": "True", "reason": "Broken"}]})
    assert _fails(client, ref) == "stalled: Broken"


def test_namespace(client: Client, namespace: str) -> None:
    wait(client, [Ref("v1", "Namespace", "", namespace)], timeout=5)
    client.request("DELETE", f"/api/v1/namespaces/{namespace}")
    assert "is being deleted" in _reason(client, Ref("v1", "Namespace", "", namespace))


def test_what_is_not_there_may_still_come(client: Client, namespace: str) -> None:
    item = config_map("late", namespace, a="1")
    assert "is not there" in _reason(client, Ref.of(item))
    threading.Timer(0.4, put, [client, item]).start()
    wait(client, [item], timeout=10)


def test_all_together_and_each_named(client: Client, namespace: str) -> None:
    rollouts = [_Rollout(client, namespace, name) for name in ("one", "two", "three", "four", "five")]
    for rollout in rollouts[:3]:
        rollout.complete()
    seen: list[int] = []

    def progress(states: Mapping[Ref, State]) -> None:
        seen.append(sum(state.ready for state in states.values()))

    with pytest.raises(NotReady) as failed:
        wait(client, [rollout.item for rollout in rollouts], timeout=0.3, poll=0.05, progress=progress)
    assert set(failed.value.states) == {rollout.ref for rollout in rollouts[3:]}
    assert set(seen) == {3} and len(seen) > 1, "at each look: a wait in which nothing changes is told of too"
