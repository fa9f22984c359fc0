"""Manage the traffic scenarios: their objects, and the proof that they do what they claim.

A scenario's parameters are flat data of the host (`canary_weight`), so that `--data` can override each.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host, inventory

from meshstrap import scenarios
from meshstrap.bundle import reference
from meshstrap.facts.k8s import nodes
from meshstrap.kube import query
from meshstrap.kube.apply import apply
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import Plan, plan
from meshstrap.mesh.errors import MeshError
from meshstrap.operations import api_server, k8s
from meshstrap.operations.failure import executing, failure
from meshstrap.scenarios.engine import Scenario, prove, remains
from meshstrap.scenarios.parameters import ParameterError
from meshstrap.scenarios.site import Node, Site


def manifests(scenario: str, *, present: bool = True, force: bool = False, **arguments: Any) -> OperationMeta:
    """Make a scenario's objects stand as declared, or be gone. Runs on a control plane node.

    + scenario: its name
    + present: whether they should be there; without them its namespace goes too, and it is proved that all is gone
    + force: whether fields that another program holds are taken from it

    **Example:**

    .. code:: python

        scenario.manifests("canary", name="Canary: two versions, split by weight")
    """
    found = _found(scenario)
    if not present:
        return _absent(scenario=scenario, **arguments)
    # Bad data is refused while the deploy is read: with -y the generators below are not run before they execute.
    return k8s.manifests(objects=_objects(found), owner=found.owner, prune=True, force=force, **arguments)


@operation()
def proof(scenario: str) -> Generator[PyinfraCommand, None, None]:
    """Prove that a scenario does what it claims; changes nothing. Runs on a control plane node.

    The verdict, its numbers and the URL are printed, the evidence is written to data `reports`. FAIL and INCONCLUSIVE
    fail the host. Data `prove=false` skips it.

    + scenario: its name

    **Example:**

    .. code:: python

        scenario.proof("canary", name="Canary: proof of the split")
    """
    if not host.data.get("prove", True):
        host.noop("prove=false: not proved")
        return
    if not executing():
        host.noop("is proved when the run executes")
        return
    found = _found(scenario)
    try:
        client = api_server.client(host)
        proved = prove(found, _data(), _site(client), image=_image)
    except (*k8s.ERRORS, OSError) as error:
        yield failure(f"{scenario}: INCONCLUSIVE: {error}")
        return
    for line in proved.lines:
        host.log(line, logger.info if proved.verdict.passed else logger.warning)
    if proved.verdict.passed:
        host.noop(proved.verdict.line)
    else:
        yield failure(f"{scenario}: {proved.verdict.line}")


@operation()
def _absent(*, scenario: str) -> Generator[PyinfraCommand, None, None]:
    found = _found(scenario)
    try:
        client = api_server.client(host)
        planned = plan(client, [], owner=found.owner, prune=True, prune_all=True)
        if planned.pending:
            k8s.show(planned)
            yield k8s.command(lambda: _take_away(client, planned, found))
            return
        if executing():
            _prove_gone(client, found)
    except k8s.ERRORS as error:
        yield k8s.unplanned(error)
        return
    host.noop(f"{scenario}: nothing of it is in the cluster, nor in the gateways")


def _take_away(client: Client, planned: Plan, found: Scenario) -> None:
    apply(client, planned)
    _prove_gone(client, found)


def _prove_gone(client: Client, found: Scenario) -> None:
    if left := remains(found, _site(client)):
        raise MeshError("\n".join(left))


def _site(client: Client) -> Site:
    return Site(client, _nodes(client), Path(str(host.data.get("reports", "reports"))), progress=_whisper)


def _found(scenario: str) -> Scenario:
    try:
        return scenarios.find(scenario)
    except KeyError as error:
        raise OperationValueError(str(error.args[0])) from None


def _objects(found: Scenario) -> list[dict[str, Any]]:
    try:
        return found.objects(found.parameters(_data()), image=_image)
    except ParameterError as error:
        raise OperationValueError(str(error)) from None


def _data() -> dict[str, object]:
    flat: dict[str, object] = host.data.dict()  # type: ignore[no-untyped-call]
    return flat


def _image(name: str) -> str:
    try:
        return reference.override(name, host.data.get("images", []))
    except reference.ReferenceError as error:
        raise OperationValueError(f"images: {error}") from None


def _nodes(client: Client) -> tuple[Node, ...]:
    """List the cluster's ready nodes, this host first, each with the URL that the inventory publishes for it."""
    urls = {each.name: _published(each.data.get("node_port_url")) for each in inventory}
    found = [
        Node(name, str(node["address"]), urls.get(name))
        for name, node in nodes(query.list(client, "v1", "Node")).items()
        if node["ready"]
    ]
    return tuple(sorted(found, key=lambda node: (node.name != host.name, node.name)))


def _published(url: str | None) -> str | None:
    """Give a published URL if it leads to the declared node port; the lab publishes one port only."""
    return url if url and urlsplit(url).port == host.data.get("ingress_node_port") else None


def _whisper(message: str) -> None:
    logger.debug(f"{host.print_prefix}{message}")
