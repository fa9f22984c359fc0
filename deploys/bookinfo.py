"""Bookinfo: six services and a page behind the gateway, http://<node>:30191/productpage, fetched through every node."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("bookinfo", force=host.data.force, name="Bookinfo: six services behind the gateway")
    scenario.proof("bookinfo", name="Bookinfo: proof of the page")
