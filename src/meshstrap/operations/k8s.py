"""Manage objects in the cluster: manifests and namespaces, through the API server.

Each operation plans first: the live objects against the server's own dry-run. What is equal is left alone; what differs
is listed, field by field (with --diff: as YAML), and applied. They run on a control plane node, or on `@local` with an
ordinary kubeconfig (data `kubeconfig`, `kube_context`; else as kubectl finds it). Where data `reports` names a
directory, what a plan changes is kept there as data too.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host
from pyinfra.context import state as current

from meshstrap import transport
from meshstrap.evidence import report
from meshstrap.kube import events, webhooks
from meshstrap.kube import manifests as manifest_files
from meshstrap.kube.apply import apply, held_by_others
from meshstrap.kube.beside import Path as FieldPath
from meshstrap.kube.compare import Field
from meshstrap.kube.connect import Client
from meshstrap.kube.delete import delete
from meshstrap.kube.diff import unified
from meshstrap.kube.errors import ApiUnreachable, KubeError, UnknownKind
from meshstrap.kube.manifests import ManifestError
from meshstrap.kube.plan import Change, Plan, plan
from meshstrap.kube.query import read_many
from meshstrap.kube.ref import Ref
from meshstrap.kube.wait import State as Readiness
from meshstrap.kube.wait import wait as wait_for
from meshstrap.mesh import admission
from meshstrap.mesh.errors import MeshError
from meshstrap.operations import api_server
from meshstrap.operations import progress as live_line
from meshstrap.operations.failure import executing, fail, failure
from meshstrap.operations.system import refuse

Object = Mapping[str, Any]

ERRORS = (KubeError, MeshError, transport.TransportError)
READY_SECONDS = 300.0
# A webhook's Pod may come back later than the API server.
WEBHOOK_SECONDS = 90.0
# Fields shown of one object, and lines of one text; --diff shows all.
SHOWN = 12


@operation()
def manifests(
    objects: Sequence[Object] | Path | str,
    *,
    present: bool = True,
    namespace: str | None = None,
    owner: str | None = None,
    prune: bool = False,
    prune_all: bool = False,
    prune_empty: bool = False,
    wait: bool = True,
    force: bool = False,
    recreate: bool = False,
    take_over: Sequence[str] = (),
    timeout: float = READY_SECONDS,
    decides: Callable[[Ref, FieldPath], bool] = lambda ref, path: False,
) -> Generator[PyinfraCommand, None, None]:
    """Make objects stand in the cluster as declared, or be gone. Runs on a control plane node, or on @local.

    + objects: the objects, or the path of a YAML file or of a directory of them
    + present: whether they should be there
    + namespace: for namespaced objects that name none
    + owner: name of this set, put on each object as label `meshstrap.dev/owner`
    + prune: whether objects with that label that are no longer declared are deleted
    + prune_all: whether that goes for namespaces and definitions of kinds too: everybody's objects go with them
    + prune_empty: whether objects are deleted too where the declaration, or a file of it, is empty
    + wait: whether to wait until they are ready, which is also checked where nothing changed
    + force: whether fields that another program holds are taken from it
    + recreate: whether an object is deleted and made anew where a field that cannot be changed differs
    + take_over: field managers whose fields become ours, such as "helm": what of theirs is not declared goes. Those of
        `kubectl apply` always do
    + timeout: seconds for them to be ready, or gone
    + decides: says of an object's field whether what a person added there is drift, though nothing is declared of it

    **Example:**

    .. code:: python

        k8s.manifests("manifests/dashboards", name="Dashboards", namespace="monitoring", owner="dashboards", prune=True)
    """
    where = namespace or "default"
    try:
        declared = load(objects)
    except ManifestError as error:
        yield from refuse(str(error))
        return
    if (prune or prune_all) and not owner:
        yield from refuse("prune needs an owner: without its label nobody knows what was once declared")
        return
    if isinstance(take_over, str):
        yield from refuse(f"take_over is a list of field managers: [{take_over!r}]")
        return
    if not present:
        yield from _absent(declared, where, timeout)
        return
    try:
        client = api_server.client(host)
        planned = _planned(
            client,
            lambda asked: plan(
                asked, declared, owner=owner, prune=prune or prune_all, prune_all=prune_all, namespace=where,
                take_over=take_over, decides=decides,
            )
        )  # fmt: skip
        if not prune_empty:
            _refuse_empty(objects, declared, planned)
    except ERRORS as error:
        yield unplanned(error, declared)
        return
    if planned.pending:
        show(planned, recreate=recreate, force=force)
        yield command(
            lambda: _make_so(
                client, planned, declared if wait else [], force=force, recreate=recreate, timeout=timeout
            )
        )  # fmt: skip
        return
    if wait and executing():
        try:
            _until_ready(client, declared, where, timeout)
        except ERRORS as error:
            yield failure(str(error))
            return
    host.noop(f"{len(planned.changes)} objects stand as declared")


@operation()
def namespace(
    namespace: str, *, present: bool = True, labels: Mapping[str, str] | None = None
) -> Generator[PyinfraCommand, None, None]:
    """Make a namespace be there with labels, or be gone with all that is in it. Runs on a control plane node.

    + namespace: its name
    + present: whether it should be there
    + labels: labels that it should have; others stay

    **Example:**

    .. code:: python

        k8s.namespace("monitoring", name="Namespace for dashboards", labels={"team": "site"})
    """
    metadata = {"name": namespace, "labels": dict(labels or {})}
    yield from manifests._inner([{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}], present=present)


def _planned(client: Client, make: Callable[[Client], Plan]) -> Plan:
    """Plan; at execute, wait for admission webhooks that do not answer yet, as after a power cut of all nodes.

    Raises KubeError at once where an object needs one that nothing will bring back; names what does.
    """
    seconds = WEBHOOK_SECONDS if executing() else 0.0
    silent: list[str] = []

    def note(line: str) -> None:
        silent[:] = [line]

    with live_line.waiting(host, lambda: f"admission webhooks that do not answer: {silent[0]}" if silent else "a plan"):
        made, away = webhooks.admitted(client, make, seconds=seconds, progress=note)
    if away:
        first = next(change for change in made.changes if webhooks.refused_by(away[0], change.error))
        raise KubeError(f"{first.ref}: " + "\n".join(admission.next_steps(away)))
    return made


def load(objects: Sequence[Object] | Path | str) -> Sequence[Object]:
    """Give the objects themselves: a path is read as YAML, relative to the directory that pyinfra was started in.

    Raises:
        ManifestError: a file is missing or wrong (names file, document and line), or an object is (names its place).

    """
    if isinstance(objects, str | Path):
        return manifest_files.load(Path(objects))
    return manifest_files.checked(objects)


def _refuse_empty(objects: Sequence[Object] | Path | str, declared: Sequence[Object], planned: Plan) -> None:
    """Raise KubeError where pruning would follow an empty file, which is a mishap more often than a wish."""
    gone = [str(change.ref) for change in planned.changes if change.outcome == "deleted"]
    if not gone:
        return
    files = manifest_files.hollow(Path(objects)) if isinstance(objects, str | Path) else []
    if files or not declared:
        what = f"{', '.join(map(str, files))}: no object in there" if files else "no object is declared"
        raise KubeError(
            f"{what}, and prune would delete {', '.join(gone)}. "
            "Nothing was touched; set prune_empty=True if that is meant"
        )


def unplanned(error: Exception, declared: Iterable[Object] = ()) -> FunctionCommand:
    """Make the command that stands for what could not be planned: at execute it fails this host with the reason.

    Before that it is no error that there is no cluster: an earlier step of the same run will make it, and then every
    object is created. Any other reason is said at once.
    """
    if not executing():
        if isinstance(error, api_server.NoCluster):
            for item in declared:
                host.log(f"created     {Ref.of(item)} (there is no cluster yet)")
        else:
            host.log(str(error), logger.warning)
    if isinstance(error, ApiUnreachable | transport.TransportError):
        api_server.forget(host)
    return failure(str(error))


def command(action: Callable[[], object]) -> FunctionCommand:
    """Make the command that does something in the cluster; what goes wrong is printed, without a traceback."""

    def run(state: State, host: Host) -> bool:
        try:
            action()
        except ERRORS as error:
            return fail(host, str(error))
        return True

    return FunctionCommand(run, (), {})


def show(planned: Plan, *, recreate: bool = False, force: bool = False) -> None:
    """List what a plan changes: each object with its outcome and the fields that differ, or with --diff as YAML.

    Args:
        planned: the plan.
        recreate: whether what cannot be changed is deleted and made anew.
        force: whether fields that another program holds are taken from it.

    """
    for change in planned.pending:
        _show_change(change, recreate=recreate)
    if not force and not executing() and (held := held_by_others(planned)):
        for line in str(held).splitlines():
            host.log(line, logger.warning)
    if not executing():
        _report("planned", [change.report() for change in planned.pending])


def make_so(client: Client, planned: Plan, *, force: bool = False, recreate: bool = False) -> list[Change]:
    """Apply a plan; how far it is can be seen on a terminal, and is kept where data `reports` says.

    Args:
        client: the connection.
        planned: the plan, made a moment ago.
        force: whether fields that another program holds are taken from it.
        recreate: whether what cannot be changed is deleted and made anew.

    Returns:
        The changes that were made.

    Raises:
        ApplyFailed: some objects could not be applied; those that could are, unless other programs hold fields.
        ApiUnreachable: the API server went away.

    """
    made: list[Change] = []

    def count(change: Change) -> None:
        made.append(change)
        live_line.show(host, f"{len(made)} of {len(planned.pending)} objects: {change.ref} {change.outcome}")

    try:
        with (
            live_line.shown(host),
            live_line.waiting(host, lambda: f"{len(planned.pending) - len(made)} of {len(planned.pending)} objects"),
        ):
            return apply(client, planned, force=force, recreate=recreate, on_change=count)
    finally:
        done = {change.ref for change in made}
        _report("applied", [{**change.report(), "made": change.ref in done} for change in planned.pending])


def progress(of: Host, client: Client) -> Callable[[Mapping[Ref, Readiness]], None]:
    """Make the function that says what is being waited for: on a terminal at once, and a line of each every 15 s.

    The line has the newest event of the object's Pods too, which tells what its state does not.
    """
    said = time.monotonic()

    def say(states: Mapping[Ref, Readiness]) -> None:
        nonlocal said
        waiting = {ref: state.reason for ref, state in states.items() if not state.ready}
        if live_line.live():
            first = next((f": {ref}: {reason}" for ref, reason in waiting.items()), "")
            live_line.show(of, f"{len(states) - len(waiting)} of {len(states)} ready{first}" if waiting else "")
        if waiting and time.monotonic() - said >= live_line.SAY_SECONDS:
            said = time.monotonic()
            for ref, reason in waiting.items():
                event = events.of_pods(client, ref)
                of.log(f"waiting for {ref}: {reason}{f'; newest event: {event}' if event else ''}")

    return say


def field_lines(field: Field, limit: int) -> list[str]:
    """Put a field that differs into words: values on one line, texts of several lines as the lines that differ.

    Args:
        field: path, live and declared value.
        limit: the most lines to give.

    """
    if not (isinstance(field.live, str) and isinstance(field.declared, str) and "\n" in field.live + field.declared):
        return [str(field)]
    delta = difflib.unified_diff(field.live.splitlines(), field.declared.splitlines(), n=0, lineterm="")
    lines = [line for line in delta if not line.startswith(("---", "+++", "@@"))]
    rest = [] if len(lines) <= limit else [f"... and {len(lines) - limit} more lines (--diff)"]
    return [f"{field.path}: (- live, + declared)", *(f"  {line}" for line in [*lines[:limit], *rest])]


def _show_change(change: Change, *, recreate: bool) -> None:
    note = f" ({change.note})" if change.note else ""
    host.log(f"{change.outcome:<11} {change.ref}{note}")
    if change.immutable and recreate:
        host.log(f"{'':<11}   deleted and made anew, because it cannot be changed: {change.error}", logger.warning)
    elif change.error:
        host.log(f"{'':<11}   refused as things stand: {change.error}", logger.warning)
    if current.config.DIFF:
        # What is no terminal gets no colours: pyinfra's log takes them out.
        for line in unified(change, color=True).splitlines():
            host.log(line)
        return
    for field in change.fields[:SHOWN]:
        for line in field_lines(field, SHOWN):
            host.log(f"{'':<11}   {line}")
    if len(change.fields) > SHOWN:
        host.log(f"{'':<11}   ... and {len(change.fields) - SHOWN} more fields (--diff)")


def _report(stage: str, changes: list[dict[str, Any]]) -> None:
    """Keep changes as data beside the proofs' evidence, for those who read it by program."""
    directory = host.data.get("reports")
    if not directory:
        return
    meta = current.op_meta.get(host.current_op_hash or "")
    content = {"host": host.name, "operation": sorted(meta.names) if meta else [], "stage": stage, "changes": changes}
    try:
        path = report.write(Path(str(directory)), "changes", content, at=datetime.now(UTC))
    except OSError as error:
        host.log(f"the changes are not kept in {directory}: {error.strerror}", logger.warning)
    else:
        logger.debug(f"{host.print_prefix}changes as data: {path}")


def _make_so(
    client: Client,
    planned: Plan,
    ready: Sequence[Object],
    *,
    force: bool,
    recreate: bool,
    timeout: float,
) -> None:
    made = make_so(client, planned, force=force, recreate=recreate)
    _until_ready(client, ready, planned.namespace, timeout, {change.ref: change.uid for change in made})


def _until_ready(
    client: Client,
    objects: Sequence[Object],
    namespace: str,
    timeout: float,
    applied: Mapping[Ref, str] | None = None,
) -> None:
    with live_line.shown(host):
        seen = progress(host, client)
        wait_for(client, objects, namespace=namespace, timeout=timeout, applied=applied, progress=seen)


def _absent(declared: Sequence[Object], namespace: str, timeout: float) -> Generator[PyinfraCommand, None, None]:
    try:
        client = api_server.client(host)
        there = _there(client, declared, namespace)
    except api_server.NoCluster as error:
        if executing():
            yield failure(str(error))
        return
    except ERRORS as error:
        yield unplanned(error)
        return
    if not there:
        host.noop("none of the objects is there")
        return
    for ref in there:
        host.log(f"deleted     {ref}")

    def away() -> None:
        with live_line.waiting(host, lambda: f"{', '.join(map(str, there))} to be gone"):
            delete(client, there, timeout=timeout)

    yield command(away)


def _there(client: Client, declared: Sequence[Object], namespace: str) -> list[Ref]:
    wanted = []
    for item in declared:
        try:
            resource = client.resource(item["apiVersion"], item["kind"])
        except UnknownKind:
            continue
        ref = Ref.of(item)
        where = (ref.namespace or namespace) if resource.namespaced else ""
        wanted.append((replace(ref, namespace=where), resource))
    return sorted(read_many(client, wanted))
