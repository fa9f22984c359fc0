"""Look at every node before anything is done to it, and say all that would stop the site, with what to do."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import gevent
from gevent.lock import RLock
from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.api.state import StateStage
from pyinfra.context import host, state

from meshstrap import transport
from meshstrap.bundle.lock import Lock, LockError
from meshstrap.bundle.plan import size_of
from meshstrap.facts import containerd as containerd_facts
from meshstrap.facts.preflight import Machine, Preflight
from meshstrap.mesh import versions
from meshstrap.operations import containerd, kubeadm, offline, preflight_mounts, preflight_proxies, system
from meshstrap.operations.failure import executing, failure
from meshstrap.operations.finding import ERROR, WARNING, Finding
from meshstrap.operations.reach import Lost, fact
from meshstrap.operations.site import refuse_unknown_data

GIB = 1 << 30

TRIED = ("debian", "ubuntu", "rhel", "rocky", "almalinux", "centos", "fedora", "ol")
CONTROLLERS = {1: {"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"}, 2: {"cpu", "memory", "pids"}}
WORKER_PORTS = (10248, 10249, 10250, 10256)
CONTROL_PLANE_PORTS = (6443, 2379, 2380, 10257, 10259, *WORKER_PORTS)
NODE_PORTS = range(30000, 32768)
# kube-controller-manager gives each node a /24 of the pods' network, of which kubeadm takes no more than 65536; the
# API server takes no more than 2^20 addresses for Services, and kubeadm no fewer than ten.
POD_PREFIXES = range(8, 25)
SERVICE_PREFIXES = range(12, 29)
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

# The CRI plugin as containerd 1.x and 2.x name it and its halves.
CRI_PLUGINS = {
    "cri",
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
}

# Every name that a finding may have, and so what the data `preflight_accept` may hold.
CHECKS = frozenset(
    {
        "access", "addresses", "apparmor", "architecture", "bundle", "certificates", "cgroup", "cgroup-driver",
        "cgroup-v1", "clock", "cluster", "cni", "commands", "cpu", "data", "default-route", "disk", "firewall",
        "forward", "forwarding", "hostname", "images", "inventory", "iptables", "kernel", "machine-id", "memory",
        "modules", "noexec", "one-l2", "os", "overlap", "peers", "ports", "product-uuid", "proxies", "resolvers",
        "root", "runtime", "selinux", "site", "swap", "sysctls", "systemd", "versions",
    }
)  # fmt: skip

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Plan:
    """What the site's data wants, as far as preflight judges it.

    Each is the data of the same name, as the person gave it: `judge_data` says what is none.

    Args:
        bundle: the directory of the bundle.
        kubernetes_version: without the v, for example 1.34.10.
        istio_version: without the v, for example 1.31.0.
        allow_unsupported_versions: whether Istio may stand on a Kubernetes that it does not support.
        pod_cidr: the pods' addresses.
        service_cidr: the Services' addresses.
        cni_manifests: the site's own CNI; empty where meshstrap routes the pods.
        ingress_node_port: where the ingress gateway answers on every node.
        kubelet_config: merged over ours.
        containerd_config: merged over ours.
        accept: checks whose errors are accepted.

    """

    bundle: str
    kubernetes_version: str
    istio_version: str
    allow_unsupported_versions: bool
    pod_cidr: str
    service_cidr: str
    cni_manifests: Sequence[str]
    ingress_node_port: int
    kubelet_config: Mapping[str, Any]
    containerd_config: Mapping[str, Any]
    accept: Sequence[str]


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


@dataclass(frozen=True)
class Look:
    """What all machines said and what concerns the site as a whole, seen once by the first host that came.

    Args:
        teller: the host that tells the site's findings.
        machines: host -> what its machine says of itself.
        troubles: host -> why its machine says nothing.
        findings: about the site as a whole.

    """

    teller: str
    machines: Mapping[str, Machine]
    troubles: Mapping[str, str]
    findings: Sequence[Finding]


_turn = RLock()
_looks: dict[StateStage, Look] = {}
# Data `bundle` -> what was found of its images.
_rendered: dict[str, list[Finding]] = {}


def look(plan: Plan, **arguments: Any) -> OperationMeta:
    """Look at the nodes and at the site as a whole, change nothing, and fail with all that is wrong at once.

    Whichever host comes first looks at all that can be reached, and tells what concerns the site; where that is an
    error it stops the others too. Warnings are only said.

    + plan: what the site's data wants

    **Example:**

    .. code:: python

        preflight.look(name="Look at the nodes and the site", plan=preflight.Plan(bundle=host.data.bundle, ...))
    """
    refuse_unknown_data()
    return _look_at(plan=plan, **arguments)


@operation()
def _look_at(*, plan: Plan) -> Generator[PyinfraCommand, None, None]:
    wanted, faults = judge_data(plan)
    with _turn:
        if state.current_stage not in _looks:
            _looks[state.current_stage] = _look(host.name, wanted, faults)
    seen = _looks[state.current_stage]
    yield from _report([*told_by(seen, host.name), *_of_this_node(seen, wanted)])


def _of_this_node(seen: Look, wanted: Plan) -> list[Finding]:
    trouble = seen.troubles.get(host.name, f"{host.name}: could not be looked at; see the error above")
    if machine := seen.machines.get(host.name):
        _say_keys(machine)
        try:
            found = [*judge(machine, _role(machine, wanted), wanted, now=machine["read_at"]), *_forwarding()]
            return accepted(found, wanted.accept)
        except Lost as error:
            trouble = str(error)
    return [Finding(ERROR, "access", trouble, "Put that right, then run this again")]


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
        preflight_mounts.judge(machine),
        preflight_proxies.judge(machine, role.address),
        _kernel(machine),
        _security(machine, plan),
        _tables(machine),
        _names(machine),
        _resolvers(machine, plan),
        _addresses(machine, role, plan),
        _peers(machine, plan),
        _ports(machine, role, plan),
        _runtimes(machine, plan),
        _cni(machine, plan),
        _cluster(machine),
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


def judge_data(plan: Plan) -> tuple[Plan, list[Finding]]:
    """Judge each value of the site's data by itself: on the command line a version can become a number.

    Args:
        plan: what the site wants, as given.

    Returns:
        The plan with an empty value in place of each that is none of its kind, which all else can be judged by; and
        the findings, which name key and value.

    """
    rules: tuple[tuple[str, Callable[[Any], bool], Any, str], ...] = (
        ("bundle", lambda v: isinstance(v, str), "", "Name the directory that holds bundle.lock.yaml and store/"),
        ("kubernetes_version", _is_version, "", "Give kubeadm's own, all three parts, without v and +: 1.34.10"),
        ("istio_version", _is_version, "", "Give all three parts, without a v: 1.31.0"),
        ("allow_unsupported_versions", lambda v: isinstance(v, bool), False, "Give true or false"),
        ("pod_cidr", lambda v: _is_network(v, POD_PREFIXES), "", _cidr_remedy("10.244.0.0/16", POD_PREFIXES)),
        (
            "service_cidr",
            lambda v: _is_network(v, SERVICE_PREFIXES),
            "",
            _cidr_remedy("10.96.0.0/16", SERVICE_PREFIXES),
        ),
        ("cni_manifests", _is_texts, (), "Give a list of files, in group_data"),
        ("ingress_node_port", _is_node_port, 0, f"Give a number from {NODE_PORTS[0]} to {NODE_PORTS[-1]}"),
        ("kubelet_config", lambda v: isinstance(v, Mapping), {}, "Give keys and values, in group_data"),
        ("containerd_config", lambda v: isinstance(v, Mapping), {}, "Give keys and values, in group_data"),
        ("accept", _are_checks, (), _checks_remedy(plan.accept)),
    )
    findings = []
    for key, is_one, empty, remedy in rules:
        value = getattr(plan, key)
        if not is_one(value):
            name = "preflight_accept" if key == "accept" else key
            findings.append(Finding(ERROR, "data", f"{name} cannot be {value!r}", remedy))
            plan = replace(plan, **{key: empty})
    return plan, findings


def judge_plan(plan: Plan, *, standing: bool = False) -> list[Finding]:
    """Judge what must go together in the site's data: versions, and networks.

    Args:
        plan: what the site wants; what `judge_data` emptied is not judged again.
        standing: whether the cluster is one that others made, which kubeadm of ours is not run for.

    """
    return [*_versions(plan, standing=standing), *_networks_apart(plan)]


def left_alone(machine: Machine) -> bool:
    """Tell whether a machine belongs to a cluster that others made."""
    return bool(machine["confs"]) and machine["mark"] is None


def _versions(plan: Plan, *, standing: bool) -> Iterator[Finding]:
    if not plan.kubernetes_version:
        return
    if not standing and versions.parse(plan.kubernetes_version) < OLDEST_KUBERNETES:
        yield Finding(
            ERROR,
            "versions",
            f"Kubernetes {plan.kubernetes_version} is older than 1.31, which is the first with kubeadm v1beta4",
            "Choose a newer kubernetes_version, or make the cluster by other means: istio.py takes it as it is",
        )
    if not plan.istio_version:
        return
    pair = versions.check(plan.istio_version, plan.kubernetes_version)
    if pair.support is versions.Support.UNSUPPORTED:
        level = WARNING if plan.allow_unsupported_versions else ERROR
        remedy = "Choose another pair, or take it upon yourself with --data allow_unsupported_versions=true"
        yield Finding(level, "versions", pair.message, remedy)
    elif pair.support is versions.Support.UNKNOWN:
        yield Finding(WARNING, "versions", pair.message, "Look at Istio's supported releases")


def _networks_apart(plan: Plan) -> Iterator[Finding]:
    if not plan.pod_cidr or not plan.service_cidr:
        return
    if ipaddress.IPv4Network(plan.pod_cidr).overlaps(ipaddress.IPv4Network(plan.service_cidr)):
        yield Finding(
            ERROR,
            "addresses",
            f"pod_cidr {plan.pod_cidr} and service_cidr {plan.service_cidr} overlap",
            "Choose networks apart from each other",
        )


def judge_groups(groups: Mapping[str, Sequence[Host]]) -> list[Finding]:
    """Judge the inventory: one control plane node, which leads.

    Args:
        groups: group -> its hosts.

    """
    findings = []
    count = len(groups.get("control_plane", []))
    if count != 1:
        said = f"the group control_plane has {count} hosts, and meshstrap makes one control plane node"
        findings.append(Finding(ERROR, "inventory", said, "Put one host there, the others into workers"))
    if not groups.get("leader"):
        said = "the inventory has no host in a group `leader`, so nothing would be done on any node"
        findings.append(Finding(ERROR, "inventory", said, "Add `leader = control_plane[:1]` to inventory.py"))
    return findings


def judge_bundle(directory: str, kubernetes_version: str) -> list[Finding]:
    """Judge the bundle: every file there and unaltered, and the programs of the version that the data names.

    Args:
        directory: the data `bundle`.
        kubernetes_version: without the v; empty where the data names none.

    """
    try:
        lock, store = system.open_bundle(directory)
    except LockError as error:
        return [Finding(ERROR, "bundle", str(error), "Everything on the nodes comes from it")]
    remedy = "Add what it came from to the bundle again, or pull it: either puts it right"
    findings = [Finding(ERROR, "bundle", problem, remedy) for problem in store.verify(lock)]
    wanted = f"v{kubernetes_version}"
    for program in lock.programs:
        if kubernetes_version and program.name in kubeadm.PROGRAMS and program.version != wanted:
            findings.append(
                Finding(
                    ERROR,
                    "bundle",
                    f"{directory}: its {program.name} is {program.version}, and kubernetes_version is {wanted}",
                    "Set kubernetes_version to what the bundle has, or add that version to the bundle",
                )
            )
    return findings


def judge_images(parts: Iterable[offline.Part], lock: Lock, platforms: Iterable[str], directory: str) -> list[Finding]:
    """Judge whether all that the deploys apply starts from the bundle alone.

    A scenario that would not is a warning: a site is whole without it.

    Args:
        parts: what they apply, rendered.
        lock: what the bundle holds.
        platforms: the nodes'.
        directory: the data `bundle`.

    """
    rendered = list(parts)
    lacks = "Add it with `meshstrap bundle add`, or name another with data `images`"
    fault = "Put that right in the site's data, or in the bundle"
    findings = [
        Finding(WARNING if part.optional else ERROR, "images", text, fault if part.fault else lacks)
        for part, text in offline.faults(rendered, lock, platforms, f"{directory}/bundle.lock.yaml")
    ]
    return findings + [
        Finding(
            WARNING, "images", f"{part.name}: not looked at: {part.unchecked}", "Look with `meshstrap bundle check`"
        )
        for part in rendered
        if part.unchecked
    ]


def told_by(seen: Look, name: str) -> Iterator[Finding]:
    """Say which of the site's findings a host tells: the teller all; the others that there are errors, which stop them.

    Args:
        seen: what the first host saw.
        name: the host.

    """
    if seen.teller == name:
        yield from seen.findings
    elif any(each.level == ERROR for each in seen.findings):
        yield Finding(ERROR, "site", f"the site as a whole has errors, told by {seen.teller}", "Put them right first")


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
            "Log in as root, or set _sudo = True (and _sudo_password where sudo asks)",
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
        refused = plan.kubernetes_version != "" and versions.parse(plan.kubernetes_version) > LAST_WITH_CGROUP_1
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
    if machine["swap"] and not left_alone(machine) and plan.kubelet_config.get("failSwapOn", True):
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
    if not ("kubelet" in machine["confs"] and machine["runtimes"].get("kubelet") != "ours"):
        return  # runtime.py sets them.
    for key, now in machine["sysctls"].items():
        if int(now) < system.SYSCTLS[key]:
            effect = (
                f"from about {int(now) // 3} meshed pods on, Envoy does not start"
                if key == "fs.inotify.max_user_instances"
                else "pods and Services are not reached from other nodes"
            )
            yield Finding(
                WARNING,
                "sysctls",
                f"{key} is {now}: {effect}",
                f"Set it to {system.SYSCTLS[key]} (deploys/runtime.py does)",
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


def _tables(machine: Machine) -> Iterator[Finding]:
    if "nf_tables" in machine["iptables"] and machine["legacy_tables"]:
        yield Finding(
            WARNING,
            "iptables",
            f"iptables writes nf_tables, and something filled legacy tables ({', '.join(machine['legacy_tables'])}):"
            " both hold for a packet, and neither's rules show in the other",
            "See iptables-legacy-save; let what wrote them use the same iptables (update-alternatives), then reboot",
        )


def _names(machine: Machine) -> Iterator[Finding]:
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


def _resolvers(machine: Machine, plan: Plan) -> Iterator[Finding]:
    if "resolvConf" in plan.kubelet_config:
        return
    file = machine["resolv_conf"]
    resolved = file.startswith("/run/systemd/resolve/")
    where = "in /etc/systemd/resolved.conf (DNS=) and restart systemd-resolved" if resolved else "there"
    loopback = [each for each in machine["resolvers"] if each.startswith("127.") or each == "::1"]
    if loopback:
        yield Finding(
            ERROR,
            "resolvers",
            f"{file} names {', '.join(loopback)}: pods cannot use it, and CoreDNS would ask itself",
            f"Name the site's own resolver {where}, or give a file that does as resolvConf in kubelet_config",
        )
    elif not machine["resolvers"]:
        yield Finding(
            ERROR,
            "resolvers",
            f"{file} names no resolver, without which CoreDNS does not start",
            f"Name one {where}, even if nobody answers at it (the node's own address)",
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
    if not any(route.startswith("default ") and " table " not in route for route in machine["routes"]):
        yield Finding(
            ERROR,
            "default-route",
            "there is no default route, without which Services' addresses lead nowhere",
            "Add one, even to a router that leads nowhere",
        )
    if machine["confs"]:
        return  # The pods' networks of a standing cluster are there already.
    for key, network in (("pod_cidr", plan.pod_cidr), ("service_cidr", plan.service_cidr)):
        if not network:
            continue  # Said for the site as a whole.
        for taken, place in _networks(machine).items():
            if ipaddress.IPv4Network(network).overlaps(taken):
                yield Finding(
                    ERROR,
                    "overlap",
                    f"{key} {network} overlaps {taken}, which the node reaches by {place}",
                    f"Choose another {key}",
                )


def _networks(machine: Machine) -> dict[ipaddress.IPv4Network, str]:
    found = {
        ipaddress.IPv4Interface(address).network: interface
        for address, interface in machine["addresses"].items()
        if interface not in ("lo", "cni0") and _is_interface(address)
    }
    for route in machine["routes"]:
        words = route.split()
        if words[0] == "default" or " dev cni0 " in f"{route} ":
            continue
        try:
            network = ipaddress.IPv4Network(words[0], strict=False)
        except ValueError:
            continue  # Another kind of route, or none.
        # A VPN that takes everything does so by two halves: a default route by another name.
        if network.prefixlen > 1:
            found.setdefault(network, f"a route {' '.join(words[1:5])}")
    return found


def _is_interface(address: str) -> bool:
    try:
        ipaddress.IPv4Interface(address)
    except ValueError:
        return False
    return True


def _peers(machine: Machine, plan: Plan) -> Iterator[Finding]:
    for peer, said in machine["peers"].items():
        how, _, answer = said.partition(" ")
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


def _runtimes(machine: Machine, plan: Plan) -> Iterator[Finding]:
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
    if left_alone(machine) and machine["kubelet_runtime"] == "docker":
        return  # Docker, with a containerd of its own under it, is what this node's kubelet uses.
    if machine["runtimes"].get("containerd") == "others":
        yield Finding(
            WARNING,
            "runtime",
            "containerd was set up by others and is left alone",
            "Its images come from the bundle all the same; its version and configuration are its owner's",
        )
        yield from _their_containerd(machine, plan)
    if "docker" in machine["runtimes"]:
        yield Finding(
            WARNING,
            "runtime",
            "Docker is installed: it has images of its own that the kubelet does not see",
            "Remove it where it is not needed",
        )


def _cni(machine: Machine, plan: Plan) -> Iterator[Finding]:
    """Judge the CNI configuration that pods would get: of several files, the first by name.

    Source: containerd pkg/cri (`max_conf_num = 1`) and the kubelet's dockershim take the files in lexical order.
    """
    for path, plugins in list(machine["cni_files"].items())[:1]:
        if path == kubeadm.CNI_FILE:
            return
        absent = [plugin for plugin in dict.fromkeys(plugins) if plugin not in machine["cni_plugins"]]
        # The manifests of a CNI bring its plugins where its own file is from an earlier time.
        comes = bool(plan.cni_manifests) and not machine["confs"]
        if absent:
            yield Finding(
                WARNING if comes else ERROR,
                "cni",
                f"{path} names the plugin {', '.join(absent)}, which is not on the node: no pod would get a network",
                "Remove the file where the CNI that wrote it is gone; else put its plugin back",
            )
        elif not plan.cni_manifests and not left_alone(machine):
            yield Finding(
                ERROR,
                "cni",
                f"{path} comes before {kubeadm.CNI_FILE}: pods would get another program's network",
                "Remove it, or rename it so that it comes after ours",
            )


def _cluster(machine: Machine) -> Iterator[Finding]:
    if left_alone(machine):
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


def _their_containerd(machine: Machine, plan: Plan) -> Iterator[Finding]:
    containerd = machine["containerd"]
    if containerd is None:
        yield Finding(
            WARNING,
            "runtime",
            "containerd does not tell its configuration",
            "See to it yourself that its CRI plugin is on and its cgroup driver the kubelet's: containerd config dump",
        )
        return
    off = sorted(CRI_PLUGINS.intersection(containerd["disabled"]))
    if off:
        yield Finding(
            ERROR,
            "runtime",
            f"containerd's plugin {', '.join(off)} is disabled, by which the kubelet speaks with it",
            "Take it out of disabled_plugins in /etc/containerd/config.toml, then systemctl restart containerd",
        )
    driver = plan.kubelet_config.get("cgroupDriver", "systemd")
    if not machine["confs"] and containerd["cgroup_driver"] != driver:
        yield Finding(
            ERROR,
            "cgroup-driver",
            f"containerd's cgroup driver is {containerd['cgroup_driver']}, and the kubelet's is to be {driver}",
            f"Set SystemdCgroup = {'true' if driver == 'systemd' else 'false'} for runc in /etc/containerd/config.toml"
            " and restart containerd, or name its driver as cgroupDriver in kubelet_config",
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
        on_node = fact(host, containerd_facts.Images)
        lacking = set(containerd.undelivered(images, on_node))
        images = [image for image in images if image.reference in lacking]
    need = {"/var/lib/containerd": int(size_of(images) * UNPACKED)}
    if "kubelet" not in machine["runtimes"]:
        blobs = {program.sha256: program.size for program in lock.programs if program.platform == machine["platform"]}
        need["/usr/local/bin"] = sum(blobs.values())
    return need


def _role(machine: Machine, plan: Plan) -> Role:
    try:
        lock: Lock | None = system.open_bundle(plan.bundle)[0]
    except LockError:
        lock = None  # Said for the site as a whole.
    return Role(
        address=kubeadm.node_address(host),
        control_plane="control_plane" in host.groups,
        platforms=frozenset(program.platform for program in lock.programs) if lock else frozenset(),
        need=_need(lock, machine, plan.kubernetes_version) if lock else {},
    )


def _look(teller: str, plan: Plan, faults: Sequence[Finding]) -> Look:
    hosts = [each for each in host.inventory if each.connected and each not in host.state.failed_hosts]
    troubles: dict[str, str] = {}
    # One after the other: a password is asked for once each.
    for each in hosts:
        try:
            transport.authorise(each)
        except transport.TransportError as error:
            troubles[each.name] = str(error)
    tasks = {each.name: gevent.spawn(_read, each) for each in hosts if each.name not in troubles}
    gevent.joinall(list(tasks.values()))
    machines = {name: task.value for name, task in tasks.items() if task.value is not None}
    # A cluster that others made has its own programs, of its own version.
    standing = any(left_alone(machine) for machine in machines.values())
    of_bundle = judge_bundle(plan.bundle, "" if standing else plan.kubernetes_version)
    if not faults and not of_bundle:
        of_bundle = _images(plan.bundle, {machine["platform"] for machine in machines.values()})
    findings = [
        *faults,
        *of_bundle,
        *judge_plan(plan, standing=standing),
        *judge_groups(host.inventory.groups),
        *judge_together(machines),
    ]
    return Look(teller, machines, troubles, accepted(findings, plan.accept))


def _images(directory: str, platforms: Iterable[str]) -> list[Finding]:
    """Judge the images, once a run: it takes seconds, and nothing changes in between."""
    if directory not in _rendered:
        lock, store = system.open_bundle(directory)
        data: dict[str, Any] = host.data.dict()  # type: ignore[no-untyped-call]
        _rendered[directory] = judge_images(offline.parts(data, lock, store), lock, platforms, directory)
    return _rendered[directory]


def _read(node: Host) -> Machine | None:
    others = (kubeadm.node_address(each) for each in node.inventory if each is not node)
    try:
        machine: Machine = node.get_fact(Preflight, peers=[address for address in others if address])
    except PyinfraError as error:
        node.log(str(error), logger.error)
        return None
    return machine


def _forwarding() -> Iterator[Finding]:
    address = kubeadm.node_address(host)
    if "leader" not in host.groups or address is None:
        return
    try:
        with transport.tunnel(host, (address, kubeadm.API_PORT)):
            pass
    except transport.TransportError as error:
        yield Finding(
            ERROR, "forwarding", str(error), "The API server is reached through this: set it in /etc/ssh/sshd_config"
        )


def _is_version(value: object) -> bool:
    return system.version_problem("", value) is None


def _is_network(value: object, prefixes: range) -> bool:
    try:
        return isinstance(value, str) and ipaddress.IPv4Network(value).prefixlen in prefixes
    except ValueError:
        return False


def _is_texts(value: object) -> bool:
    return system.texts_problem("", value, "") is None


def _are_checks(value: object) -> bool:
    return _is_texts(value) and set(value) <= CHECKS  # type: ignore[call-overload]


def _checks_remedy(value: object) -> str:
    """Name the checks that are meant by names of none."""
    unknown = sorted(set(value) - CHECKS) if _is_texts(value) else []  # type: ignore[call-overload]
    close = [near[0] for each in unknown if (near := difflib.get_close_matches(each, CHECKS, n=1))]
    meant = f"; {', '.join(close)} may be meant" if close else ""
    return f"Give a list of names of checks, as findings show them in brackets{meant}"


def _is_node_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in NODE_PORTS


def _cidr_remedy(example: str, prefixes: range) -> str:
    return (
        f"Give one IPv4 network from /{prefixes[0]} to /{prefixes[-1]}, such as {example};"
        " IPv6 and dual stack are not supported"
    )


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
