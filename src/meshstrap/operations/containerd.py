"""Manage containerd and the images that it holds for the kubelet."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pyinfra.api.command import FunctionCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from meshstrap import transport
from meshstrap.bundle import archive
from meshstrap.bundle.lock import Image, Lock, LockError
from meshstrap.bundle.plan import NodeImage, Plan, UnknownImageError, plan
from meshstrap.bundle.reference import ReferenceError
from meshstrap.bundle.store import Store, StoreError
from meshstrap.facts import containerd as facts
from meshstrap.facts.kubeadm import Cluster, Member, RequiredImages, phase
from meshstrap.facts.system import Platform, Services
from meshstrap.kube import manifests
from meshstrap.kube.manifests import ManifestError
from meshstrap.operations import system
from meshstrap.operations.failure import executing, fail, failure
from meshstrap.operations.reach import alone, fact

PROGRAMS = {
    "containerd": "/usr/local/bin/containerd",
    "containerd-shim-runc-v2": "/usr/local/bin/containerd-shim-runc-v2",
    "ctr": "/usr/local/bin/ctr",
    "runc": "/usr/local/sbin/runc",
}
CNI_DIRECTORY = "/opt/cni/bin"
CNI_PLUGINS = {name: f"{CNI_DIRECTORY}/{name}" for name in ("bridge", "host-local", "loopback", "portmap")}
CONFIG_FILE = "/etc/containerd/config.toml"
UNIT_FILE = "/etc/systemd/system/containerd.service"
SOCKET = "/run/containerd/containerd.sock"

PIN_LABEL = "io.cri-containerd.pinned=pinned"
KUBERNETES_BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
CONTROL_PLANE_ONLY = (*KUBERNETES_BINARIES, "etcd")

_UNIT = f"""\
[Unit]
Description=containerd container runtime
After=network.target local-fs.target

[Service]
{system.environment()}
ExecStart={PROGRAMS["containerd"]} --config {CONFIG_FILE}
Type=notify
Delegate=yes
# Containers outlive a restart of containerd.
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""

# The tar is standard input, so the script is an argument. ctr imports an archive as a whole or not at all.
_IMPORT = """
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin
ctr -n k8s.io images import - || exit 4
"""
_PIN = f"""
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin
for r; do ctr -n k8s.io images label "$r" {PIN_LABEL} >/dev/null || exit 1; done
"""


@operation()
@alone
def programs(bundle: str) -> Generator[PyinfraCommand, None, None]:
    """Install containerd, its shim, ctr and runc from the bundle, unless others set containerd up on the node.

    + bundle: the directory of the bundle

    **Example:**

    .. code:: python

        containerd.programs(name="Install containerd and runc", bundle=host.data.bundle)
    """
    theirs = _foreign()
    if theirs:
        host.noop(f"containerd was set up by others ({theirs}): left alone")
        return
    yield from system.install(bundle, PROGRAMS)


@operation()
@alone
def cni_plugins(bundle: str) -> Generator[PyinfraCommand, None, None]:
    """Install the CNI plugins from the bundle.

    + bundle: the directory of the bundle

    **Example:**

    .. code:: python

        containerd.cni_plugins(name="Install the CNI plugins", bundle=host.data.bundle)
    """
    if phase(fact(host, Member)) == "foreign":
        host.noop("this node belongs to a cluster that others made: its CNI plugins are left alone")
        return
    yield from system.install(bundle, CNI_PLUGINS)


@operation()
@alone
def service(
    bundle: str, kubernetes_version: str, config: Mapping[str, Any], kubelet_config: Mapping[str, Any]
) -> Generator[PyinfraCommand, None, None]:
    """Configure containerd for the kubelet and run it, unless others set it up on the node.

    + bundle: the directory of the bundle
    + kubernetes_version: its pause image is the one that containerd starts pods with
    + config: settings merged over ours, in the form of containerd's config.toml, version 3
    + kubelet_config: its cgroupDriver is containerd's too

    **Example:**

    .. code:: python

        containerd.service(
            name="Configure and run containerd",
            bundle=host.data.bundle,
            kubernetes_version=host.data.kubernetes_version,
            config=host.data.containerd_config,
            kubelet_config=host.data.kubelet_config,
        )
    """
    theirs = _foreign()
    if theirs:
        host.noop(f"containerd was set up by others ({theirs}): left alone")
        return
    problem = system.version_problem("kubernetes_version", kubernetes_version)
    if problem:
        yield from system.refuse(problem)
        return
    try:
        lock, _ = system.open_bundle(bundle)
        checksums = system.checksums(bundle, PROGRAMS)
    except (LockError, system.BundleError) as error:
        yield from system.refuse(str(error))
        return
    required = fact(host, RequiredImages, version=kubernetes_version)
    pause = pause_image(required, lock)
    if pause is None:
        yield from system.refuse(
            f"{bundle}: has no pause image, which containerd starts every pod with; add registry.k8s.io/pause to it"
        )
        return
    driver = kubelet_config.get("cgroupDriver", "systemd")
    texts = {
        CONFIG_FILE: toml(system.merge(configuration(pause, systemd_cgroup=driver == "systemd"), config)),
        UNIT_FILE: _UNIT,
    }
    yield from system.service("containerd", texts, checksums)


@operation()
@alone
def images(
    bundle: str, kubernetes_version: str, cni_manifests: Sequence[str] = ()
) -> Generator[PyinfraCommand, None, None]:
    """Bring the images that the node needs from the bundle into its containerd, pin them, and verify them there.

    An image is there when its exact reference has the locked manifest and every blob, unpacked. What lacks is
    streamed as one archive straight into containerd; a layer that several images share travels once. Afterwards the
    node is asked again: an import that did not deliver is an error.

    + bundle: the directory of the bundle
    + kubernetes_version: whose images kubeadm names
    + cni_manifests: the site's own CNI, whose images every node needs

    **Example:**

    .. code:: python

        containerd.images(
            name="Bring the images onto the node",
            bundle=host.data.bundle,
            kubernetes_version=host.data.kubernetes_version,
        )
    """
    problem = system.version_problem("kubernetes_version", kubernetes_version)
    if problem:
        yield from system.refuse(problem)
        return
    try:
        lock, store = system.open_bundle(bundle)
        required = fact(host, RequiredImages, version=kubernetes_version)
        wanted = references(
            lock, required, kubernetes_version,
            control_plane="control_plane" in host.groups, workloads=runs_workloads(host),
            kubernetes=phase(fact(host, Member)) != "foreign",
        )  # fmt: skip
        for path in cni_manifests:
            wanted.update(dict.fromkeys(images_of(manifests.load(Path(path))), path))
        on_node = fact(host, facts.Images)
        todo = plan(lock, wanted, fact(host, Platform), _node_images(on_node))
        check_files(store, todo.send)
    except (LockError, UnknownImageError, ReferenceError, StoreError, ManifestError) as error:
        yield from system.refuse(f"{bundle}: {error}" if isinstance(error, UnknownImageError) else str(error))
        return
    unpinned = [image.reference for image in todo.present if not on_node[image.reference]["pinned"]]
    if not todo.send and not unpinned:
        host.noop(f"all {len(todo.present)} images are there, complete and pinned")
        return
    if todo.send:
        if not executing() or not host.state.check_for_changes:
            host.log(f"{len(todo.send)} images to send ({todo.size / 1e6:.0f} MB), {len(todo.present)} are there")
        if executing() and not _answers():
            yield failure(f"{host.name}: there is no containerd; run deploys/runtime.py first")
            return
        yield FunctionCommand(_import, (store, todo), {})
    on_node = fact(host, facts.Images)
    lacking = undelivered([*todo.send, *todo.present], on_node)
    if lacking:
        yield failure(
            f"{host.name}: containerd took the images without an error, but does not have: {', '.join(lacking)}.\n"
            "Look at free disk and at `journalctl -u containerd` on the node, then run this again."
        )
        return
    to_pin = [image.reference for image in (*todo.present, *todo.send) if not on_node[image.reference]["pinned"]]
    yield StringCommand("sh", "-c", QuoteString(_PIN), "pin", *(QuoteString(reference) for reference in to_pin))


def references(
    lock: Lock,
    required: Sequence[str],
    kubernetes_version: str,
    *,
    control_plane: bool,
    workloads: bool,
    kubernetes: bool = True,
) -> dict[str, str]:
    """Say which images a node needs.

    Args:
        lock: what the bundle holds.
        required: what kubeadm names; empty where none of this version is installed yet, then the bundle's are taken.
        kubernetes_version: the cluster's.
        control_plane: whether the node runs the control plane.
        workloads: whether the node runs Istio and applications: all that is not Kubernetes' own.
        kubernetes: whether Kubernetes' own are ours to bring; a cluster that others made has its own.

    Returns:
        Reference -> what it is for.

    """
    wanted: dict[str, str] = {}
    if kubernetes:
        theirs = list(required) or _of_kubernetes(lock, kubernetes_version)
        wanted.update(dict.fromkeys(needed_by_kubernetes(theirs, control_plane=control_plane), "kubeadm"))
    if workloads:
        wanted.update(
            (image.reference, "the bundle")
            for image in lock.images
            if not image.reference.startswith("registry.k8s.io/")
        )
    return wanted


def _of_kubernetes(lock: Lock, version: str) -> list[str]:
    # Named whether the bundle has them or not: what lacks is said before kubeadm stumbles over it.
    named = [f"registry.k8s.io/{name}:v{version.removeprefix('v')}" for name in (*KUBERNETES_BINARIES, "kube-proxy")]
    others = [
        image.reference
        for image in lock.images
        if image.reference.startswith("registry.k8s.io/") and not _name(image.reference).startswith("kube-")
    ]
    return [*named, *others]


def images_of(objects: Any) -> set[str]:
    """Collect the images of all containers that manifests name, wherever in them their pods stand.

    Args:
        objects: parsed manifests, or a part of one.

    """
    found: set[str] = set()
    if isinstance(objects, Mapping):
        for key, value in objects.items():
            if key in ("containers", "initContainers") and isinstance(value, list):
                found.update(each["image"] for each in value if isinstance(each, Mapping) and "image" in each)
            found |= images_of(value)
    elif isinstance(objects, list):
        for value in objects:
            found |= images_of(value)
    return found


def runs_workloads(node: Host) -> bool:
    """Tell whether Istio and applications run on a node.

    Our control plane takes pods only where there is no worker when it is made, and goes on to where one comes later;
    in a cluster that others made any node may.

    Raises:
        Lost: the node does not answer.

    """
    workers = node.inventory.groups.get("workers", [])
    if node in workers or not workers:
        return True
    member = fact(node, Member)
    if phase(member) != "ours":
        return phase(member) == "foreign"
    cluster = fact(node, Cluster)
    known = cluster["nodes"].get(member["hostname"]) if cluster else None
    return known is not None and known["takes_pods"]


def needed_by_kubernetes(required: Sequence[str], *, control_plane: bool) -> list[str]:
    """Say which of the images that kubeadm names a node needs: a worker runs no control plane."""
    return [each for each in required if control_plane or _name(each) not in CONTROL_PLANE_ONLY]


def pause_image(required: Sequence[str], lock: Lock) -> str | None:
    """Name the pause image: kubeadm's, or the bundle's where there is no kubeadm yet; None where there is none."""
    known = required or [image.reference for image in lock.images]
    return next((reference for reference in known if _name(reference) == "pause"), None)


def configuration(pause: str, *, systemd_cgroup: bool) -> dict[str, Any]:
    """Make containerd's configuration, version 3.

    Args:
        pause: the image that every pod's sandbox is made of.
        systemd_cgroup: whether systemd makes the containers' cgroups; the kubelet's cgroupDriver must say the same.

    """
    return {
        "version": 3,
        "plugins": {
            "io.containerd.cri.v1.runtime": {
                "cni": {"bin_dirs": [CNI_DIRECTORY], "conf_dir": "/etc/cni/net.d"},
                "containerd": {
                    "runtimes": {
                        "runc": {
                            "runtime_type": "io.containerd.runc.v2",
                            "options": {"BinaryName": PROGRAMS["runc"], "SystemdCgroup": systemd_cgroup},
                        }
                    }
                },
            },
            "io.containerd.cri.v1.images": {"pinned_images": {"sandbox": pause}},
        },
    }


def toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Write settings as TOML.

    Args:
        settings: tables, strings, numbers, truth values, and lists of these.
        prefix: the table that they stand in.

    """
    plain = "".join(
        f"{_toml_value(key)} = {_toml_value(value)}\n"
        for key, value in settings.items()
        if not isinstance(value, Mapping)
    )
    tables = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            name = f"{prefix}.{_toml_value(key)}" if prefix else _toml_value(key)
            tables.append(f"\n[{name}]\n{toml(value, name)}")
    return plain + "".join(tables)


def _toml_value(value: Any) -> str:
    # A string, number, truth value or list of them in JSON is one in TOML, but for the pairs that JSON escapes
    # characters beyond 16 bits with, and DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_files(store: Store, images: Sequence[Image]) -> None:
    """Look whether the bundle's files are there and have their sizes, before anything is sent.

    Args:
        store: where they are.
        images: whose files.

    Raises:
        StoreError: some are not; each is named. Their content is verified while it is sent.

    """
    sizes: dict[str, int | None] = {}
    for image in images:
        sizes.update({image.manifest: None, image.config: None})
        sizes.update((layer.digest, layer.size) for layer in image.layers)
    problems = [store.problem(digest, size, read=False) for digest, size in sizes.items()]
    found = [problem for problem in problems if problem]
    if found:
        raise StoreError("\n".join([*found, "make the bundle again, or restore these files"]))


def undelivered(images: Sequence[Image], on_node: Mapping[str, facts.Image]) -> list[str]:
    """List the references that a node does not have with the locked manifest and every blob.

    Args:
        images: what it should have.
        on_node: what its Images fact says.

    """
    return [
        image.reference
        for image in images
        if (there := on_node.get(image.reference)) is None
        or there["manifest"] != image.manifest
        or not there["complete"]
    ]


def _import(state: State, host: Host, store: Store, todo: Plan) -> bool:
    def write(remote: BinaryIO) -> None:
        archive.write(remote, store, todo.send)

    began = time.monotonic()
    try:
        result = transport.stream(host, StringCommand("sh", "-c", QuoteString(_IMPORT)), write)
    except (transport.TransportError, StoreError, OSError) as error:
        return fail(host, f"images: {error}")
    if not result.ok:
        return fail(
            host,
            f"{host.name}: containerd refused the images: {_last(result.stderr)}\n"
            "Look at free disk and at `journalctl -u containerd` on the node, then run this again.",
        )
    host.log(f"{len(todo.send)} images, {todo.size / 1e6:.0f} MB, in {time.monotonic() - began:.1f} s")
    return True


def _answers() -> bool:
    service = fact(host, Services, services=["containerd"]).get("containerd")
    return service is not None and service["active"]


def _foreign() -> str | None:
    service = fact(host, Services, services=["containerd"]).get("containerd")
    return service["unit"] if service and system.is_foreign(service) else None


def _node_images(on_node: Mapping[str, facts.Image]) -> dict[str, NodeImage]:
    return {reference: NodeImage(image["manifest"], image["complete"]) for reference, image in on_node.items()}


def _name(reference: str) -> str:
    return reference.rpartition("/")[2].partition(":")[0].partition("@")[0]


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if "DEPRECATION" not in line]
    return lines[-1] if lines else "no reason given"
