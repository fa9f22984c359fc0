"""We test the lab's nodes as a person meets them: bare machines, nowhere to go, and gone without a trace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshstrap.lab import access, docker
from meshstrap.lab.directory import Lab
from meshstrap.lab.record import read

Finished = subprocess.CompletedProcess[str]
OnNode = Callable[..., Finished]
Meshstrap = Callable[..., Finished]
MakeLab = Callable[..., Lab]


@pytest.fixture(scope="module")
def two(make_lab: MakeLab) -> Lab:
    """A lab with control-1 and worker-1."""
    return make_lab(workers=1)


def engine(*arguments: str) -> list[str]:
    """What a docker command prints, in lines, sorted."""
    client = docker.answering()
    assert client
    return sorted(client(*arguments).splitlines())


def traces(lab: Lab) -> list[str]:
    """Containers, networks, and processes that belong to the lab."""
    mine = f"label={docker.LABEL}={lab.name}"
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(lab.directory) in command or lab.name in command:
            processes.append(command)
    return [
        *engine("ps", "--all", "--quiet", "--filter", mine),
        *engine("network", "ls", "--quiet", "--filter", mine),
        *processes,
    ]


def ids(lab: Lab) -> dict[str, str]:
    """The lab's containers by node, with their ids."""
    template = '{{.Label "meshstrap.node"}} {{.ID}}'
    lines = engine("ps", "--no-trunc", "--filter", f"label={docker.LABEL}={lab.name}", "--format", template)
    return dict(line.split() for line in lines)


def test_a_node_is_a_bare_machine(two: Lab, on_node: OnNode) -> None:
    seen = on_node(
        two,
        "control-1",
        "systemctl is-system-running; compgen -c | grep -E '^(python|containerd|ctr$|runc$|kube|docker|etcd|istio)'",
    )
    assert seen.stdout.split() == ["running"]


def reaching(address: str, port: int) -> str:
    """A script that prints `yes` if a TCP connection comes about, within 5 s."""
    return f"timeout 5 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo yes || echo no"


def outside_addresses() -> list[str]:
    """Addresses that only a way out leads to: two of nobody, this machine's gateway, and this machine's own."""
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    gateways = [
        ".".join(str(byte) for byte in reversed(bytes.fromhex(route[2]))) for route in routes if route[1] == "00000000"
    ]
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    bridges = set(engine("network", "inspect", "--format", "{{range .IPAM.Config}}{{.Gateway}}{{end}}", *networks()))
    return ["198.51.100.1", "203.0.113.1", *gateways, *(a for a in own if ":" not in a and a not in bridges)]


def networks() -> list[str]:
    """Every network that Docker has."""
    return engine("network", "ls", "--quiet")


def test_a_node_reaches_its_peer_and_no_address_outside(two: Lab, on_node: OnNode) -> None:
    peer = read(two.nodes_file).node("worker-1").address
    assert on_node(two, "control-1", reaching(peer, 22)).stdout.strip() == "yes"

    # This machine listens there, so that "no" is the network's answer and not a closed port's.
    with subprocess.Popen(
        ["python3", "-m", "http.server", "--bind", "0.0.0.0", "28999"],
        cwd="/usr/share",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as listener:
        try:
            addresses = outside_addresses()
            script = "\n".join(f"(echo {a} $({reaching(a, 28999)})) &" for a in addresses) + "\nwait"
            answers = dict(line.split() for line in on_node(two, "control-1", script).stdout.splitlines())
        finally:
            listener.terminate()
    assert answers == dict.fromkeys(addresses, "no")


def dns_query(name: str) -> str:
    """A script that asks Docker's own resolver for a name and prints the reply in hex, waiting 3 s at most."""
    labels = "".join(f"\\x{len(label):02x}{label}" for label in name.split("."))
    query = f"\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00{labels}\\x00\\x00\\x01\\x00\\x01"
    # cat: the builtin printf writes to a socket in pieces, which would be as many datagrams.
    return (
        f"exec 3<>/dev/udp/127.0.0.11/53; printf '{query}' | dd bs=512 2>/dev/null >&3; "
        "timeout 3 dd bs=512 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'"
    )


def answers_in(reply: str) -> int:
    """How many answers a DNS reply (hex) holds."""
    return int(reply[12:16] or "0", 16)


def test_a_node_resolves_no_name_outside_not_even_through_dockers_resolver(two: Lab, on_node: OnNode) -> None:
    assert on_node(two, "control-1", "getent hosts control-1").returncode == 0
    assert on_node(two, "control-1", "getent hosts example.com kubernetes.io").stdout == ""

    # Docker's resolver answers for the lab's containers, so the way of asking is right, and for nobody else.
    assert answers_in(on_node(two, "control-1", dns_query(f"{two.name}-worker-1")).stdout) == 1
    assert answers_in(on_node(two, "control-1", dns_query("kubernetes.io")).stdout) == 0


def test_nodes_are_told_apart(two: Lab, on_node: OnNode) -> None:
    script = "cat /etc/machine-id /etc/lab/product_uuid; hostname"
    first, second = (on_node(two, node, script).stdout.split() for node in ("control-1", "worker-1"))
    assert len(first) == len(second) == 3
    assert set(first).isdisjoint(second)
    assert first[0] != Path("/etc/machine-id").read_text().strip()


def test_a_node_with_another_host_key_is_refused(two: Lab, on_node: OnNode, tmp_path: Path) -> None:
    lines = two.known_hosts.read_text().splitlines()
    swapped = [
        f"{mine.split()[0]} {' '.join(other.split()[1:])}" for mine, other in zip(lines, lines[::-1], strict=True)
    ]
    forged = tmp_path / "known_hosts"
    forged.write_text("\n".join(swapped) + "\n")
    command = [
        part.replace(str(two.known_hosts), str(forged))
        for part in access.ssh(two, read(two.nodes_file).node("control-1"), ["true"])
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_ports_are_published_on_the_loopback_address_alone(two: Lab) -> None:
    record = read(two.nodes_file)
    control = record.node("control-1")
    assert control.node_port_url and control.api_port
    ports = {node.ssh_port for node in record.nodes} | {control.api_port, int(control.node_port_url.rsplit(":", 1)[1])}
    listening: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A":  # LISTEN
                listening.setdefault(int(port, 16), set()).add(address)
    assert {port: listening.get(port) for port in ports} == {port: {"0100007F"} for port in ports}


def kubelet_ground(on_node: OnNode, lab: Lab, node: str) -> None:
    """A kubelet could start here: its cgroup everywhere, with processors; mounts shared; no loopback resolver."""
    script = """
        for h in $(awk '$3 ~ "^cgroup" { print $2 }' /proc/mounts); do test -d $h/kubelet || echo "none in $h"; done
        c=/sys/fs/cgroup/cpuset
        if [ -d $c ]; then cmp $c/cpuset.cpus $c/kubelet/cpuset.cpus; cmp $c/cpuset.mems $c/kubelet/cpuset.mems; fi
        findmnt -no PROPAGATION / | grep -q shared || echo "/ is private"
        grep -E '^nameserver (127|::1)' /etc/resolv.conf
        systemctl is-system-running --wait
    """
    assert on_node(lab, node, script, timeout=60).stdout.split("\n") == ["running", ""]


def test_a_node_is_ready_for_a_kubelet_also_after_a_reboot(two: Lab, on_node: OnNode, meshstrap: Meshstrap) -> None:
    kubelet_ground(on_node, two, "worker-1")
    before = on_node(two, "worker-1", "cat /etc/machine-id; hostname -I; echo kept >/var/lib/kubelet/x")
    engine("restart", f"{two.name}-worker-1")
    again = meshstrap(two, "lab", "up")  # waits for it
    assert again.returncode == 0, again.stderr
    kubelet_ground(on_node, two, "worker-1")
    after = on_node(two, "worker-1", "cat /etc/machine-id; hostname -I; cat /var/lib/kubelet/x")
    assert after.stdout == before.stdout + "kept\n"


def test_units_of_systemd_do_not_take_the_kubelets_cgroups_away(two: Lab, on_node: OnNode) -> None:
    script = """
        for h in $(awk '$3 == "cgroup" { print $2 }' /proc/mounts); do mkdir $h/kubelet/inner; done
        systemd-run --quiet --unit=delegating -p Delegate=yes sleep 60
        systemctl stop delegating; systemctl daemon-reload; systemctl restart dbus; sleep 1
        for h in $(awk '$3 == "cgroup" { print $2 }' /proc/mounts); do rmdir $h/kubelet/inner; done
    """
    seen = on_node(two, "control-1", script)
    assert (seen.returncode, seen.stderr) == (0, "")


def test_up_leaves_running_nodes_alone_and_adds_a_worker(
    make_lab: MakeLab, meshstrap: Meshstrap, run_pyinfra: Callable[..., Finished]
) -> None:
    lab = make_lab(workers=0)
    first = ids(lab)
    assert list(first) == ["control-1"]

    more = meshstrap(lab, "lab", "up", "--workers", "2")
    assert more.returncode == 0, more.stderr
    second = ids(lab)
    assert sorted(second) == ["control-1", "worker-1", "worker-2"]
    assert second["control-1"] == first["control-1"]

    same = meshstrap(lab, "lab", "up")
    assert same.returncode == 0 and len(same.stdout.splitlines()) == 1, same.stdout + same.stderr
    assert ids(lab) == second

    fewer = meshstrap(lab, "lab", "up", "--workers", "1")
    assert fewer.returncode == 1 and "has 2 workers" in fewer.stderr
    assert ids(lab) == second

    listed = run_pyinfra("inventory.py", "exec", "--", "hostname", lab=lab)
    assert listed.returncode == 0, listed.stderr
    assert set(re.findall(r"\[(worker-2|worker-1|control-1)\]", listed.stdout + listed.stderr)) == set(second)


@pytest.mark.parametrize("seconds", [0.5, 0.9, 1.2, 1.5, 2.0])
def test_up_killed_anywhere_goes_on_when_run_again(
    make_lab: MakeLab, meshstrap: Meshstrap, on_node: OnNode, checkout: Path, seconds: float
) -> None:
    lab = make_lab(workers=None)
    environment = {"MESHSTRAP_LAB": str(lab.directory), "MESHSTRAP_BUNDLE": str(lab.bundle)}
    killed = subprocess.Popen(
        [str(Path(sys.executable).parent / "meshstrap"), "lab", "up"],
        cwd=checkout,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    again = meshstrap(lab, "lab", "up")
    assert again.returncode == 0, again.stderr
    for node in ("control-1", "worker-1"):
        assert on_node(lab, node, "hostname").stdout.strip() == node

    gone = meshstrap(lab, "lab", "down")
    assert gone.returncode == 0, gone.stderr
    assert traces(lab) == []


def test_down_leaves_nothing_and_up_gives_the_same_machine_again(
    make_lab: MakeLab, meshstrap: Meshstrap, run_pyinfra: Callable[..., Finished]
) -> None:
    volumes = engine("volume", "ls", "--quiet")
    lab = make_lab(workers=1)
    assert traces(lab) and engine("volume", "ls", "--quiet") != volumes
    pinned = lab.known_hosts.read_text()

    down = meshstrap(lab, "lab", "down")
    assert down.returncode == 0, down.stderr
    assert traces(lab) == []
    assert engine("volume", "ls", "--quiet") == volumes
    assert not lab.nodes_file.exists()
    assert meshstrap(lab, "lab", "down").returncode == 0

    without = run_pyinfra("inventory.py", "exec", "--", "hostname", lab=lab)
    assert without.returncode != 0
    assert "run `make lab-up`" in without.stdout + without.stderr
    assert "Traceback" not in without.stdout + without.stderr

    assert meshstrap(lab, "lab", "up", "--workers", "1").returncode == 0
    assert lab.known_hosts.read_text() == pinned


def test_two_labs_share_nothing(two: Lab, bare_node: Lab, on_node: OnNode) -> None:
    mine, other = read(two.nodes_file), read(bare_node.nodes_file)
    assert mine.subnet != other.subnet
    assert {node.ssh_port for node in mine.nodes}.isdisjoint(node.ssh_port for node in other.nodes)
    assert on_node(two, "control-1", reaching(other.node("control-1").address, 22)).stdout.strip() == "no"


def test_what_is_not_there_is_said_plainly(bare_node: Lab, meshstrap: Meshstrap, make_lab: MakeLab) -> None:
    none = meshstrap(bare_node, "lab", "kubeconfig")
    assert none.returncode == 1 and "control-1 has no cluster yet" in none.stderr
    assert not bare_node.kubeconfig.exists()

    unknown = meshstrap(bare_node, "lab", "ssh", "worker-7")
    assert unknown.returncode == 1 and "no node 'worker-7'; it has control-1" in unknown.stderr

    unbuilt = Lab(make_lab(workers=None).directory, Path("/nowhere/bundle"))
    missing = meshstrap(unbuilt, "lab", "up")
    assert missing.returncode == 1 and "run `meshstrap lab build`" in missing.stderr
    assert traces(unbuilt) == []
