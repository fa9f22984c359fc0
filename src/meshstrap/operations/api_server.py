"""Reach the cluster's API server from the operator's machine, through the ssh connection that pyinfra holds.

The kubeconfig is read on the leader by `transport.execute`, never by a fact, and stays in memory: it is in no log at
any verbosity. One connection serves all operations of a run.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import yaml
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.host import Host

from meshstrap import transport
from meshstrap.facts.k8s import KUBECONFIG
from meshstrap.kube.connect import Client, connect
from meshstrap.kube.errors import KubeError

_MISSING = 66
_TIMEOUT_SECONDS = 30

_open: dict[str, tuple[Client, ExitStack]] = {}


class NoCluster(KubeError):
    """The host is no control plane of a cluster (yet)."""


def client(host: Host) -> Client:
    """Return the client for the cluster whose control plane a host is; made once and kept for the run.

    Args:
        host: the leader, connected.

    Raises:
        NoCluster: the host has no kubeconfig of a control plane.
        KubeError: the kubeconfig cannot be read or used.
        TransportError: the ssh connection is gone.

    """
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
