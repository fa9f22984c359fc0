"""All images that the deploys would have a site ask for, rendered on the operator's machine, without a cluster."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pyinfra.api.exceptions import OperationValueError

from meshstrap import scenarios
from meshstrap.bundle import reference
from meshstrap.bundle.check import Use, judge, uses
from meshstrap.bundle.errors import BundleError
from meshstrap.bundle.lock import Lock, Program
from meshstrap.bundle.programs import this_machine
from meshstrap.bundle.store import Store
from meshstrap.kube import manifests
from meshstrap.kube.errors import KubeError
from meshstrap.mesh import sidecar
from meshstrap.mesh.errors import MeshError
from meshstrap.operations import istio

_RUN_SECONDS = 120


class OtherMachineError(Exception):
    """A program of the bundle cannot be run on this machine; the message says which and why."""


@dataclass(frozen=True)
class Part:
    """One thing that a deploy applies.

    Args:
        name: What it is, for people.
        uses: The images that it asks for.
        fault: Why the deploy itself would fail; empty where it would not.
        unchecked: Why its images are not known, though nothing may be wrong; empty where they are.
        optional: Whether a site is whole without it: a scenario.
    """

    name: str
    uses: tuple[Use, ...] = ()
    fault: str = ""
    unchecked: str = ""
    optional: bool = False


def parts(data: Mapping[str, Any], lock: Lock, store: Store, names: Sequence[str] | None = None) -> list[Part]:
    """Render everything that the deploys would apply.

    Args:
        data: The site's flat data.
        lock: What the bundle holds: its istioctl and kubeadm are run, if they are for this machine.
        store: Where these are.
        names: Which scenarios; None for all.

    Returns:
        Each part with its images.
    """
    rendered = [
        _part("Kubernetes", lambda: _kubernetes(data, lock, store)),
        _part("the site's own CNI", lambda: _cni(data)),
        _part("Istio", lambda: _istio(data, lock, store)),
    ]
    for name in scenarios.names() if names is None else names:
        rendered.append(_part(f"scenario {name}", lambda name=name: _scenario(name, data), optional=True))  # type: ignore[misc]
    return rendered


def _part(name: str, render: Callable[[], Iterable[Use]], *, optional: bool = False) -> Part:
    try:
        return Part(name, tuple(render()), optional=optional)
    except OtherMachineError as error:
        return Part(name, unchecked=str(error), optional=optional)
    except KeyError as error:
        return Part(name, fault=str(error.args[0]), optional=optional)
    # A ValueError is what parameters, references and versions raise for data that is none.
    except (KubeError, MeshError, BundleError, OperationValueError, ValueError) as error:
        return Part(name, fault=str(error), optional=optional)


def _kubernetes(data: Mapping[str, Any], lock: Lock, store: Store) -> list[Use]:
    if not any(program.name == "kubeadm" for program in lock.programs):
        return []  # a cluster that others make has its own
    version = data.get("kubernetes_version")
    command = ["config", "images", "list", "--kubernetes-version", f"v{version}"]
    listed = _run(lock, store, "kubeadm", command)
    return [Use(f"kubeadm (kubernetes_version {version})", each, "IfNotPresent") for each in listed.split()]


def _cni(data: Mapping[str, Any]) -> list[Use]:
    return [use for path in data.get("cni_manifests") or () for use in uses(manifests.load(Path(path)), str(path))]


def _istio(data: Mapping[str, Any], lock: Lock, store: Store) -> list[Use]:
    version, profile = data.get("istio_version"), data.get("istio_profile", "default")
    spec = istio.operator(
        version if isinstance(version, str) else "",
        profile,
        data.get("ingress_node_port", istio.NODE_PORT),
        data.get("istio_revision", "default"),
        data.get("istio_values") or {},
        data.get("istio_tag", ""),
    )
    found = sorted({program.version for program in lock.programs if program.name == "istioctl"})
    if not found:
        raise BundleError("the bundle has no istioctl: add Istio's release archive to it")
    if found != [version]:
        raise BundleError(f"the bundle's istioctl is {', '.join(found)}, and istio_version is {version}")
    printed = _run(lock, store, "istioctl", ["manifest", "generate", "-f", "-"], yaml.safe_dump(spec))
    objects = manifests.load(printed)
    source = f"istioctl manifest generate (istio_version {version}, profile {profile})"
    return [*uses(objects, source), *sidecar.images(objects, source)]


def _scenario(name: str, data: Mapping[str, Any]) -> list[Use]:
    found = scenarios.find(name)
    given = data.get("images") or []
    objects = found.objects(
        found.parameters(data),
        image=lambda each: reference.override(each, given),
        istio_revision=data.get("istio_revision", "default"),
    )
    path = found.manifests
    source = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return [*uses(objects, source), *sidecar.of_pods(objects, source)]


def _run(lock: Lock, store: Store, name: str, arguments: Sequence[str], stdin: str = "") -> str:
    """Run a program of the bundle on this machine, its checksum verified before."""
    program = _fitting(lock, name)
    problem = store.problem(program.sha256, program.size)
    if problem:
        raise BundleError(f"{problem} (program {name})")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        try:
            shutil.copyfile(store.blob(program.sha256), path)
            path.chmod(0o700)
            # No cluster is asked, and none that this machine happens to know.
            environment = {"HOME": directory, "PATH": "/usr/bin:/bin"}
            done = subprocess.run(
                [path, *arguments], input=stdin, capture_output=True, text=True, env=environment,
                timeout=_RUN_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OtherMachineError(f"the bundle's {name} does not run on this machine: {error}") from None
    if done.returncode:
        raise BundleError(f"{name} {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout


def _fitting(lock: Lock, name: str) -> Program:
    here = this_machine()
    program = lock.program(name, here)
    if program is None:
        others = sorted(each.platform for each in lock.programs if each.name == name)
        raise OtherMachineError(f"the bundle's {name} is for {', '.join(others)}, and this machine is {here}")
    return program


def faults(rendered: Iterable[Part], lock: Lock, platforms: Iterable[str], holder: str) -> list[tuple[Part, str]]:
    """Say what of the parts would fail on nodes without a way out.

    Args:
        rendered: The parts.
        lock: What the bundle holds.
        platforms: The nodes'; empty for those that the bundle has a kubelet for, or any where it has none.
        holder: The bundle, for people.

    Returns:
        One sentence a fault, with the part that it is of.
    """
    nodes = sorted(platforms) or sorted({program.platform for program in lock.programs if program.name == "kubelet"})
    found: list[tuple[Part, str]] = []
    for part in rendered:
        found += [(part, f"{part.name}: {part.fault}")] if part.fault else []
        found += [(part, fault) for fault in judge(lock, part.uses, nodes, holder=holder)]
    return found
