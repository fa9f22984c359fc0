"""What a machine says of itself: its files, services, kernel facilities and platform."""

from __future__ import annotations

import shlex
from typing import TypedDict

from typing_extensions import override

from meshstrap.bundle.platforms import normalize
from meshstrap.facts.answer import AnswerFact

# What programs in Go, and curl, take for the way to a proxy: it does not lead to a node's own addresses.
PROXY_VARIABLES = tuple(
    name for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (each, each.upper())
)
# What a script of ours begins with. ssh gives it what /etc/environment has.
PATH = (
    "PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin; LC_ALL=C; export PATH LC_ALL;"
    f" unset {' '.join(PROXY_VARIABLES)}"
)
# The variable in our units that tells, from the running process, what that process was started with.
STARTED_WITH = "MESHSTRAP_STARTED_WITH"


class File(TypedDict):
    """A regular file's content and permissions."""

    sha256: str
    mode: str


class Service(TypedDict):
    """A systemd service: whether there is a unit, whose it is, and how it runs.

    `ours` is True for a unit that meshstrap wrote. `started_with` is what such a unit named when the process now
    running was started.
    """

    unit: str | None
    ours: bool
    enabled: bool
    active: bool
    reload: bool
    started_with: str | None


class Module(TypedDict):
    """A kernel module: `there` where it is loaded or built in, `loadable` where modprobe knows it."""

    there: bool
    loadable: bool


class Kernel(TypedDict):
    """Kernel facilities: modules by name, sysctls by dotted name; what the kernel has not is missing."""

    modules: dict[str, Module]
    sysctls: dict[str, str]


class Platform(AnswerFact[str]):
    """Returns the platform in the form that bundles use, `linux/amd64`."""

    @override
    def command(self) -> str:
        return "uname -m"

    @override
    def read(self, output: list[str]) -> str:
        return platform(output[0])


class Files(AnswerFact[dict[str, File]]):
    """Returns content digest and mode of those of the given files that exist, in one round trip.

    .. code:: python

        {"/usr/local/bin/kubeadm": {"sha256": "9f86...", "mode": "755"}}
    """

    default = dict

    @override
    def command(self, paths: list[str]) -> str:
        return (
            f"{PATH}; for f in {shlex.join(paths)}; do "
            'if [ -f "$f" ]; then echo "$(stat -c %a "$f") $(sha256sum <"$f" | cut -c1-64) $f"; fi; done'
        )

    @override
    def read(self, output: list[str]) -> dict[str, File]:
        files: dict[str, File] = {}
        for line in output:
            mode, digest, path = line.strip().split(" ", 2)
            files[path] = {"sha256": digest, "mode": mode}
        return files


class Services(AnswerFact[dict[str, Service]]):
    """Returns the state of systemd services.

    .. code:: python

        {
            "containerd": {
                "unit": "/etc/systemd/system/containerd.service",
                "ours": True,
                "enabled": True,
                "active": True,
                "reload": False,
                "started_with": "0c3f9a...",
            },
        }
    """

    default = dict

    @override
    def command(self, services: list[str]) -> str:
        return f"""{PATH}
for s in {shlex.join(services)}; do
    echo "service=$s"
    systemctl show "$s" -p LoadState -p ActiveState -p UnitFileState -p FragmentPath -p MainPID -p NeedDaemonReload
    unit=$(systemctl show "$s" -p FragmentPath --value)
    [ -n "$unit" ] && grep -q {STARTED_WITH}= "$unit" && echo "ours=yes"
    pid=$(systemctl show "$s" -p MainPID --value)
    [ "${{pid:-0}}" -gt 0 ] && tr '\\0' '\\n' <"/proc/$pid/environ" | grep ^{STARTED_WITH}=
done
exit 0"""

    @override
    def read(self, output: list[str]) -> dict[str, Service]:
        return parse_services(output)


class KernelFacilities(AnswerFact[Kernel]):
    """Returns which kernel modules are there or can be loaded, and the values of sysctls.

    .. code:: python

        {"modules": {"overlay": {"there": True, "loadable": True}}, "sysctls": {"net.ipv4.ip_forward": "1"}}
    """

    @override
    def command(self, modules: list[str], sysctls: list[str]) -> str:
        return f"""{PATH}
for m in {shlex.join(modules)}; do
    case $m in
        br_netfilter) [ -d /proc/sys/net/bridge ] ;;
        *) grep -qw "$m" /proc/filesystems || [ -d "/sys/module/$m" ] ;;
    esac && echo "module $m there"
    modprobe -n -q "$m" 2>/dev/null && echo "module $m loadable"
done
for s in {shlex.join(sysctls)}; do
    f=/proc/sys/$(echo "$s" | tr . /)
    [ -r "$f" ] && echo "sysctl $s $(cat "$f")"
done
exit 0"""

    @override
    def read(self, output: list[str]) -> Kernel:
        return parse_kernel(output)


def is_number(text: str) -> bool:
    """Tell whether a text of a node's is a whole number, not below zero, as `int` reads it."""
    return text.isascii() and text.isdigit()


def platform(machine: str) -> str:
    """Name a platform as bundles do: `linux/amd64` for the `x86_64` of `uname -m`."""
    return normalize(f"linux/{machine.strip()}")


def parts(output: list[str], mark: str = "#") -> tuple[dict[str, list[str]], dict[str, str]]:
    """Read the parts of what a script printed: lines that follow `<mark>name`, and values, `<mark>name value`.

    Args:
        output: its lines.
        mark: what these begin with.

    Returns:
        The lines of each part, stripped and without empty ones, and the values, both by name.

    """
    said: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    lines: list[str] = []
    for line in output:
        if line.startswith(mark):
            name, _, value = line.removeprefix(mark).strip().partition(" ")
            if value:
                values[name] = value
            else:
                lines = said.setdefault(name, [])
        elif line.strip():
            lines.append(line.strip())
    return said, values


def parse_services(output: list[str]) -> dict[str, Service]:
    """Read what the Services fact's script printed."""
    services: dict[str, Service] = {}
    current: Service | None = None
    for line in output:
        key, _, value = line.strip().partition("=")
        if key == "service":
            current = {
                "unit": None,
                "ours": False,
                "enabled": False,
                "active": False,
                "reload": False,
                "started_with": None,
            }
            services[value] = current
        elif current is None:
            continue
        elif key == "FragmentPath":
            current["unit"] = value or None
        elif key == "ActiveState":
            current["active"] = value in {"active", "activating", "reloading"}
        elif key == "UnitFileState":
            current["enabled"] = value in {"enabled", "static", "alias"}
        elif key == "NeedDaemonReload":
            current["reload"] = value == "yes"
        elif key == "ours":
            current["ours"] = True
        elif key == STARTED_WITH:
            current["started_with"] = value
    return services


def parse_kernel(output: list[str]) -> Kernel:
    """Read what the KernelFacilities fact's script printed."""
    kernel: Kernel = {"modules": {}, "sysctls": {}}
    for line in output:
        kind, _, rest = line.strip().partition(" ")
        name, _, value = rest.partition(" ")
        if kind == "module":
            module = kernel["modules"].setdefault(name, {"there": False, "loadable": False})
            module["there"] |= value == "there"
            module["loadable"] |= value == "loadable"
        elif kind == "sysctl" and is_number(value.strip()):
            kernel["sysctls"][name] = value.strip()
    return kernel
