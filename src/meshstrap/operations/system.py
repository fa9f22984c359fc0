"""Manage what a node needs below Kubernetes: kernel facilities, programs, files and services."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import shlex
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pyinfra.api.command import FunctionCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from meshstrap import transport
from meshstrap.bundle import lock as bundle_lock
from meshstrap.bundle.lock import Lock, LockError, Program
from meshstrap.bundle.store import Store
from meshstrap.facts.kubeadm import Member, phase
from meshstrap.facts.system import (
    PROXY_VARIABLES,
    STARTED_WITH,
    File,
    Files,
    Kernel,
    KernelFacilities,
    Platform,
    Service,
    Services,
)
from meshstrap.operations.failure import executing, fail, failure
from meshstrap.operations.reach import alone, fact

MODULES = ("overlay", "br_netfilter")
# The most pods that a node carries open some of these each; the default of 128 breaks the 42nd meshed pod.
INOTIFY_INSTANCES = 8192
SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.bridge.bridge-nf-call-iptables": 1,
    "net.bridge.bridge-nf-call-ip6tables": 1,
    "fs.inotify.max_user_instances": INOTIFY_INSTANCES,
}
MODULES_FILE = "/etc/modules-load.d/meshstrap.conf"
# Before an administrator's own 90- and 99- files, which win.
SYSCTL_FILE = "/etc/sysctl.d/60-meshstrap.conf"

_SAME_FILE = 65
_INSTALL = f"""
set -e
sum=$1 path=$2; shift 2
mkdir -p "$(dirname "$path")"
# One name, so that what a power loss leaves is overwritten.
new=$path.meshstrap; trap 'rm -f "$new"' EXIT; trap 'exit 1' HUP INT TERM
cat >"$new"
[ "$(sha256sum <"$new" | cut -c1-64)" = "$sum" ] || exit {_SAME_FILE}
chmod 755 "$new"
mv -f "$new" "$path"
"""


class BundleError(Exception):
    """The bundle lacks what a node needs; the message names the file or the program."""


@operation()
@alone
def kernel() -> Generator[PyinfraCommand, None, None]:
    """Load the kernel modules and set the sysctls that Kubernetes and Istio need, now and after each boot.

    A module that is built in needs no loading. What a kernel has not at all is preflight's to report.

    **Example:**

    .. code:: python

        system.kernel(name="Load kernel modules and set sysctls, now and after each boot")
    """
    if phase(fact(host, Member)) == "foreign":
        host.noop("this node belongs to a cluster that others made: left alone")
        return
    facts = fact(host, KernelFacilities, modules=list(MODULES), sysctls=list(SYSCTLS))
    changes = list(_kernel_changes(facts))
    yield from changes
    if any(not module["there"] and module["loadable"] for module in facts["modules"].values()):
        # The bridge's sysctls are there only since its module is.
        facts = fact(host, KernelFacilities, modules=list(MODULES), sysctls=list(SYSCTLS))
        yield from _kernel_changes(facts)
    if not changes:
        host.noop("kernel modules and sysctls are as needed")


def _kernel_changes(facts: Kernel) -> Generator[PyinfraCommand, None, None]:
    known = fact(host, Files, paths=[MODULES_FILE, SYSCTL_FILE])
    yield from write_changed(kernel_files(facts), known)
    for name, module in facts["modules"].items():
        if module["loadable"] and not module["there"]:
            yield StringCommand("PATH=$PATH:/usr/sbin:/sbin", "modprobe", QuoteString(name))
    for key, value in facts["sysctls"].items():
        if int(value) < SYSCTLS[key]:
            yield StringCommand("echo", str(SYSCTLS[key]), ">", QuoteString(f"/proc/sys/{key.replace('.', '/')}"))


def kernel_files(facts: Kernel) -> dict[str, str]:
    """Write the files that keep modules and sysctls over a boot.

    Args:
        facts: what the kernel has; what it has not is in no file, since naming it would only fail at boot.

    Returns:
        Path -> text.

    """
    modules = [name for name in MODULES if name in facts["modules"] and facts["modules"][name]["loadable"]]
    sysctls = {key: value for key, value in SYSCTLS.items() if key in facts["sysctls"]}
    files = {SYSCTL_FILE: "".join(f"{key} = {value}\n" for key, value in sysctls.items())}
    if modules:
        files[MODULES_FILE] = "".join(f"{module}\n" for module in modules)
    return files


def write(path: str, text: str, mode: str = "644") -> StringCommand:
    """Make the command that writes a small text file whole or not at all.

    Args:
        path: where, on the node; its directory is made.
        text: its content; it is shown at -vvv, so nothing secret.
        mode: its permissions, octal.

    """
    new = f"{path}.meshstrap"
    return StringCommand(
        "mkdir -p", QuoteString(str(Path(path).parent)), "&& printf %s", QuoteString(text), ">", QuoteString(new),
        "&& chmod", mode, QuoteString(new), "&& mv -f", QuoteString(new), QuoteString(path),
    )  # fmt: skip


def write_secret(path: str, text: str) -> FunctionCommand:
    """Make the command that writes a small text file whole or not at all, readable for root alone, and shown nowhere.

    Args:
        path: where, on the node; its directory is made.
        text: its content; neither an argument of a process nor part of what -vvv shows.

    """
    new = f"{path}.meshstrap"
    command = StringCommand(
        "umask 077 && mkdir -p -m 755", QuoteString(str(Path(path).parent)), "&& rm -f", QuoteString(new),
        "&& cat >", QuoteString(new), "&& chmod 600", QuoteString(new), "&&",
        f'[ "$(wc -c <{shlex.quote(new)})" -eq {len(text.encode())} ] &&', "mv -f", QuoteString(new), QuoteString(path),
    )  # fmt: skip

    def send(state: State, host: Host) -> bool:
        try:
            result = transport.execute(host, command, stdin=text.encode(), timeout=60)
        except transport.TransportError as error:
            return fail(host, str(error))
        return result.ok or fail(host, f"{host.name}: cannot write {path}: {result.stderr.strip()}")

    return FunctionCommand(send, (), {})


def write_changed(
    texts: Mapping[str, str], known: Mapping[str, File], mode: str = "644"
) -> Generator[StringCommand, None, None]:
    """Yield the commands that write those of some text files that are missing or different.

    Args:
        texts: path -> content.
        known: what the Files fact says of these paths.
        mode: their permissions, octal.

    """
    for path, text in texts.items():
        if known.get(path) != _file(text, mode):
            yield write(path, text, mode)


def _file(text: str, mode: str) -> File:
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "mode": mode}


def open_bundle(directory: str) -> tuple[Lock, Store]:
    """Read a bundle's lock and name its store.

    Args:
        directory: the data `bundle`: holds `bundle.lock.yaml` and `store/`.

    Raises:
        LockError: there is no such bundle, or its lock cannot be used; the message names the file.

    """
    root = Path(directory)
    return bundle_lock.read(root / "bundle.lock.yaml"), Store(root / "store")


def refuse(message: str) -> Generator[PyinfraCommand, None, None]:
    """Refuse bad data: before anything runs where pyinfra prepares, else by failing this host alone."""
    if not executing():
        raise OperationValueError(message)
    yield failure(message)


@alone
def install(directory: str, paths: Mapping[str, str]) -> Generator[PyinfraCommand, None, None]:
    """Yield what puts programs of the bundle onto the node, checksums verified on both sides.

    A blob that several names share travels once; the names are hard links. What is there already is not sent.

    Args:
        directory: the data `bundle`.
        paths: program -> where it goes, for example `kubeadm` -> `/usr/local/bin/kubeadm`.

    """
    try:
        lock, store = open_bundle(directory)
        programs = find_programs(lock, paths, fact(host, Platform), directory)
        for program in programs.values():
            problem = store.problem(program.sha256, program.size, read=False)
            if problem:
                raise BundleError(f"{problem} (program {program.name}); make the bundle again, or restore the file")
    except (LockError, BundleError) as error:
        yield from refuse(str(error))
        return
    known = fact(host, Files, paths=[paths[name] for name in programs])
    groups = missing_programs(programs, paths, known)
    if not groups:
        host.noop(f"{', '.join(paths)} are there, with the bundle's checksums")
        return
    size = sum(program.size for program, source, _ in groups if source is None)
    host.log(f"{', '.join(n for _, _, names in groups for n in names)}: {size / 1e6:.0f} MB to send")
    for program, source, names in groups:
        targets = [paths[name] for name in names]
        if source is None:
            source, *targets = targets
            yield FunctionCommand(_send, (store, program, source), {})
        for target in targets:
            yield StringCommand(
                "ln -f", QuoteString(source), QuoteString(f"{target}.meshstrap"),
                "&& chmod 755", QuoteString(f"{target}.meshstrap"),
                "&& mv -f", QuoteString(f"{target}.meshstrap"), QuoteString(target),
            )  # fmt: skip


def find_programs(lock: Lock, names: Mapping[str, str], platform: str, directory: str) -> dict[str, Program]:
    """Find programs in a bundle.

    Args:
        lock: what the bundle holds.
        names: the programs wanted.
        platform: the node's, `linux/amd64`.
        directory: the bundle's, for the error.

    Raises:
        BundleError: it has some of them not, or for other platforms only; all are named.

    """
    found = {name: lock.program(name, platform) for name in names}
    lacking = [name for name, program in found.items() if program is None]
    if lacking:
        raise BundleError(
            f"{Path(directory) / 'bundle.lock.yaml'}: has no {', '.join(lacking)} for {platform}; add the missing"
            " programs to the bundle (`meshstrap bundle add FILE...`, or `meshstrap lab build` for the lab)"
        )
    return {name: program for name, program in found.items() if program is not None}


def missing_programs(
    programs: Mapping[str, Program], paths: Mapping[str, str], known: Mapping[str, File]
) -> list[tuple[Program, str | None, list[str]]]:
    """Decide which programs a node lacks.

    Args:
        programs: name -> what the bundle has.
        paths: name -> where it goes on the node.
        known: what the Files fact says of these paths.

    Returns:
        For each blob that some name lacks: one of its programs, the path on the node that has it already (None: it
        must be sent), and the names that lack it.

    """
    groups = []
    for digest in dict.fromkeys(program.sha256 for program in programs.values()):
        names = [name for name, program in programs.items() if program.sha256 == digest]
        there = [name for name in names if known.get(paths[name]) == {"sha256": digest, "mode": "755"}]
        lacking = [name for name in names if name not in there]
        if lacking:
            groups.append((programs[names[0]], paths[there[0]] if there else None, lacking))
    return groups


def _send(state: State, host: Host, store: Store, program: Program, path: str) -> bool:
    source = store.blob(program.sha256)

    def write_blob(remote: BinaryIO) -> None:
        with source.open("rb") as file:
            shutil.copyfileobj(file, remote, 1 << 18)

    command = StringCommand("sh", "-c", QuoteString(_INSTALL), "install", program.sha256, QuoteString(path))
    try:
        result = transport.stream(host, command, write_blob)
    except (transport.TransportError, OSError) as error:
        return fail(host, f"{program.name}: cannot be sent: {error}")
    if result.exit_code == _SAME_FILE:
        return fail(host, f"{source}: altered: {program.name} does not have the checksum that the lock names")
    if not result.ok:
        return fail(host, f"{path}: cannot be written on {host.name}: {result.stderr.strip()}")
    return True


def service(
    unit: str,
    texts: Mapping[str, str],
    programs: Mapping[str, str],
    *,
    running: bool = True,
    secret: Sequence[str] = (),
) -> Generator[PyinfraCommand, None, None]:
    """Yield what makes a systemd service of ours be as declared: its files, enabled, and running with them.

    The unit names a digest of all that the service consists of, and the running process carries the one that it was
    started with: a run that was stopped between writing and restarting is finished by the next, and nothing is
    restarted without need.

    Args:
        unit: the service's name, without `.service`.
        texts: path -> content of its files; `{started_with}` in a text is replaced by that digest.
        programs: path -> sha256 of the programs that it runs, as the bundle has them: what is there now may be
            replaced by an earlier step of this run.
        running: whether it should run; if not, it is only enabled.
        secret: those of the files that are for root alone.

    """
    known = fact(host, Files, paths=list(texts))
    now = fact(host, Services, services=[unit])[unit]
    digest = started_with(texts, programs)
    final = {path: text.replace("{started_with}", digest) for path, text in texts.items()}
    changes: list[PyinfraCommand] = [
        *write_changed({path: text for path, text in final.items() if path not in secret}, known),
        *(write_secret(path, final[path]) for path in secret if known.get(path) != _file(final[path], "600")),
    ]
    yield from changes
    restart = running and (not now["active"] or now["started_with"] != digest)
    if changes or now["reload"]:
        yield StringCommand("systemctl daemon-reload")
    if not now["enabled"]:
        yield StringCommand("systemctl enable --quiet", unit)
    if restart:
        yield StringCommand("systemctl restart", unit)
    if not (changes or restart or now["reload"] or not now["enabled"]):
        host.noop(f"{unit} runs as declared" if running else f"{unit} is as declared")


def started_with(texts: Mapping[str, str], programs: Mapping[str, str]) -> str:
    """Compute the digest of what a service consists of: its files' texts and its programs' checksums."""
    return hashlib.sha256(json.dumps([dict(texts), dict(programs)], sort_keys=True).encode()).hexdigest()[:32]


def checksums(directory: str, paths: Mapping[str, str]) -> dict[str, str]:
    """Give path -> sha256 of programs, as the bundle has them for this host's platform.

    Args:
        directory: the data `bundle`.
        paths: program -> where it goes.

    Raises:
        LockError: the bundle cannot be used.
        BundleError: it lacks some of them.

    """
    lock, _ = open_bundle(directory)
    programs = find_programs(lock, paths, fact(host, Platform), directory)
    return {paths[name]: program.sha256 for name, program in programs.items()}


def version_problem(key: str, value: object) -> str | None:
    """Say what is wrong with a version that the site's data give, by key and value; None: nothing.

    Args:
        key: the data key.
        value: what it is: on the command line a number becomes a number, and 1.30 the number 1.3.

    """
    if isinstance(value, str) and re.fullmatch(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", value, re.ASCII):
        return None
    if isinstance(value, str) and "+" in value:
        # A tag of an image holds no "+": what kubeadm calls its images by cannot be named.
        plain = value.partition("+")[0]
        return f"{key}: {value!r} is another distribution's build, which kubeadm cannot install; give its {key}={plain}"
    return f"{key}: {value!r} is no version; give all three numbers without a v, as in {key}=1.34.10"


def name_problem(key: str, value: object) -> str | None:
    """Say what is wrong with a name that the site's data give; None: nothing.

    An empty one would confirm by itself what asks for it, as `deploys/reset.py` does.
    """
    if isinstance(value, str) and value.strip():
        return None
    return f"{key}: {value!r} is no name; give a text that is not empty, as in {key}=meshstrap"


def texts_problem(key: str, value: object, example: str) -> str | None:
    """Say what is wrong with a list of texts that the site's data give; None: nothing. A single text is no list.

    Args:
        key: the data key.
        value: what it is: `--data KEY=a` gives a text, whose letters would be taken one by one.
        example: one entry, for people.

    """
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(one, str) and one for one in value)
    ):
        return None
    return f"{key}: {value!r} is no list of texts; give it as in --data '{key}=[\"{example}\"]', or in group_data"


def network_problem(key: str, value: object) -> str | None:
    """Say what is wrong with a network that the site's data give, by key and value; None: nothing."""
    if isinstance(value, str) and "/" in value:
        try:
            ipaddress.IPv4Network(value)
        except ValueError as error:
            return f"{key}: {value!r} is no IPv4 network: {error}; give it as in {key}=10.244.0.0/16"
        return None
    return f"{key}: {value!r} is no IPv4 network; give it as in {key}=10.244.0.0/16"


def is_foreign(service: Service) -> bool:
    """Tell whether others set this service up: there is a unit, and it is none of ours."""
    return service["unit"] is not None and not service["ours"]


def environment() -> str:
    """Give the unit's lines that name the digest that `service` puts there, and keep the machine's proxies out.

    Source: systemd.exec(5): UnsetEnvironment= comes last, after what systemd itself was told (DefaultEnvironment=).
    """
    return f"Environment={STARTED_WITH}={{started_with}}\nUnsetEnvironment={' '.join(PROXY_VARIABLES)}"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings: what `over` gives counts, tables are merged key by key, anything else is replaced.

    Args:
        base: our settings.
        over: the site's, from its data.

    """
    merged = dict(base)
    for key, value in over.items():
        mine = merged.get(key)
        merged[key] = merge(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged
