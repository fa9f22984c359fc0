"""Look at every node, change nothing, and say at once all that would stop the site, with what to do."""

from pyinfra import host

from meshstrap.operations import preflight

preflight.look(
    name="Look at the nodes and the site",
    plan=preflight.Plan(
        bundle=host.data.bundle,
        kubernetes_version=host.data.kubernetes_version,
        istio_version=host.data.istio_version,
        allow_unsupported_versions=host.data.allow_unsupported_versions,
        pod_cidr=host.data.pod_cidr,
        service_cidr=host.data.service_cidr,
        cni_manifests=host.data.cni_manifests,
        ingress_node_port=host.data.ingress_node_port,
        kubelet_config=host.data.kubelet_config,
        containerd_config=host.data.containerd_config,
        accept=host.data.preflight_accept,
    ),
)
