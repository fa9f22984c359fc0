"""Take a node out whose machine will not come back: --data node=<its name> --data node_is_dead=true.

Take it out of the inventory first, or name the others with --limit: a host that does not answer fails the run.
"""

from pyinfra import host

from meshstrap.operations import kubeadm, kubeadm_node, site

site.lock(name="One operator at a time")
if "leader" in host.groups:
    kubeadm_node.gone(
        host.data.node,
        is_dead=host.data.node_is_dead,
        name="Take the dead node out of the cluster",
    )
kubeadm.pod_network(
    name="Take its route away",
    pod_cidr=host.data.pod_cidr,
    cni_manifests=host.data.cni_manifests,
    without=host.data.node,
)
