"""Sidecars on or off by namespace, as data `injection` says; what runs is restarted where need be, and looked at."""

from pyinfra import host

from meshstrap.operations import injection, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    injection.namespaces(host.data.injection, revision=host.data.istio_revision, name="Sidecars by namespace")
