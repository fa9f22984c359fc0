"""Take a node out of a cluster whose machine will not come back."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand, PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.api.state import State
from pyinfra.context import host

from meshstrap import transport
from meshstrap.facts.kubeadm import DIRECTORY, Cluster, ClusterState, Member, phase
from meshstrap.facts.system import PATH
from meshstrap.operations import system
from meshstrap.operations.failure import fail, failure
from meshstrap.operations.reach import alone, fact

# A pod of a node that is gone is replaced once it is deleted, which only its kubelet confirms, so this is by force.
_DELETE = f"""
{PATH}
node=$1
k="kubectl --kubeconfig {DIRECTORY}/admin.conf --request-timeout=30s"
$k cordon "$node" >/dev/null || exit 1
$k delete pods --all-namespaces --field-selector "spec.nodeName=$node" --force --grace-period=0 --wait=false \\
    >/dev/null 2>&1 || {{ echo "cannot delete the pods of $node" >&2; exit 1; }}
$k delete node "$node" --ignore-not-found >/dev/null
"""


@operation()
@alone
def gone(node: str, is_dead: bool) -> Generator[PyinfraCommand, None, None]:
    """Delete a worker whose machine will not come back, with its pods, which are then made anew elsewhere.

    Refuses for a node that is Ready, the control plane, and a cluster that others made. Runs on the leader.

    + node: its name in the cluster
    + is_dead: the person's word that it will not come back

    **Example:**

    .. code:: python

        kubeadm_node.gone("worker-2", is_dead=True, name="Take the dead node out of the cluster")
    """
    problem = system.name_problem("node", node)
    if problem:
        yield from system.refuse(f"{problem}; say which node: --data node=<its name in `kubectl get nodes`>")
        return
    member = fact(host, Member)
    if phase(member) != "ours":
        yield failure(f"{host.name}: has no cluster that meshstrap made: use `kubectl delete node {node}` for others'")
        return
    cluster = fact(host, Cluster)
    if cluster is None:
        yield failure(f"{host.name}: the API server does not answer: look at `journalctl -u kubelet` there")
        return
    if node not in cluster["nodes"]:
        host.noop(f"the cluster has no node {node}; it has {', '.join(sorted(cluster['nodes']))}")
        return
    problem = gone_problem(cluster, node, control_plane=member["hostname"], is_dead=is_dead)
    if problem:
        yield failure(problem)
        return
    yield FunctionCommand(_delete, (node,), {})


def gone_problem(cluster: ClusterState, node: str, *, control_plane: str, is_dead: bool) -> str | None:
    """Say why a node is not to be taken out as a dead one; None: it may be.

    Args:
        cluster: its nodes.
        node: the name of the one to be taken out, which the cluster has.
        control_plane: the name of the control plane's only node.
        is_dead: the person's word that it will not come back.

    """
    if node == control_plane:
        return (
            f"{node}: is the only node of the control plane, and the cluster is gone without it; make the cluster anew"
            " (deploys/reset.py, then deploys/site.py)"
        )
    if cluster["nodes"][node]["ready"]:
        return (
            f"{node}: is Ready, its kubelet reported within the last 40 s; take a node that lives out with"
            f" deploys/reset.py --limit {node}, or wait until the cluster sees that it is dead"
        )
    if not is_dead:
        return (
            f"{node}: is not Ready ({cluster['nodes'][node]['reason']}); if its machine will not come back, add:"
            " --data node_is_dead=true"
        )
    return None


def _delete(state: State, host: Host, node: str) -> bool:
    command = StringCommand("sh", "-c", QuoteString(_DELETE), "delete", QuoteString(node))
    try:
        result = transport.execute(host, command, timeout=180)
    except transport.TransportError as error:
        return fail(host, str(error))
    if not result.ok:
        return fail(host, f"{host.name}: cannot take {node} out: {result.stderr.strip()}; run this again")
    host.log(f"{node} and its pods are out of the cluster; take it out of the inventory too, and should it ever come")
    host.log("back, run deploys/reset.py there first: its kubelet would join again")
    return True
