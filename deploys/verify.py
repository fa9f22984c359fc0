"""Proof of every scenario that stands, applying nothing: the exit code says whether the site does what it claims."""

from pyinfra import host

from meshstrap.operations import scenario

if "leader" in host.groups:
    scenario.proof("bookinfo", name="Bookinfo: proof of the page")
    scenario.proof("canary", name="Canary: proof of the split")
    scenario.proof("fault", name="Fault: proof of the faults")
    scenario.proof("mirror", name="Mirror: proof of the copies")
