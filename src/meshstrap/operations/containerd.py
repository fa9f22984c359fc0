"""Manage containerd and the images that it holds for the kubelet."""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping, Sequence
from typing import Any

from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.context import host

from meshstrap.bundle.lock import Image, Lock, LockError
from meshstrap.bundle.plan import Batch, NodeImage, Runtime
from meshstrap.facts import containerd as facts
from meshstrap.facts.kubeadm import Member, MemberState, RequiredImages, TakesPods, phase
from meshstrap.facts.system import PATH, Platform, Services
from meshstrap.operations import containerd_config, system
from meshstrap.operations.reach import alone, fact

PROGRAMS = {
    "containerd": "/usr/local/bin/containerd",
    "containerd-shim-runc-v2": "/usr/local/bin/containerd-shim-runc-v2",
    "ctr": "/usr/local/bin/ctr",
    "runc": containerd_config.RUNC,
}
CNI_PLUGINS = {
    name: f"{containerd_config.CNI_DIRECTORY}/{name}" for name in ("bridge", "host-local", "loopback", "portmap")
}
CONFIG_FILE = "/etc/containerd/config.toml"
UNIT_FILE = "/etc/systemd/system/containerd.service"

# What `load` exits with where the node has lost what the archive counts on.
GONE = 65
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

# A claim protects what an archive leaves out from garbage collection: the import's own lease covers only what it
# writes. It does not expire; the next run releases what a run that died left. ctr takes longer to start than to do its
# work, so as many as there are claims, or labels, run at a time. The tar is standard input.
_CLAIMS = f"""
{PATH}
{facts.SNAPSHOTTER}
c="ctr --address $1 --connect-timeout 10s --namespace {facts.NAMESPACE}"; shift
release() {{
    wait
    for claimed; do
        case $claimed in
            sha256:*) $c content label "$claimed" containerd.io/gc.root= {facts.CLAIM_LABEL.partition("=")[0]}= ;;
            *) $c snapshots rm "$claimed" ;;
        esac >/dev/null 2>&1 &
    done
    wait
    return 0
}}
"""
_IMPORT = f"""{_CLAIMS}
claims=$1; shift
trap 'release $claims' EXIT; trap 'exit 1' HUP INT TERM PIPE
now=$(date -u +%FT%TZ); started=; gone=
for claimed in $claims; do
    case $claimed in
        sha256:*) $c content label "$claimed" "containerd.io/gc.root=$now" {facts.CLAIM_LABEL} ;;
        *) $c snapshots prepare "$claimed" "${{claimed#{facts.CLAIM_SNAPSHOT}}}" ;;
    esac >/dev/null 2>&1 &
    started="$started $claimed=$!"
done
for each in $started; do wait "${{each##*=}}" || gone=${{each%=*}}; done
[ -z "$gone" ] || {{ echo "$gone is gone" >&2; exit {GONE}; }}
# Through its transfer service containerd unpacks for the snapshotters that are configured there alone.
local=; [ -n "$CONTAINERD_SNAPSHOTTER" ] && ctr images import --help | grep -q -- --local && local=--local
$c images import $local - || exit 1
# Whether it delivered is for the caller to find out.
while [ $# -gt 0 ]; do
    $c images label "$1" $3 >/dev/null 2>&1 &
    case $3 in *{facts.OURS_LABEL}*) $c content label "$2" {facts.OURS_LABEL} >/dev/null 2>&1 & ;; esac
    shift 3
done
exit 0
"""
_RELEASE = f"""{_CLAIMS}
release "$@"
"""
_PIN = f"""{_CLAIMS}
for reference; do $c images label "$reference" {facts.PIN_LABEL} >/dev/null || exit 1; done
"""
_DROP = f"""{_CLAIMS}
$c content rm "$@" >/dev/null
"""
_REMOVE = f"""{_CLAIMS}
$c images rm --sync "$@" >/dev/null
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
    + config: settings merged over ours, in the form of config.toml, version 3, or 2 for containerd 1.x; may be secret
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
        programs = system.find_programs(lock, PROGRAMS, fact(host, Platform), bundle)
        problem = containerd_config.problem(config, programs["containerd"].version)
    except (LockError, system.BundleError) as error:
        yield from system.refuse(str(error))
        return
    if problem:
        yield from system.refuse(problem)
        return
    pauses = {image.reference for image in lock.images if _name(image.reference) == "pause"}
    # Which of several kubeadm wants is for it to say; it takes a while to.
    required = fact(host, RequiredImages, version=kubernetes_version) if len(pauses) > 1 else []
    pause = pause_image(required, lock)
    if pause is None:
        yield from system.refuse(
            f"{bundle}: has no pause image, which containerd starts every pod with; add registry.k8s.io/pause to it"
        )
        return
    driver = kubelet_config.get("cgroupDriver", "systemd")
    ours = containerd_config.configuration(
        pause, systemd_cgroup=driver == "systemd", version=programs["containerd"].version
    )
    texts = {
        CONFIG_FILE: containerd_config.toml(system.merge(ours, config)),
        UNIT_FILE: _UNIT,
    }
    # It may hold a registry's password.
    yield from system.service("containerd", texts, checksums, secret=[CONFIG_FILE])


def load(runtime: Runtime, batch: Batch, ours: Container[str]) -> StringCommand:
    """Make the command that imports an archive from its standard input.

    What the archive leaves out is claimed first, and released in any case. Exit code GONE: some of it is not there.

    Args:
        runtime: what the node says of its containerd.
        batch: what the archive holds and leaves out.
        ours: references of the images to mark as brought by us.

    """
    claims = [
        f"{facts.CLAIM_SNAPSHOT}{claim.removeprefix('chain:')}" if claim.startswith("chain:") else claim
        for claim in batch.claims
    ]
    arguments = [" ".join(claims)]
    for image in batch.images:
        mark = [facts.OURS_LABEL] if image.reference in ours else []
        arguments += [image.reference, image.manifest, " ".join([facts.PIN_LABEL, *mark])]
    return _command(_IMPORT, runtime, arguments)


def release(runtime: Runtime) -> StringCommand:
    """Make the command that releases what a run that died had claimed."""
    return _command(_RELEASE, runtime, runtime["claims"])


def pin(runtime: Runtime, references: Sequence[str]) -> StringCommand:
    """Make the command that keeps images from the kubelet's garbage collection."""
    return _command(_PIN, runtime, references)


def drop(runtime: Runtime, digests: Sequence[str]) -> StringCommand:
    """Make the command that drops blobs: an import passes over what is there by name."""
    return _command(_DROP, runtime, digests)


def remove(runtime: Runtime, names: Sequence[str]) -> StringCommand:
    """Make the command that removes images by the names that the runtime has them under."""
    return _command(_REMOVE, runtime, names)


def _command(script: str, runtime: Runtime, arguments: Sequence[str]) -> StringCommand:
    words = (QuoteString(argument) for argument in arguments)
    return StringCommand("sh", "-c", QuoteString(script), "ctr", QuoteString(runtime["endpoint"]), *words)


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


def runs_workloads(node: Host) -> bool:
    """Tell whether Istio and applications run on a node.

    Our control plane takes pods only where there is no worker when it is made, and goes on to where one comes later;
    in a cluster that others made any node may.

    Raises:
        Lost: the node does not answer.

    """
    if not asks_cluster(node):
        return True
    member = fact(node, Member)
    return takes_workloads(member, phase(member) == "ours" and fact(node, TakesPods))


def asks_cluster(node: Host) -> bool:
    """Tell whether only its cluster knows if a node runs applications: it is no worker, and there are some."""
    workers = node.inventory.groups.get("workers", [])
    return bool(workers) and node not in workers


def takes_workloads(member: MemberState, takes_pods: bool) -> bool:
    """Tell whether Istio and applications run on a control plane node beside workers.

    Args:
        member: what its files say.
        takes_pods: what its cluster says; False where none answers.

    """
    return takes_pods if phase(member) == "ours" else phase(member) == "foreign"


def needed_by_kubernetes(required: Sequence[str], *, control_plane: bool) -> list[str]:
    """Say which of the images that kubeadm names a node needs: a worker runs no control plane."""
    return [each for each in required if control_plane or not of_control_plane(each)]


def of_control_plane(reference: str) -> bool:
    """Tell whether only nodes of the control plane need an image."""
    return _name(reference) in CONTROL_PLANE_ONLY


def pause_image(required: Sequence[str], lock: Lock) -> str | None:
    """Name the pause image: kubeadm's, or the bundle's where there is no kubeadm yet; None where there is none."""
    known = required or [image.reference for image in lock.images]
    return next((reference for reference in known if _name(reference) == "pause"), None)


def undelivered(images: Sequence[Image], on_node: Mapping[str, NodeImage]) -> list[str]:
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
        or not (there["complete"] and there["unpacked"])
    ]


def _foreign() -> str | None:
    service = fact(host, Services, services=["containerd"]).get("containerd")
    return service["unit"] if service and system.is_foreign(service) else None


def _name(reference: str) -> str:
    return reference.rpartition("/")[2].partition(":")[0].partition("@")[0]
