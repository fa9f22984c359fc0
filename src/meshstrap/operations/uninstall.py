"""Take Istio off the cluster: sidecars first, then the control planes by their version's own command, then the rest.

Sidecars go while the control plane still stands, so that proxies hear of the pods that have none any more. Workloads
whose pods ask for a sidecar themselves are restarted when there is no injector left to give them one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host

from meshstrap import transport
from meshstrap.evidence import report
from meshstrap.facts.istio import ISTIOCTL
from meshstrap.facts.k8s import KUBECONFIG
from meshstrap.facts.system import PATH
from meshstrap.kube import proxy, query
from meshstrap.kube.connect import Client
from meshstrap.kube.delete import delete
from meshstrap.kube.errors import ApiError, KubeError
from meshstrap.kube.parallel import each
from meshstrap.kube.ref import Ref
from meshstrap.mesh import gateway, removal
from meshstrap.operations import api_server, injection, k8s, progress, system
from meshstrap.operations.failure import executing, failure

Object = Mapping[str, Any]

CRDS = ("keep", "remove")
_ISTIOCTL_SECONDS = 300
_DELETE_SECONDS = 180.0
_DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
_OF_OTHERS = (("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("apps/v1", "DaemonSet"), ("batch/v1", "Job"))


@dataclass(frozen=True)
class Found:
    """What there is of Istio in a cluster, and what stands in the way of taking it off.

    Args:
        labels: for each namespace the labels that decide on injection.
        sidecars: workloads to restart, pods that nobody can restart, and Jobs' pods at work.
        immovable: those of the workloads that a restart does not give new pods, and why.
        revisions: of control planes and injectors.
        rest: objects of Istio outside its namespace, without CustomResourceDefinitions.
        definitions: its CustomResourceDefinitions, where they shall go.
        namespace: whether istio-system is there.
        others: objects of others that would go, in words.
        going: objects of Istio's kinds that would go, in words.
        standing: objects of Istio's kinds that stay, in words.
    """

    labels: dict[str, list[str]]
    sidecars: injection.Concerned
    immovable: dict[Ref, str]
    revisions: list[str]
    rest: list[Ref]
    definitions: list[Ref]
    namespace: bool
    others: list[str]
    going: list[str]
    standing: list[str]

    @property
    def anything(self) -> bool:
        """Whether there is something to take off."""
        sidecars = self.sidecars
        return bool(
            self.labels or sidecars.restart or sidecars.stuck or sidecars.jobs or self.revisions or self.rest
            or self.definitions or self.namespace
        )  # fmt: skip


def control_planes(
    cluster_name: str, confirm: str, *, crds: str = "keep", discard: Sequence[str] = (), **arguments: Any
) -> OperationMeta:
    """Take Istio off the cluster, and prove that nothing of it is left. Runs on a control plane node.

    Refuses before anything is touched: without the cluster's name; while a pod with a sidecar is there that no workload
    makes anew (a Job's at work among them); while others' objects would go whose namespace is not named.

    + cluster_name: the cluster's name
    + confirm: the same, typed by the person who wants this
    + crds: `keep` or `remove` Istio's CustomResourceDefinitions: with them go all objects of these kinds
    + discard: namespaces whose Istio objects may go though others made them

    **Example:**

    .. code:: python

        uninstall.control_planes("meshstrap", host.data.confirm, name="Istio off the cluster")
    """
    if crds not in CRDS:
        raise OperationValueError(f"istio_crds must be keep or remove, not {crds!r}")
    if isinstance(discard, str) or not all(isinstance(name, str) for name in discard):
        raise OperationValueError(f'istio_discard must be a list of namespaces, as in ["shop"], not {discard!r}')
    if problem := system.name_problem("cluster_name", cluster_name):
        raise OperationValueError(problem)
    if confirm != cluster_name:
        raise OperationValueError(
            f"this takes Istio off cluster {cluster_name}, and every workload's sidecar with it; if that is what you"
            f" want, add: --data confirm={cluster_name}"
        )
    return _control_planes(crds=crds, discard=tuple(discard), **arguments)


@operation()
def _control_planes(*, crds: str, discard: Sequence[str]) -> Generator[PyinfraCommand, None, None]:
    try:
        client = api_server.client(host)
        found = _look(client, crds, discard)
    except k8s.ERRORS as error:
        yield k8s.unplanned(error)
        return
    if found.anything:
        _show(found)
    if blocked := _blocked(found):
        if not executing():
            for line in blocked:
                host.log(line, logger.warning)
        yield failure("\n".join([*blocked, "Nothing was touched."]))
    elif found.anything:
        yield k8s.command(lambda: _take_off(host, client, found, crds, discard))
    else:
        host.noop(f"nothing of Istio is in the cluster{_kept(found)}")


def _look(client: Client, crds: str, discard: Sequence[str]) -> Found:
    labels = {
        item["metadata"]["name"]: keys
        for item in query.list(client, "v1", "Namespace")
        if (keys := removal.injected(item["metadata"].get("labels") or {}))
        and item["metadata"]["name"] != gateway.NAMESPACE
    }
    sidecars = injection.concerned(client, None, removal.bearing_sidecar)
    for pod in query.list(client, "v1", "Pod", labels="istio.io/gateway-name"):
        name = f"Pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"
        sidecars.stuck[name] = "is a gateway that Istio made for a Gateway object"
    for pod in query.list(client, "v1", "Pod"):
        if (said := removal.needs_injector(pod)) and pod["metadata"]["namespace"] != gateway.NAMESPACE:
            sidecars.stuck[f"Pod {pod['metadata']['namespace']}/{pod['metadata']['name']}"] = said
    istiods = query.list(client, "apps/v1", "Deployment", labels="app=istiod")
    rest = [item for kind in removal.CLUSTER_KINDS for item in query.list(client, *kind) if removal.is_istios(item)]
    rest += [
        item
        for item in query.list(client, "v1", "ConfigMap", labels=removal.CONFIG_MAPS_LABEL)
        if item["metadata"]["namespace"] != gateway.NAMESPACE and item["metadata"]["name"] in removal.CONFIG_MAPS
    ]
    definitions = [item for item in query.list(client, *_DEFINITION) if removal.is_istios_kind(item)]
    customs = [item for items in each(lambda one: _customs(client, one), definitions) for item in items]
    here = [item for item in customs if item["metadata"].get("namespace") == gateway.NAMESPACE]
    going = customs if crds == "remove" else here
    neighbours = [item for kind in _OF_OTHERS for item in query.list(client, *kind, gateway.NAMESPACE)]
    return Found(
        labels=labels,
        sidecars=sidecars,
        immovable=injection.immovable(client, sidecars.restart),
        revisions=removal.revisions([*istiods, *injectors(client)]),
        rest=[Ref.of(item) for item in rest],
        definitions=[Ref.of(item) for item in definitions] if crds == "remove" else [],
        namespace=query.get(client, "v1", "Namespace", gateway.NAMESPACE) is not None,
        others=removal.foreign([*going, *neighbours], discard),
        going=[str(Ref.of(item)) for item in going],
        standing=[str(Ref.of(item)) for item in customs if item not in going],
    )


def injectors(client: Client) -> list[dict[str, Any]]:
    """List the injectors; a revision without one is none to istioctl."""
    kind = ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")
    return query.list(client, *kind, labels="app=sidecar-injector")


def _customs(client: Client, definition: Object) -> list[dict[str, Any]]:
    spec = definition["spec"]
    served = next(version["name"] for version in spec["versions"] if version["served"])
    return query.list(client, f"{spec['group']}/{served}", spec["names"]["kind"])


def _blocked(found: Found) -> list[str]:
    """Say why it cannot begin: each sentence names an object and what to do."""
    lines = [
        f"{pod} {said}: no Deployment, StatefulSet or DaemonSet makes it anew. Delete it first, and make it anew after"
        for pod, said in found.sidecars.stuck.items()
    ]
    lines += [
        f"{pod} {said}: a restart would kill its work. Wait for its end, or delete the Job"
        for pod, said in found.sidecars.jobs.items()
    ]
    lines += [f"{ref} {said}, so its pods would keep their sidecars" for ref, said in found.immovable.items()]
    if found.others:
        namespaces = sorted({name.split("/")[1] for name in found.others})
        lines += [f"{name} is not ours, and would go" for name in found.others]
        told = ", ".join(f'"{name}"' for name in namespaces)
        lines.append(f"If these may go: --data 'istio_discard=[{told}]'; kinds stay with istio_crds=keep")
    return lines


def _show(found: Found) -> None:
    for namespace, labels in found.labels.items():
        host.log(f"configured  Namespace/{namespace}")
        for label in labels:
            host.log(f"{'':<11}   label {label}: removed")
    for ref, said in found.sidecars.restart.items():
        host.log(f"restarted   {ref} ({said})")
    for revision in found.revisions:
        host.log(f"deleted     control plane of revision {revision}")
    for ref in [*found.rest, *found.definitions]:
        host.log(f"deleted     {ref}")
    for name in found.going:
        host.log(f"deleted     {name}")
    if found.namespace:
        host.log(f"deleted     Namespace/{gateway.NAMESPACE}, with all that is in it")
    for name in found.standing:
        host.log(f"stands      {name} (without effect until Istio is there again; deploys/clean.py removes ours)")


def _take_off(of: Host, client: Client, found: Found, crds: str, discard: Sequence[str]) -> None:
    began = datetime.now(UTC)
    namespaces = sorted({ref.namespace for ref in found.sidecars.restart})
    before = _answers(client, namespaces)
    for namespace, labels in found.labels.items():
        injection.label(client, namespace, dict.fromkeys(labels))
    # Those that ask for a sidecar themselves would get it again as long as there is an injector.
    first = injection.concerned(client, None, lambda pod: injection.complaint(pod, ""))
    injection.restart(client, first.restart)
    printed = run_istioctl(of, removal.revisions(injectors(client)), purge=crds == "remove")
    later = injection.concerned(client, None, removal.bearing_sidecar)
    left = _look(client, crds, discard)
    # Webhooks before the restart: one whose istiod is gone would refuse every pod. istiod makes its ConfigMaps again as
    # long as it runs.
    with progress.waiting(of, lambda: "what is left of Istio to be gone"):
        delete(client, [ref for ref in left.rest if ref.kind != "ConfigMap"], timeout=_DELETE_SECONDS)
        injection.restart(client, later.restart)
        delete(client, [Ref("v1", "Namespace", "", gateway.NAMESPACE)], timeout=_DELETE_SECONDS)
        delete(client, left.definitions, timeout=_DELETE_SECONDS)
        delete(client, _look(client, crds, discard).rest, timeout=_DELETE_SECONDS)
    _prove(of, client, crds, before, began, printed)


def run_istioctl(of: Host, revisions: Sequence[str], *, purge: bool = False) -> list[str]:
    """Take control planes off by the version's own command; give what it printed.

    Raises:
        KubeError: istioctl failed, in its own words.

    """
    asked = _run(of, f"exec {ISTIOCTL} version --remote=false --short")
    version = asked.strip().rpartition(" ")[2]
    wanted: list[str | None] = [None] if purge and revisions else [*revisions]
    printed = []
    for revision in wanted:
        arguments = removal.command(version, revision)
        of.log(f"istioctl {' '.join(arguments)}")
        printed.append(_run(of, removal.shell(ISTIOCTL, KUBECONFIG, arguments)))
    return printed


def _run(of: Host, line: str) -> str:
    command = StringCommand("sh", "-c", QuoteString(f"{PATH}; {line}"))
    result = transport.execute(of, command, timeout=_ISTIOCTL_SECONDS)
    if not result.ok:
        raise KubeError(f"{of.name}: istioctl failed: {(result.stderr or result.stdout).strip()[-2000:]}")
    return result.stdout


def _answers(client: Client, namespaces: Sequence[str]) -> dict[str, str]:
    """Ask each Service's http ports once, through the API server; give by Service what answered."""
    asked = [
        (item["metadata"]["namespace"], item["metadata"]["name"], port)
        for namespace in namespaces
        for item in query.list(client, "v1", "Service", namespace)
        if item["spec"].get("selector")
        for port in item["spec"].get("ports", [])
        if port.get("appProtocol", port.get("name", "")).startswith("http")
    ]

    def one(target: tuple[str, str, Mapping[str, Any]]) -> tuple[str, str]:
        namespace, name, port = target
        try:
            proxy.get(client, "services", namespace, name, port["port"])
        except ApiError as error:
            # What the workload itself says of "/" is an answer; 502 and 503 are the API server's for none.
            return f"{namespace}/{name}:{port['port']}", "" if error.status in (502, 503, 504) else str(error.status)
        except KubeError:
            return f"{namespace}/{name}:{port['port']}", ""
        return f"{namespace}/{name}:{port['port']}", "200"

    return dict(each(one, asked))


def _prove(
    of: Host, client: Client, crds: str, before: Mapping[str, str], began: datetime, printed: Sequence[str]
) -> None:
    """Look at everything anew, and ask the workloads that answered before.

    Raises:
        KubeError: something of Istio is left, or a workload answers no more.

    """
    found = _look(client, crds, ())
    left = [f"Namespace/{name} still has the label {', '.join(keys)}" for name, keys in found.labels.items()]
    left += [f"{ref}: {said}" for ref, said in found.sidecars.restart.items()]
    left += [f"{pod} {said}" for pod, said in {**found.sidecars.stuck, **found.sidecars.jobs}.items()]
    left += [f"the control plane of revision {revision} is still there" for revision in found.revisions]
    left += [f"{ref} is still there" for ref in [*found.rest, *found.definitions]]
    if found.namespace:
        left.append(f"Namespace/{gateway.NAMESPACE} is still there")
    after = _answers(client, sorted({name.split("/")[0] for name in before}))
    left += [
        f"Service {name} answered {status} before, and {after.get(name) or 'nothing'} now"
        for name, status in before.items()
        if status and not after.get(name)
    ]
    answering = [name for name, status in before.items() if status and after.get(name)]
    content = {
        "scenario": "uninstall",
        "verdict": {"outcome": "FAIL" if left else "PASS", "lines": left},
        "crds": crds,
        "answers": {"before": dict(before), "after": after},
        "standing": found.standing,
        "istioctl": list(printed),
    }
    path = report.write(Path(str(of.data.get("reports", "reports"))), "uninstall", content, at=began)
    if left:
        raise KubeError("\n".join(["uninstall: FAIL: " + left[0], *left[1:], f"evidence: {path}"]))
    of.log(
        f"uninstall: PASS: no webhook, control plane, sidecar or label of Istio is left, and no namespace"
        f" {gateway.NAMESPACE}{_kept(found)}"
    )
    of.log(f"  {len(answering)} of {len(answering)} Services that answered before answer without a sidecar")
    of.log(f"  evidence: {path}")


def _kept(found: Found) -> str:
    return f"; {len(found.standing)} objects of its kinds stand" if found.standing else ""
