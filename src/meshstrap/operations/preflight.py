"""Look at every node before anything is done to it, and say all that would stop the site, with what to do."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import gevent
from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.context import host

from meshstrap.bundle.lock import Lock, LockError
from meshstrap.bundle.plan import size_of
from meshstrap.facts import containerd as containerd_facts
from meshstrap.facts.preflight import Machine, Preflight
from meshstrap.mesh import versions
from meshstrap.operations import containerd, kubeadm, system
from meshstrap.operations.failure import executing, failure

GIB = 1 << 30
ERROR = "error"
WARNING = "warning"

TRIED = ("debian", "ubuntu", "rhel", "rocky", "almalinux", "centos", "fedora", "ol")
CONTROLLERS = {1: {"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"}, 2: {"cpu", "memory", "pids"}}
CONTROL_PLANE_PORTS = (6443, 2379, 2380, 10250, 10257, 10259)
WORKER_PORTS = (10250,)
# The programs of a cluster itself: on a node that has one, its own ports are no finding.
KUBERNETES = ("kube", "etcd")
# kubeadm's own minimum for a control plane.
CONTROL_PLANE_MEMORY = 1700 * 1000 * 1000
WORKER_MEMORY = 2 * GIB
# Measured on the lab's images: compressed blobs and what they unpack to are about 3.5 times the blobs.
UNPACKED = 3.5
# The kubelet's own default: below this share of free disk it begins to throw images away.
EVICTION = 0.15
CLOCK_WARNING = 2.0
# Certificates are dated back by five minutes when they are made; well before that tokens and leases go wrong.
CLOCK_ERROR = 30.0
CERTIFICATE_DAYS = 30
OLDEST_KUBERNETES = (1, 31)
LAST_WITH_CGROUP_1 = (1, 34)
OLDEST_KERNEL = (4, 19)

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Finding:
    """Something that would stop the site (error) or that a person should know (warning).

    Args:
        level: `error` or `warning`.
        check: the check's name, by which the data `preflight_accept` accepts it.
        message: what is wrong, and where.
        remedy: what to do.

    """

    level: str
    check: str
    message: str
    remedy: str

    @property
    def text(self) -> str:
        """One line for a person."""
        return f"[{self.check}] {self.message}. {self.remedy}"


@dataclass(frozen=True)
class Plan:
    """What the site's data wants, as far as preflight judges it.

    Args:
        kubernetes_version: without the v.
        istio_version: without the v.
        allow_unsupported_versions: whether Istio may stand on a Kubernetes that it does not support.
        pod_cidr: the pods' addresses.
        service_cidr: the Services' addresses.
        cni_manifests: the site's own CNI; empty where meshstrap routes the pods.
        ingress_node_port: where the ingress gateway answers on every node.
        kubelet_config: merged over ours.
        containerd_config: merged over ours.
        accept: checks whose errors are accepted.

    """

    kubernetes_version: str
    istio_version: str
    allow_unsupported_versions: bool = False
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    cni_manifests: Sequence[str] = ()
    ingress_node_port: int = 30191
    kubelet_config: Mapping[str, Any] = field(default_factory=dict)
    containerd_config: Mapping[str, Any] = field(default_factory=dict)
    accept: Sequence[str] = ()


@dataclass(frozen=True)
class Role:
    """A node's place in the site.

    Args:
        address: its IPv4 address in the cluster; None where the inventory gives none.
        control_plane: whether it runs the control plane.
        platforms: for which platforms the bundle has programs; empty where there is no bundle to read.
        need: bytes that it will be sent, directory -> bytes.

    """

    address: str | None
    control_plane: bool
    platforms: frozenset[str] = frozenset()
    need: Mapping[str, int] = field(default_factory=dict)


@operation()
def node(
    bundle: str,
    kubernetes_version: str,
    istio_version: str,
    allow_unsupported_versions: bool,
    pod_cidr: str,
    service_cidr: str,
    cni_manifests: Sequence[str],
    ingress_node_port: int,
    kubelet_config: Mapping[str, Any],
    containerd_config: Mapping[str, Any],
    accept: Sequence[str],
) -> Generator[PyinfraCommand, None, None]:
    """Look at this node, change nothing, and fail it with all that would stop it at once. Warnings are only said.

    + bundle: the directory of the bundle
    + kubernetes_version: for example 1.34.10
    + istio_version: for example 1.31.0
    + allow_unsupported_versions: whether Istio may stand on a Kubernetes that it does not support
    + pod_cidr: the pods' addresses
    + service_cidr: the Services' addresses
    + cni_manifests: the site's own CNI
    + ingress_node_port: where the ingress gateway answers
    + kubelet_config: merged over ours
    + containerd_config: merged over ours
    + accept: names of checks whose errors are accepted

    **Example:**

    .. code:: python

        preflight.node(name="Look at the node", bundle=host.data.bundle, ...)
    """
    plan = Plan(
        kubernetes_version=kubernetes_version,
        istio_version=istio_version,
        allow_unsupported_versions=allow_unsupported_versions,
        pod_cidr=pod_cidr,
        service_cidr=service_cidr,
        cni_manifests=cni_manifests,
        ingress_node_port=ingress_node_port,
        kubelet_config=kubelet_config,
        containerd_config=containerd_config,
        accept=accept,
    )
    peers = [address for each in host.inventory if each is not host and (address := kubeadm.node_address(each))]
    machine = host.get_fact(Preflight, peers=peers)
    if machine is None:
        yield failure(f"{host.name}: could not be looked at; see the error above")
        return
    try:
        lock: Lock | None = system.open_bundle(bundle)[0]
    except LockError:
        lock = None  # Said once for the site, by preflight.site.
    role = Role(
        address=kubeadm.node_address(host),
        control_plane="control_plane" in host.groups,
        platforms=frozenset(program.platform for program in lock.programs) if lock else frozenset(),
        need=_need(lock, machine, kubernetes_version) if lock else {},
    )
    _say_keys(machine)
    yield from _report(accepted(judge(machine, role, plan, now=machine["read_at"]), accept))


@operation()
def site(
    bundle: str,
    kubernetes_version: str,
    istio_version: str,
    allow_unsupported_versions: bool,
    pod_cidr: str,
    service_cidr: str,
    accept: Sequence[str],
) -> Generator[PyinfraCommand, None, None]:
    """Look at what concerns the site as a whole: versions, bundle, and what must be different on each node.

    + bundle: the directory of the bundle
    + kubernetes_version: for example 1.34.10
    + istio_version: for example 1.31.0
    + allow_unsupported_versions: whether Istio may stand on a Kubernetes that it does not support
    + pod_cidr: the pods' addresses
    + service_cidr: the Services' addresses
    + accept: names of checks whose errors are accepted

    **Example:**

    .. code:: python

        preflight.site(name="Look at the site as a whole", bundle=host.data.bundle, ...)
    """
    plan = Plan(
        kubernetes_version=kubernetes_version,
        istio_version=istio_version,
        allow_unsupported_versions=allow_unsupported_versions,
        pod_cidr=pod_cidr,
        service_cidr=service_cidr,
    )
    findings = [*judge_bundle(bundle, kubernetes_version), *judge_plan(plan), *judge_groups(host.inventory.groups)]
    findings += judge_together(_all_machines())
    yield from _report(accepted(findings, accept))


def judge(machine: Machine, role: Role, plan: Plan, *, now: float) -> list[Finding]:
    """Judge one node.

    Args:
        machine: what it says of itself.
        role: its place in the site.
        plan: what the site wants.
        now: seconds since 1970, for certificates.

    Returns:
        All findings, in the order of the checks.

    """
    checks: Sequence[Iterator[Finding]] = (
        _access(machine),
        _system(machine, role),
        _cgroup(machine, plan),
        _resources(machine, role, plan),
        _kernel(machine),
        _security(machine, plan),
        _names(machine, plan),
        _addresses(machine, role, plan),
        _peers(machine, plan),
        _ports(machine, role, plan),
        _runtimes(machine),
        _certificates(machine, now),
    )
    return [finding for check in checks for finding in check]


def judge_together(machines: Mapping[str, Machine]) -> list[Finding]:
    """Judge what must differ, or agree, between nodes.

    Args:
        machines: host -> what it says of itself.

    """
    findings = []
    same: tuple[tuple[str, Callable[[Machine], str], str], ...] = (
        ("hostname", lambda m: m["hostname"].lower(), "Give each its own: hostnamectl set-hostname NAME"),
        (
            "machine-id",
            lambda m: m["machine_id"],
            "Clones need their own: rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot",
        ),
        ("product-uuid", lambda m: m["product_uuid"], "Let the hypervisor give each machine its own"),
    )
    for check, read, remedy in same:
        holders: dict[str, list[str]] = defaultdict(list)
        for name, machine in machines.items():
            if read(machine):
                holders[read(machine)].append(name)
        for value, names in holders.items():
            if len(names) > 1:
                findings.append(Finding(ERROR, check, f"{', '.join(names)} have the same {check}: {value}", remedy))
    offsets = {name: machine["clock"] - machine["read_at"] for name, machine in machines.items() if machine["clock"]}
    if offsets:
        slow, fast = min(offsets, key=lambda n: offsets[n]), max(offsets, key=lambda n: offsets[n])
        difference = offsets[fast] - offsets[slow]
        if difference > CLOCK_WARNING:
            findings.append(
                Finding(
                    ERROR if difference > CLOCK_ERROR else WARNING,
                    "clock",
                    f"the clocks of {slow} and {fast} differ by {difference:.0f} s",
                    "Run a time service (chrony) on all nodes, or set them by hand: date -s",
                )
            )
    return findings


def judge_plan(plan: Plan) -> list[Finding]:
    """Judge the site's data: versions that go together, and addresses.

    Args:
        plan: what the site wants.

    """
    findings = []
    try:
        pair = versions.check(plan.istio_version, plan.kubernetes_version)
        kubernetes = versions.parse(plan.kubernetes_version)
    except ValueError as error:
        return [Finding(ERROR, "versions", str(error), "Set kubernetes_version and istio_version in group_data")]
    if kubernetes < OLDEST_KUBERNETES:
        findings.append(
            Finding(
                ERROR,
                "versions",
                f"Kubernetes {plan.kubernetes_version} is older than 1.31, which is the first with kubeadm v1beta4",
                "Choose a newer kubernetes_version, or make the cluster by other means: istio.py takes it as it is",
            )
        )
    if pair.support is versions.Support.UNSUPPORTED:
        level = WARNING if plan.allow_unsupported_versions else ERROR
        remedy = "Choose another pair, or take it upon yourself with --data allow_unsupported_versions=true"
        findings.append(Finding(level, "versions", pair.message, remedy))
    elif pair.support is versions.Support.UNKNOWN:
        findings.append(Finding(WARNING, "versions", pair.message, "Look at Istio's supported releases"))
    networks = {}
    for key, value in (("pod_cidr", plan.pod_cidr), ("service_cidr", plan.service_cidr)):
        try:
            networks[key] = ipaddress.IPv4Network(value)
        except ValueError:
            findings.append(
                Finding(
                    ERROR,
                    "addresses",
                    f"{key} is {value!r}, which is no IPv4 network",
                    "Give one such as 10.244.0.0/16; IPv6 and dual stack are not supported",
                )
            )
    if len(networks) == 2 and networks["pod_cidr"].overlaps(networks["service_cidr"]):
        findings.append(
            Finding(
                ERROR,
                "addresses",
                f"pod_cidr {plan.pod_cidr} and service_cidr {plan.service_cidr} overlap",
                "Choose networks apart from each other",
            )
        )
    return findings


def judge_groups(groups: Mapping[str, Sequence[Host]]) -> list[Finding]:
    """Judge the inventory: one control plane node, which leads.

    Args:
        groups: group -> its hosts.

    """
    count = len(groups.get("control_plane", []))
    if count == 1:
        return []
    return [
        Finding(
            ERROR,
            "inventory",
            f"the group control_plane has {count} hosts, and meshstrap makes one control plane node",
            "Put one host there, the others into workers",
        )
    ]


def judge_bundle(directory: str, kubernetes_version: str) -> list[Finding]:
    """Judge the bundle: every file there and unaltered, and the programs of the version that the data names.

    Args:
        directory: the data `bundle`.
        kubernetes_version: without the v.

    """
    try:
        lock, store = system.open_bundle(directory)
    except LockError as error:
        return [Finding(ERROR, "bundle", str(error), "Everything on the nodes comes from it")]
    remedy = "Make the bundle again, or restore what is named"
    findings = [Finding(ERROR, "bundle", problem, remedy) for problem in store.verify(lock)]
    wanted = f"v{kubernetes_version}"
    for program in lock.programs:
        if program.name in kubeadm.PROGRAMS and program.version != wanted:
            findings.append(
                Finding(
                    ERROR,
                    "bundle",
                    f"{directory}: its {program.name} is {program.version}, and kubernetes_version is {wanted}",
                    "Set kubernetes_version to what the bundle has, or add that version to the bundle",
                )
            )
    return findings


def accepted(findings: Sequence[Finding], accept: Sequence[str]) -> list[Finding]:
    """Turn the errors of accepted checks into warnings."""
    return [
        Finding(WARNING, each.check, f"{each.message} (accepted)", each.remedy)
        if each.level == ERROR and each.check in accept
        else each
        for each in findings
    ]


def _access(machine: Machine) -> Iterator[Finding]:
    if machine["uid"] != 0:
        yield Finding(
            ERROR,
            "root",
            f"commands run as user id {machine['uid']}, not as root",
            "Log in as root, or set _sudo = True (and _sudo_password or _use_sudo_password where sudo asks)",
        )
    if machine["init"] != "systemd":
        yield Finding(
            ERROR,
            "systemd",
            f"the first process is {machine['init'] or 'unknown'}, not systemd",
            "meshstrap runs containerd and the kubelet as systemd services: use a machine that has it",
        )


def _system(machine: Machine, role: Role) -> Iterator[Finding]:
    if machine["os"] not in TRIED:
        yield Finding(
            WARNING, "os", f"{machine['os_name'] or 'this system'} was not tried", f"Tried families: {', '.join(TRIED)}"
        )
    if role.platforms and machine["platform"] not in role.platforms:
        yield Finding(
            ERROR,
            "architecture",
            f"the node is {machine['platform']}, and the bundle has programs for {', '.join(sorted(role.platforms))}",
            "Add programs and images of that architecture to the bundle",
        )
    kernel = tuple(int(part) for part in re.findall(r"\d+", machine["kernel"])[:2])
    if kernel and kernel < OLDEST_KERNEL:
        yield Finding(ERROR, "kernel", f"kernel {machine['kernel']} is older than 4.19", "Use a newer kernel")
    if machine["missing_commands"]:
        yield Finding(
            ERROR,
            "commands",
            f"not installed: {', '.join(machine['missing_commands'])}",
            "Install the packages iproute2 (iproute), iptables, conntrack (conntrack-tools), kmod, util-linux, mount",
        )


def _cgroup(machine: Machine, plan: Plan) -> Iterator[Finding]:
    version = machine["cgroup"]
    lacking = CONTROLLERS.get(version, set()) - set(machine["controllers"])
    if lacking:
        yield Finding(
            ERROR,
            "cgroup",
            f"cgroup version {version} without {', '.join(sorted(lacking))}",
            "Turn them on in the kernel's command line (for example cgroup_enable=memory)",
        )
    if version == 1:
        refused = versions.parse(plan.kubernetes_version) > LAST_WITH_CGROUP_1
        yield Finding(
            ERROR if refused else WARNING,
            "cgroup-v1",
            "cgroup version 1, which Kubernetes keeps in maintenance only and the kubelet refuses from 1.35 on",
            "Boot with systemd.unified_cgroup_hierarchy=1",
        )
    driver = plan.kubelet_config.get("cgroupDriver", "systemd")
    if version == 2 and driver != "systemd" and "cgroupRoot" not in plan.kubelet_config:
        yield Finding(
            WARNING,
            "cgroup-driver",
            f"cgroupDriver is {driver} beside systemd: two managers of one tree",
            "Leave kubelet_config's cgroupDriver at systemd",
        )


def _resources(machine: Machine, role: Role, plan: Plan) -> Iterator[Finding]:
    if role.control_plane and machine["cpus"] < 2:
        yield Finding(ERROR, "cpu", f"{machine['cpus']} CPU, and a control plane needs 2", "Use a larger machine")
    memory = f"{machine['memory'] / GIB:.1f} GiB of memory"
    if role.control_plane and machine["memory"] < CONTROL_PLANE_MEMORY:
        yield Finding(ERROR, "memory", f"{memory}, and a control plane needs 1.7", "Use a larger machine")
    elif not role.control_plane and machine["memory"] < WORKER_MEMORY:
        yield Finding(WARNING, "memory", f"{memory}; Istio with its scenarios wants 2 on a worker", "Expect evictions")
    if machine["swap"] and plan.kubelet_config.get("failSwapOn", True):
        yield Finding(
            ERROR,
            "swap",
            f"swap is on ({', '.join(machine['swap'])}), with which the kubelet does not start",
            "Run swapoff -a and take it out of /etc/fstab, or set failSwapOn to False in kubelet_config",
        )
    needs: dict[str, int] = defaultdict(int)
    for directory, size in role.need.items():
        if directory in machine["disks"]:
            needs[machine["disks"][directory]["device"]] += size
    for device, need in needs.items():
        where = [directory for directory, mount in machine["disks"].items() if mount["device"] == device]
        mount = machine["disks"][where[0]]
        what = f"{device} ({', '.join(where)}) has {mount['free'] / GIB:.1f} GiB free"
        if mount["free"] < need:
            yield Finding(
                ERROR, "disk", f"{what}, and the bundle needs about {need / GIB:.1f} GiB there", "Free or add space"
            )
        elif mount["free"] - need < EVICTION * mount["size"] and "evictionHard" not in plan.kubelet_config:
            yield Finding(
                WARNING,
                "disk",
                f"{what}; with the bundle less than {EVICTION:.0%} stays, below which the kubelet deletes images",
                "Free or add space",
            )


def _kernel(machine: Machine) -> Iterator[Finding]:
    lacking = [module for module, there in machine["modules"].items() if not there]
    if lacking:
        yield Finding(
            ERROR,
            "modules",
            f"the kernel has no {', '.join(lacking)}, neither built in nor as a module",
            "Install the distribution's full kernel package (for example linux-image-amd64, kernel-modules)",
        )
    if "fs.inotify.max_user_instances" not in machine["sysctls"]:
        yield Finding(ERROR, "sysctls", "fs.inotify.max_user_instances cannot be read", "Use a kernel with inotify")
    elif "kubelet" in machine["confs"] and machine["runtimes"].get("kubelet") != "ours":
        now = int(machine["sysctls"]["fs.inotify.max_user_instances"])
        if now < system.INOTIFY_INSTANCES:
            yield Finding(
                WARNING,
                "sysctls",
                f"fs.inotify.max_user_instances is {now}: from about {now // 3} meshed pods on, Envoy does not start",
                f"Set it to {system.INOTIFY_INSTANCES} (deploys/runtime.py does)",
            )


def _security(machine: Machine, plan: Plan) -> Iterator[Finding]:
    if machine["selinux"] == "enforcing":
        yield Finding(
            ERROR,
            "selinux",
            "SELinux is enforcing, and the bundle brings no policy for containers",
            "Set it permissive (setenforce 0, and in /etc/selinux/config), or install container-selinux and accept it",
        )
    runtime = plan.containerd_config.get("plugins", {}).get("io.containerd.cri.v1.runtime", {})
    if machine["apparmor"] and not machine["apparmor_parser"] and not runtime.get("disable_apparmor"):
        yield Finding(
            WARNING,
            "apparmor",
            "AppArmor is on and apparmor_parser is not installed: containers run without its profile",
            "Install the package apparmor, or set disable_apparmor in containerd_config",
        )
    if machine["firewalls"]:
        yield Finding(
            ERROR,
            "firewall",
            f"{', '.join(machine['firewalls'])} is active and knows nothing of pods",
            "Run systemctl disable --now on it, or open 6443, 2379-2380, 10250 and the pods' and node ports' traffic"
            " and accept this",
        )
    if machine["forward"] == "DROP" and not plan.cni_manifests:
        yield Finding(
            ERROR,
            "forward",
            "iptables drops what the node forwards (policy of FORWARD): pods of different nodes do not meet",
            "Run iptables -P FORWARD ACCEPT at each boot; Docker sets DROP when it starts: stop it if it is not needed",
        )


def _names(machine: Machine, plan: Plan) -> Iterator[Finding]:
    name = machine["hostname"].lower()
    if not _NAME.fullmatch(name) or name.startswith("localhost"):
        yield Finding(
            ERROR,
            "hostname",
            f"{machine['hostname']!r} is no name for a node",
            "Give it one of letters, digits and hyphens: hostnamectl set-hostname NAME",
        )
    if not machine["machine_id"]:
        yield Finding(ERROR, "machine-id", "/etc/machine-id is empty", "Run systemd-machine-id-setup")
    if "resolvConf" in plan.kubelet_config or machine["systemd_resolved"]:
        return
    loopback = [each for each in machine["resolvers"] if each.startswith("127.") or each == "::1"]
    if loopback:
        yield Finding(
            ERROR,
            "resolvers",
            f"/etc/resolv.conf names {', '.join(loopback)}: pods cannot use it, and CoreDNS would ask itself",
            "Name the site's own resolver there, or give a file that does as resolvConf in kubelet_config",
        )
    elif not machine["resolvers"]:
        yield Finding(
            ERROR,
            "resolvers",
            "/etc/resolv.conf names no resolver, without which CoreDNS does not start",
            "Name one, even if nobody answers there (the node's own address)",
        )


def _addresses(machine: Machine, role: Role, plan: Plan) -> Iterator[Finding]:
    own = {address.partition("/")[0] for address in machine["addresses"]}
    if role.address is None:
        yield Finding(
            ERROR,
            "addresses",
            "the node's IPv4 address in the cluster is not known",
            'Give it in the inventory as data: {"node_address": "192.0.2.10"}; IPv6 is not supported',
        )
    elif role.address not in own:
        yield Finding(
            ERROR,
            "addresses",
            f"node_address {role.address} is none of the node's: {', '.join(sorted(own - {'127.0.0.1'})) or 'no IPv4'}",
            "Put the right one into the inventory",
        )
    if not any(route.startswith("default ") for route in machine["routes"]):
        yield Finding(
            ERROR,
            "default-route",
            "there is no default route, without which Services' addresses lead nowhere",
            "Add one, even to a router that leads nowhere",
        )
    if machine["confs"]:
        return  # The pods' networks of a standing cluster are there already.
    for key, network in (("pod_cidr", plan.pod_cidr), ("service_cidr", plan.service_cidr)):
        for place, taken in _networks(machine):
            try:
                overlap = ipaddress.IPv4Network(network).overlaps(taken)
            except ValueError:
                break  # Said for the site as a whole.
            if overlap:
                yield Finding(
                    ERROR,
                    "overlap",
                    f"{key} {network} overlaps {taken}, which the node reaches by {place}",
                    f"Choose another {key}",
                )


def _networks(machine: Machine) -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    for address, interface in machine["addresses"].items():
        if interface not in ("lo", "cni0"):
            yield interface, ipaddress.IPv4Interface(address).network
    for route in machine["routes"]:
        words = route.split()
        if "via" in words and words[0] != "default" and words[0][0].isdigit():
            yield f"a route via {words[words.index('via') + 1]}", ipaddress.IPv4Network(words[0], strict=False)


def _peers(machine: Machine, plan: Plan) -> Iterator[Finding]:
    for peer, state in machine["peers"].items():
        how, _, answer = state.partition(" ")
        if answer != "reachable":
            yield Finding(
                ERROR,
                "peers",
                f"node {peer} is not reached from here",
                "Look at cables, addresses and firewalls between the two",
            )
        elif how == "routed" and not plan.cni_manifests:
            yield Finding(
                ERROR,
                "one-l2",
                f"node {peer} is behind a router, and pod routes need all nodes on one L2 network",
                "Put them on one network, or name your own CNI's manifests in cni_manifests",
            )


def _ports(machine: Machine, role: Role, plan: Plan) -> Iterator[Finding]:
    standing = bool(machine["confs"] or machine["mark"])
    wanted = (*(CONTROL_PLANE_PORTS if role.control_plane else WORKER_PORTS), plan.ingress_node_port)
    for port in wanted:
        program = machine["listening"].get(port)
        if program is None or (standing and program.startswith(KUBERNETES)):
            continue
        if standing and program == "?":
            continue
        yield Finding(ERROR, "ports", f"port {port} is taken by {program}", "Stop it, or move it to another port")


def _runtimes(machine: Machine) -> Iterator[Finding]:
    other = [name for name in machine["runtimes"] if name.startswith(("k3s", "rke2"))]
    if other:
        yield Finding(
            ERROR,
            "runtime",
            f"{', '.join(other)} is installed, a Kubernetes of its own kind",
            "Remove it, or leave this node out: meshstrap makes clusters with kubeadm and containerd",
        )
    if "crio" in machine["runtimes"] and "containerd" not in machine["runtimes"]:
        yield Finding(
            ERROR,
            "runtime",
            "CRI-O is installed, and images go into containerd only",
            "Use a node with containerd or without a runtime",
        )
    if machine["runtimes"].get("containerd") == "others":
        yield Finding(
            WARNING,
            "runtime",
            "containerd was set up by others and is left alone",
            "See to it that its cgroup driver is the kubelet's and that its CRI plugin is on",
        )
    if "docker" in machine["runtimes"]:
        yield Finding(
            WARNING,
            "runtime",
            "Docker is installed: it has images of its own that the kubelet does not see",
            "Remove it where it is not needed",
        )
    if machine["confs"] and machine["mark"] is None:
        yield Finding(
            WARNING,
            "cluster",
            "the node belongs to a cluster that others made",
            "It is left alone: images.py and istio.py work on it",
        )
    if machine["mark"] == "started":
        yield Finding(
            WARNING, "cluster", "an earlier run was stopped half-way", "deploys/cluster.py makes it anew from there"
        )


def _certificates(machine: Machine, now: float) -> Iterator[Finding]:
    remedy = "Run kubeadm certs renew all on the node, and restart its control plane pods"
    for path, expires in machine["certificates"].items():
        days = (expires - now) / 86400
        day = f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d}"
        if days < 0:
            yield Finding(ERROR, "certificates", f"{path} expired on {day}", remedy)
        elif days < CERTIFICATE_DAYS:
            yield Finding(WARNING, "certificates", f"{path} expires on {day}, in {days:.0f} days", remedy)


def _need(lock: Lock, machine: Machine, kubernetes_version: str) -> dict[str, int]:
    wanted = containerd.references(
        lock,
        [],
        kubernetes_version,
        control_plane="control_plane" in host.groups,
        workloads=containerd.runs_workloads(host),
    )
    images = [image for each in wanted if (image := lock.image(each, machine["platform"]))]
    if "containerd" in machine["runtimes"]:
        on_node = host.get_fact(containerd_facts.Images)
        lacking = set(containerd.undelivered(images, on_node))
        images = [image for image in images if image.reference in lacking]
    need = {"/var/lib/containerd": int(size_of(images) * UNPACKED)}
    if "kubelet" not in machine["runtimes"]:
        blobs = {program.sha256: program.size for program in lock.programs if program.platform == machine["platform"]}
        need["/usr/local/bin"] = sum(blobs.values())
    return need


def _all_machines() -> dict[str, Machine]:
    hosts = [each for each in host.inventory if each.connected and each not in host.state.failed_hosts]
    tasks = {each.name: gevent.spawn(each.get_fact, Preflight, peers=[]) for each in hosts}
    gevent.joinall(list(tasks.values()))
    return {name: task.value for name, task in tasks.items() if task.value is not None}


def _say_keys(machine: Machine) -> None:
    if _first_time():
        for key in machine["host_keys"]:
            host.log(f"ssh host key {key}")


def _report(findings: Sequence[Finding]) -> Generator[PyinfraCommand, None, None]:
    errors = [finding for finding in findings if finding.level == ERROR]
    if _first_time():
        for finding in findings:
            if finding.level == WARNING:
                host.log(f"warning {finding.text}", logger.warning)
    if not errors:
        host.noop("nothing stands in the way")
        return
    text = "\n".join(f"error {finding.text}" for finding in errors)
    if not executing():
        for line in text.splitlines():
            host.log(line, logger.error)
    yield failure(text)


def _first_time() -> bool:
    # With -y there is no change detection, and what is to be said is said when it executes.
    return not executing() or not host.state.check_for_changes
