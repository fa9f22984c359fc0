"""Reach the cluster's API server from the operator's machine: through pyinfra's ssh connection, or directly.

Over ssh the kubeconfig is the control plane's own, read by `transport.execute`, never by a fact. On `@local` it is the
operator's: data `kubeconfig` names the file (else KUBECONFIG, else ~/.kube/config, as for kubectl), data `kube_context`
the context. Either way it stays in memory and is in no log at any verbosity. One connection serves all operations of a
run.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.connectors.local import LocalConnector

from meshstrap import transport
from meshstrap.facts.k8s import KUBECONFIG
from meshstrap.kube import kubeconfig as kubeconfig_file
from meshstrap.kube.connect import Client, connect
from meshstrap.kube.errors import KubeError

_MISSING = 66
_TIMEOUT_SECONDS = 30

_open: dict[str, tuple[Client, ExitStack]] = {}


class NoCluster(KubeError):
    """The host is no control plane of a cluster (yet)."""


def client(host: Host) -> Client:
    """Return the client for the cluster whose control plane a host is, or @local knows; made once, kept for the run.

    Args:
        host: the leader, connected; or @local.

    Raises:
        NoCluster: the host has no kubeconfig of a control plane.
        KubeError: the kubeconfig cannot be read or used.
        TransportError: the ssh connection is gone.

    """
    if host.name not in _open and isinstance(host.connector, LocalConnector):
        _open[host.name] = (_direct(host), ExitStack())
    if host.name not in _open:
        kubeconfig = _kubeconfig(host)
        server = urlsplit(kubeconfig["clusters"][0]["cluster"]["server"])
        with ExitStack() as stack:
            address = server.hostname or "127.0.0.1"
            port = stack.enter_context(transport.tunnel(host, (address, server.port or 443)))
            # The name that the certificate is checked for is the kubeconfig's, not the tunnel's.
            made = connect(kubeconfig, server=f"https://127.0.0.1:{port}", tls_server_name=address)
            # Errors name the server that the site knows, not this end of the tunnel.
            made.address = f"{server.geturl()} (by way of {host.name})"
            _open[host.name] = (made, stack.pop_all())
    return _open[host.name][0]


def forget(host: Host) -> None:
    """Drop a connection that failed, so that the next operation makes a new one."""
    if held := _open.pop(host.name, None):
        held[0].close()
        held[1].close()


def _direct(host: Host) -> Client:
    """Make a client from an ordinary kubeconfig of the operator's."""
    named = host.data.get("kubeconfig")
    if named is not None and not isinstance(named, str | Path):
        raise KubeError(f"{host.name}: data kubeconfig must be the path of a file, not {named!r}")
    found = kubeconfig_file.read(Path(named).expanduser() if named else None)
    return connect(found, context=host.data.get("kube_context"))


def _kubeconfig(host: Host) -> dict[str, Any]:
    script = f"test -e {KUBECONFIG} || exit {_MISSING}; exec cat {KUBECONFIG}"
    command = StringCommand("sh", "-c", QuoteString(script))
    result = transport.execute(host, command, timeout=_TIMEOUT_SECONDS)
    if result.exit_code == _MISSING:
        raise NoCluster(
            f"{host.name}: there is no {KUBECONFIG}, so this is no control plane of a cluster; "
            "run deploys/cluster.py first, or name a control plane node of the standing cluster as leader"
        )
    if not result.ok:
        raise KubeError(f"{host.name}: cannot read {KUBECONFIG}: {result.stderr.strip() or result.exit_code}")
    try:
        document = yaml.load(result.stdout, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        document = None  # The parser's own words would quote the key.
    if not isinstance(document, dict) or not document.get("clusters"):
        raise KubeError(f"{host.name}: {KUBECONFIG} is no kubeconfig")
    return document
