"""Mirroring: v1 answers every request, v2 gets a copy of each, and both proxies' logs show it."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("mirror", force=host.data.force, name="Mirror: v1 answers, v2 gets a copy")
    scenario.proof("mirror", name="Mirror: proof of the copies")
