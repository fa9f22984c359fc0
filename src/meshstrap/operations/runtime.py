"""Manage the images of the runtime that a node's kubelet uses: containerd, or a Docker engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from meshstrap import transport
from meshstrap.bundle import archive
from meshstrap.bundle import plan as planning
from meshstrap.bundle.check import uses
from meshstrap.bundle.lock import Image, Lock, LockError
from meshstrap.bundle.plan import Batch, Plan, Runtime, Shipment, UnknownImageError
from meshstrap.bundle.reference import ReferenceError
from meshstrap.bundle.store import Store, StoreError
from meshstrap.facts import containerd as containerd_facts
from meshstrap.facts import runtime as facts
from meshstrap.facts.k8s import KUBECONFIG
from meshstrap.facts.kubeadm import MemberState, phase
from meshstrap.kube import manifests
from meshstrap.kube.manifests import ManifestError
from meshstrap.operations import containerd, docker, meter, system
from meshstrap.operations.failure import executing, fail, failure
from meshstrap.operations.reach import alone, fact

_RUNTIMES: dict[str, ModuleType] = {"containerd": containerd, "docker": docker}
# How often a transfer is begun: planned anew where the connection was lost, or the node lost what it had when asked.
_ATTEMPTS = 3
# Characters of names and digests that one command may hold: dropbear takes packets of 35 000 bytes (RFC 4253, 6.1).
_QUESTION = 20_000


@operation()
@alone
def images(
    bundle: str,
    kubernetes_version: str,
    cni_manifests: Sequence[str] = (),
    kubelet_config: Mapping[str, Any] | None = None,
    prune: bool = False,
    verify: bool = False,
) -> Generator[PyinfraCommand, None, None]:
    """Bring the images that the node needs from the bundle into its runtime, keep them there, and verify them.

    An image is there when its exact reference has the locked identity and all that a container needs. Of one that
    is not, the layers that the node has stay at home; the others are streamed straight into the runtime. Nothing is
    sent that cannot fit. Afterwards the node is asked again: an import that did not deliver is an error. What goes
    wrong midway loses nothing: the images that are through stay, and the next run sends what is still missing.

    + bundle: the directory of the bundle
    + kubernetes_version: whose images kubeadm names
    + cni_manifests: the site's own CNI, whose images every node needs
    + kubelet_config: what a kubelet that is not configured yet will get, for its eviction thresholds
    + prune: remove images that meshstrap brought and the node needs no more
    + verify: read all blobs on the node and bring anew those whose content is not what they are called

    **Example:**

    .. code:: python

        runtime.images(
            name="Bring the images onto the node",
            bundle=host.data.bundle,
            kubernetes_version=host.data.kubernetes_version,
        )
    """
    problem = system.version_problem("kubernetes_version", kubernetes_version)
    if problem:
        yield from system.refuse(problem)
        return
    if not isinstance(verify, bool):
        yield from system.refuse(f"images_verify must be true or false, not {verify!r}")
        return
    try:
        lock, store = system.open_bundle(bundle)
        there = None if prune or verify else _nothing_missing(lock, kubernetes_version, cni_manifests)
        if there is not None:
            host.noop(f"all {there} images are there, complete and marked as pinned")
            return
        node = fact(host, facts.Node, version=kubernetes_version, cluster=containerd.asks_cluster(host))
        refusal = _refusal(node["runtime"])
        if refusal:
            yield failure(refusal)
            return
        wanted = _wanted(
            lock, node["member"], node["required"], kubernetes_version, cni_manifests, takes_pods=node["takes_pods"]
        )
        needed = planning.find(lock, wanted, node["platform"])

        def make(runtime: Runtime) -> Plan:
            return planning.plan(needed, runtime, lambda layer: archive.unpacked_size(store, layer), kubelet_config)

        altered = _altered(node["runtime"]) if verify else []
        if altered is None:
            yield failure(_unread(node["runtime"]))
            return
        runtime = planning.without(needed, node["runtime"], altered)
        todo = make(runtime)
        check_files(store, todo.send)
    except (LockError, UnknownImageError, ReferenceError, StoreError, ManifestError) as error:
        yield from system.refuse(f"{bundle}: {error}" if isinstance(error, UnknownImageError) else str(error))
        return
    known = {blob for image in needed for blob in planning.blobs_of(image)}
    if others := [blob for blob in altered if blob not in known]:
        yield failure(
            f"{host.name}: blobs of images that are not the bundle's have other content than they are called:"
            f" {', '.join(others)}; remove each (ctr -n k8s.io content rm ...) and bring its image anew"
        )
        return
    named = fact(_leader(), facts.PodImages) if prune else []
    if named is None:
        if phase(node["member"]) != "bare":
            yield failure(
                f"{host.name}: which images its cluster's pods name must be known before any is removed, and"
                f" {_leader().name}, the leader, has no {KUBECONFIG} to ask with; run this without images_prune"
            )
            return
        named = []
    unused = planning.unused(runtime, needed, named) if prune else []
    if not (todo.send or todo.unpinned or unused or runtime["claims"]):
        host.noop(f"all {len(todo.present)} images are there and complete{_unpinnable(runtime)}")
        return
    if not executing() or not host.state.check_for_changes:
        for text in table(todo, runtime, unused):
            host.log(text)
    if altered:
        yield containerd.drop(runtime, altered)
        runtime = planning.without(needed, fact(host, facts.Runtime), altered)
        todo = make(runtime)
    if unused:
        yield _RUNTIMES[runtime["kind"]].remove(runtime, unused)
        runtime = fact(host, facts.Runtime)
        todo = make(runtime)
    trouble = _trouble(runtime, todo)
    if trouble:
        if not executing():
            host.log(trouble, logger.error)
        yield failure(trouble)
        return
    if runtime["claims"]:
        yield containerd.release(runtime)
    for attempt in range(_ATTEMPTS if todo.send else 0):
        broken: list[str] = []
        yield FunctionCommand(_send, (store, runtime, todo, broken), {})
        if not broken and not todo.unpinned and not prune and _verified(needed):
            return
        # On a connection that was lost, this makes it again.
        runtime = fact(host, facts.Runtime)
        todo = make(runtime)
        if todo.send and broken and attempt + 1 < _ATTEMPTS:
            host.log(f"{broken[0]}; what the node lacks now is sent", logger.warning)
            continue
        if todo.send:
            yield failure(broken[0] if broken else _undelivered(runtime, todo))
            return
        break
    if todo.unpinned:
        yield containerd.pin(runtime, [image.reference for image in todo.unpinned])
    replaced = planning.unused(runtime, needed, named) if prune else []
    if replaced:
        yield _RUNTIMES[runtime["kind"]].remove(runtime, replaced)


def check_files(store: Store, shipments: Sequence[Shipment]) -> None:
    """Look whether the bundle's files are there and have their sizes, before anything is sent.

    Args:
        store: where they are.
        shipments: whose files.

    Raises:
        StoreError: some are not; each is named. Their content is verified while it is sent.

    """
    sizes: dict[str, int | None] = {}
    for shipment in shipments:
        sizes.update({shipment.image.manifest: None, shipment.image.config: None})
        sizes.update((layer.digest, layer.size) for layer in shipment.layers)
    problems = [store.problem(digest, size, read=False) for digest, size in sizes.items()]
    found = [problem for problem in problems if problem]
    if found:
        raise StoreError("\n".join([*found, "make the bundle again, or restore these files"]))


def table(todo: Plan, runtime: Runtime, unused: Sequence[str] = ()) -> list[str]:
    """Write what a node gets, for people.

    Args:
        todo: the plan.
        runtime: what the node says.
        unused: names that are to be removed.

    Returns:
        A line for the whole, one for the disk, and one for each image that is not simply there.

    """
    lines = []
    if todo.send:
        blobs = {layer.digest for shipment in todo.send for layer in shipment.layers}
        lines.append(
            f"{len(todo.send)} images to send ({_mb(todo.size)}, {len(blobs)} layers), {len(todo.present)} are there"
            + (_unpinnable(runtime) if runtime["version"] else "")
        )
        disk = runtime["disk"]
        if disk:
            lines.append(
                f"disk {disk['root']}: they take about {_mb(todo.need)} of the {_mb(disk['free'])} that are free;"
                f" {_mb(todo.reserve)} must stay so for the kubelet"
            )
    width = max((len(shipment.image.reference) for shipment in todo.send), default=0)
    lines += [
        f"{each.state:<13} {each.image.reference:<{width}} {_mb(each.size):>10} of {_mb(each.image.size)}"
        for each in todo.send
    ]
    lines += [f"{'not pinned':<13} {image.reference}" for image in todo.unpinned]
    lines += [f"{'unused':<13} {name}, to be removed" for name in unused]
    if runtime["claims"]:
        lines.append(f"{len(runtime['claims'])} blobs are still protected by a run that died: to be released")
    return lines


def _nothing_missing(lock: Lock, kubernetes_version: str, cni_manifests: Sequence[str]) -> int | None:
    """Count the images that the node needs where a cheap question tells that it has all, or give None.

    Kubernetes' own are the bundle's here, where the other question has them of kubeadm, which takes long to start. They
    are the same on a node that kubeadm was through on, since it began with all of them there, and where there is none.
    In others' cluster they are not ours to bring.
    """
    candidates = [
        image
        for image in lock.images
        if "control_plane" in host.groups or not containerd.of_control_plane(image.reference)
    ]
    held = _held(candidates, cluster=containerd.asks_cluster(host))
    if held is None:
        return None
    member = held["member"]
    if phase(member) in ("bare", "unfinished") and held["kubeadm"]:
        return None
    wanted = _wanted(lock, member, [], kubernetes_version, cni_manifests, takes_pods=held["takes_pods"])
    try:
        needed = planning.find(lock, wanted, held["platform"])
    except UnknownImageError:
        return None  # What the bundle lacks is said where kubeadm is asked what it needs.
    return len(needed) if planning.nothing_missing(needed, held["whole"]) else None


def _altered(runtime: Runtime) -> list[str] | None:
    """Read all blobs on the node, say what that cost, and give those whose content is another; None if none is read."""
    if not runtime["version"]:
        return []  # Nothing answers there: that is said, or it is made by an earlier step of this run.
    began = time.monotonic()
    found = fact(host, containerd_facts.Altered) if runtime["kind"] == "containerd" else {}
    if not found.get("read"):
        return None
    said = f"{len(found['blobs'])} of them altered" if found["blobs"] else "all are what they are called"
    host.log(f"blobs of {_mb(found['bytes'])} read in {time.monotonic() - began:.1f} s: {said}")
    for digest in found["blobs"]:
        host.log(f"{'altered':<13} {digest}", logger.warning)
    return list(found["blobs"])


def _unread(runtime: Runtime) -> str:
    why = "its content store is not found" if runtime["kind"] == "containerd" else "it keeps no blobs of images"
    return (
        f"{host.name}: images_verify: nothing of {runtime['kind']} can be read and compared: {why}. Run this without"
        " images_verify"
    )


def _verified(needed: Sequence[Image]) -> bool:
    """Tell whether the cheap question shows that the node has all of some images; where not, more must be asked."""
    held = _held(needed, cluster=False)
    return held is not None and planning.nothing_missing(needed, held["whole"])


def _held(images: Sequence[Image], *, cluster: bool) -> facts.HeldState | None:
    """Ask the cheap question about some images; None where it would be too long for one command."""
    asked = [(image.reference, image.manifest) for image in images]
    if sum(len(name) + len(manifest) for name, manifest in asked) > _QUESTION:
        return None
    return fact(host, facts.Held, images=asked, cluster=cluster)


def _wanted(
    lock: Lock,
    member: MemberState,
    required: Sequence[str],
    kubernetes_version: str,
    cni_manifests: Sequence[str],
    *,
    takes_pods: bool,
) -> dict[str, str]:
    wanted = containerd.references(
        lock, required, kubernetes_version,
        control_plane="control_plane" in host.groups,
        workloads=not containerd.asks_cluster(host) or containerd.takes_workloads(member, takes_pods),
        kubernetes=phase(member) != "foreign",
    )  # fmt: skip
    for path in cni_manifests:
        wanted.update((use.reference, path) for use in uses(manifests.load(Path(path)), path))
    return wanted


def _leader() -> Host:
    leaders = host.inventory.groups.get("leader", [])
    return leaders[0] if leaders else host


def _refusal(runtime: Runtime) -> str | None:
    if runtime["kind"] in _RUNTIMES:
        return None
    what = "CRI-O" if runtime["kind"] == "cri-o" else "a runtime that meshstrap does not know"
    return (
        f"{host.name}: the kubelet's endpoint {runtime['endpoint']} is {what}; images can be brought into containerd"
        " and Docker only. Load them there by hand, or give the kubelet another runtime"
    )


def _trouble(runtime: Runtime, todo: Plan) -> str | None:
    kind = runtime["kind"]
    if executing() and not runtime["version"]:
        if not runtime["installed"]:
            return f"{host.name}: there is no {kind}; run deploys/runtime.py first"
        return (
            f"{host.name}: {kind} does not answer at {runtime['endpoint']}; look at `systemctl status {kind}` and"
            f" `journalctl -u {kind}` on the node, start it, then run this again"
        )
    disk = runtime["disk"]
    if disk and todo.missing:
        return (
            f"{host.name}: {disk['root']}: {_mb(todo.missing)} are missing: the images take about {_mb(todo.need)},"
            f" {_mb(disk['free'])} are free, and the kubelet evicts pods below {_mb(todo.reserve)}.\n"
            "Nothing was sent. Make room there, or remove unused images with --data images_prune=true"
        )
    return None


def _unpinnable(runtime: Runtime) -> str:
    if runtime["pinnable"]:
        return ""
    return (
        f"; {runtime['kind']} {runtime['version']} cannot pin them: what the kubelet's garbage collection takes, the"
        " next run brings back"
    )


def _send(state: State, host: Host, store: Store, runtime: Runtime, todo: Plan, broken: list[str]) -> bool:
    """Send what a node lacks; what broke the transfer off, and may be planned anew, is added to `broken`."""
    began = time.monotonic()
    there = planning.by_reference(runtime)
    # What somebody else brought, and we repair, stays theirs.
    ours = {
        each.image.reference for each in todo.send if each.state != "incomplete" or there[each.image.reference]["ours"]
    }
    with meter.shown(host, todo.size) as transfer:
        for batch in planning.batches(todo.send):
            names = ", ".join(image.reference for image in batch.images)
            command = _RUNTIMES[runtime["kind"]].load(runtime, batch, ours)
            try:
                result = transport.stream(host, command, _writer(store, batch, transfer))
            except (transport.TransportError, ConnectionError) as error:
                broken.append(f"{names}: {error}")
                return True
            except (StoreError, OSError) as error:
                return fail(host, f"{names}: {error}")
            if result.exit_code == containerd.GONE:
                broken.append(f"{names}: {_last(result.stderr)}, which was there when the node was asked")
                return True
            if not result.ok:
                return fail(
                    host, f"{host.name}: {runtime['kind']} refused {names}: {_last(result.stderr)}\n{_look(runtime)}"
                )
    host.log(f"{len(todo.send)} images, {_mb(transfer.sent)}, in {time.monotonic() - began:.1f} s")
    return True


def _writer(store: Store, batch: Batch, transfer: meter.Meter) -> Callable[[BinaryIO], None]:
    def write(remote: BinaryIO) -> None:
        archive.write(transfer.counted(remote), store, batch.images, batch.omit)

    return write


def _undelivered(runtime: Runtime, todo: Plan) -> str:
    lacking = ", ".join(f"{each.image.reference} ({each.state})" for each in todo.send)
    return f"{host.name}: {runtime['kind']} took the images without an error, but does not have: {lacking}.\n" + _look(
        runtime
    )


def _look(runtime: Runtime) -> str:
    return f"Look at free disk and at `journalctl -u {runtime['kind']}` on the node, then run this again."


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if "DEPRECATION" not in line]
    return lines[-1] if lines else "no reason given"
