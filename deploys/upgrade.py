"""Istio to another revision under traffic: --data istio_revision=1-31-again --data istio_tag=1.31.0-again.

Control plane, gateways and sidecars move, the old revision goes, and the canary's requests show that none was lost.
Afterwards write the same into group_data/all.py, for the other deploys.
"""

from pyinfra import host

from meshstrap.operations import istio, site, upgrade

site.lock(name="One operator at a time")

if "leader" in host.groups:
    istio.istioctl(host.data.bundle, name="istioctl from the bundle")
    upgrade.control_plane(
        host.data.istio_version,
        profile=host.data.istio_profile,
        ingress_node_port=host.data.ingress_node_port,
        revision=host.data.istio_revision,
        tag=host.data.istio_tag,
        values=host.data.istio_values,
        allow_unsupported_versions=host.data.allow_unsupported_versions,
        name="Istio's revision, moved under traffic",
    )
