"""The circuit breaker's ejection: one of three pods answers with errors only, is left out 15 s, and tried again."""

from pyinfra import host

from meshstrap.operations import scenario, site

site.lock(name="One operator at a time")

if "leader" in host.groups:
    scenario.manifests("outlier_ejection", force=host.data.force, name="Outlier ejection: one bad pod of three")
    scenario.proof("outlier_ejection", name="Outlier ejection: proof of ejection and return")
