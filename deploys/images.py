"""Bring every image that a node needs from the bundle into its containerd, and verify it there by digest."""

from pyinfra import host

from meshstrap.operations import containerd, site

site.lock(name="One operator at a time")
containerd.images(
    name="Bring the images onto the node",
    bundle=host.data.bundle,
    kubernetes_version=host.data.kubernetes_version,
    cni_manifests=host.data.cni_manifests,
)
