"""Istio off the cluster, workloads left running without sidecars: --data confirm=<cluster name>, or it touches nothing.

Istio's kinds (CustomResourceDefinitions) stay, with everybody's objects of them, unless `--data istio_crds=remove`.
`deploys/istio.py` brings it back.
"""

from pyinfra import host

from meshstrap.operations import istio, site, uninstall

site.lock(name="One operator at a time")

if "leader" in host.groups:
    istio.istioctl(host.data.bundle, name="istioctl from the bundle")
    uninstall.control_planes(
        host.data.cluster_name,
        host.data.confirm,
        crds=host.data.istio_crds,
        discard=host.data.istio_discard,
        name="Istio off the cluster",
    )
