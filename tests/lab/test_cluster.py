"""We test a cluster's whole life on nodes of its own: made after being stopped half-way, left alone by a second run,
put right after edits by hand, whole after a reboot, grown by a worker, and taken away again. In this order.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshstrap.lab import access
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]
Deploy = Callable[..., Any]
ROUTE = "10.244.1.0/24"
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
SECRETS = re.compile(r"PRIVATE KEY|client-key-data|client-certificate-data")


@pytest.fixture(scope="module")
def nodes(make_lab: Callable[..., Lab]) -> Lab:
    """A lab of its own: control-1 and worker-1, bare."""
    return make_lab(workers=1)


@pytest.fixture
def kubectl(nodes: Lab, on_node: Callable[..., Finished]) -> Callable[[str], str]:
    """Run kubectl on control-1: kubectl("get nodes")."""

    def run(arguments: str) -> str:
        done = on_node(nodes, "control-1", f"kubectl --kubeconfig /etc/kubernetes/admin.conf {arguments}", timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def ready(kubectl: Callable[[str], str]) -> Callable[[], list[str]]:
    """Name the nodes that are Ready: ready() -> ["control-1", ...]."""

    def names() -> list[str]:
        rows = [line.split() for line in kubectl("get nodes --no-headers").splitlines()]
        return [row[0] for row in rows if row[1] == "Ready"]

    return names


def test_a_cluster_of_bare_nodes_is_refused_with_what_is_missing(deploy: Deploy, nodes: Lab) -> None:
    made = deploy("cluster", lab=nodes)
    assert made.code == 1
    assert "control-1: there is no kubeadm; run deploys/runtime.py first" in made.said


def test_on_bare_nodes_dry_says_truthfully_that_all_is_to_be_made(deploy: Deploy, nodes: Lab) -> None:
    planned = deploy("cluster", "--dry", lab=nodes).planned
    assert "Create the control plane" in planned
    assert "Join the workers" in planned
    assert "Route the pods' networks between the nodes" in planned


def test_stopped_half_way_it_is_taken_up_and_no_secret_is_seen(
    deploy: Deploy, nodes: Lab, on_node: Callable[..., Finished], checkout: Path, ready: Callable[[], list[str]]
) -> None:
    for name in ("runtime", "images"):
        made = deploy(name, lab=nodes)
        assert made.code == 0, made.said
    stop_in("Create the control plane", nodes, on_node, checkout)
    there = on_node(nodes, "control-1", "ls /etc/kubernetes").stdout
    assert "meshstrap.started" in there
    # And a node that loses its power on top of it.
    restart(nodes, "control-1")

    seen: list[str] = []
    done = threading.Event()
    watcher = threading.Thread(target=watch_processes, args=(nodes, on_node, seen, done))
    watcher.start()
    made = deploy("cluster", "-vvv", lab=nodes)
    done.set()
    watcher.join()
    assert made.code == 0, made.said
    assert "taken up from there" in made.said
    assert ready() == ["control-1", "worker-1"]
    assert any("kubeadm join" in each for each in seen), "nothing was watched"
    for text in (made.said, *seen):
        assert not TOKEN.search(text)
        assert not SECRETS.search(text)


def test_the_join_leaves_no_token_behind(nodes: Lab, on_node: Callable[..., Finished]) -> None:
    left = on_node(nodes, "worker-1", "ls /run/meshstrap.config.* 2>/dev/null; cat /var/log/meshstrap-kubeadm.log")
    assert "meshstrap.config" not in left.stdout
    assert not TOKEN.search(left.stdout)
    log = on_node(nodes, "control-1", "cat /var/log/meshstrap-kubeadm.log").stdout
    assert "kubeadm join" in log
    assert not TOKEN.search(log)
    tokens = on_node(nodes, "control-1", "kubeadm token list")
    assert tokens.returncode == 0
    assert "meshstrap" not in tokens.stdout


def test_the_second_run_changes_nothing(deploy: Deploy, nodes: Lab) -> None:
    for name in ("preflight", "runtime", "images", "cluster"):
        made = deploy(name, lab=nodes)
        assert (made.code, made.changed) == (0, []), made.said
    assert deploy("cluster", "--dry", lab=nodes).planned == []


def test_a_bundle_of_another_version_does_not_half_upgrade_it(deploy: Deploy, nodes: Lab, tmp_path: Path) -> None:
    lock = (nodes.bundle / "bundle.lock.yaml").read_text()
    (tmp_path / "bundle.lock.yaml").write_text(lock.replace("version: v1.34.", "version: v1.35."))
    (tmp_path / "store").symlink_to(nodes.bundle / "store")
    refused = deploy("runtime", "--data", f"bundle={tmp_path}", lab=nodes)
    assert refused.code == 1
    assert re.search(r"control-1: the cluster is Kubernetes v1\.34\.\d+, and the bundle has v1\.35\.", refused.said)
    assert deploy("runtime", lab=nodes).changed == []


def test_pods_and_services_are_reached_from_the_other_node(
    nodes: Lab, on_node: Callable[..., Finished], kubectl: Callable[[str], str]
) -> None:
    where = "jsonpath='{.items[0].spec.nodeName} {.items[0].status.podIP}'"
    home, address = kubectl(f"get pods -n kube-system -l k8s-app=kube-dns -o {where}").split()
    other = {"control-1": "worker-1", "worker-1": "control-1"}[home]
    assert on_node(nodes, other, f"curl -sS -m 5 http://{address}:8080/health").stdout == "OK"
    assert on_node(nodes, "worker-1", "curl -sSk -m 5 https://10.96.0.1/readyz").stdout == "ok"


def test_a_route_deleted_by_hand_is_seen_and_put_back(
    deploy: Deploy, nodes: Lab, on_node: Callable[..., Finished]
) -> None:
    assert on_node(nodes, "control-1", f"ip route del {ROUTE}").returncode == 0
    dry = deploy("cluster", "--dry", lab=nodes)
    assert dry.planned == ["Route the pods' networks between the nodes"]
    assert deploy("cluster", lab=nodes).changed == ["Route the pods' networks between the nodes"]
    assert on_node(nodes, "control-1", f"ip route show {ROUTE}").stdout.startswith(ROUTE)


def test_after_a_reboot_of_all_nodes_the_cluster_is_whole(
    deploy: Deploy, nodes: Lab, ready: Callable[[], list[str]]
) -> None:
    restart(nodes, "control-1", "worker-1")
    made = deploy("cluster", lab=nodes)
    assert (made.code, made.changed) == (0, []), made.said
    assert ready() == ["control-1", "worker-1"]
    assert deploy("runtime", lab=nodes).changed == []


def test_edited_data_reach_the_standing_cluster_and_what_cannot_change_is_refused(
    deploy: Deploy, nodes: Lab, on_node: Callable[..., Finished], checkout: Path
) -> None:
    lab = runpy.run_path(str(checkout / "group_data" / "lab.py"))
    data = {
        "kubelet_config": {**lab["kubelet_config"], "maxPods": 60, "syncFrequency": "2m"},
        "kube_proxy_config": {**lab["kube_proxy_config"], "iptables": {"syncPeriod": "40s"}},
        "etcd_extra_args": {**lab["etcd_extra_args"], "snapshot-count": "5000"},
        "api_server_cert_sans": [*lab["api_server_cert_sans"], "api.example.org"],
    }
    given = [word for key, value in data.items() for word in ("--data", f"{key}={json.dumps(value)}")]
    both = ["Configure the control plane", "Configure the kubelets"]
    assert deploy("cluster", *given, "--dry", lab=nodes).planned == both
    made = deploy("cluster", *given, lab=nodes)
    assert (made.code, made.changed) == (0, both), made.said
    for node in ("control-1", "worker-1"):
        assert "maxPods: 60" in on_node(nodes, node, "cat /var/lib/kubelet/config.yaml").stdout
    # What runs, not what files say.
    assert "--snapshot-count=5000" in on_node(nodes, "control-1", "tr '\\0' ' ' </proc/$(pgrep -x etcd)/cmdline").stdout
    name = "kubectl --kubeconfig /etc/kubernetes/admin.conf --tls-server-name=api.example.org get --raw /readyz"
    assert on_node(nodes, "control-1", name).stdout == "ok"
    assert deploy("cluster", *given, "--dry", lab=nodes).planned == []
    for name in ("runtime", "cluster"):
        refused = deploy(name, *given, "--data", "pod_cidr=10.245.0.0/16", lab=nodes)
        assert refused.code == 1
        assert "pod_cidr is 10.244.0.0/16 there, and the data say 10.245.0.0/16" in refused.said
    assert on_node(nodes, "worker-1", "iptables-save | grep -c meshstrap-pods").stdout == "1\n"
    taken_back = deploy("cluster", lab=nodes)
    assert (taken_back.code, taken_back.changed) == (0, both), taken_back.said
    assert "maxPods" not in on_node(nodes, "worker-1", "cat /var/lib/kubelet/config.yaml").stdout


def test_a_cluster_that_others_made_is_left_alone(deploy: Deploy, nodes: Lab, on_node: Callable[..., Finished]) -> None:
    mark = "/etc/kubernetes/meshstrap.done"
    for node in ("control-1", "worker-1"):
        assert on_node(nodes, node, f"mv {mark} /etc/kubernetes/mark").returncode == 0
        assert on_node(nodes, node, "mv /opt/cni/bin/portmap /opt/cni/bin/theirs").returncode == 0
    try:
        runtime = deploy("runtime", lab=nodes)
        made = deploy("cluster", lab=nodes)
        refused = deploy("reset", "--data", "confirm=meshstrap", lab=nodes)
    finally:
        for node in ("control-1", "worker-1"):
            on_node(nodes, node, f"mv /etc/kubernetes/mark {mark}; mv /opt/cni/bin/theirs /opt/cni/bin/portmap")
    assert (runtime.code, runtime.changed) == (0, []), runtime.said
    assert (made.code, made.changed) == (0, []), made.said
    assert refused.code == 1
    assert "belongs to a cluster that others made" in refused.said
    assert on_node(nodes, "worker-1", "systemctl is-active kubelet").stdout == "active\n"


def test_another_version_than_the_standing_clusters_is_refused(deploy: Deploy, nodes: Lab) -> None:
    refused = deploy("cluster", "--data", "kubernetes_version=1.35.1", lab=nodes)
    assert refused.code == 1
    assert re.search(r"the cluster is Kubernetes v1\.34\.\d+, and kubernetes_version says v1\.35\.1", refused.said)
    refused = deploy("cluster", "--data", "kubernetes_version=1.34", lab=nodes)
    assert refused.code == 1
    assert "kubernetes_version: 1.34 is no version" in refused.said


def test_a_worker_that_was_reset_by_hand_joins_again(
    deploy: Deploy, nodes: Lab, on_node: Callable[..., Finished], ready: Callable[[], list[str]]
) -> None:
    assert on_node(nodes, "worker-1", "kubeadm reset --force").returncode == 0
    made = deploy("cluster", lab=nodes)
    assert made.code == 0, made.said
    assert ready() == ["control-1", "worker-1"]
    rules = on_node(nodes, "worker-1", "iptables-save | grep -c meshstrap-pods").stdout
    assert rules == "1\n"
    assert deploy("cluster", lab=nodes).changed == []


def test_a_worker_added_later_joins(
    deploy: Deploy,
    nodes: Lab,
    meshstrap: Callable[..., Finished],
    ready: Callable[[], list[str]],
    on_node: Callable[..., Finished],
    kubectl: Callable[[str], str],
) -> None:
    assert meshstrap(nodes, "lab", "up", "--workers", "2").returncode == 0
    for name in ("runtime", "images", "cluster"):
        made = deploy(name, lab=nodes)
        assert made.code == 0, made.said
    assert ready() == ["control-1", "worker-1", "worker-2"]
    networks = kubectl("get nodes -o jsonpath='{range .items[*]}{.metadata.name}={.spec.podCIDR} {end}'").split()
    network = dict(each.split("=") for each in networks)["worker-2"]
    for node in ("control-1", "worker-1"):
        assert network in on_node(nodes, node, "ip route").stdout
    assert deploy("cluster", lab=nodes).changed == []


def test_a_dead_worker_is_taken_out_with_the_routes_to_it(
    deploy: Deploy,
    nodes: Lab,
    ready: Callable[[], list[str]],
    on_node: Callable[..., Finished],
    kubectl: Callable[[str], str],
) -> None:
    network = kubectl("get node worker-2 -o jsonpath={.spec.podCIDR}")
    named = ("--data", "node=worker-2", "--data", "node_is_dead=true", "--limit", "control-1", "--limit", "worker-1")
    refused = deploy("remove", *named, lab=nodes)
    assert refused.code == 1
    assert "worker-2: is Ready" in refused.said
    container = f"{read(nodes.nodes_file).name}-worker-2"
    subprocess.run(["docker", "kill", container], check=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while "worker-2" in ready():
            assert time.monotonic() < deadline
            time.sleep(1)
        both = ["Take the dead node out of the cluster", "Take its route away"]
        assert deploy("remove", *named, "--dry", lab=nodes).planned == both
        made = deploy("remove", *named, lab=nodes)
        assert (made.code, made.changed) == (0, both), made.said
        assert kubectl("get nodes -o name").split() == ["node/control-1", "node/worker-1"]
        for node in ("control-1", "worker-1"):
            assert network not in on_node(nodes, node, "ip route; cat /etc/systemd/system/meshstrap*.service").stdout
        assert deploy("remove", *named, lab=nodes).changed == []
    finally:
        subprocess.run(["docker", "start", container], check=True, stdout=subprocess.DEVNULL)
        access.wait_for_ssh(nodes, read(nodes.nodes_file).node("worker-2"), 60, threading.Event())
    back = deploy("cluster", lab=nodes)
    assert back.code == 0, back.said
    assert ready() == ["control-1", "worker-1", "worker-2"]


def test_a_reset_that_names_no_cluster_touches_nothing(
    deploy: Deploy, nodes: Lab, ready: Callable[[], list[str]]
) -> None:
    for arguments in ((), ("--data", "confirm=another")):
        refused = deploy("reset", *arguments, lab=nodes)
        assert refused.code == 1
        assert "--data confirm=meshstrap" in refused.said
    assert ready() == ["control-1", "worker-1", "worker-2"]


def test_a_worker_that_leaves_is_no_node_of_the_cluster(
    deploy: Deploy, nodes: Lab, kubectl: Callable[[str], str]
) -> None:
    made = deploy("reset", "--limit", "worker-2", "--data", "confirm=meshstrap", lab=nodes)
    assert made.code == 0, made.said
    names = kubectl("get nodes -o name").split()
    assert names == ["node/control-1", "node/worker-1"]


def test_a_reset_leaves_bare_nodes(deploy: Deploy, nodes: Lab, on_node: Callable[..., Finished]) -> None:
    others = "/etc/cni/net.d/87-podman-bridge.conflist /var/lib/cni/networks/podman/last_reserved_ip.0"
    plant = f"set -e; mkdir -p /etc/cni/net.d /var/lib/cni/networks/podman; for f in {others}; do echo podman >$f; done"
    assert on_node(nodes, "worker-2", plant).returncode == 0
    made = deploy("reset", "--data", "confirm=meshstrap", lab=nodes)
    assert made.code == 0, made.said
    kept = on_node(nodes, "worker-2", f"cat {others} && rm {others}")
    assert kept.stdout.split() == ["podman", "podman"], kept.stderr
    look = """
        ls -A /var/lib/kubelet /var/lib/containerd /var/lib/etcd /usr/local/bin
        ls -A /etc/kubernetes /etc/cni/net.d /var/lib/cni/networks/meshstrap /var/lib/cni/results
        pgrep -l 'kube|containerd|etcd|pause'
        ip -o link show cni0 2>/dev/null
        ip route | grep 10.244
        iptables-save | grep -E 'KUBE|CNI-|meshstrap'
        mount | grep -E '/(run/containerd|var/lib/kubelet)/'
        ls /etc/systemd/system | grep -E '^(kubelet|containerd|meshstrap)'
    """
    for node in ("control-1", "worker-1", "worker-2"):
        left = [line for line in on_node(nodes, node, look).stdout.splitlines() if line and not line.endswith(":")]
        assert left == [], node
    assert deploy("reset", "--data", "confirm=meshstrap", lab=nodes).changed == []
    assert deploy("preflight", lab=nodes).code == 0


def stop_in(operation: str, lab: Lab, on_node: Callable[..., Finished], checkout: Path) -> None:
    """Run deploys/cluster.py and kill it, with no chance to tidy up, while kubeadm works in an operation."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "pyinfra"), "inventory.py", "deploys/cluster.py", "-y"],
        cwd=checkout,
        env={**os.environ, "MESHSTRAP_LAB": str(lab.directory), "MESHSTRAP_BUNDLE": str(lab.bundle)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while on_node(lab, "control-1", "test -e /etc/kubernetes/manifests/etcd.yaml").returncode != 0:
        assert time.monotonic() < deadline, f"{operation} did not begin"
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()


def restart(lab: Lab, *names: str) -> None:
    """Reboot nodes, and return when they have booted."""
    record = read(lab.nodes_file)
    containers = [f"{record.name}-{name}" for name in names]
    subprocess.run(["docker", "restart", "-t", "1", *containers], check=True, stdout=subprocess.DEVNULL)
    stop = threading.Event()
    for name in names:
        access.wait_for_ssh(lab, record.node(name), 60, stop)


def watch_processes(lab: Lab, on_node: Callable[..., Finished], seen: list[str], done: threading.Event) -> None:
    """Keep what `ps` shows on the nodes, until told to end."""
    while not done.is_set():
        for node in ("control-1", "worker-1"):
            seen.append(on_node(lab, node, "ps axwwe 2>/dev/null || ps axww").stdout)
