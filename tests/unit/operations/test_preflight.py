"""We test what preflight says of a node: nothing of a good one, and of each broken one exactly what is wrong."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshstrap.bundle.check import Use
from meshstrap.bundle.lock import Lock
from meshstrap.facts.preflight import Machine, parse
from meshstrap.operations import preflight
from meshstrap.operations.finding import ERROR, WARNING, Finding
from meshstrap.operations.offline import Part
from meshstrap.operations.preflight import (
    CHECKS,
    Look,
    Plan,
    Role,
    accepted,
    judge,
    judge_bundle,
    judge_data,
    judge_groups,
    judge_images,
    judge_plan,
    judge_together,
    told_by,
)

RECORDED = Path(__file__).parents[1] / "facts" / "recorded" / "preflight.txt"
NOW = 1795456894.0
PLAN = Plan(
    bundle="images",
    kubernetes_version="1.34.10",
    istio_version="1.28.0",
    allow_unsupported_versions=False,
    pod_cidr="10.244.0.0/16",
    service_cidr="10.96.0.0/16",
    cni_manifests=[],
    ingress_node_port=30191,
    kubelet_config={},
    containerd_config={},
    accept=[],
)
CONTROL = Role(address="192.0.2.10", control_plane=True, platforms=frozenset({"linux/amd64"}))
WORKER = replace(CONTROL, control_plane=False)

RESOLVED = "/run/systemd/resolve/resolv.conf"

Break = Callable[[Any], object]


def theirs(machine: Any, disabled: list[str], driver: str) -> None:
    machine["runtimes"]["containerd"] = "others"
    machine["containerd"] = {"disabled": disabled, "cgroup_driver": driver}


@pytest.fixture
def bare() -> Machine:
    """A bare machine without a fault."""
    machine = parse(RECORDED.read_text().splitlines(), read_at=NOW)
    changes: dict[str, Any] = {
        "cgroup": 2,
        "controllers": ["cpuset", "cpu", "io", "memory", "pids"],
        "noexec": {},
        "proxies": {},
        "listening": {22: "sshd"},
        "addresses": {"127.0.0.1/8": "lo", "192.0.2.10/24": "eth0"},
        "routes": ["default via 192.0.2.1 dev eth0", "192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10"],
        "resolvers": ["192.0.2.1"],
        "peers": {"192.0.2.11": "direct reachable"},
        "runtimes": {},
        "kubelet_runtime": "containerd",
        "cni_files": {},
        "cni_plugins": [],
        "confs": [],
        "mark": None,
        "certificates": {},
    }
    for key, value in changes.items():
        machine[key] = value  # type: ignore[literal-required]
    return machine


def seen(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.check) for finding in findings]


def test_a_good_bare_machine_has_no_finding(bare: Machine) -> None:
    assert judge(bare, CONTROL, PLAN, now=NOW) == []
    assert judge(bare, WORKER, PLAN, now=NOW) == []


def test_a_standing_node_of_ours_is_no_error() -> None:
    machine = parse(RECORDED.read_text().splitlines(), read_at=NOW)
    machine["peers"] = {"172.29.182.11": "direct reachable"}
    role = replace(CONTROL, address="172.29.182.10")
    assert seen(judge(machine, role, PLAN, now=NOW)) == [(WARNING, "cgroup-v1"), (WARNING, "noexec")]


BROKEN: list[tuple[str, Break, str]] = [
    ("root", lambda m: m.update(uid=1000), "_sudo"),
    ("systemd", lambda m: m.update(init="openrc-init"), "openrc-init"),
    ("architecture", lambda m: m.update(platform="linux/arm64"), "linux/arm64"),
    ("kernel", lambda m: m.update(kernel="3.10.0-1160.el7.x86_64"), "4.19"),
    ("commands", lambda m: m.update(missing_commands=["conntrack"]), "conntrack"),
    ("cgroup", lambda m: m["controllers"].remove("memory"), "memory"),
    ("cpu", lambda m: m.update(cpus=1), "needs 2"),
    ("memory", lambda m: m.update(memory=1 << 30), "1.0 GiB"),
    ("swap", lambda m: m.update(swap=["/dev/sda2"]), "/dev/sda2"),
    ("noexec", lambda m: m.update(noexec={"/usr/local/bin": "/usr/local"}), "/usr/local is mounted noexec"),
    ("noexec", lambda m: m.update(noexec={"/opt/cni/bin": "/opt"}), "/opt is mounted noexec"),
    ("modules", lambda m: m["modules"].update(br_netfilter=False), "br_netfilter"),
    ("sysctls", lambda m: m["sysctls"].pop("fs.inotify.max_user_instances"), "fs.inotify"),
    ("selinux", lambda m: m.update(selinux="enforcing"), "setenforce"),
    ("firewall", lambda m: m.update(firewalls=["firewalld"]), "firewalld"),
    ("forward", lambda m: m.update(forward="DROP"), "FORWARD"),
    ("hostname", lambda m: m.update(hostname="localhost.localdomain"), "localhost"),
    ("hostname", lambda m: m.update(hostname="node_1"), "node_1"),
    ("machine-id", lambda m: m.update(machine_id=""), "machine-id"),
    ("resolvers", lambda m: m.update(resolvers=["127.0.0.53"]), "127.0.0.53"),
    ("resolvers", lambda m: m.update(resolvers=[]), "no resolver"),
    ("resolvers", lambda m: m.update(resolv_conf=RESOLVED, resolvers=["127.0.0.1"]), "resolved.conf"),
    ("resolvers", lambda m: m.update(resolv_conf=RESOLVED, resolvers=[]), "resolved.conf"),
    ("addresses", lambda m: m["addresses"].pop("192.0.2.10/24"), "192.0.2.10"),
    ("default-route", lambda m: m["routes"].pop(0), "default route"),
    ("overlap", lambda m: m["addresses"].update({"10.96.3.4/24": "eth1"}), "service_cidr"),
    ("overlap", lambda m: m["routes"].append("10.244.7.0/24 via 192.0.2.9 dev eth0"), "pod_cidr"),
    ("overlap", lambda m: m["routes"].append("10.244.7.0/24 dev tun0 scope link"), "tun0"),
    ("overlap", lambda m: m["routes"].append("10.96.0.0/12 dev wg0 table 51820 scope link"), "wg0"),
    ("peers", lambda m: m["peers"].update({"192.0.2.11": "direct unreachable"}), "192.0.2.11"),
    ("one-l2", lambda m: m["peers"].update({"198.51.100.7": "routed reachable"}), "198.51.100.7"),
    ("ports", lambda m: m["listening"].update({6443: "haproxy"}), "haproxy"),
    ("ports", lambda m: m["listening"].update({30191: "nginx"}), "30191"),
    ("ports", lambda m: m["listening"].update({10248: "nginx"}), "10248"),
    ("ports", lambda m: m["listening"].update({10249: "nginx"}), "10249"),
    ("ports", lambda m: m["listening"].update({10256: "nginx"}), "10256"),
    ("runtime", lambda m: m["runtimes"].update({"k3s": "others"}), "k3s"),
    ("runtime", lambda m: m["runtimes"].update({"crio": "others"}), "CRI-O"),
    ("certificates", lambda m: m["certificates"].update({"/pki/x.crt": NOW - 86400}), "/pki/x.crt expired"),
]


@pytest.mark.parametrize(("check", "damage", "named"), BROKEN, ids=[f"{b[0]}: {b[2]}" for b in BROKEN])
def test_a_fault_is_an_error_that_names_it_and_says_what_to_do(
    check: str, damage: Break, named: str, bare: Machine
) -> None:
    damage(bare)
    findings = judge(bare, CONTROL, PLAN, now=NOW)
    assert seen(findings) == [(ERROR, check)]
    assert named in findings[0].text
    assert len(findings[0].remedy) > 10


DOUBTFUL: list[tuple[str, Break]] = [
    ("os", lambda m: m.update(os="arch")),
    ("runtime", lambda m: theirs(m, [], "systemd")),
    ("iptables", lambda m: m.update(legacy_tables=["filter", "nat"])),
    ("runtime", lambda m: m["runtimes"].update({"docker": "others"})),
    ("certificates", lambda m: m["certificates"].update({"/pki/x.crt": NOW + 86400 * 10})),
    ("apparmor", lambda m: m.update(apparmor=True, apparmor_parser=False)),
    ("cluster", lambda m: m.update(mark="started")),
    ("noexec", lambda m: m.update(noexec={"/var/lib/containerd": "/var", "/var/lib/kubelet": "/var"})),
    ("noexec", lambda m: m.update(noexec={"/tmp": "/tmp"})),
    ("proxies", lambda m: m.update(proxies={"systemd": {"variables": ["http_proxy"], "no_proxy": "localhost"}})),
    ("cluster", lambda m: m.update(confs=["kubelet"])),
]


@pytest.mark.parametrize(("check", "damage"), DOUBTFUL)
def test_a_doubt_is_a_warning(check: str, damage: Break, bare: Machine) -> None:
    damage(bare)
    bare["sysctls"]["fs.inotify.max_user_instances"] = "8192"
    assert seen(judge(bare, CONTROL, PLAN, now=NOW)) == [(WARNING, check)]


def test_containerd_of_others_must_fit_the_kubelet(bare: Machine) -> None:
    theirs(bare, ["io.containerd.grpc.v1.cri"], "cgroupfs")
    findings = judge(bare, CONTROL, PLAN, now=NOW)
    assert seen(findings) == [(WARNING, "runtime"), (ERROR, "runtime"), (ERROR, "cgroup-driver")]
    assert "io.containerd.grpc.v1.cri is disabled" in findings[1].message
    assert "SystemdCgroup = true" in findings[2].remedy
    theirs(bare, [], "cgroupfs")
    fitting = replace(PLAN, kubelet_config={"cgroupDriver": "cgroupfs", "cgroupRoot": "/"})
    assert seen(judge(bare, CONTROL, fitting, now=NOW)) == [(WARNING, "runtime")]


def test_a_vpn_that_takes_everything_is_no_overlap_and_no_default_route_of_the_main_table(bare: Machine) -> None:
    bare["routes"] += ["0.0.0.0/1 dev tun0", "128.0.0.0/1 dev tun0", "default dev wg0 table 51820"]
    assert judge(bare, CONTROL, PLAN, now=NOW) == []
    del bare["routes"][0]
    assert seen(judge(bare, CONTROL, PLAN, now=NOW)) == [(ERROR, "default-route")]


def test_a_kubelet_of_others_needs_the_same_sysctls(bare: Machine) -> None:
    bare["confs"] = ["kubelet"]
    bare["sysctls"]["net.ipv4.ip_forward"] = "0"
    findings = judge(bare, WORKER, PLAN, now=NOW)
    assert seen(findings) == [(WARNING, "sysctls"), (WARNING, "cluster")]
    assert "net.ipv4.ip_forward is 0" in findings[0].message


def test_whoever_looks_first_tells_the_sites_findings_and_an_error_stops_the_others_too() -> None:
    wrong, doubtful = Finding(ERROR, "versions", "no pair", "choose"), Finding(WARNING, "clock", "slow", "set it")
    look = Look("b", {}, {}, [wrong, doubtful])
    assert list(told_by(look, "b")) == [wrong, doubtful]
    assert [(each.level, "told by b" in each.message) for each in told_by(look, "a")] == [(ERROR, True)]
    assert list(told_by(replace(look, findings=[doubtful]), "a")) == []


def test_all_faults_are_told_at_once(bare: Machine) -> None:
    bare["swap"] = ["/swapfile"]
    bare["cpus"] = 1
    bare["listening"][10250] = "kubelet"
    checks = {check for _, check in seen(judge(bare, CONTROL, PLAN, now=NOW))}
    assert checks == {"swap", "cpu", "ports"}


def test_a_worker_needs_less_than_a_control_plane(bare: Machine) -> None:
    bare["cpus"] = 1
    bare["listening"][6443] = "haproxy"
    assert judge(bare, WORKER, PLAN, now=NOW) == []


def test_what_the_data_allows_is_no_fault(bare: Machine) -> None:
    bare["swap"] = ["/swapfile"]
    bare["resolvers"] = ["127.0.0.53"]
    bare["peers"] = {"198.51.100.7": "routed reachable"}
    plan = replace(
        PLAN,
        kubelet_config={"failSwapOn": False, "resolvConf": "/etc/kubernetes/resolv.conf"},
        cni_manifests=["calico.yaml"],
    )
    assert judge(bare, CONTROL, plan, now=NOW) == []


def test_cgroup_1_is_refused_where_the_kubelet_refuses_it(bare: Machine) -> None:
    bare["cgroup"] = 1
    bare["controllers"] = ["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"]
    assert seen(judge(bare, CONTROL, PLAN, now=NOW)) == [(WARNING, "cgroup-v1")]
    newer = replace(PLAN, kubernetes_version="1.35.0")
    assert seen(judge(bare, CONTROL, newer, now=NOW)) == [(ERROR, "cgroup-v1")]


def test_disk_is_counted_per_file_system_against_what_the_bundle_needs(bare: Machine) -> None:
    gib = 1 << 30
    for directory in bare["disks"]:
        bare["disks"][directory] = {"device": "/dev/sda1", "size": 100 * gib, "free": 30 * gib}
    need = {"/var/lib/containerd": 10 * gib, "/usr/local/bin": 1 * gib}
    assert judge(bare, replace(CONTROL, need=need), PLAN, now=NOW) == []
    need["/usr/local/bin"] = 6 * gib
    assert seen(judge(bare, replace(CONTROL, need=need), PLAN, now=NOW)) == [(WARNING, "disk")]
    need["/usr/local/bin"] = 21 * gib
    findings = judge(bare, replace(CONTROL, need=need), PLAN, now=NOW)
    assert seen(findings) == [(ERROR, "disk")]
    assert "31.0 GiB" in findings[0].message


def test_an_unknown_address_is_told(bare: Machine) -> None:
    assert seen(judge(bare, replace(CONTROL, address=None), PLAN, now=NOW)) == [(ERROR, "addresses")]


def others(bare: Machine, **changes: Any) -> Machine:
    other = copy.deepcopy(bare)
    other.update(
        {"hostname": "b", "machine_id": "0b", "product_uuid": "uuid-b", **changes}  # type: ignore[typeddict-item]
    )
    return other


def test_nodes_of_their_own_identity_and_time_go_together(bare: Machine) -> None:
    assert judge_together({"a": bare, "b": others(bare)}) == []


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("hostname", {"hostname": "CONTROL-1"}),
        ("machine-id", {"machine_id": "a9890ea6055b273ff74da6fd0b16b77d"}),
        ("product-uuid", {"product_uuid": "uuid-a"}),
    ],
)
def test_clones_are_found(check: str, changes: dict[str, str], bare: Machine) -> None:
    bare["product_uuid"] = "uuid-a"
    findings = judge_together({"a": bare, "b": others(bare, **changes)})
    assert seen(findings) == [(ERROR, check)]
    assert "a, b have the same" in findings[0].message


def test_machines_without_a_product_uuid_are_no_clones(bare: Machine) -> None:
    assert judge_together({"a": bare, "b": others(bare, product_uuid="")}) == []


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, []), (10.0, [WARNING]), (120.0, [ERROR])])
def test_clocks_are_compared_with_each_other_however_late_they_were_read(
    seconds: float, expected: list[str], bare: Machine
) -> None:
    late = others(bare, clock=bare["clock"] + 60 + seconds, read_at=bare["read_at"] + 60)
    assert [finding.level for finding in judge_together({"a": bare, "b": late})] == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"istio_version": "1.20.0"}, [(ERROR, "versions")]),
        ({"istio_version": "1.20.0", "allow_unsupported_versions": True}, [(WARNING, "versions")]),
        ({"istio_version": "1.31.0"}, [(WARNING, "versions")]),
        ({"kubernetes_version": "1.30.4"}, [(ERROR, "versions")]),
        ({"service_cidr": "10.244.128.0/20"}, [(ERROR, "addresses")]),
    ],
)
def test_the_sites_data_is_judged(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert seen(judge_plan(replace(PLAN, **changes))) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bundle", 5),
        ("kubernetes_version", 1.34),
        ("kubernetes_version", "1.34"),
        ("kubernetes_version", "abc"),
        ("kubernetes_version", "v1.34.10"),
        ("kubernetes_version", "1.34.10+rke2r1"),
        ("istio_version", 1.31),
        ("istio_version", "newest"),
        ("istio_version", None),
        ("allow_unsupported_versions", "no"),
        ("pod_cidr", 10),
        ("pod_cidr", "10.244.0.0"),
        ("pod_cidr", "10.244.1.0/16"),
        ("pod_cidr", "fd00::/48,10.244.0.0/16"),
        ("service_cidr", "10.96.0.0/8"),
        ("service_cidr", [1]),
        ("cni_manifests", "calico.yaml"),
        ("ingress_node_port", "abc"),
        ("ingress_node_port", 80),
        ("ingress_node_port", True),
        ("ingress_node_port", [30191]),
        ("kubelet_config", "x"),
        ("containerd_config", 1),
    ],
)
def test_a_value_that_is_none_is_told_by_key_and_value_and_all_else_is_judged(
    key: str, value: object, bare: Machine
) -> None:
    plan, findings = judge_data(replace(PLAN, **{key: value}))  # type: ignore[arg-type]
    assert seen(findings) == [(ERROR, "data")]
    assert f"{key} cannot be {value!r}" in findings[0].message
    bare["cpus"] = 1
    assert seen(judge(bare, CONTROL, plan, now=NOW)) == [(ERROR, "cpu")]
    assert judge_plan(plan) == []


def test_good_data_has_no_finding() -> None:
    assert judge_data(PLAN) == (PLAN, [])
    assert judge_data(replace(PLAN, accept=["swap", "cgroup-v1"]))[1] == []


@pytest.mark.parametrize("value", ["swap", ["swpa"], ["swap", "swpa"], [5]])
def test_only_checks_that_there_are_can_be_accepted(value: Any) -> None:
    plan, findings = judge_data(replace(PLAN, accept=value))
    assert seen(findings) == [(ERROR, "data")]
    assert f"preflight_accept cannot be {value!r}" in findings[0].message
    assert ("swap may be meant" in findings[0].remedy) == ("swpa" in value)
    assert plan.accept == ()


def test_every_name_that_a_finding_has_can_be_accepted() -> None:
    files = Path(str(preflight.__file__)).parent.glob("preflight*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    calls = [each for each in nodes if isinstance(each, ast.Call) and ast.unparse(each.func) == "Finding"]
    named = {each.args[1].value for each in calls if isinstance(each.args[1], ast.Constant)}
    # Those that all nodes must differ in are named in a table.
    assert named | {"hostname", "machine-id", "product-uuid"} == CHECKS


def test_one_control_plane_node_is_what_there_can_be() -> None:
    one, two = object(), object()
    assert judge_groups({"control_plane": [one], "leader": [one]}) == []  # type: ignore[list-item]
    several = judge_groups({"control_plane": [one, two], "leader": [one]})  # type: ignore[list-item]
    assert seen(several) == [(ERROR, "inventory")]
    assert "control_plane has 2 hosts" in several[0].message


@pytest.mark.parametrize("leaders", [{}, {"leader": []}])
def test_an_inventory_in_which_nobody_leads_is_told(leaders: dict[str, Any]) -> None:
    found = judge_groups({"control_plane": [object()], **leaders})  # type: ignore[list-item]
    assert seen(found) == [(ERROR, "inventory")]
    assert found[0].remedy == "Add `leader = control_plane[:1]` to inventory.py"


def test_a_bundle_that_is_not_there_is_told_with_its_file(tmp_path: Path) -> None:
    findings = judge_bundle(str(tmp_path), "1.34.10")
    assert seen(findings) == [(ERROR, "bundle")]
    assert str(tmp_path / "bundle.lock.yaml") in findings[0].message


def test_an_accepted_error_is_a_warning_that_says_so() -> None:
    swap = Finding(ERROR, "swap", "swap is on", "swapoff")
    cpu = Finding(ERROR, "cpu", "1 CPU", "buy")
    assert seen(accepted([swap, cpu], ["swap"])) == [(WARNING, "swap"), (ERROR, "cpu")]
    assert accepted([swap], ["swap"])[0].message == "swap is on (accepted)"


def test_an_image_that_lacks_stops_the_site_and_one_of_a_scenario_is_a_warning() -> None:
    parts = [
        Part("Kubernetes", (Use("kubeadm", "registry.k8s.io/pause:3.10"),)),
        Part("Istio", fault="the bundle has no istioctl"),
        Part("scenario canary", (Use("Deployment/canary/appv1", "xianchao/canary:v1"),), optional=True),
        Part("scenario fault", unchecked="cannot be run here", optional=True),
    ]
    found = judge_images(parts, Lock(), {"linux/amd64"}, "images")
    assert [(each.level, each.check) for each in found] == [
        (ERROR, "images"),
        (ERROR, "images"),
        (WARNING, "images"),
        (WARNING, "images"),
    ]
    texts = [each.message for each in found]
    assert texts[0] == "kubeadm asks for image registry.k8s.io/pause:3.10, which images/bundle.lock.yaml does not hold"
    assert texts[1] == "Istio: the bundle has no istioctl"
    assert "Deployment/canary/appv1" in texts[2] and "not looked at: cannot be run here" in texts[3]


OURS = {"/etc/cni/net.d/10-meshstrap.conflist": ["bridge", "host-local", "portmap"]}
CALICO = {"/etc/cni/net.d/10-calico.conflist": ["calico", "calico-ipam", "portmap"]}
PODMAN = {"/etc/cni/net.d/87-podman-bridge.conflist": ["bridge", "host-local"]}
STANDING = {"confs": ["kubelet"], "mark": "done"}
FOREIGN = {"confs": ["kubelet"], "mark": None}


@pytest.mark.parametrize("node", [{}, STANDING, FOREIGN])
def test_a_cni_file_whose_plugin_is_gone_is_an_error_by_its_name(bare: Any, node: dict[str, Any]) -> None:
    bare.update(cni_files={**CALICO, **OURS}, cni_plugins=["bridge", "host-local", "portmap"], **node)
    (found,) = [each for each in judge(bare, CONTROL, PLAN, now=NOW) if each.check == "cni"]
    assert found.level == ERROR
    assert "/etc/cni/net.d/10-calico.conflist names the plugin calico, calico-ipam, which is not" in found.message


@pytest.mark.parametrize(
    ("files", "node", "cni_manifests", "level"),
    [
        ({}, {}, [], None),
        ({**OURS, **PODMAN}, STANDING, [], None),
        (CALICO, {}, [], ERROR),
        (CALICO, FOREIGN, [], None),
        (CALICO, STANDING, ["calico.yaml"], None),
    ],
)
def test_another_programs_network_is_told_only_where_it_would_take_the_place_of_ours(
    bare: Any, files: dict[str, list[str]], node: dict[str, Any], cni_manifests: list[str], level: str | None
) -> None:
    plugins = ["bridge", "calico", "calico-ipam", "host-local", "portmap"]
    bare.update(cni_files=files, cni_plugins=plugins, **node)
    plan = replace(PLAN, cni_manifests=cni_manifests)
    found = [each.level for each in judge(bare, CONTROL, plan, now=NOW) if each.check == "cni"]
    assert found == ([level] if level else [])


def test_a_cni_of_ones_own_brings_the_plugin_that_an_old_file_of_it_names(bare: Any) -> None:
    bare.update(cni_files=CALICO)
    found = judge(bare, CONTROL, replace(PLAN, cni_manifests=["calico.yaml"]), now=NOW)
    assert [each.level for each in found if each.check == "cni"] == [WARNING]


def test_the_docker_of_a_cluster_that_others_made_is_what_its_kubelet_uses(bare: Any) -> None:
    bare.update(FOREIGN, kubelet_runtime="docker", swap=["/dev/sda2"])
    theirs(bare, ["cri"], "cgroupfs")
    bare["runtimes"]["docker"] = "others"
    assert seen(judge(bare, CONTROL, PLAN, now=NOW)) == [(WARNING, "cluster")]
    # Where the kubelet uses containerd, Docker's images are none of its own.
    bare["kubelet_runtime"] = "containerd"
    assert (WARNING, "runtime") in seen(judge(bare, CONTROL, PLAN, now=NOW))


def test_a_cluster_that_others_made_is_not_judged_by_our_kubeadm() -> None:
    old = replace(PLAN, kubernetes_version="1.23.17", istio_version="1.13.4")
    assert seen(judge_plan(old)) == [(ERROR, "versions")]
    assert judge_plan(old, standing=True) == []
