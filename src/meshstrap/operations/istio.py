"""Manage Istio: the control plane with its gateways, the shared Gateway, and injection by namespace.

istioctl renders the objects from data on the leader (`manifest generate`, which asks no cluster); our own engine plans
and applies them. So a hand-changed field is seen by `--dry` by its name, the second run changes nothing, and what a
profile no longer has is removed.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any

import yaml
from pyinfra import logger
from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host

from meshstrap import transport
from meshstrap.facts.istio import ISTIOCTL
from meshstrap.facts.k8s import node_ports
from meshstrap.kube import manifests as manifest_files
from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.kube.errors import KubeError
from meshstrap.mesh import admission, versions
from meshstrap.mesh import gateway as ingress
from meshstrap.mesh import revision as revisions
from meshstrap.operations import api_server, k8s, system
from meshstrap.operations.failure import executing, failure

OWNER = admission.ISTIO
NODE_PORT = 30191
NODE_PORTS = range(30000, 32768)

_GENERATE_SECONDS = 60
_NO_ISTIOCTL = 66
# The images' tag and what istioctl says of itself.
_VERSION = re.compile(r"\d+\.\d+\.\d+([-+.][\w.-]+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

# The ports of the ingress gateway's Service in each profile. Helm replaces lists, so all of them must be given with the
# one that is pinned. Source: istio/istio manifests/charts/gateways/istio-ingress/values.yaml, helm-profiles/demo.yaml.
_BASE_PORTS = (("status-port", 15021, 15021), (ingress.HTTP_PORT, 80, 8080), ("https", 443, 8443))
PORTS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "minimal": (),
    "default": _BASE_PORTS,
    "demo": (*_BASE_PORTS, ("tcp", 31400, 31400), ("tls", 15443, 15443)),
}

# What the proofs read: one line a request on the gateway's and the sidecars' standard output, in Istio's own format,
# and the counters of clusters and faults, which Envoy under Istio keeps only when told.
MESH_CONFIG: dict[str, Any] = {
    "accessLogFile": "/dev/stdout",
    "accessLogEncoding": "TEXT",
    "defaultConfig": {
        "proxyStatsMatcher": {
            "inclusionPrefixes": ["cluster.outbound", "cluster.inbound"],
            "inclusionSuffixes": ["aborts_injected", "delays_injected"],
        }
    },
}


class IstioctlMissing(KubeError):
    """The node has no istioctl, or one of another version than declared."""


@operation()
def istioctl(bundle: str) -> Generator[PyinfraCommand, None, None]:
    """Put istioctl from the bundle onto the node, its checksum verified on both sides.

    + bundle: directory of the bundle

    **Example:**

    .. code:: python

        istio.istioctl("images", name="istioctl from the bundle")
    """
    yield from system.install(bundle, {"istioctl": ISTIOCTL})


def control_plane(
    version: str,
    *,
    profile: str = "default",
    ingress_node_port: int = NODE_PORT,
    revision: str = revisions.DEFAULT,
    tag: str = "",
    values: Mapping[str, Any] | None = None,
    allow_unsupported_versions: bool = False,
    force: bool = False,
    **arguments: Any,
) -> OperationMeta:
    """Make Istio's control plane and gateways stand as declared. Runs on a control plane node.

    + version: Istio's, the same as the node's istioctl
    + profile: `demo`, `default` or `minimal` (no gateway)
    + ingress_node_port: node port of the ingress gateway's port 80, from 30000 to 32767
    + revision: `default`, or the name of a revision
    + tag: the images' tag where it is not the version
    + values: Helm values, merged over what this operation sets (`meshConfig` among them)
    + allow_unsupported_versions: whether Istio may stand on a Kubernetes that it does not support
    + force: whether fields that another program holds (an earlier `istioctl install`) are taken from it

    **Example:**

    .. code:: python

        istio.control_plane("1.31.0", name="Istio's control plane and gateways", profile="demo")
    """
    # Bad data is refused while the deploy is read: with -y the generator below is not run before it executes.
    spec = operator(version, profile, ingress_node_port, revision, {} if values is None else values, tag)
    for key, value in (("allow_unsupported_versions", allow_unsupported_versions), ("force", force)):
        if not isinstance(value, bool):
            raise OperationValueError(f"{key} must be true or false, not {value!r}")
    return _control_plane(
        version=version,
        spec=spec,
        node_port=ingress_node_port if PORTS[profile] else None,
        owner=owner_of(revision),
        allow_unsupported=allow_unsupported_versions,
        force=force,
        **arguments,
    )


@operation()
def _control_plane(
    *, version: str, spec: dict[str, Any], node_port: int | None, owner: str, allow_unsupported: bool, force: bool
) -> Generator[PyinfraCommand, None, None]:
    try:
        client = api_server.client(host)
        pair = versions.check(version, client.version())
        if pair.support is versions.Support.UNSUPPORTED and not allow_unsupported:
            yield k8s.unplanned(KubeError(f"{pair.message}; or set allow_unsupported_versions=true"))
            return
        if pair.support is not versions.Support.SUPPORTED:
            host.log(pair.message, logger.warning)
        taken_by = node_port and _holder(client, node_port)
        if taken_by:
            yield k8s.unplanned(
                KubeError(
                    f"node port {node_port} is taken by Service {taken_by}; "
                    "give ingress_node_port another number, or change that Service"
                )
            )
            return
        objects = rendered(host, version, spec)
    except (*k8s.ERRORS, ValueError) as error:
        if not executing() and isinstance(error, api_server.NoCluster | IstioctlMissing):
            host.log(f"created     Istio {version}, profile {spec['spec']['profile']} ({_first_line(error)})")
            yield failure(str(error))
        else:
            yield k8s.unplanned(error)
        return
    yield from k8s.manifests._inner(objects, owner=owner, prune=True, force=force)


def owner_of(revision: str) -> str:
    """Name the set that a revision's objects are."""
    return OWNER if revision == revisions.DEFAULT else f"{OWNER}-{revision}"


def gateway(profile: str, **arguments: Any) -> OperationMeta:
    """Make the one Gateway stand that all scenarios share (port 80, any host). Runs on a control plane node.

    + profile: Istio's profile; `minimal` has no ingress gateway, so there is nothing to configure

    **Example:**

    .. code:: python

        istio.gateway("demo", name="Gateway for all scenarios")
    """
    _check_profile(profile)
    return _gateway(profile=profile, **arguments)


@operation()
def _gateway(*, profile: str) -> Generator[PyinfraCommand, None, None]:
    if not PORTS[profile]:
        host.noop(f"profile {profile} has no ingress gateway")
        return
    yield from k8s.manifests._inner(ingress.SHARED_GATEWAY, owner=f"{OWNER}-gateway")


_NAMESPACE: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ingress.NAMESPACE}}


def operator(
    version: str, profile: str, node_port: int, revision: str, values: Mapping[str, Any], tag: str = ""
) -> dict[str, Any]:
    """Build the IstioOperator document that istioctl renders.

    Args:
        version: Istio's.
        profile: one of `PORTS`.
        node_port: of the ingress gateway's port 80.
        revision: `default` for none.
        values: Helm values that are merged over ours.
        tag: of the images; empty for the version.

    Raises:
        OperationValueError: a value that cannot be used; names the data key.

    """
    try:
        versions.parse(version)
    except ValueError as error:
        raise OperationValueError(f"istio_version: {error}") from None
    if not _VERSION.fullmatch(version):
        raise OperationValueError(f"istio_version: write it with its patch version, as in 1.31.0, not {version!r}")
    _check_profile(profile)
    try:
        revisions.check(revision)
    except ValueError as error:
        raise OperationValueError(f"istio_revision {error}") from None
    check_node_port(node_port)
    if not isinstance(tag, str) or not (tag == "" or _TAG.fullmatch(tag)):
        raise OperationValueError(f"istio_tag must be a tag of Istio's images, or empty for istio_version, not {tag!r}")
    if not isinstance(values, Mapping):
        raise OperationValueError(f"istio_values must be Helm values, keys and values, not {values!r}")
    # The default revision's name is empty in the charts; defaultRevision makes the webhook that validates what
    # names no revision, which `istioctl install` would add by itself.
    spec: dict[str, Any] = {
        "profile": profile,
        "hub": "docker.io/istio",
        "tag": tag or version,
        "meshConfig": MESH_CONFIG,
        "values": system.merge({"defaultRevision": revision}, values),
    }
    if revision != revisions.DEFAULT:
        spec["revision"] = revision
    if PORTS[profile]:
        # Declared, though it is the API server's default, so that a hand that changes it is seen and undone.
        service = {
            "type": "NodePort",
            "ports": [_port(*port, node_port) for port in PORTS[profile]],
            "externalTrafficPolicy": external_traffic_policy(values),
        }
        spec["components"] = {
            "ingressGateways": [{"name": ingress.SERVICE, "enabled": True, "k8s": {"service": service}}]
        }
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": {"name": "meshstrap", "namespace": ingress.NAMESPACE},
        "spec": spec,
    }


def check_node_port(value: object) -> int:
    """Give the data `ingress_node_port`.

    Raises:
        OperationValueError: it is none.

    """
    if not isinstance(value, int) or isinstance(value, bool) or value not in NODE_PORTS:
        raise OperationValueError(
            f"ingress_node_port must be a whole number from {NODE_PORTS[0]} to {NODE_PORTS[-1]}, not {value!r}"
        )
    return value


def external_traffic_policy(values: object) -> str:
    """Read the ingress gateway's externalTrafficPolicy from Helm values, where the site sets it; `Cluster` else."""
    for key in ("gateways", ingress.SERVICE):
        values = values.get(key) if isinstance(values, Mapping) else None
    found = values.get("externalTrafficPolicy") if isinstance(values, Mapping) else None
    return str(found or ingress.CLUSTER)


def without_nulls(value: Any) -> Any:
    """Leave out keys without a value: charts print them, and applying them would claim fields that nobody set."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def _check_profile(profile: object) -> None:
    if not isinstance(profile, str) or profile not in PORTS:
        raise OperationValueError(f"istio_profile must be one of {', '.join(sorted(PORTS))}, not {profile!r}")


def _port(name: str, port: int, target: int, node_port: int) -> dict[str, Any]:
    pinned = {"nodePort": node_port} if name == ingress.HTTP_PORT else {}
    return {"name": name, "port": port, "targetPort": target, "protocol": "TCP", **pinned}


def _holder(client: Client, node_port: int) -> str:
    """Name the Service, other than the ingress gateway's, that holds a node port; empty for none."""
    for name, ports in node_ports(query.list(client, "v1", "Service"), []).items():
        held = {port["node_port"] for port in ports.values()}
        if node_port in held and name != f"{ingress.NAMESPACE}/{ingress.SERVICE}":
            return name
    return ""


def rendered(of: Host, version: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Have the node's istioctl render the objects; Istio's namespace is the first.

    Raises:
        KubeError: it cannot; IstioctlMissing where there is none of this version.

    """
    objects = manifest_files.load(_generated(of, version, spec))
    return [_NAMESPACE, *map(without_nulls, objects)]


def _generated(of: Host, version: str, spec: dict[str, Any]) -> str:
    """Have the node's istioctl render the objects; the first line that it prints is its version."""
    script = (
        f"test -x {ISTIOCTL} || exit {_NO_ISTIOCTL}; "
        f"{ISTIOCTL} version --remote=false --short && exec {ISTIOCTL} manifest generate -f -"
    )
    result = transport.execute(
        of,
        StringCommand("sh", "-c", QuoteString(script)),
        stdin=yaml.safe_dump(spec).encode(),
        timeout=_GENERATE_SECONDS,
    )
    if result.exit_code == _NO_ISTIOCTL:
        raise IstioctlMissing(
            f"{of.name}: there is no {ISTIOCTL}; run deploys/istio.py, which brings it from the bundle"
        )
    if not result.ok:
        raise KubeError(f"{of.name}: istioctl manifest generate failed: {result.stderr.strip()}")
    first, _, objects = result.stdout.partition("\n")
    found = first.rpartition(" ")[2]
    if found != version:
        raise IstioctlMissing(
            f"{of.name}: istioctl is {found}, and istio_version says {version}; "
            "give istio_version the version that the bundle has, or put that istioctl into the bundle"
        )
    return objects


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(";")[0]
