"""Bring every image that a node needs from the bundle into its runtime, and verify it there by digest."""

from pyinfra import host

from meshstrap.operations import runtime, site

site.lock(name="One operator at a time")
runtime.images(
    name="Bring the images onto the node",
    bundle=host.data.bundle,
    kubernetes_version=host.data.kubernetes_version,
    cni_manifests=host.data.cni_manifests,
    kubelet_config=host.data.kubelet_config,
    prune=host.data.images_prune,
    verify=host.data.images_verify,
)
