"""Make bare machines of the nodes again: --data confirm=<cluster name>, or it refuses and touches nothing."""

from pyinfra import host

from meshstrap.operations import kubeadm, site

site.lock(name="One operator at a time")
kubeadm.reset(
    name="Make the node bare again",
    cluster_name=host.data.cluster_name,
    confirm=host.data.confirm,
)
