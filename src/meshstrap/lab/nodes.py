"""The lab's nodes: containers that are bare Debian machines, made, kept and removed."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshstrap.lab import access, addresses, docker, node_files
from meshstrap.lab.directory import Lab, LabError
from meshstrap.lab.docker import LABEL, Docker, DockerError
from meshstrap.lab.record import Node, Record, read, write

MOST_WORKERS = 9
IMAGE = "meshstrap-node"
NODE_LABEL = "meshstrap.node"
# Each is a volume: an overlay file system cannot hold another's upper directory.
VOLUMES = ("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd")
BOOT_SECONDS = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Container:
    """A container of this lab as Docker has it."""

    node: str
    image: str
    status: str
    address: str
    ports: dict[int, int]

    @property
    def index(self) -> int:
        """The node's place: control-1 is 0, worker-N is N."""
        role, _, number = self.node.partition("-")
        return 0 if role == "control" else int(number)

    def record(self) -> Node:
        """Describe the node for the inventory."""
        is_control_plane = self.index == 0
        return Node(
            name=self.node,
            role="control_plane" if is_control_plane else "worker",
            ssh_host="127.0.0.1",
            ssh_port=self.ports[22],
            address=self.address,
            node_port_url=f"http://127.0.0.1:{self.ports[addresses.NODE_PORT]}" if is_control_plane else None,
            api_port=self.ports[6443] if is_control_plane else None,
        )


def up(lab: Lab, workers: int | None, say: Say) -> Record:
    """Bring the lab's nodes up: make what is missing, start what stands still, leave alone what runs.

    It may be stopped anywhere and run again.

    Args:
        lab: the lab.
        workers: how many workers there shall be; None keeps those that there are, and makes one in a new lab.
        say: told each step.

    Returns:
        The nodes, as `nodes.yaml` now has them.

    Raises:
        LabError: what is in the way, and what to do.

    """
    if workers is not None and not 0 <= workers <= MOST_WORKERS:
        raise LabError(f"a lab has 0 to {MOST_WORKERS} workers, not {workers}")
    with _alone(lab):
        before = _wanted_before(lab)
        if before is None:
            _image_name(lab)  # A new lab without an image is refused before anything is made of it.
        wanted = 1 if before is None else before
        if workers is not None:
            if before is not None and workers < before:
                raise LabError(f"the lab has {before} workers and would lose some: run `meshstrap lab down` first")
            wanted = workers
        lab.started.write_text(f"{wanted}\n")
        client = docker.ensure(lab, say)
        standing = {container.node: container for container in containers(lab, client)}
        subnet = _network(lab, client, say)
        access.make_key(lab.key, lab.name)
        image = None
        made = []
        for index in range(wanted + 1):
            name = f"worker-{index}" if index else "control-1"
            container = standing.get(name)
            if container and container.status == "created":  # its making was interrupted: nothing is in it yet
                client("rm", "--force", "--volumes", f"{lab.name}-{name}")
                container = None
            if container is None:
                image = image or _image(lab, client, say)
                say(f"make {name}")
                _create(lab, client, name, index, subnet, image, say)
                made.append(name)
            elif container.status != "running":
                say(f"start {name}")
                client("start", f"{lab.name}-{name}")
        record = Record(lab.name, str(subnet), tuple(container.record() for container in containers(lab, client)))
        access.write_known_hosts(lab, record.nodes)
        _wait(lab, record)
        write(record, lab.nodes_file)
        newest = _image_name(lab) if lab.rootfs.with_suffix(".sha256").exists() else None
        stale = sorted(c.node for c in standing.values() if newest and c.image != newest and c.node not in made)
        if stale:
            say(f"{', '.join(stale)}: made from an older node image; `meshstrap lab down` and `up` gives the new one")
        return record


def _wait(lab: Lab, record: Record) -> None:
    """Wait for all nodes at a time; the first that fails, or Ctrl-C, ends it for all."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(record.nodes)) as pool:
        tasks = [pool.submit(access.wait_for_ssh, lab, node, BOOT_SECONDS, stop) for node in record.nodes]
        try:
            for task in as_completed(tasks):
                task.result()
        finally:
            stop.set()


def down(lab: Lab, say: Say) -> None:
    """Remove everything that `up` made: containers with their volumes, the network, the engine if we started it.

    The bundle, the build cache, the keys and the node image stay.

    Args:
        lab: the lab.
        say: told each step.

    Raises:
        LabError: something could not be removed.

    """
    if not lab.directory.is_dir():
        return
    with _alone(lab):
        if not lab.started.exists():
            return
        for path in (lab.nodes_file, lab.known_hosts, lab.kubeconfig):
            path.unlink(missing_ok=True)
        # The engine may have died and left containers behind, which only an engine can remove.
        client = docker.ensure(lab, say)
        found = client("ps", "--all", "--quiet", "--filter", f"label={LABEL}={lab.name}").split()
        if found:
            say(f"remove {len(found)} node{'s'[: len(found) > 1]}")
            client("rm", "--force", "--volumes", *found)
        if client("network", "ls", "--quiet", "--filter", f"label={LABEL}={lab.name}").split():
            client("network", "rm", lab.name)
        docker.stop(lab, client, say)
        if docker.own_engine(lab) is None:
            lab.started.unlink(missing_ok=True)


def status(lab: Lab) -> list[str]:
    """Describe the lab in lines for people: engine, bundle, nodes."""
    client = docker.answering()
    if client is None:
        engine = "does not answer"
    else:
        version = client("version", "--format", "{{.Server.Version}}").strip()
        engine = f"{version}, {'started by this lab' if docker.own_engine(lab) else 'not ours'}"
    lock = lab.bundle / "bundle.lock.yaml"
    lines = [
        f"lab     {lab.name} in {lab.directory}",
        f"engine  {engine}",
        f"bundle  {lab.bundle}" + ("" if lock.exists() else " (not built: run `meshstrap lab build`)"),
    ]
    standing = containers(lab, client) if client else []
    if not standing:
        return [*lines, "nodes   none (run `meshstrap lab up`)"]
    complete = lab.nodes_file.exists() and {node.name for node in read(lab.nodes_file).nodes} == {
        container.node for container in standing
    }
    for container in standing:
        where = f"ssh 127.0.0.1:{container.ports[22]}"
        if container.index == 0:
            where += f", API 127.0.0.1:{container.ports[6443]}, {container.record().node_port_url}"
        lines.append(f"node    {container.node:<10} {container.status:<8} {container.address:<15} {where}")
    return lines if complete else [*lines, "        (not complete: run `meshstrap lab up`)"]


def containers(lab: Lab, client: Docker) -> list[Container]:
    """Read the lab's containers from Docker, control plane first."""
    found = client("ps", "--all", "--quiet", "--filter", f"label={LABEL}={lab.name}").split()
    if not found:
        return []
    return parse_containers(client("inspect", *found), lab.name)


def parse_containers(inspected: str, network: str) -> list[Container]:
    """Read `docker inspect` of a lab's containers: node, state, address and published ports, control plane first."""
    result = []
    for item in json.loads(inspected):
        endpoint = item["NetworkSettings"]["Networks"][network]
        bindings = item["HostConfig"]["PortBindings"] or {}
        result.append(
            Container(
                node=item["Config"]["Labels"][NODE_LABEL],
                image=item["Config"]["Image"],
                status=item["State"]["Status"],
                address=(endpoint["IPAMConfig"] or {}).get("IPv4Address", ""),
                ports={int(port.split("/")[0]): int(hosts[0]["HostPort"]) for port, hosts in bindings.items()},
            )
        )
    return sorted(result, key=lambda container: container.index)


@contextmanager
def _alone(lab: Lab) -> Iterator[None]:
    """Hold the lab: two runs at once would make the same things twice. A dead run holds nothing."""
    lab.directory.mkdir(parents=True, exist_ok=True)
    with lab.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"another `lab up` or `lab down` runs in {lab.directory}: wait for it") from None
        yield


def _wanted_before(lab: Lab) -> int | None:
    """Read how many workers the last `up` was for, finished or not; None if there is no lab."""
    try:
        return int(lab.started.read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # killed between making the file and writing to it: before anything else was made
        return None


def _network(lab: Lab, client: Docker, say: Say) -> addresses.Network:
    """Return the lab's network, made if it is not there."""
    identifiers = client("network", "ls", "--quiet", "--no-trunc").split()
    networks = json.loads(client("network", "inspect", *identifiers)) if identifiers else []
    used = []
    for network in networks:
        pools = [addresses.Network(p["Subnet"]) for p in network["IPAM"]["Config"] or [] if ":" not in p["Subnet"]]
        if network["Name"] == lab.name:
            return pools[0]
        used += pools
    used += addresses.routed(Path("/proc/net/route").read_text())
    problem = None
    for subnet in addresses.subnets(lab.name, used)[:5]:
        try:
            _create_network(lab, client, subnet)
        except DockerError as error:  # another lab was faster with this one
            problem = error
            continue
        say(f"network {subnet}, with no way out")
        return subnet
    raise problem or LabError(f"no network is left for the lab in {addresses.RANGE}: this machine uses all of it")


def _create_network(lab: Lab, client: Docker, subnet: addresses.Network) -> None:
    client(
        *("network", "create", "--driver", "bridge", "--label", f"{LABEL}={lab.name}"),
        *("--subnet", str(subnet), "--gateway", addresses.bridge(subnet)),
        # What leaves the subnet goes to an address that nobody has, and were it sent on, it would not be masqueraded.
        *("--aux-address", f"DefaultGatewayIPv4={addresses.dead_gateway(subnet)}"),
        *("--opt", "com.docker.network.bridge.enable_ip_masquerade=false"),
        lab.name,
    )


def _image_name(lab: Lab) -> str:
    """Name the node image after the content of the root file system it was made from."""
    checksum = lab.rootfs.with_suffix(".sha256")
    try:
        return f"{IMAGE}:{checksum.read_text().strip()[:16]}"
    except FileNotFoundError:
        raise LabError(f"there is no node image ({checksum}): run `meshstrap lab build` first") from None


def _image(lab: Lab, client: Docker, say: Say) -> str:
    """Return the node image, imported if Docker does not have this one."""
    name = _image_name(lab)
    if client("image", "ls", "--quiet", name).strip():
        return name
    say(f"import the node image {name}")
    client("import", "-", name, stdin=lab.rootfs, timeout=300)
    used = set(client("ps", "--all", "--format", "{{.Image}}").split())
    for older in set(client("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", IMAGE).split()) - used - {name}:
        client("image", "rm", older)
    return name


def _create(lab: Lab, client: Docker, name: str, index: int, subnet: addresses.Network, image: str, say: Say) -> None:
    """Make one node and start it: the container, then the files that make it this node."""
    address = addresses.node_address(subnet, index)
    host_key = lab.host_keys / name
    access.make_key(host_key, name)
    container = f"{lab.name}-{name}"
    client(
        *("create", "--name", container, "--hostname", name),
        *("--label", f"{LABEL}={lab.name}", "--label", f"{NODE_LABEL}={name}"),
        *("--network", lab.name, "--ip", address),
        # Docker's resolver forwards names to the machine's own resolvers; ours ends where it began.
        *("--dns", address),
        # Not --privileged: that asks for CAP_SYS_RESOURCE, which root itself has not everywhere.
        *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
        *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
        *("--security-opt", "systempaths=unconfined"),  # the kubelet writes below /proc/sys
        *("--device", "/dev/kmsg"),  # the kubelet reads the kernel's log
        *("--cgroupns", "private", "--tmpfs", "/run", "--tmpfs", "/tmp:exec"),
        *(argument for path in VOLUMES for argument in ("--volume", path)),
        *(
            argument
            for host, inner in _ports(lab, index, say)
            for argument in ("--publish", f"127.0.0.1:{host}:{inner}")
        ),
        *("--env", "container=docker", "--stop-signal", "SIGRTMIN+3"),
        *(image, node_files.INIT),
    )
    identity = node_files.Identity(
        lab=lab.name,
        name=name,
        address=address,
        host_key=host_key.read_bytes(),
        host_key_public=host_key.with_name(name + ".pub").read_bytes(),
        authorized_key=lab.key.with_name(lab.key.name + ".pub").read_bytes(),
    )
    client("cp", "-", f"{container}:/", stdin=node_files.archive(identity))
    client("start", container)


def _ports(lab: Lab, index: int, say: Say) -> list[tuple[int, int]]:
    """Choose what the node publishes on 127.0.0.1: (port there, port of the node)."""
    ports = [(addresses.port(lab.name, index), 22)]
    if index == 0:
        ports.append((addresses.port(lab.name, MOST_WORKERS + 1), 6443))
        node_port = addresses.NODE_PORT
        if not addresses.is_free(node_port):
            node_port = addresses.port(lab.name, MOST_WORKERS + 2)
            say(f"port {addresses.NODE_PORT} of 127.0.0.1 is taken: the NodePort is at http://127.0.0.1:{node_port}")
        ports.append((node_port, addresses.NODE_PORT))
    return ports
