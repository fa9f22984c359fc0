"""Manage a node's part in a cluster made by kubeadm: its programs, kubelet, control plane, joining and pod network."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import gevent
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from meshstrap import transport
from meshstrap.bundle.lock import LockError
from meshstrap.facts import containerd as containerd_facts
from meshstrap.facts.istio import ISTIOCTL
from meshstrap.facts.kubeadm import (
    CNI_FILES,
    DIRECTORY,
    DONE,
    RUNNING,
    STARTED,
    Cluster,
    ClusterState,
    Leftovers,
    Member,
    MemberState,
    NewestEvent,
    PodNetwork,
    RequiredImages,
    phase,
)
from meshstrap.facts.system import PATH, STARTED_WITH, Files, Service, Services
from meshstrap.kube.manifests import ManifestError
from meshstrap.mesh import versions
from meshstrap.operations import containerd, k8s, progress, system
from meshstrap.operations.failure import executing, fail, failure
from meshstrap.operations.reach import alone, fact, leader_turn

PROGRAMS = {name: f"/usr/local/bin/{name}" for name in ("kubelet", "kubeadm", "kubectl")}
KUBELET_UNIT = "/etc/systemd/system/kubelet.service"
KUBELET_DROP_IN = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
# The pods' network by its name in the CNI configuration.
NETWORK = "meshstrap"
CNI_FILE = f"{CNI_FILES}/10-meshstrap.conflist"
ROUTES_UNIT = "/etc/systemd/system/meshstrap-pod-network.service"
KUBEADM_LOG = "/var/log/meshstrap-kubeadm.log"
API_PORT = 6443
READY_SECONDS = 240.0
KUBEADM_SECONDS = 900.0
TOKEN_MINUTES = 10

_TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
# For sed -E: what kubeadm prints that gives access.
_MASK = (
    r"s/(^|[^a-z0-9])[a-z0-9]{6}\.[a-z0-9]{16}([^a-z0-9]|$)/\1******.****************\2/g;"
    r"s/(certificate-key[ =])[0-9a-f]+/\1******/g"
)
_LAST_LINE = "# end of configuration"

_KUBELET_UNIT = f"""\
[Unit]
Description=kubelet, the Kubernetes node agent
Wants=network-online.target
After=network-online.target containerd.service
# kubeadm writes it: until then there is nothing to run.
ConditionPathExists=/var/lib/kubelet/config.yaml
StartLimitIntervalSec=0

[Service]
{system.environment()}
ExecStart={PROGRAMS["kubelet"]}
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""
_KUBELET_DROP_IN = f"""\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig={DIRECTORY}/bootstrap-kubelet.conf \
--kubeconfig={DIRECTORY}/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart={PROGRAMS["kubelet"]} $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""

# Standard input is the configuration, which may hold a token: it stands in a file of root's alone, in memory, while
# kubeadm runs. kubeadm's output goes to a file, so that it goes through even if the operator's machine dies.
_RUN = f"""
{PATH}
what=$1 cluster=$2 ignore=$3 conf=kubelet.conf
umask 077
config=$(mktemp /run/meshstrap.config.XXXXXX) || exit 1
log={KUBEADM_LOG}
tidy() {{
    rm -f "$config"
    # kubeadm init prints the token that it made.
    [ -e "$log" ] && sed -i -E '{_MASK}' "$log"
}}
trap tidy EXIT
# dash runs the EXIT trap at a signal only if the signal makes it exit.
trap 'exit 1' HUP INT TERM
cat >"$config"
[ "$(tail -n 1 "$config")" = "{_LAST_LINE}" ] || {{ echo "the configuration arrived cut off"; exit 1; }}
exec 9>>{RUNNING}
flock -w 600 9 || {{ echo "another kubeadm has been running on this node for 10 minutes"; exit 1; }}
# The run that held the lock may have been this one's, left alone by its operator, and through by now.
[ -e {DONE} ] && [ -e "{DIRECTORY}/$conf" ] && exit 0
: >"$log"
umask 022
if [ -e {DONE} ] && [ -d /var/lib/etcd/member ]; then
    echo "{DIRECTORY}/$conf is gone, and a cluster's data are in /var/lib/etcd: put the file back, or reset this node"
    exit 1
fi
# A mark of a node that is through, and no kubelet.conf: somebody ran kubeadm reset by hand.
if [ -e {STARTED} ] || [ -e {DONE} ]; then
    kubeadm reset --force >>"$log" 2>&1
    rm -rf /var/lib/etcd/* {DIRECTORY}/pki {DIRECTORY}/*.conf
fi
mkdir -p {DIRECTORY}
rm -f {DONE}
echo "cluster: $cluster" >{STARTED}
kubeadm "$what" --config "$config" ${{ignore:+--ignore-preflight-errors="$ignore"}} >>"$log" 2>&1 </dev/null
code=$?
tail -n 40 "$log"
[ $code = 0 ] && mv -f {STARTED} {DONE}
exit $code
"""

# On the leader: wait for the API, forget a Node object of this very machine from before, make a token, show the CA.
# `echo` and `[` are the shell's own: the token is in no argument of a process (its public half, the id, is).
_INVITE = f"""
{PATH}
node=$1 address=$2
k="kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s"
n=0
until $k get --raw /readyz >/dev/null 2>&1; do
    n=$((n + 1)); [ $n -gt 60 ] && {{ echo "the API server does not answer" >&2; exit 1; }}
    sleep 2
done
there=$($k get node "$node" --ignore-not-found -o 'jsonpath={{.status.addresses[?(@.type=="InternalIP")].address}}')
if [ "$there" = "$address" ]; then $k delete node "$node" >/dev/null || exit 1; fi
token=$(kubeadm token create --kubeconfig {DIRECTORY}/admin.conf --ttl {TOKEN_MINUTES}m \
    --description "meshstrap: $node joins") || exit 1
# A controller signs the cluster's description with each new token. A kubeadm that comes before looks again after 5 s.
n=0
until [ -n "$($k -n kube-public get configmap cluster-info -o "jsonpath={{.data.jws-kubeconfig-${{token%%.*}}}}")" ]; do
    n=$((n + 1)); [ $n -gt 100 ] && break
    sleep 0.2
done
echo "$token"
cat {DIRECTORY}/pki/ca.crt
"""
# Each step may find its work done: a reset that was stopped is finished by the next. The units go last of all, since
# by them the node's containerd and kubelet are known as ours.
_RESET = rf"""
{PATH}
ours() {{ grep -q {STARTED_WITH}= "/etc/systemd/system/$1.service" 2>/dev/null; }}
exec 9>>{RUNNING}
flock -w 600 9 || {{ echo "kubeadm has been running on this node for 10 minutes"; exit 1; }}
umask 077
if [ -e {STARTED} ] || [ -e {DONE} ] || [ -e {DIRECTORY}/kubelet.conf ]; then
    ours containerd && systemctl start containerd
    command -v kubeadm >/dev/null 2>&1 && kubeadm reset --force >"{KUBEADM_LOG}" 2>&1
fi
systemctl disable --now meshstrap-pod-network 2>/dev/null
ours kubelet && systemctl disable --now kubelet 2>/dev/null
if ours containerd; then
    systemctl start containerd 2>/dev/null
    for task in $(ctr -n k8s.io tasks ls -q 2>/dev/null); do ctr -n k8s.io tasks rm -f "$task" >/dev/null 2>&1; done
    systemctl disable --now containerd 2>/dev/null
    # A shim that outlived its containerd.
    for shim in $(pgrep -f '^/usr/local/bin/containerd-shim-runc-v2 '); do kill -9 "$shim"; done
fi
awk '$2 ~ "^/(run/containerd|run/netns/cni-|var/lib/kubelet|var/lib/containerd)/" {{ print $2 }}' /proc/mounts |
    sort -r | while read -r mount; do umount -l "$mount"; done
ip -4 route show | awk '$2 == "via" && /proto static|dev/ {{ print $1 }}' | while read -r network; do
    grep -q "ip route replace $network via " {ROUTES_UNIT} 2>/dev/null && ip route del "$network"
done
ip link del cni0 2>/dev/null
for tables in iptables ip6tables; do
    command -v $tables-save >/dev/null 2>&1 || continue
    $tables-save 2>/dev/null | grep -q 'KUBE-\|CNI-\|meshstrap-pods' || continue
    $tables-save | grep -v 'KUBE-\|CNI-\|meshstrap-pods' | $tables-restore
done
for name in $(ls /run/netns 2>/dev/null | grep '^cni-'); do ip netns del "$name" 2>/dev/null; done
for directory in $1; do find "$directory" -mindepth 1 -maxdepth 1 -exec rm -rf {{}} + 2>/dev/null; done
shift
for path; do rm -f "$path"; done
rm -f /var/lib/cni/results/{NETWORK}-*
rmdir /etc/systemd/system/kubelet.service.d /etc/containerd {DIRECTORY} /var/lib/cni/networks/{NETWORK} \
    /var/lib/cni/networks /var/lib/cni/results /var/lib/cni {CNI_FILES} /etc/cni 2>/dev/null
systemctl daemon-reload
systemctl reset-failed 2>/dev/null
exit 0
"""
_UNMASQUERADE = """
PATH=$PATH:/usr/sbin:/sbin
iptables -w -t nat -S POSTROUTING | grep -e meshstrap-pods | grep -v -e "$1" | sed 's/^-A/-D/' |
    while read -r rule; do iptables -w -t nat $rule || exit 1; done
"""
# A node that leaves a cluster that stays is no node of it.
_FORGET = f"""
{PATH}
node=$1 address=$2
[ -e {DIRECTORY}/admin.conf ] || exit 0
k="kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=10s"
path='jsonpath={{.status.addresses[?(@.type=="InternalIP")].address}}'
there=$($k get node "$node" --ignore-not-found -o "$path") || exit 1
[ "$there" != "$address" ] || $k delete node "$node" >/dev/null
"""
_WITHDRAW = f"{PATH}; kubeadm token delete --kubeconfig {DIRECTORY}/admin.conf"


@operation()
@alone
def programs(bundle: str) -> Generator[PyinfraCommand, None, None]:
    """Install kubelet, kubeadm and kubectl from the bundle, unless others set the kubelet up on the node.

    + bundle: the directory of the bundle

    **Example:**

    .. code:: python

        kubeadm.programs(name="Install kubelet, kubeadm and kubectl", bundle=host.data.bundle)
    """
    theirs = _foreign_kubelet()
    if theirs:
        host.noop(f"the kubelet was set up by others ({theirs}): left alone")
        return
    problem = _other_version(bundle, fact(host, Member))
    if problem:
        yield from system.refuse(problem)
        return
    yield from system.install(bundle, PROGRAMS)


@operation()
@alone
def kubelet(bundle: str) -> Generator[PyinfraCommand, None, None]:
    """Set up the kubelet's service as kubeadm expects it. It starts once kubeadm has configured it.

    + bundle: the directory of the bundle, whose kubelet it runs

    **Example:**

    .. code:: python

        kubeadm.kubelet(name="Set up the kubelet's service", bundle=host.data.bundle)
    """
    theirs = _foreign_kubelet()
    if theirs:
        host.noop(f"the kubelet was set up by others ({theirs}): left alone")
        return
    texts = {KUBELET_UNIT: _KUBELET_UNIT, KUBELET_DROP_IN: _KUBELET_DROP_IN}
    try:
        checksums = system.checksums(bundle, {"kubelet": PROGRAMS["kubelet"]})
    except (LockError, system.BundleError) as error:
        yield from system.refuse(str(error))
        return
    in_cluster = phase(fact(host, Member)) == "ours"
    yield from system.service("kubelet", texts, checksums, running=in_cluster)


@operation()
@alone
def init(
    cluster_name: str,
    kubernetes_version: str,
    pod_cidr: str,
    service_cidr: str,
    kubelet_config: Mapping[str, Any],
    kube_proxy_config: Mapping[str, Any],
    etcd_extra_args: Mapping[str, str],
    api_server_cert_sans: Sequence[str],
    ignore_preflight_errors: Sequence[str],
) -> Generator[PyinfraCommand, None, None]:
    """Create the control plane on this node. What a stopped run left half-made is made anew; a cluster stays as it is.

    + cluster_name: its name
    + kubernetes_version: for example 1.34.10
    + pod_cidr: the pods' addresses; each node gets a part
    + service_cidr: the Services' addresses
    + kubelet_config: merged over ours, a KubeletConfiguration
    + kube_proxy_config: merged over ours, a KubeProxyConfiguration
    + etcd_extra_args: further arguments of etcd
    + api_server_cert_sans: further names and addresses in the API server's certificate
    + ignore_preflight_errors: checks of kubeadm's own that shall not stop it

    **Example:**

    .. code:: python

        kubeadm.init(
            name="Create the control plane",
            cluster_name="meshstrap",
            kubernetes_version="1.34.10",
            pod_cidr="10.244.0.0/16",
            service_cidr="10.96.0.0/16",
            kubelet_config={},
            kube_proxy_config={},
            etcd_extra_args={},
            api_server_cert_sans=[],
            ignore_preflight_errors=[],
        )
    """
    if len(host.inventory.groups.get("control_plane", [])) > 1:
        yield from system.refuse("the group control_plane has several hosts: meshstrap makes one control plane node")
        return
    problem = (
        system.name_problem("cluster_name", cluster_name)
        or system.version_problem("kubernetes_version", kubernetes_version)
        or system.network_problem("pod_cidr", pod_cidr)
        or system.network_problem("service_cidr", service_cidr)
        or system.texts_problem("api_server_cert_sans", api_server_cert_sans, "10.0.0.5")
        or system.texts_problem("kubeadm_ignore_preflight_errors", ignore_preflight_errors, "NumCPU")
    )
    if problem:
        yield from system.refuse(problem)
        return
    address = node_address(host)
    if address is None:
        yield from system.refuse(_no_address(host))
        return
    member = fact(host, Member)
    problem = upgrade_problem(host.name, member, kubernetes_version)
    if problem:
        yield failure(problem)
        return
    if _settled(member, cluster_name):
        return
    problem = _not_ready_for_kubeadm(member, kubernetes_version, control_plane=True) or _other_cluster(
        member, cluster_name
    )
    if problem and executing():
        yield failure(problem)
        return
    documents = init_configuration(
        name=member["hostname"],
        address=address,
        cluster_name=cluster_name,
        kubernetes_version=kubernetes_version,
        pod_cidr=pod_cidr,
        service_cidr=service_cidr,
        kubelet_config=kubelet_config,
        kube_proxy_config=kube_proxy_config,
        etcd_extra_args=etcd_extra_args,
        api_server_cert_sans=api_server_cert_sans,
        takes_pods=not host.inventory.groups.get("workers"),
    )
    if phase(member) == "unfinished":
        host.log("an earlier run was stopped while it made the control plane: taken up from there")
    yield FunctionCommand(_init, (documents, cluster_name, tuple(ignore_preflight_errors)), {})


@operation()
@alone
def join(cluster_name: str, ignore_preflight_errors: Sequence[str]) -> Generator[PyinfraCommand, None, None]:
    """Make this node a worker of the leader's cluster, with a token that is made for it and withdrawn afterwards.

    + cluster_name: the cluster's name
    + ignore_preflight_errors: checks of kubeadm's own that shall not stop it

    **Example:**

    .. code:: python

        kubeadm.join(name="Join the workers", cluster_name="meshstrap", ignore_preflight_errors=[])
    """
    problem = system.name_problem("cluster_name", cluster_name) or system.texts_problem(
        "kubeadm_ignore_preflight_errors", ignore_preflight_errors, "NumCPU"
    )
    if problem:
        yield from system.refuse(problem)
        return
    address = node_address(host)
    if address is None:
        yield from system.refuse(_no_address(host))
        return
    leader = leader_of(host)
    leader_address = node_address(leader)
    if leader_address is None:
        yield from system.refuse(_no_address(leader))
        return
    member = fact(host, Member)
    if _settled(member, cluster_name):
        return
    if executing():
        problem = (
            _not_ready_for_kubeadm(member, None, control_plane=False)
            or _other_cluster(member, cluster_name)
            or _unreachable(leader)
        )
        if problem is None and phase(fact(leader, Member)) != "ours":
            problem = (
                f"{host.name}: cannot join: {leader.name} has no control plane that meshstrap made; run"
                " deploys/cluster.py for both, or join the node by the means that made that cluster"
            )
        if problem:
            yield failure(problem)
            return
    if phase(member) == "unfinished":
        host.log("an earlier run was stopped while this node joined: taken up from there")
    yield FunctionCommand(
        _join, (leader, address, leader_address, member["hostname"], cluster_name, tuple(ignore_preflight_errors)), {}
    )


@operation()
@alone
def pod_network(
    pod_cidr: str, cni_manifests: Sequence[str], without: str = ""
) -> Generator[PyinfraCommand, None, None]:
    """Give the node's pods their network: a bridge, and a route to the pods of every other node, kept over a boot.

    All nodes must share one L2 network. A site with a CNI of its own names its manifests; this then does nothing.

    + pod_cidr: the pods' addresses, of all nodes together
    + cni_manifests: the site's own CNI
    + without: a node that leaves the cluster: no route leads there

    **Example:**

    .. code:: python

        kubeadm.pod_network(name="Route the pods' networks", pod_cidr="10.244.0.0/16", cni_manifests=[])
    """
    if cni_manifests:
        host.noop("the site has a CNI of its own")
        return
    bad = system.network_problem("pod_cidr", pod_cidr)
    if bad:
        yield from system.refuse(bad)
        return
    member = fact(host, Member)
    if phase(member) == "foreign":
        host.noop("a cluster that others made: its network is left alone")
        return
    leader = leader_of(host)
    problem = _unreachable(leader) if executing() else None
    if problem:
        yield failure(problem)
        return
    cluster = _assigned(leader, member["hostname"]) if executing() else fact(leader, Cluster)
    if cluster is None or not _pods_of(cluster, member["hostname"]):
        yield failure(
            f"{host.name}: the cluster knows no node {member['hostname']} with a network for its pods; run"
            " deploys/cluster.py for all hosts"
        )
        return
    if homeless := unassigned(cluster):
        host.log(
            f"{', '.join(homeless)}: no network for pods, or no address, yet: no route leads there; run"
            " deploys/cluster.py again once `kubectl get nodes -o wide` shows them whole",
            logger.warning,
        )
    own, routes = pod_routes(cluster, member["hostname"], without)
    texts = {CNI_FILE: cni_configuration(own), ROUTES_UNIT: routes_unit(own, routes, pod_cidr)}
    changes = list(write_changes(texts))
    yield from changes
    now = fact(host, PodNetwork)
    stale = stale_routes(now["routes"], routes, pod_cidr)
    for network in stale:
        yield StringCommand("ip route del", network)
    if any(network != own for network in now["bridge"]):
        # From another life of this node: the bridge plugin would refuse to give it a second network.
        stale.append("cni0")
        yield StringCommand("ip link del cni0")
    if any(network != own for network in now["masquerade"]):
        stale.append("masquerade")
        yield StringCommand("sh", "-c", QuoteString(_UNMASQUERADE), "unmasquerade", QuoteString(f"-s {own} "))
    service = fact(host, Services, services=["meshstrap-pod-network"])["meshstrap-pod-network"]
    there = set(now["routes"]) >= {f"{network} via {via}" for network, via in routes.items()}
    if changes:
        yield StringCommand("systemctl daemon-reload")
    if not service["enabled"]:
        yield StringCommand("systemctl enable --quiet meshstrap-pod-network")
    restart = bool(changes) or not there or own not in now["masquerade"] or not service["active"]
    if restart:
        yield StringCommand("systemctl restart meshstrap-pod-network")
    elif not stale and service["enabled"]:
        host.noop(f"pods of {own} and routes to {len(routes)} other nodes are there")
    absent = [each.name for each in host.inventory if _is_node(each) and not host.state.is_host_in_limit(each)]
    if absent and executing() and restart:
        host.log(
            f"outside --limit: {', '.join(absent)}: run deploys/cluster.py for them too, they need routes to {own}"
        )


@operation()
@alone
def cni(manifests: Sequence[str]) -> Generator[PyinfraCommand, None, None]:
    """Apply the site's own CNI, where it names one.

    + manifests: paths of its YAML files

    **Example:**

    .. code:: python

        kubeadm.cni(name="Apply the site's own CNI", manifests=["cni/calico.yaml"])
    """
    if not manifests:
        host.noop("the pods' network is meshstrap's own")
        return
    if phase(fact(host, Member)) == "foreign":
        host.noop("a cluster that others made: its network is left alone")
        return
    try:
        objects = [each for path in manifests for each in k8s.load(path)]
    except ManifestError as error:
        yield from system.refuse(str(error))
        return
    yield from k8s.manifests._inner(objects, wait=False, owner="cni")


@operation()
@alone
def ready(timeout: float = READY_SECONDS) -> Generator[PyinfraCommand, None, None]:
    """Wait until all nodes of this run are Ready and kube-proxy and CoreDNS are available. Changes nothing.

    + timeout: seconds

    **Example:**

    .. code:: python

        kubeadm.ready(name="Wait until the cluster is ready")
    """
    if not executing():
        host.noop("waited for when the run executes")
        return
    theirs = phase(fact(host, Member)) == "foreign"
    active = host.inventory.get_active_hosts()
    hosts = [each for each in host.inventory if each in active and _is_node(each)]
    wanted = {each.name: node_address(each) for each in hosts}
    began = said = time.monotonic()
    while problems := not_ready(fact(host, Cluster), wanted, ours=not theirs):
        if time.monotonic() - said >= progress.SAY_SECONDS:
            said = time.monotonic()
            event = fact(host, NewestEvent)
            host.log(
                f"{said - began:.0f} s: waiting: {'; '.join(problems)}{f'; newest event: {event}' if event else ''}"
            )
        if time.monotonic() - began > timeout:
            yield failure(
                f"{host.name}: the cluster is not ready after {timeout:.0f} s:\n"
                + "\n".join(f"  {problem}" for problem in problems)
                + "\nLook at `journalctl -u kubelet` on the node named, and at"
                " `kubectl get pods --all-namespaces` on the leader."
            )
            return
        gevent.sleep(1)
    host.noop(f"{', '.join(wanted)}{'' if theirs else ', kube-proxy and CoreDNS'} are ready")


@operation()
@alone
def reset(cluster_name: str, confirm: str) -> Generator[PyinfraCommand, None, None]:
    """Make the node bare again: no cluster, no containers, none of meshstrap's files, routes and rules.

    Refuses before anything is touched unless the cluster's name is given, and on a node whose cluster others made.

    + cluster_name: the cluster's name
    + confirm: the same, typed by the person who wants this

    **Example:**

    .. code:: python

        kubeadm.reset(name="Make the node bare again", cluster_name="meshstrap", confirm=host.data.confirm)
    """
    if problem := system.name_problem("cluster_name", cluster_name):
        yield from system.refuse(problem)
        return
    if confirm != cluster_name:
        yield from system.refuse(
            f"this destroys cluster {cluster_name} with all that runs on it, on every host of the inventory; if that"
            f" is what you want, add: --data confirm={cluster_name}"
        )
        return
    member = fact(host, Member)
    services = fact(host, Services, services=["containerd", "kubelet"])
    if phase(member) == "foreign":
        yield failure(f"{host.name}: belongs to a cluster that others made, and is left alone")
        return
    if phase(member) != "bare" and member["cluster"] not in (cluster_name, None):
        yield failure(f"{host.name}: belongs to cluster {member['cluster']}, not to {cluster_name}: left alone")
        return
    known = fact(host, Files, paths=[system.SYSCTL_FILE])
    paths, directories = ours(services, marked=member["mark"] is not None, prepared=system.SYSCTL_FILE in known)
    left = fact(host, Leftovers, paths=paths, directories=directories, interfaces=["cni0"])
    if not left:
        host.noop("the node is bare")
        return
    host.log(f"to be removed: {', '.join(left)}")
    yield FunctionCommand(_reset, (paths, directories), {})
    leader = leader_of(host)
    address = node_address(host)
    if phase(member) != "bare" and address and not host.state.is_host_in_limit(leader) and not _unreachable(leader):
        yield FunctionCommand(_forget, (leader, member["hostname"], address), {})
    left = fact(host, Leftovers, paths=paths, directories=directories, interfaces=["cni0"])
    if left:
        yield failure(f"{host.name}: still there: {', '.join(left)}; see {KUBEADM_LOG} and run it again")


def ours(services: Mapping[str, Service], *, marked: bool, prepared: bool) -> tuple[list[str], list[str]]:
    """Name the files and the directories' contents that a reset removes: only what we made.

    Args:
        services: what systemd says of `containerd` and `kubelet`.
        marked: whether a mark of ours says that kubeadm ran.
        prepared: whether deploys/runtime.py began here.

    """
    kubelet, runtime = services["kubelet"], services["containerd"]
    paths = [CNI_FILE, ROUTES_UNIT, system.MODULES_FILE, STARTED, DONE, KUBEADM_LOG]
    directories = []
    if marked or kubelet["ours"]:
        directories += ["/var/lib/etcd", DIRECTORY, "/var/lib/kubelet"]
    if runtime["ours"]:
        # Other programs (podman) keep their networks in the same places.
        directories += ["/var/lib/containerd", "/run/containerd", f"/var/lib/cni/networks/{NETWORK}"]
    if kubelet["ours"] or (prepared and not system.is_foreign(kubelet)):
        paths += [*PROGRAMS.values(), ISTIOCTL, KUBELET_UNIT, KUBELET_DROP_IN]
    if runtime["ours"] or (prepared and not system.is_foreign(runtime)):
        paths += [*containerd.PROGRAMS.values(), *containerd.CNI_PLUGINS.values()]
        paths += [containerd.CONFIG_FILE, containerd.UNIT_FILE]
    return [*paths, system.SYSCTL_FILE], directories


def node_address(node: Host) -> str | None:
    """Give the IPv4 address by which a node is known in the cluster.

    Args:
        node: a host; its data `node_address` counts, else the address that ssh connects to.

    Returns:
        The address, or None where neither is one.

    """
    for candidate in (node.data.get("node_address"), node.data.get("ssh_hostname"), node.name):
        try:
            return str(ipaddress.IPv4Address(candidate))
        except (ValueError, TypeError):
            continue
    return None


def leader_of(node: Host) -> Host:
    """Give the host that leads the site: the first of the control plane."""
    leaders: list[Host] = node.inventory.get_group("leader")
    return leaders[0]


def init_configuration(
    *,
    name: str,
    address: str,
    cluster_name: str,
    kubernetes_version: str,
    pod_cidr: str,
    service_cidr: str,
    kubelet_config: Mapping[str, Any],
    kube_proxy_config: Mapping[str, Any],
    etcd_extra_args: Mapping[str, str],
    api_server_cert_sans: Sequence[str],
    takes_pods: bool,
) -> list[dict[str, Any]]:
    """Make the documents of kubeadm's configuration for the first node, kubeadm v1beta4.

    Args:
        name: the node's name.
        address: its IPv4 address.
        cluster_name: the cluster's name.
        kubernetes_version: without the v.
        pod_cidr: the pods' addresses.
        service_cidr: the Services' addresses.
        kubelet_config: merged over ours.
        kube_proxy_config: merged over ours.
        etcd_extra_args: further arguments of etcd.
        api_server_cert_sans: further names in the API server's certificate.
        takes_pods: whether applications run on this node too.

    """
    cluster: dict[str, Any] = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "clusterName": cluster_name,
        "kubernetesVersion": f"v{kubernetes_version.removeprefix('v')}",
        "networking": {"podSubnet": pod_cidr, "serviceSubnet": service_cidr},
        "apiServer": {"certSANs": list(api_server_cert_sans)},
    }
    if etcd_extra_args:
        arguments = [{"name": key, "value": str(value)} for key, value in etcd_extra_args.items()]
        cluster["etcd"] = {"local": {"extraArgs": arguments}}
    init = init_document(name, address)
    if takes_pods:
        init["nodeRegistration"]["taints"] = []
    return [init, cluster, *component_configurations(kubelet_config, kube_proxy_config)]


def init_document(name: str, address: str) -> dict[str, Any]:
    """Make kubeadm's document of the first node.

    Args:
        name: the node's name.
        address: its IPv4 address.

    """
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        # kubeadm makes one in any case; nobody is told it, and it is soon worth nothing.
        "bootstrapTokens": [{"ttl": "1m0s", "usages": ["signing", "authentication"]}],
        "localAPIEndpoint": {"advertiseAddress": address, "bindPort": API_PORT},
        "nodeRegistration": _registration(name, address),
    }


def component_configurations(
    kubelet_config: Mapping[str, Any], kube_proxy_config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the configurations of kubelets and kube-proxy: ours, with the site's merged over them."""
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
    }
    proxy = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables"}
    return system.merge(kubelet, kubelet_config), system.merge(proxy, kube_proxy_config)


def join_configuration(
    *, name: str, address: str, leader_address: str, token: str, ca_hash: str
) -> list[dict[str, Any]]:
    """Make the document of kubeadm's configuration for a worker, kubeadm v1beta4.

    Args:
        name: the node's name.
        address: its IPv4 address.
        leader_address: where the API server is.
        token: a bootstrap token; a secret.
        ca_hash: `sha256:<hex>` of the public key of the cluster's CA.

    """
    return [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "JoinConfiguration",
            "discovery": {
                "bootstrapToken": {
                    "apiServerEndpoint": f"{leader_address}:{API_PORT}",
                    "token": token,
                    "caCertHashes": [ca_hash],
                }
            },
            "nodeRegistration": _registration(name, address),
        }
    ]


def ca_hash(certificate: str) -> str:
    """Compute what kubeadm knows a CA by: the SHA-256 of its public key (SubjectPublicKeyInfo).

    Args:
        certificate: PEM.

    """
    key = load_pem_x509_certificate(certificate.encode()).public_key()
    return f"sha256:{hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"


def pod_routes(cluster: ClusterState, name: str, without: str = "") -> tuple[str, dict[str, str]]:
    """Say which network a node's pods have, and by which machines the other nodes' pods are reached.

    Args:
        cluster: its nodes; this one has a network.
        name: this node.
        without: a node that leaves the cluster.

    Returns:
        Its pods' network, and network -> address for the others.

    """
    nodes = cluster["nodes"]
    routes = {
        node["pod_cidr"]: node["address"]
        for other, node in sorted(nodes.items())
        if other not in (name, without) and node["pod_cidr"] and node["address"]
    }
    return nodes[name]["pod_cidr"] or "", routes


def stale_routes(now: Sequence[str], wanted: Mapping[str, str], pod_cidr: str) -> list[str]:
    """Name the networks within the pods' range to which there is a route for a node that is no more.

    Args:
        now: `<network> via <address>` each.
        wanted: network -> address.
        pod_cidr: the pods' range.

    """
    everything = ipaddress.IPv4Network(pod_cidr)
    networks = [route.split()[0] for route in now]
    return [each for each in networks if each not in wanted and ipaddress.IPv4Network(each).subnet_of(everything)]


def cni_configuration(pod_cidr: str) -> str:
    """Write the CNI configuration of a node: a bridge, addresses by host-local, host ports by portmap.

    Args:
        pod_cidr: the network of the node's pods.

    """
    return (
        json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": NETWORK,
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": "cni0",
                        "isDefaultGateway": True,
                        "hairpinMode": True,
                        "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_cidr}]]},
                    },
                    {"type": "portmap", "capabilities": {"portMappings": True}},
                ],
            },
            indent=2,
        )
        + "\n"
    )


def routes_unit(own: str, routes: Mapping[str, str], pod_cidr: str) -> str:
    """Write the unit that sets a node's pod routes at each boot.

    Pods keep their addresses among themselves; what they send elsewhere goes out under the node's address.

    Args:
        own: the network of the node's pods.
        routes: network -> address of the node that has it.
        pod_cidr: the pods' addresses, of all nodes together.

    """
    rule = f"POSTROUTING -s {own} ! -d {pod_cidr} -m comment --comment meshstrap-pods -j MASQUERADE"
    commands = [f"ip route replace {network} via {address}" for network, address in routes.items()]
    commands.append(f"iptables -w -t nat -C {rule} 2>/dev/null || iptables -w -t nat -A {rule}")
    lines = "".join(f"ExecStart=/bin/sh -c '{command}'\n" for command in commands)
    return f"""\
[Unit]
Description=Routes to the pods of the other nodes
Wants=network-online.target
After=network-online.target
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
{lines}
[Install]
WantedBy=multi-user.target
"""


def not_ready(cluster: ClusterState | None, wanted: Mapping[str, str | None], *, ours: bool = True) -> list[str]:
    """List what a cluster lacks to be ready.

    Args:
        cluster: what it says; None where no API server answers.
        wanted: host -> address of each node that should be Ready.
        ours: whether we made it: what others run in place of kube-proxy and CoreDNS is theirs.

    """
    if cluster is None:
        return ["the API server does not answer"]
    by_address = {node["address"]: (name, node) for name, node in cluster["nodes"].items()}
    problems = []
    for host_name, address in wanted.items():
        name, node = by_address.get(address, (None, None))
        if node is None:
            problems.append(f"{host_name} ({address}) is no node of the cluster")
        elif not node["ready"]:
            problems.append(f"node {name} is not Ready: {node['reason']}")
        elif ours and name not in cluster["kube_proxy"]:
            problems.append(f"kube-proxy does not run on node {name}")
    if ours and not cluster["coredns"]:
        problems.append("CoreDNS is not available")
    return problems


def write_changes(texts: Mapping[str, str]) -> Generator[StringCommand, None, None]:
    """Yield the commands that write those of some text files that this node lacks or has otherwise."""
    known = fact(host, Files, paths=list(texts))
    yield from system.write_changed(texts, known)


def without_tokens(text: str) -> str:
    """Mask bootstrap tokens."""
    return _TOKEN.sub("******.****************", text)


def _registration(name: str, address: str) -> dict[str, Any]:
    return {
        "name": name,
        "criSocket": f"unix://{containerd_facts.SOCKET}",
        # Every image is there before: kubeadm shall not look for a registry.
        "imagePullPolicy": "Never",
        "kubeletExtraArgs": [{"name": "node-ip", "value": address}],
    }


def _init(
    state: State, host: Host, documents: list[dict[str, Any]], cluster_name: str, ignore: tuple[str, ...]
) -> bool:
    return _kubeadm(host, "init", documents, cluster_name, ignore)


def _join(
    state: State,
    host: Host,
    leader: Host,
    address: str,
    leader_address: str,
    name: str,
    cluster_name: str,
    ignore: tuple[str, ...],
) -> bool:
    invite = StringCommand("sh", "-c", QuoteString(_INVITE), "invite", QuoteString(name), QuoteString(address))
    try:
        with leader_turn, progress.waiting(host, lambda: f"a token of {leader.name}, once its API server answers"):
            answer = transport.execute(leader, invite, timeout=KUBEADM_SECONDS)
        if not answer.ok:
            reason = without_tokens(answer.stderr.strip())
            return fail(host, f"{leader.name}: cannot make a token for {host.name}: {reason}")
        token, _, certificate = answer.stdout.partition("\n")
        documents = join_configuration(
            name=name, address=address, leader_address=leader_address, token=token, ca_hash=ca_hash(certificate)
        )
        try:
            return _kubeadm(host, "join", documents, cluster_name, ignore)
        finally:
            with leader_turn:
                transport.execute(leader, StringCommand(_WITHDRAW, token.partition(".")[0]), timeout=60)
    except transport.TransportError as error:
        return fail(host, str(error))


def _kubeadm(host: Host, what: str, documents: list[dict[str, Any]], cluster_name: str, ignore: Sequence[str]) -> bool:
    text = f"{yaml.safe_dump_all(documents, sort_keys=False)}{_LAST_LINE}\n"
    command = StringCommand(
        "sh", "-c", QuoteString(_RUN), "kubeadm", what, QuoteString(cluster_name), QuoteString(",".join(ignore))
    )
    began = time.monotonic()
    try:
        with progress.waiting(host, lambda: f"kubeadm {what}, {_last_said(host)}"):
            result = transport.execute(host, command, stdin=text.encode(), timeout=KUBEADM_SECONDS)
    except transport.TransportError as error:
        return fail(host, f"kubeadm {what}: {error}")
    if not result.ok:
        output = without_tokens(result.stdout + result.stderr).strip()
        return fail(
            host,
            f"{host.name}: kubeadm {what} failed; all it said is in {KUBEADM_LOG} there:\n{output}\n"
            "Put right what it names and run this again: it starts over where this left off.",
        )
    host.log(f"kubeadm {what} took {time.monotonic() - began:.1f} s")
    return True


def _last_said(host: Host) -> str:
    """Tell the last line of kubeadm's log on a node, where kubeadm says what it waits for itself."""
    try:
        result = transport.execute(host, StringCommand("tail -n 1", KUBEADM_LOG), timeout=progress.SAY_SECONDS)
    except transport.TransportError as error:
        return str(error)
    said = without_tokens(result.stdout).strip() if result.ok else ""
    return f"which says: {said}" if said else "which says nothing yet"


def _reset(state: State, host: Host, paths: Sequence[str], directories: Sequence[str]) -> bool:
    # What the rest is known as ours by is the last to go.
    ordered = sorted(paths, key=lambda path: path == system.SYSCTL_FILE or path.startswith("/etc/systemd/"))
    command = StringCommand(
        "sh", "-c", QuoteString(_RESET), "reset", QuoteString(" ".join(directories)), *map(QuoteString, ordered)
    )
    try:
        with progress.waiting(host, lambda: f"kubeadm reset and what is left after it, {_last_said(host)}"):
            result = transport.execute(host, command, timeout=KUBEADM_SECONDS)
    except transport.TransportError as error:
        return fail(host, str(error))
    if not result.ok:
        return fail(host, f"{host.name}: {result.stdout.strip()} {result.stderr.strip()}")
    return True


def _forget(state: State, host: Host, leader: Host, name: str, address: str) -> bool:
    command = StringCommand("sh", "-c", QuoteString(_FORGET), "forget", QuoteString(name), QuoteString(address))
    try:
        with leader_turn:
            result = transport.execute(leader, command, timeout=60)
    except transport.TransportError as error:
        return fail(host, str(error))
    if not result.ok:
        return fail(host, f"{leader.name}: cannot delete node {name}: {result.stderr.strip()}")
    return True


def _settled(member: MemberState, cluster_name: str) -> bool:
    now = phase(member)
    if now == "foreign":
        host.noop("this node belongs to a cluster that others made: left alone")
        return True
    if now == "ours" and member["cluster"] in (cluster_name, None):
        host.noop(f"this node belongs to cluster {cluster_name}")
        return True
    return False


def _other_cluster(member: MemberState, cluster_name: str) -> str | None:
    if phase(member) != "ours":
        return None
    return (
        f"{host.name}: belongs to cluster {member['cluster']}, and the inventory says {cluster_name}; reset it first"
        f" (deploys/reset.py --data confirm={member['cluster']} --data cluster_name={member['cluster']})"
    )


def upgrade_problem(name: str, member: MemberState, kubernetes_version: str) -> str | None:
    """Say that a standing cluster of ours is of another version than the data ask for; None: it is not.

    Args:
        name: the control plane's host.
        member: what its files say.
        kubernetes_version: what the data ask for.

    """
    wanted = f"v{kubernetes_version.removeprefix('v')}"
    if phase(member) != "ours" or member["apiserver"] in (None, wanted):
        return None
    return (
        f"{name}: the cluster is Kubernetes {member['apiserver']}, and kubernetes_version says {wanted}; this deploy"
        f" upgrades nothing: set kubernetes_version={str(member['apiserver']).removeprefix('v')}, or upgrade the"
        " cluster with `kubeadm upgrade` first"
    )


def _other_version(bundle: str, member: MemberState) -> str | None:
    """Say that this would put another minor version onto a node of a standing cluster: an upgrade takes more."""
    if phase(member) != "ours" or member["kubeadm"] is None:
        return None
    try:
        lock, _ = system.open_bundle(bundle)
    except LockError:
        return None  # Said by what installs.
    programs = [program for program in lock.programs if program.name == "kubeadm"]
    for program in programs:
        if versions.parse(program.version) != versions.parse(member["kubeadm"]):
            return (
                f"{host.name}: the cluster is Kubernetes {member['kubeadm']}, and the bundle has {program.version};"
                " upgrade the cluster with `kubeadm upgrade` first, or use a bundle of its version"
            )
    return None


def _not_ready_for_kubeadm(member: MemberState, version: str | None, *, control_plane: bool) -> str | None:
    if member["kubeadm"] is None:
        return f"{host.name}: there is no kubeadm; run deploys/runtime.py first"
    if version and member["kubeadm"] != f"v{version.removeprefix('v')}":
        return (
            f"{host.name}: kubeadm is {member['kubeadm']}, and kubernetes_version says {version}; run"
            " deploys/runtime.py with a bundle of that version first, or set kubernetes_version"
        )
    required = fact(host, RequiredImages, version=version or member["kubeadm"])
    there = fact(host, containerd_facts.Images)
    lacking = [
        reference
        for reference in containerd.needed_by_kubernetes(required, control_plane=control_plane)
        if reference not in there or not there[reference]["unpacked"]
    ]
    if lacking:
        return f"{host.name}: containerd lacks {', '.join(lacking)}; run deploys/runtime.py and deploys/images.py first"
    return None


def _unreachable(leader: Host) -> str | None:
    if leader in host.state.failed_hosts:
        return f"{host.name}: the leader {leader.name} failed before: put that right first, then run this again"
    if not leader.connected:
        try:
            leader.connect(reason="leads the site", raise_exceptions=True)
        except ConnectError as error:
            return f"{host.name}: the leader {leader.name} does not answer: {error}"
    return None


def _assigned(leader: Host, name: str) -> ClusterState | None:
    """Read the cluster once this node has its pods' network, which the controller gives it within a second or two."""
    end = time.monotonic() + 60
    with progress.waiting(host, lambda: f"the cluster to give {name}, and all its nodes, a network for pods"):
        while True:
            cluster = fact(leader, Cluster)
            if cluster and _pods_of(cluster, name) and not unassigned(cluster):
                return cluster
            if time.monotonic() > end:
                return cluster
            gevent.sleep(0.5)


def _pods_of(cluster: ClusterState, name: str) -> str | None:
    node = cluster["nodes"].get(name)
    return node["pod_cidr"] if node else None


def unassigned(cluster: ClusterState) -> list[str]:
    """Name the nodes that no route can lead to: they lack a network for their pods, or an address."""
    return [name for name, node in cluster["nodes"].items() if not (node["pod_cidr"] and node["address"])]


def _is_node(each: Host) -> bool:
    return "control_plane" in each.groups or "workers" in each.groups


def _foreign_kubelet() -> str | None:
    service = fact(host, Services, services=["kubelet"]).get("kubelet")
    return service["unit"] if service and system.is_foreign(service) else None


def _no_address(node: Host) -> str:
    return (
        f"{node.name}: its IPv4 address in the cluster is not known; give it in the inventory:"
        f' ("{node.name}", {{"node_address": "192.0.2.10", ...}})'
    )
