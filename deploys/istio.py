"""Istio on a standing cluster: istioctl on the leader, control plane and gateways, and the Gateway that scenarios share.

The second run changes nothing. A hand-changed NodePort, a deleted gateway, an edited mesh config: `--dry` names the
field, and a run puts it back.
"""

from pyinfra import host

from meshstrap.operations import istio, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    istio.istioctl(host.data.bundle, name="istioctl from the bundle")
    istio.control_plane(
        host.data.istio_version,
        profile=host.data.istio_profile,
        ingress_node_port=host.data.ingress_node_port,
        revision=host.data.istio_revision,
        tag=host.data.istio_tag,
        values=host.data.istio_values,
        allow_unsupported_versions=host.data.allow_unsupported_versions,
        force=host.data.force,
        name="Istio's control plane and gateways",
    )
    istio.gateway(host.data.istio_profile, name="The Gateway that all scenarios share")
