"""All that preflight asks a machine, in one round trip: a POSIX shell script and what it printed, as data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shlex
import time
from typing import TypedDict

from cryptography.x509 import load_pem_x509_certificate
from typing_extensions import override

from meshstrap.facts.answer import AnswerFact
from meshstrap.facts.kubeadm import CNI_FILES, DIRECTORY, DONE, STARTED
from meshstrap.facts.runtime import WHICH_RUNTIME
from meshstrap.facts.system import PATH, STARTED_WITH, is_number, platform

# What kubeadm, the kubelet, kube-proxy, CNI plugins and meshstrap itself run on a node.
COMMANDS = (
    "awk", "conntrack", "flock", "ip", "iptables", "losetup", "modprobe", "mount", "nsenter", "sed", "sha256sum",
    "stat", "systemctl", "tail", "umount",
)  # fmt: skip
DIRECTORIES = ("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/usr/local/bin", "/opt")
SYSCTLS = ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables", "fs.inotify.max_user_instances")
MODULES = ("overlay", "br_netfilter")
# Where containerd, Docker and the packages of Debian and the RHEL family look for them.
CNI_PLUGINS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
# They hold their client certificate themselves.
KUBECONFIGS = ("admin", "super-admin", "controller-manager", "scheduler")
FIREWALLS = ("firewalld", "ufw")
# Where programs of the bundle stand, what pods execute may stand, and temporary programs do.
EXECUTABLE = ("/usr/local/bin", "/opt/cni/bin", "/var/lib/containerd", "/var/lib/kubelet", "/tmp")

_TITLE = re.compile(r"^#([a-z0-9_]+)$")


class Mount(TypedDict):
    """The file system under a directory: its device, size and free bytes."""

    device: str
    size: int
    free: int


class Containerd(TypedDict):
    """What a containerd that others set up is configured for: plugins that are off, and runc's cgroup driver."""

    disabled: list[str]
    cgroup_driver: str


class Proxies(TypedDict):
    """Proxies that a file or systemd tells programs: the variables, without their values, and what they are not for."""

    variables: list[str]
    no_proxy: str


class Machine(TypedDict):
    """What a machine says of itself. Everything that it could not say is empty, zero or None."""

    uid: int
    init: str
    os: str
    os_name: str
    platform: str
    kernel: str
    cgroup: int
    controllers: list[str]
    cpus: int
    memory: int
    swap: list[str]
    disks: dict[str, Mount]
    noexec: dict[str, str]
    proxies: dict[str, Proxies]
    clock: float
    read_at: float
    listening: dict[int, str]
    missing_commands: list[str]
    iptables: str
    legacy_tables: list[str]
    forward: str
    modules: dict[str, bool]
    sysctls: dict[str, str]
    selinux: str
    apparmor: bool
    apparmor_parser: bool
    firewalls: list[str]
    hostname: str
    machine_id: str
    product_uuid: str
    resolv_conf: str
    resolvers: list[str]
    addresses: dict[str, str]
    routes: list[str]
    peers: dict[str, str]
    runtimes: dict[str, str]
    containerd: Containerd | None
    kubelet_runtime: str
    cni_files: dict[str, list[str]]
    cni_plugins: list[str]
    confs: list[str]
    mark: str | None
    certificates: dict[str, float]
    host_keys: list[str]


def script(peers: list[str]) -> str:
    """Write the script. It changes nothing, and works in any POSIX shell of Debian, Ubuntu and the RHEL family.

    Args:
        peers: addresses of the other nodes: how they are reached is asked at once, two seconds each at most.

    """
    return f"""{PATH}
echo '#uid'; id -u
echo '#init'; cat /proc/1/comm
echo '#os'; cat /etc/os-release 2>/dev/null
echo '#machine'; uname -m
echo '#kernel'; uname -r
echo '#cgroup'
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo 2; cat /sys/fs/cgroup/cgroup.controllers
else echo 1; awk 'NR > 1 && $4 == 1 {{ printf "%s ", $1 }}' /proc/cgroups; echo; fi
echo '#cpus'; getconf _NPROCESSORS_ONLN
echo '#memory'; awk '/^MemTotal:/ {{ print $2 }}' /proc/meminfo
echo '#swap'; awk 'NR > 1 {{ print $1 }}' /proc/swaps
echo '#disks'
for d in {shlex.join(DIRECTORIES)}; do
    e=$d; while [ ! -d "$e" ]; do e=$(dirname "$e"); done
    df -Pk "$e" | awk -v d="$d" 'NR == 2 {{ print d, $1, $2, $4 }}'
done
echo '#noexec'
for d in {shlex.join(EXECUTABLE)}; do
    e=$d; while [ ! -d "$e" ]; do e=$(dirname "$e"); done
    # stat and df do not see a bind mount in between. Of mounts on one another the last holds.
    awk -v d="$d" -v e="$(readlink -f "$e")/" '
        index(e, $2 == "/" ? "/" : $2 "/") == 1 && length($2) >= length(m) {{ m = $2; o = "," $4 "," }}
        END {{ if (o ~ /,noexec,/) print d, m }}' /proc/mounts
done
echo '#proxies'
# Values may hold a password: only those of no_proxy leave the node.
proxies() {{
    awk -v w="$1" '{{
        name = substr($0, 1, index($0, "=") - 1); value = substr($0, index($0, "=") + 1)
        sub(/^[ \\t]*(export[ \\t]+)?/, "", name); gsub(/["\\047]/, "", value)
        if (tolower(name) ~ /^[a-z]+_proxy$/ && value != "") print w, name, tolower(name) == "no_proxy" ? value : ""
    }}'
}}
proxies /etc/environment </etc/environment 2>/dev/null
systemctl show-environment 2>/dev/null | proxies systemd
echo '#listening'; ss -Hltnp 2>/dev/null | awk '{{ n = split($4, a, ":"); print a[n], $NF }}'
echo '#missing_commands'; for c in {shlex.join(COMMANDS)}; do command -v "$c" >/dev/null 2>&1 || echo "$c"; done
echo '#iptables'; iptables --version 2>/dev/null
echo '#legacy_tables'; cat /proc/net/ip_tables_names 2>/dev/null
echo '#forward'
# The legacy iptables loads a table's module when it is asked for it; a table that is not there drops nothing.
case $(iptables --version 2>/dev/null) in
    *nf_tables*) true ;;
    *) grep -qx filter /proc/net/ip_tables_names 2>/dev/null ;;
esac && iptables -w -S FORWARD 2>/dev/null | head -n 1
echo '#modules'
for m in {shlex.join(MODULES)}; do
    case $m in
        br_netfilter) [ -d /proc/sys/net/bridge ] ;;
        *) grep -qw "$m" /proc/filesystems || [ -d "/sys/module/$m" ] ;;
    esac || modprobe -n -q "$m" 2>/dev/null && echo "$m"
done
echo '#sysctls'
for s in {shlex.join(SYSCTLS)}; do
    f=/proc/sys/$(echo "$s" | tr . /)
    [ -r "$f" ] && echo "$s $(cat "$f")"
done
echo '#selinux'; cat /sys/fs/selinux/enforce 2>/dev/null
echo '#apparmor'; cat /sys/module/apparmor/parameters/enabled 2>/dev/null
echo '#apparmor_parser'; command -v apparmor_parser
echo '#firewalls'
for f in {shlex.join(FIREWALLS)}; do
    [ "$(systemctl is-active "$f" 2>/dev/null)" = active ] || continue
    if [ "$f" = ufw ]; then ufw status 2>/dev/null | grep -q '^Status: active' || continue; fi
    echo "$f"
done
echo '#hostname'; uname -n
echo '#machine_id'; cat /etc/machine-id 2>/dev/null
echo '#product_uuid'; cat /sys/class/dmi/id/product_uuid 2>/dev/null
# What kubeadm gives the kubelet for the pods.
f=/etc/resolv.conf
[ "$(systemctl is-active systemd-resolved 2>/dev/null)" = active ] && f=/run/systemd/resolve/resolv.conf
echo '#resolv_conf'; echo "$f"
echo '#resolvers'; awk '$1 == "nameserver" {{ print $2 }}' "$f" 2>/dev/null
echo '#addresses'; ip -4 -o address show 2>/dev/null | awk '{{ print $4, $2 }}'
echo '#routes'; ip -4 route show table all type unicast 2>/dev/null
echo '#peers'
for p in {shlex.join(peers)}; do
    (
        route=$(ip -4 route get "$p" 2>/dev/null | head -n 1)
        case $route in *' via '*) how=routed ;; '') how=none ;; *) how=direct ;; esac
        if ping -c 1 -W 2 "$p" >/dev/null 2>&1; then echo "$p $how reachable"; exit; fi
        said=$(LC_ALL=C timeout 2 bash -c ": </dev/tcp/$p/22" 2>&1); code=$?
        case "$code $said" in
            0*|*refused*) echo "$p $how reachable" ;;
            *) echo "$p $how unreachable" ;;
        esac
    ) &
done
wait
echo '#runtimes'
for s in containerd docker crio kubelet k3s k3s-agent rke2-server rke2-agent; do
    unit=$(systemctl show "$s" -p FragmentPath --value 2>/dev/null)
    [ -n "$unit" ] || continue
    if grep -q {STARTED_WITH}= "$unit"; then echo "$s ours"; else echo "$s others"; fi
done
echo '#containerd'
unit=$(systemctl show containerd -p FragmentPath --value 2>/dev/null)
if [ -n "$unit" ] && ! grep -q {STARTED_WITH}= "$unit"; then
    # Its configuration may hold passwords of registries: only what is asked for leaves the node.
    containerd config dump 2>/dev/null | tr '"' "'" | awk '
        /^[ \t]*[[]/ {{ section = $0 }}
        /^[ \t]*disabled_plugins/ {{ print }}
        /^[ \t]*SystemdCgroup/ && section ~ /runtimes[.]runc[.]options/ {{ print }}'
fi
# In a shell of its own, for its variables.
echo '#kubelet_runtime'; ({WHICH_RUNTIME}
echo "$kind")
echo '#cni_files'
for f in {CNI_FILES}/*.conf {CNI_FILES}/*.conflist {CNI_FILES}/*.json; do
    [ -e "$f" ] && echo "$f" $(tr ',{{}}[]' '\\n' <"$f" | sed -n 's/.*"type"[ \\t]*:[ \\t]*"\\([^"]*\\)".*/\\1/p')
done
echo '#cni_plugins'; for d in {shlex.join(CNI_PLUGINS)}; do ls "$d" 2>/dev/null; done | sort -u
echo '#confs'; for f in admin kubelet; do [ -e {DIRECTORY}/$f.conf ] && echo $f; done
echo '#mark'; if [ -e {STARTED} ]; then echo started; elif [ -e {DONE} ]; then echo 'done'; fi
echo '#certificates'
for c in {DIRECTORY}/pki/*.crt {DIRECTORY}/pki/etcd/*.crt /var/lib/kubelet/pki/kubelet-client-current.pem; do
    [ -r "$c" ] && echo "file $c" && sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' "$c"
done
for c in {" ".join(f"{DIRECTORY}/{name}.conf" for name in KUBECONFIGS)}; do
    text=$(awk '$1 == "client-certificate-data:" {{ print $2 }}' "$c" 2>/dev/null | base64 -d 2>/dev/null)
    [ -n "$text" ] && echo "file $c" && echo "$text" | sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p'
done
echo '#host_keys'; cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null
echo '#clock'; date +%s.%N
"""


class Preflight(AnswerFact[Machine]):
    """Returns all that preflight asks of a machine, read in one round trip. `peers` are the other nodes' addresses.

    .. code:: python

        {
            "uid": 0,
            "os": "debian",
            "platform": "linux/amd64",
            "cgroup": 2,
            "cpus": 4,
            "memory": 8335163392,
            "listening": {22: "sshd"},
            "peers": {"192.0.2.11": "direct reachable"},
            ...
        }
    """

    @override
    def command(self, peers: list[str]) -> str:
        return script(peers)

    @override
    def read(self, output: list[str]) -> Machine:
        # The clock is the last that the script reads, so that its difference to ours is not the script's own time.
        return parse(output, read_at=time.time())


def parse(output: list[str], *, read_at: float) -> Machine:
    """Read what the script printed.

    Args:
        output: its lines.
        read_at: this machine's clock when it ended, seconds since 1970.

    """
    said = _sections(output)

    def one(section: str) -> str:
        lines = said.get(section, [])
        return lines[0].strip() if lines else ""

    release = dict(line.split("=", 1) for line in said.get("os", []) if "=" in line)
    cgroup = said.get("cgroup", [])
    return {
        "uid": int(one("uid") or -1),
        "init": one("init"),
        "os": release.get("ID", "").strip('"'),
        "os_name": release.get("PRETTY_NAME", "").strip('"'),
        "platform": platform(one("machine")) if one("machine") else "",
        "kernel": one("kernel"),
        "cgroup": int(one("cgroup") or 0),
        "controllers": cgroup[1].split() if len(cgroup) > 1 else [],
        "cpus": int(one("cpus") or 0),
        "memory": int(one("memory") or 0) * 1024,
        "swap": [line.strip() for line in said.get("swap", [])],
        "disks": _disks(said.get("disks", [])),
        "noexec": dict(_pairs(said.get("noexec", []))),
        "proxies": _proxies(said.get("proxies", [])),
        "clock": float(one("clock") or 0),
        "read_at": read_at,
        "listening": _listening(said.get("listening", [])),
        "missing_commands": [line.strip() for line in said.get("missing_commands", [])],
        "iptables": one("iptables"),
        "legacy_tables": [line.strip() for line in said.get("legacy_tables", [])],
        "forward": one("forward").rpartition(" ")[2],
        "modules": {module: module in {line.strip() for line in said.get("modules", [])} for module in MODULES},
        "sysctls": {
            key: value for key, value in _pairs(said.get("sysctls", [])) if key in SYSCTLS and is_number(value)
        },
        "selinux": {"1": "enforcing", "0": "permissive"}.get(one("selinux"), "disabled"),
        "apparmor": one("apparmor") == "Y",
        "apparmor_parser": bool(one("apparmor_parser")),
        "firewalls": [line.strip() for line in said.get("firewalls", [])],
        "hostname": one("hostname"),
        "machine_id": one("machine_id"),
        "product_uuid": one("product_uuid").lower(),
        "resolv_conf": one("resolv_conf"),
        "resolvers": [line.strip() for line in said.get("resolvers", [])],
        "addresses": dict(_pairs(said.get("addresses", []))),
        "routes": _routes(said.get("routes", [])),
        "peers": dict(_pairs(said.get("peers", []))),
        "runtimes": dict(_pairs(said.get("runtimes", []))),
        "containerd": _containerd(said.get("containerd", [])),
        "kubelet_runtime": one("kubelet_runtime"),
        "cni_files": {path: rest.split() for path, rest in sorted(_pairs(said.get("cni_files", [])))},
        "cni_plugins": [line.strip() for line in said.get("cni_plugins", [])],
        "confs": [line.strip() for line in said.get("confs", [])],
        "mark": one("mark") or None,
        "certificates": _certificates(said.get("certificates", [])),
        "host_keys": [key for key in map(fingerprint, said.get("host_keys", [])) if key],
    }


def fingerprint(public_key: str) -> str:
    """Give an ssh public key's fingerprint as ssh prints it, `SHA256:... (ssh-ed25519)`; empty where it is none."""
    words = public_key.split()
    try:
        digest = hashlib.sha256(base64.b64decode(words[1], validate=True)).digest()
    except (IndexError, binascii.Error):
        return ""
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')} ({words[0]})"


def _sections(output: list[str]) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in output:
        title = _TITLE.match(line.strip())
        if title:
            lines = sections.setdefault(title[1], [])
        elif line.strip():
            lines.append(line)
    return sections


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    parts = (line.strip().partition(" ") for line in lines)
    return [(key, value.strip()) for key, _, value in parts]


def _routes(lines: list[str]) -> list[str]:
    """Read routes, one each. A multipath route's next hops stand on lines of their own, which begin with a blank."""
    routes: list[str] = []
    for line in lines:
        if line[:1].isspace() and routes:
            routes[-1] += f" {line.strip()}"
        else:
            routes.append(line.strip())
    return routes


def _disks(lines: list[str]) -> dict[str, Mount]:
    disks: dict[str, Mount] = {}
    for line in lines:
        directory, device, size, free = line.split()
        disks[directory] = {"device": device, "size": int(size) * 1024, "free": int(free) * 1024}
    return disks


def _proxies(lines: list[str]) -> dict[str, Proxies]:
    found: dict[str, Proxies] = {}
    for line in lines:
        place, _, said = line.strip().partition(" ")
        variable, _, value = said.partition(" ")
        proxies = found.setdefault(place, {"variables": [], "no_proxy": ""})
        if variable.lower() == "no_proxy":
            proxies["no_proxy"] = ",".join(filter(None, (proxies["no_proxy"], value.strip())))
        elif variable:
            proxies["variables"].append(variable)
    return found


def _listening(lines: list[str]) -> dict[int, str]:
    ports = {}
    for line in lines:
        port, _, users = line.strip().partition(" ")
        if is_number(port):
            program = re.search(r'\(\("([^"]+)"', users)
            ports[int(port)] = program[1] if program else "?"
    return ports


def _containerd(lines: list[str]) -> Containerd | None:
    if not lines:
        return None
    found = Containerd(disabled=[], cgroup_driver="cgroupfs")
    for line in lines:
        key, _, value = (part.strip() for part in line.partition("="))
        if key == "disabled_plugins":
            found["disabled"] = re.findall("'([^']+)'", value)
        elif value == "true":
            found["cgroup_driver"] = "systemd"
    return found


def _certificates(lines: list[str]) -> dict[str, float]:
    """Read when each certificate expires, seconds since 1970. Of a file with several, the first is the node's own."""
    texts: dict[str, str] = {}
    path = ""
    for line in lines:
        if line.startswith("file "):
            path = line[5:].strip()
        else:
            texts[path] = f"{texts.get(path, '')}{line.strip()}\n"
    return {
        path: load_pem_x509_certificate(text.encode()).not_valid_after_utc.timestamp() for path, text in texts.items()
    }
