"""Move the mesh to another revision of Istio, without losing a request.

The new control plane comes beside the old one, then gateways and workloads are moved to it, each by a rolling restart,
and only when no proxy is left with the old one is that removed. Every step looks at what stands, so a run that was
interrupted is run again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host

from meshstrap.evidence import report
from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import KubeError
from meshstrap.kube.plan import Change, Plan, plan
from meshstrap.kube.ref import Ref
from meshstrap.kube.wait import wait as wait_for
from meshstrap.mesh import gateway, injector, removal, versions
from meshstrap.mesh import revision as revisions
from meshstrap.operations import api_server, injection, istio, k8s, node_ports, progress, scenario, uninstall
from meshstrap.operations.failure import executing, failure
from meshstrap.scenarios import http, ingress, neighbours, traffic
from meshstrap.scenarios.site import Site

Object = Mapping[str, Any]

_READY_SECONDS = 300.0
_GONE_SECONDS = 90.0
# What proxies of both revisions use: Istio's charts give it one name. It goes over last, with the gateways.
_DEFAULT_VALIDATOR = "istiod-default-validator"
_GATEWAYS = ("IngressGateways", "EgressGateways")


@dataclass(frozen=True)
class Found:
    """What stands, and what is to be done.

    Args:
        old: the other revisions that have a control plane.
        planned: the objects of the new revision.
        namespaces: those that are to ask for the new revision's sidecars.
        rest: for each old revision what is only its own.
        blocked: why it cannot begin.
    """

    old: list[str]
    planned: Plan
    namespaces: list[injection.Namespace]
    rest: dict[str, list[Ref]]
    blocked: list[str]

    @property
    def anything(self) -> bool:
        """Whether there is something to do."""
        return bool(self.old or self.planned.pending or any(each.changes for each in self.namespaces))


def control_plane(
    version: str,
    *,
    profile: str = "default",
    ingress_node_port: int = istio.NODE_PORT,
    revision: str = revisions.DEFAULT,
    tag: str = "",
    values: Mapping[str, Any] | None = None,
    allow_unsupported_versions: bool = False,
    **arguments: Any,
) -> OperationMeta:
    """Move control plane, gateways and sidecars to a revision, and remove the others. Runs on a control plane node.

    Data `prove=false` does without the traffic that proves that no request is lost, and without the canary it needs.

    + version: Istio's, the same as the node's istioctl
    + profile: as in `istio.control_plane`; so are ingress_node_port, tag, values and allow_unsupported_versions
    + revision: the one that is to be the only one

    **Example:**

    .. code:: python

        upgrade.control_plane("1.31.0", name="Istio's other revision", revision="1-31-0")
    """
    spec = istio.operator(version, profile, ingress_node_port, revision, {} if values is None else values, tag)
    for key, value in (
        ("allow_unsupported_versions", allow_unsupported_versions), ("prove", host.data.get("prove", True)),
    ):  # fmt: skip
        if not isinstance(value, bool):
            raise OperationValueError(f"{key} must be true or false, not {value!r}")
    node_ports.published()
    return _control_plane(
        version=version, spec=spec, revision=revision, allow_unsupported=allow_unsupported_versions, **arguments
    )


@operation()
def _control_plane(
    *, version: str, spec: dict[str, Any], revision: str, allow_unsupported: bool
) -> Generator[PyinfraCommand, None, None]:
    try:
        client = api_server.client(host)
        pair = versions.check(version, client.version())
        if pair.support is versions.Support.UNSUPPORTED and not allow_unsupported:
            yield k8s.unplanned(KubeError(f"{pair.message}; or set allow_unsupported_versions=true"))
            return
        objects = istio.rendered(host, version, spec)
        found = _look(client, objects, revision)
    except (*k8s.ERRORS, ValueError) as error:
        yield k8s.unplanned(error)
        return
    if found.anything and host.data.get("prove", True) and not _gateways(objects):
        found.blocked.append(
            f"profile {spec['spec']['profile']} has no ingress gateway, so no traffic could show that no request is"
            " lost: do without that proof by --data prove=false"
        )
    if found.anything:
        _show(found, revision)
    if found.blocked:
        if not executing():
            for line in found.blocked:
                host.log(line, logger.warning)
        yield failure("\n".join([*found.blocked, "Nothing was touched."]))
    elif found.anything:
        yield k8s.command(lambda: _upgrade(host, client, objects, revision))
    else:
        host.noop(f"revision {revision} is the only one, and every proxy is of it")


def _gateways(objects: Sequence[Object]) -> list[Object]:
    """Pick the ingress gateway's Deployment, through which the traffic of the proof goes; none in profile minimal."""
    return [item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == gateway.SERVICE]


def _look(client: Client, objects: Sequence[Object], revision: str) -> Found:
    planned = plan(client, objects, owner=istio.owner_of(revision), prune=True)
    deployments = query.list(client, "apps/v1", "Deployment", labels="app=istiod")
    standing = removal.revisions([*deployments, *uninstall.injectors(client)])
    old = [each for each in standing if each != revision]
    asking = {
        item["metadata"]["name"]: revisions.injected(item["metadata"].get("labels") or {})
        for item in query.list(client, "v1", "Namespace")
    }
    # One that asks for a revision that is not there is left alone: it is nobody's of these.
    tags = injector.tags(injection.webhooks(client))
    namespaces = [
        injection.look(client, name, revision, tags)
        for name, asked in sorted(asking.items())
        if asked in [*old, revision] and name != gateway.NAMESPACE
    ]
    ours = {Ref.of(item).identity for item in objects}
    rest = {
        each: [
            change.ref
            for change in plan(client, [], owner=istio.owner_of(each), prune=True).pending
            if change.ref.identity not in ours
        ]
        for each in old
    }
    blocked = [] if standing else ["there is no Istio to move; deploys/istio.py brings one of this revision"]
    blocked += [
        f"{pod} {said}, and no Deployment, StatefulSet or DaemonSet makes it anew: delete it first, and make it after"
        for each in namespaces
        for pod, said in each.stuck.items()
    ]
    blocked += [
        f"Namespace {name} asks for sidecars by the revision tag {asked}, which points to {tags[asked]}: move the tag"
        f" first (istioctl tag set {asked} --revision {revision} --overwrite)"
        for name, asked in sorted(asking.items())
        if tags.get(asked) in old and asked not in old
    ]
    moved = {each.name for each in namespaces}
    immovable = injection.immovable(client, [ref for each in namespaces for ref in each.restart])
    blocked += [f"{ref} {said}, so its pods would keep the old sidecar" for ref, said in immovable.items()]
    held = injection.concerned(client, None, lambda pod: _held_by(pod, old))
    blocked += [
        f"{ref} asks for its sidecar by a label of its own ({said}): let its pods ask for istio.io/rev={revision}"
        for ref, said in held.restart.items()
        if ref.namespace not in moved
    ]
    blocked += [f"{pod} {said}: wait for its end, or delete the Job" for pod, said in held.jobs.items()]
    for change in planned.pending:
        strangers = _strangers(change)
        if strangers:
            blocked.append(f"{change.ref}: fields are held by {', '.join(strangers)}; see deploys/istio.py --dry")
    return Found(old, planned, namespaces, rest, blocked)


def _held_by(pod: Object, old: Sequence[str]) -> str:
    held = injection.revision_of(pod)
    return f"has a sidecar of revision {held}" if held in old else ""


def _strangers(change: Change) -> list[str]:
    """Name those who hold an object's fields and are no other set of Istio's revisions."""
    return sorted(
        {conflict.manager for conflict in change.conflicts if conflict.foreign and not _of_a_revision(conflict.manager)}
    )


def _of_a_revision(manager: str) -> bool:
    owner = manager.removeprefix("the set of owner ")
    return owner != manager and (owner == istio.OWNER or owner.startswith(f"{istio.OWNER}-"))


def _goes_over(change: Change) -> bool:
    """Tell whether an object serves requests or checks of both revisions, so that it is moved and not added."""
    labels = (change.body or {}).get("metadata", {}).get("labels") or {}
    return labels.get("operator.istio.io/component") in _GATEWAYS or change.ref.name == _DEFAULT_VALIDATOR


def _show(found: Found, revision: str) -> None:
    for change in found.planned.pending:
        moved = "moved" if any(conflict.foreign for conflict in change.conflicts) else change.outcome
        host.log(f"{moved:<11} {change.ref}")
    for each in found.namespaces:
        injection.show(each)
    for old, refs in found.rest.items():
        for ref in refs:
            host.log(f"deleted     {ref} (revision {old})")


def _upgrade(of: Host, client: Client, objects: Sequence[Object], revision: str) -> None:
    if not of.data.get("prove", True):
        _steps(of, client, objects, revision, nullcontext)
        return
    site = scenario.site(client)
    began, run, observation = site.clock.now(), secrets.token_hex(4), _Observation(revision, objects)
    base = _answering(site)
    with traffic.LogReader(site, run) as reader, traffic.Sender(base, run) as sender:
        _steps(of, client, objects, revision, observation.phase)
    observed = observation.finished(client, sender.requests)
    _lines(site, reader, sender.requests)
    observed |= {"log": reader.log, "twice": sorted(reader.twice)}
    verdict = traffic.judge(observed)
    # The gateways' pods are asked for as what they are here: pods with a proxy, whose log is read.
    unread = () if verdict.passed else neighbours.look(site, gateway.NAMESPACE, ()).lacks
    content = {
        "scenario": "upgrade",
        "claim": f"Istio moves to revision {revision} and not one request through the NodePort fails meanwhile",
        "verdict": verdict.as_dict(),
        "started": began.isoformat(),
        "finished": site.clock.now().isoformat(),
        "observation": observed,
    }
    path = report.write(site.reports, "upgrade", content, at=began)
    lines = [f"upgrade: {verdict.line}", *(f"  {line}" for line in verdict.lines), f"  judged by: {verdict.rule}"]
    lines += [*(f"  may be the cause: {lack}" for lack in unread), f"  evidence: {path}"]
    if not verdict.passed:
        raise KubeError("\n".join(lines))
    for line in lines:
        of.log(line)


def _answering(site: Site) -> str:
    """Give the URL that the traffic goes to.

    Raises:
        KubeError: nothing answers there, so nothing could be proved.

    """
    if not site.nodes:
        raise KubeError("no node of the cluster is ready, so there is none to send requests to")
    base = ingress.base_url(site, site.nodes[0])
    reply = http.get(base)
    if reply.status != 200:
        raise KubeError(
            f"{base}/ answers {reply.status or reply.error}, so no traffic could show that no request is lost:"
            " run deploys/canary.py first, or do without that proof by --data prove=false. Nothing was touched."
        )
    return base


class _Observation:
    """What is noted while the steps run."""

    def __init__(self, revision: str, objects: Sequence[Object]) -> None:
        self._revision = revision
        self._image = next(
            container["image"]
            for item in _gateways(objects)
            for container in item["spec"]["template"]["spec"]["containers"]
        )
        self._phases: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note when a step began and ended, by the clock that the requests are noted by."""
        began = time.time()
        try:
            yield
        finally:
            self._phases.append({"name": name, "began": began, "ended": time.time()})

    def finished(self, client: Client, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Look at all proxies and at what is left of other revisions."""
        pods = [pod for pod in query.list(client, "v1", "Pod") if gateway.has_sidecar(pod)]
        left = [f"Deployment {item['metadata']['name']}" for item in _istiods(client, self._revision)]
        left += [
            f"{item['kind']} {item['metadata']['name']}"
            for kind in removal.CLUSTER_KINDS
            for item in query.list(client, *kind)
            if (item["metadata"].get("labels") or {}).get("istio.io/rev", self._revision) != self._revision
        ]
        left += [
            f"ConfigMap {item['metadata']['name']}"
            for item in query.list(client, "v1", "ConfigMap", gateway.NAMESPACE, labels="istio.io/rev")
            if item["metadata"]["labels"]["istio.io/rev"] != self._revision
        ]
        return {
            "revision": self._revision,
            "image": self._image,
            "phases": self._phases,
            "requests": requests,
            "sidecars": [_proxy(pod) for pod in pods],
            "left": left,
        }


def _istiods(client: Client, revision: str) -> list[dict[str, Any]]:
    found = query.list(client, "apps/v1", "Deployment", labels="app=istiod")
    return [item for item in found if item["metadata"]["labels"].get("istio.io/rev") != revision]


def _proxy(pod: Object) -> dict[str, str]:
    metadata, spec = pod["metadata"], pod["spec"]
    image = next(
        container["image"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]
        if container["name"] == gateway.PROXY
    )
    # A gateway's pods are told by their template, a sidecar's by its injector.
    told = injection.revision_of(pod) or metadata.get("labels", {}).get("istio.io/rev", "")
    return {"pod": f"{metadata['namespace']}/{metadata['name']}", "revision": told, "image": image}


def _steps(of: Host, client: Client, objects: Sequence[Object], revision: str, phase: Callable[[str], Any]) -> None:
    owner = istio.owner_of(revision)
    with phase("the new control plane beside the old one"):
        planned = plan(client, objects, owner=owner, prune=False)
        beside = tuple(change for change in planned.changes if not _goes_over(change))
        k8s.make_so(client, replace(planned, changes=beside), force=True)
        wait_for(client, [change.ref for change in beside], timeout=_READY_SECONDS, progress=k8s.progress(of, client))
    with phase("gateways to the new one"):
        planned = plan(client, objects, owner=owner, prune=True)
        k8s.make_so(client, planned, force=True)
        wait_for(client, objects, timeout=_READY_SECONDS, progress=k8s.progress(of, client))
        with progress.waiting(of, lambda: "the gateways' old pods to end"):
            _until_gone(client)
    with phase("workloads to the new one"):
        found = _look(client, objects, revision)
        if found.blocked:
            raise KubeError("\n".join(found.blocked))
        injection.make_so(client, found.namespaces, {each.name: revision for each in found.namespaces})
    with phase("the old one away"):
        for pod in query.list(client, "v1", "Pod"):
            held = _proxy(pod)["revision"] if gateway.has_sidecar(pod) else ""
            if held in found.old:
                raise KubeError(f"{_proxy(pod)['pod']} still has a proxy of revision {held}, so that is not removed")
        there = removal.revisions(uninstall.injectors(client))
        uninstall.run_istioctl(of, [each for each in found.old if each in there])
        for old in found.old:
            # What `manifest generate` rendered lacks labels by which istioctl would find it.
            k8s.make_so(client, plan(client, [], owner=istio.owner_of(old), prune=True))


def _until_gone(client: Client) -> None:
    """Wait until the gateways' old pods are gone: while they end, they answer."""
    deadline = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < deadline:
        pods = query.list(client, "v1", "Pod", gateway.NAMESPACE)
        if not any("deletionTimestamp" in pod["metadata"] for pod in pods):
            return
        time.sleep(0.5)


def _lines(site: Site, reader: traffic.LogReader, requests: Sequence[Mapping[str, Any]]) -> None:
    """Read on until each answered request has its line, for at most 15 s."""
    deadline = time.monotonic() + 15
    while True:
        reader.look()
        if all(request["mark"] in reader.log for request in requests) or time.monotonic() > deadline:
            return
        time.sleep(0.5)
