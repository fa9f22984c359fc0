"""Fault injection: the caller's proxy aborts or delays requests, all or half of them, and each is accounted for."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("fault", force=host.data.force, name="Fault: aborts and delays at 100 % and 50 %")
    scenario.proof("fault", name="Fault: proof of the faults")
