"""Sidecars: shown and proved in a namespace of its own, then on or off by namespace as data `injection` says.

What runs is restarted where need be, and looked at.
"""

from pyinfra import host

from meshstrap.operations import injection, scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("injection", force=host.data.force, name="Injection: two with a sidecar, two without")
    scenario.proof("injection", name="Injection: proof by pods and requests")
    injection.namespaces(host.data.injection, revision=host.data.istio_revision, name="Sidecars by namespace")
