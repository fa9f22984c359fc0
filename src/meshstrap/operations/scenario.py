"""Manage the traffic scenarios: their objects, and the proof that they do what they claim.

A scenario's parameters are flat data of the host (`canary_weight`), so that `--data` can override each.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyinfra import logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import OperationValueError
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host

from meshstrap import scenarios
from meshstrap.bundle import check, lock, reference
from meshstrap.evidence.verdict import Outcome
from meshstrap.kube import query
from meshstrap.kube.connect import Client
from meshstrap.kube.plan import Plan, plan
from meshstrap.kube.wait import wait
from meshstrap.mesh import cluster_config, decisive, injector, proxy_config, revision
from meshstrap.mesh.errors import MeshError
from meshstrap.operations import api_server, injection, istio, k8s, lint, node_ports
from meshstrap.operations.failure import executing, failure
from meshstrap.operations.site import refuse_unknown_data
from meshstrap.scenarios import ingress, restarts
from meshstrap.scenarios.canary import ladder as canary_ladder
from meshstrap.scenarios.canary.scenario import Canary
from meshstrap.scenarios.engine import Scenario, prove, remains
from meshstrap.scenarios.parameters import ParameterError
from meshstrap.scenarios.site import Site

# By host: those whose deploy ends with a table, for each scenario proved in this run outcome, summary and seconds, and
# those that verify.py did not find on the cluster.
_tables: set[str] = set()
_made: dict[str, dict[str, tuple[Outcome, str, float]]] = {}
_away: dict[str, list[str]] = {}

# A step of the ladder changes weights, or one Deployment's replicas.
_STEP_SECONDS = 120.0


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
        _asked_for()
        return _absent(scenario=scenario, **arguments)
    # Bad data is refused while the deploy is read: with -y the generators below are not run before they execute.
    if not isinstance(force, bool):
        raise OperationValueError(f"force must be true or false, not {force!r}")
    objects = _objects(found)
    profile = host.data.get("istio_profile")
    if ingress.needs_gateway(objects) and profile in istio.PORTS and not istio.PORTS[profile]:
        raise OperationValueError(
            f"{scenario} needs the ingress gateway; istio_profile is {profile}. Give istio_profile one that has it"
            " (default, demo) and run deploys/istio.py, or leave this scenario out"
        )
    lint.refuse_mistakes(objects, found.manifests)
    _refuse_unknown_images(found, objects)
    return _present(objects=objects, owner=found.owner, force=force, **arguments)


@operation()
def _present(*, objects: list[dict[str, Any]], owner: str, force: bool) -> Generator[PyinfraCommand, None, None]:
    yield from k8s.manifests._inner(objects=objects, owner=owner, prune=True, force=force, decides=decisive.decides)
    # Pods from before Istio, or of another revision, are as declared, and yet not of this mesh.
    revisions = {
        item["metadata"]["name"]: revision.injected(item["metadata"].get("labels", {}))
        for item in objects
        if item["kind"] == "Namespace"
    }
    try:
        client = api_server.client(host)
        webhooks = injection.webhooks(client)
        if not set(revisions.values()) - {""} <= injection.injectors(webhooks):
            return
        tags = injector.tags(webhooks)
        restart = {
            ref: said
            for namespace, wanted in revisions.items()
            if wanted and query.get(client, "v1", "Namespace", namespace)
            for ref, said in injection.look(client, namespace, wanted, tags).restart.items()
        }
    except k8s.ERRORS:
        return  # Said above already: nothing could be planned.
    for ref, said in restart.items():
        host.log(f"restarted   {ref} ({said})")
    if restart:
        yield k8s.command(lambda: injection.restart(client, restart))


def proof(scenario: str, *, if_applied: bool = False, **arguments: Any) -> OperationMeta:
    """Prove that a scenario does what it claims; changes nothing. Runs on a control plane node.

    The verdict, its numbers and the URL are printed, the evidence is written to data `reports`. FAIL and INCONCLUSIVE
    fail the host. Data `prove=false` skips it; so does data `scenario` with the name of another.

    + scenario: its name
    + if_applied: whether one that is not on the cluster is passed over, unless data `scenario` names it

    **Example:**

    .. code:: python

        scenario.proof("canary", name="Canary: proof of the split")
    """
    # As above: what is wrong with the data is said before anything runs, and never as a traceback.
    _objects(_found(scenario))
    wanted = host.data.get("prove", True)
    if not isinstance(wanted, bool):
        raise OperationValueError(f"prove must be true or false, not {wanted!r}")
    node_ports.published()
    _asked_for()
    return _proof(scenario=scenario, if_applied=if_applied, **arguments)


def ladder(**arguments: Any) -> OperationMeta:
    """Raise the canary's weight step by step to 100 %, each step proved, take v1 away, and come back.

    Runs on a control plane node, where the canary stands, if data `canary_ladder` is true. Requests go on across all
    switches; a step that is not proved, or one request that fails, fails the host. It ends with what is declared,
    whatever happens; after a run that was killed the next one's `scenario.manifests` puts that back.

    **Example:**

    .. code:: python

        scenario.ladder(name="Canary: the ladder to 0/100 and back")
    """
    wanted = host.data.get("canary_ladder", False)
    if not isinstance(wanted, bool):
        raise OperationValueError(f"canary_ladder must be true or false, not {wanted!r}")
    return _ladder(**arguments)


@operation()
def _ladder() -> Generator[PyinfraCommand, None, None]:
    if not host.data.get("canary_ladder", False):
        host.noop("canary_ladder is false: no step is taken")
        return
    steps = " ".join(f"{100 - weight}/{weight}" for weight in canary_ladder.WEIGHTS)
    host.log(f"{steps}, v1 away and back, then what is declared", logger.info)
    yield k8s.command(_climb)


def _climb() -> None:
    client = api_server.client(host)
    found = Canary()

    def stand(objects: list[dict[str, Any]]) -> None:
        k8s.make_so(client, plan(client, objects, owner=found.owner, decides=decisive.decides))
        wait(client, objects, timeout=_STEP_SECONDS)

    proved = canary_ladder.climb(
        found,
        _data(),
        _within_reach(site(client), found),
        apply=stand,
        image=_image,
        say=lambda line: host.log(line, logger.info),
    )
    for line in proved.lines:
        host.log(line, logger.info if proved.verdict.passed else logger.warning)
    if not proved.verdict.passed:
        raise MeshError(proved.verdict.line)


def verdicts(**arguments: Any) -> OperationMeta:
    """Show the verdicts of this run's proofs as a table, and fail the host where one is not PASS.

    In a deploy that ends with it, a proof that fails lets those after it be made: the table fails instead of it.

    **Example:**

    .. code:: python

        scenario.verdicts(name="Verdicts")
    """
    refuse_unknown_data()
    _tables.add(host.name)
    return _verdicts(**arguments)


@operation()
def _verdicts() -> Generator[PyinfraCommand, None, None]:
    if not executing():
        host.noop("the table is drawn when the run executes")
        return
    made, away = _made.get(host.name, {}), _away.get(host.name, [])
    if not made and away:
        yield failure(
            "no scenario stands on this cluster, so nothing was proved; apply one first, for example with"
            " deploys/canary.py"
        )
        return
    if not made:
        host.noop("no scenario was to be proved")
        return
    width = max(len(name) for name in made)
    for name, (outcome, summary, seconds) in made.items():
        host.log(
            f"{name:{width}}  {outcome:12}  {seconds:5.1f} s  {summary}",
            logger.info if outcome is Outcome.PASS else logger.warning,
        )
    if away:
        host.log(f"not on the cluster, so not proved: {', '.join(away)}", logger.info)
    counted = Counter(outcome for outcome, _, _ in made.values())
    said = ", ".join(f"{number} {outcome}" for outcome, number in counted.items())
    if counted[Outcome.PASS] == len(made):
        host.log(f"{len(made)} scenarios: {said}", logger.info)
        host.noop(f"{len(made)} scenarios: {said}")
    else:
        yield failure(f"{len(made)} scenarios: {said}")


@operation()
def _proof(*, scenario: str, if_applied: bool) -> Generator[PyinfraCommand, None, None]:
    asked_for = _asked_for()
    if asked_for not in ("", scenario):
        host.noop(f"scenario={asked_for}: {scenario} is not proved")
        return
    if not host.data.get("prove", True):
        host.noop("prove=false: not proved")
        return
    if not executing():
        host.noop("is proved when the run executes")
        return
    found = _found(scenario)
    try:
        client = api_server.client(host)
        if if_applied and not asked_for and query.get(client, "v1", "Namespace", found.namespace) is None:
            _away.setdefault(host.name, []).append(scenario)
            host.noop(f"{scenario} is not on the cluster, so there is nothing to prove")
            return
        began = time.monotonic()
        proved = prove(found, _data(), _within_reach(site(client), found), image=_image)
    except (*k8s.ERRORS, OSError) as error:
        yield from _fail(scenario, Outcome.INCONCLUSIVE, str(error), 0.0)
        return
    for line in proved.lines:
        host.log(line, logger.info if proved.verdict.passed else logger.warning)
    seconds = time.monotonic() - began
    if proved.verdict.passed:
        _made.setdefault(host.name, {})[scenario] = (Outcome.PASS, proved.verdict.summary, seconds)
        host.noop(proved.verdict.line)
    else:
        yield from _fail(scenario, proved.verdict.outcome, proved.verdict.summary, seconds)


def _fail(scenario: str, outcome: Outcome, summary: str, seconds: float) -> Generator[PyinfraCommand, None, None]:
    """Fail the host, or leave that to the table that the deploy ends with."""
    _made.setdefault(host.name, {})[scenario] = (outcome, summary, seconds)
    if host.name in _tables:
        host.noop(f"{scenario}: {outcome}; the table at the end fails this host")
    else:
        yield failure(f"{scenario}: {outcome}: {summary}")


@operation()
def _absent(*, scenario: str) -> Generator[PyinfraCommand, None, None]:
    found = _found(scenario)
    if (asked_for := _asked_for()) not in ("", scenario):
        host.noop(f"scenario={asked_for}: {scenario} is left alone")
        return
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
    k8s.make_so(client, planned)
    _prove_gone(client, found)


def _prove_gone(client: Client, found: Scenario) -> None:
    if left := remains(found, site(client)):
        raise MeshError("\n".join(left))


def site(client: Client) -> Site:
    """Give what a proof gets to work with, as the host's data say."""
    reports = Path(str(host.data.get("reports", "reports")))
    kubectl = str(host.data.get("kubectl", "kubectl"))
    data = _data()
    return Site(
        client,
        node_ports.ready_nodes(client),
        reports,
        _revision(),
        progress=_whisper,
        kubectl=kubectl,
        ingress_node_port=istio.check_node_port(data.get("ingress_node_port", istio.NODE_PORT)),
        external_traffic_policy=istio.external_traffic_policy(data.get("istio_values", {})),
        cluster=str(data.get("cluster_name", "")),
    )


def _within_reach(site: Site, found: Scenario) -> Site:
    if not ingress.needs_gateway(_objects(found)):
        return site
    # Without a gateway no node answers, by whatever way. Where its node restarts, that node was not ready either.
    if not ingress.gateway_pods(site):
        host.log(f"waiting up to {restarts.RESTART_SECONDS:g} s for the ingress gateway, if it is starting")
        ingress.until_ready(site)
        site = replace(site, nodes=node_ports.ready_nodes(site.client))
    return node_ports.within_reach(site)


def _asked_for() -> str:
    """Give the one scenario that data `scenario` restricts a run to; empty for all.

    Raises:
        OperationValueError: there is none of this name.

    """
    name = host.data.get("scenario", "")
    if name != "":
        _found(name)
    return str(name)


def _found(scenario: str) -> Scenario:
    try:
        return scenarios.find(scenario)
    except KeyError as error:
        raise OperationValueError(str(error.args[0])) from None


def _objects(found: Scenario) -> list[dict[str, Any]]:
    try:
        objects = found.objects(found.parameters(_data()), image=_image, istio_revision=_revision())
    except ParameterError as error:
        raise OperationValueError(str(error)) from None
    try:
        proxy_config.refuse_incomparable(objects)
        cluster_config.refuse_incomparable(objects)
    except ValueError as error:
        raise OperationValueError(f"{_from_here(found.manifests)}: {error}, so no proof could rest on it") from None
    return objects


def _data() -> dict[str, object]:
    flat: dict[str, object] = host.data.dict()  # type: ignore[no-untyped-call]
    return flat


def _refuse_unknown_images(found: Scenario, objects: list[dict[str, Any]]) -> None:
    """Refuse images that the operator's bundle does not hold; without a bundle here, waiting tells which lack."""
    path = Path(str(host.data.get("bundle"))) / "bundle.lock.yaml"
    if not path.exists():
        return
    try:
        locked = lock.read(path)
    except lock.LockError as error:
        raise OperationValueError(str(error)) from None
    faults = check.judge(locked, check.uses(objects, str(_from_here(found.manifests))), holder=str(path))
    if faults:
        raise OperationValueError(
            "\n".join(faults) + "\nGive data `images` a name and tag that the bundle holds,"
            " or put the image into the bundle and run deploys/images.py."
        )


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _revision() -> str:
    try:
        return revision.check(host.data.get("istio_revision", revision.DEFAULT))
    except ValueError as error:
        raise OperationValueError(f"istio_revision {error}") from None


def _image(name: str) -> str:
    try:
        return reference.override(name, host.data.get("images", []))
    except reference.ReferenceError as error:
        raise OperationValueError(f"images: {error}") from None


def _whisper(message: str) -> None:
    logger.debug(f"{host.print_prefix}{message}")
