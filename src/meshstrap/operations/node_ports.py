"""Find how the ingress gateway's NodePort is reached on each node: from here, or by way of another node.

A firewall between operator and nodes is no fault of the mesh. But what a node reaches on itself tells nothing of what
people reach on it: kube-proxy serves a node's own processes although `externalTrafficPolicy: Local` or a filter on the
way drops everybody else's packets. So a node is never asked through itself.
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from urllib.parse import urlsplit

from pyinfra import logger
from pyinfra.api.exceptions import ConnectError, OperationValueError
from pyinfra.api.host import Host
from pyinfra.connectors.local import LocalConnector
from pyinfra.context import host, inventory

from meshstrap import transport
from meshstrap.facts.k8s import nodes
from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.scenarios import ingress
from meshstrap.scenarios.site import Node, Site

_BASE_URL = re.compile(r"http://[\w.-]+(:(?P<port>[1-9][0-9]{0,4}))?/?", re.ASCII)
LAST_PORT = 65535

# By node, how it is reached in this run; and the ports that lead to those that are not reached directly.
_reached: dict[str, Node] = {}
_open = ExitStack()
atexit.register(_open.close)


def published() -> dict[str, str]:
    """Read by which URL each host's node port is reached, where the inventory says so: by its name and address.

    Any port from 1 to 65535 will do: what forwards to the node port (the lab, a jump host, NAT) has ports of its own.

    Raises:
        OperationValueError: a URL that cannot be used; names the host.

    """
    urls: dict[str, str] = {}
    for each in inventory:
        url = each.data.get("node_port_url")
        if url is None:
            continue
        if not isinstance(url, str) or not _usable(url):
            raise OperationValueError(
                f"{each.name}: node_port_url must be like http://192.0.2.1:8080, without a path and with a port up to"
                f" {LAST_PORT}, not {url!r}"
            )
        urls |= {each.name: url, each.data.get("node_address", each.name): url}
    return urls


def ready_nodes(client: Client) -> tuple[Node, ...]:
    """List the cluster's ready nodes, this host first, each with the URL that the inventory publishes for it."""
    urls = published()
    found = [
        Node(name, str(node["address"]), urls.get(name, urls.get(node["address"])))
        for name, node in nodes(query.list(client, "v1", "Node")).items()
        if node["ready"]
    ]
    return tuple(sorted(found, key=lambda node: (node.name != host.name, node.name)))


def within_reach(site: Site) -> Site:
    """Have nodes whose NodePort cannot be reached from here asked by way of another node, over its ssh connection.

    That people here will not get through is said. A node that nobody reaches stays as it is: the proof asks it, and
    fails. One that nobody else can be asked about is marked so.
    """
    # Where no gateway runs, or another port or policy than is declared, the proof says why nodes do not answer.
    if isinstance(host.connector, LocalConnector) or not ingress.gateway_pods(site):
        return site
    if ingress.service_differences(site):
        return site
    return replace(site, nodes=tuple(_reached_once(site, node) for node in site.nodes))


def _reached_once(site: Site, node: Node) -> Node:
    if node.name not in _reached:
        _reached[node.name] = _reach(site, node)
    return _reached[node.name]


def _reach(site: Site, node: Node) -> Node:
    if not (error := ingress.out_of_reach(site, node)):
        return node
    url = ingress.base_url(site, node)
    others = list(_others(node))
    there = urlsplit(ingress.base_url(site, replace(node, url=None)))
    to = (str(there.hostname), there.port or 80)
    for other in others:
        try:
            port = _open.enter_context(transport.tunnel(other, to, timeout=ingress.REACH_SECONDS))
        except transport.TransportError as trouble:
            logger.debug(f"{node.name} from {other.name}: {trouble}")
            continue
        round_about = replace(node, via=f"http://127.0.0.1:{port}", by=other.name)
        if not ingress.out_of_reach(site, round_about):
            host.log(
                f"{node.name}: {url} cannot be reached from here ({error}); asked from {other.name} instead."
                " People here will not reach it either: let the firewall pass that port",
                logger.warning,
            )
            return round_about
    if others:
        host.log(f"{node.name}: {url} is reached neither from here ({error}) nor from another node", logger.warning)
        return node
    return replace(node, unknown=f"{url} cannot be reached from here ({error}), and there is no other node to ask from")


def _others(node: Node) -> Iterable[Host]:
    """Give the hosts, connected, from which a node can be asked: all but itself, this one first."""
    for each in sorted(inventory, key=lambda each: (each.name != host.name, each.name)):
        if node.name == each.name or node.address in (each.name, each.data.get("node_address")):
            continue
        if each in host.state.failed_hosts or isinstance(each.connector, LocalConnector):
            continue
        try:
            each.connect(reason="to ask a node port from there", show_errors=False, raise_exceptions=True)
        except ConnectError:
            continue
        yield each


def _usable(url: str) -> bool:
    found = _BASE_URL.fullmatch(url)
    return found is not None and int(found["port"] or 80) <= LAST_PORT
